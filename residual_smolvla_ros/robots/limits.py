"""The safety filter's limits, from parameters and the robot's calibration."""

from dataclasses import dataclass

import numpy as np

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.robots.safety import SafetyLimits
from residual_smolvla_ros.robots.units import is_gripper


@dataclass(frozen=True)
class ArmSettings:
    """How the safety filter is set, in rad and s; what is a list holds one number or one a joint.

    The limits are those of the calibration where `lower` and `upper` are empty. See SafetyLimits.
    """

    lower: tuple[float, ...] = ()
    upper: tuple[float, ...] = ()
    limit_margin: float = 0.02
    max_step: tuple[float, ...] = (0.4,)
    max_velocity: tuple[float, ...] = (3.0,)
    ramp_s: float = 1.0
    command_timeout: float = 0.2
    home_velocity: float = 0.5
    stall_error: float = 0.15
    stall_load: float = 0.6
    stall_s: float = 1.0


def make_limits(
    joint_names: tuple[str, ...],
    settings: ArmSettings,
    calibrated: tuple[np.ndarray, np.ndarray] | None,
    rate_hz: float,
) -> SafetyLimits:
    """Return the filter's limits from settings and the ends of the calibrated ranges in rad.

    Raises ConfigError where a limit is missing, of another length, or against sense.
    """
    gripper = np.array([is_gripper(name) for name in joint_names])
    # A gripper must close for good, and pushes against what it holds.
    margin = np.where(gripper, 0.0, settings.limit_margin)
    ends = [settings.lower, settings.upper]
    if not any(ends):
        if calibrated is None:
            raise ConfigError("lower, upper: expected joint limits in rad for a robot without a "
                              "calibration that tells them, found none")  # fmt: skip
        ends = [tuple(end) for end in calibrated]
    elif not all(ends):
        raise ConfigError(f"lower, upper: expected both or none, found {ends[0]} and {ends[1]}")
    lower, upper, max_step, max_velocity = (
        _for_joints(name, values, joint_names)
        for name, values in (
            ("lower", ends[0]),
            ("upper", ends[1]),
            ("max_step", settings.max_step),
            ("max_velocity", settings.max_velocity),
        )
    )
    lower, upper = lower + margin, upper - margin
    if not (lower < upper).all():
        raise ConfigError(f"lower, upper: expected lower < upper, found {lower} and {upper}")
    for name, values in (("max_step", max_step), ("max_velocity", max_velocity)):
        if not (values > 0).all():
            raise ConfigError(f"{name}: expected > 0, found {values.tolist()}")
    if settings.stall_error >= max_step[~gripper].min(initial=np.inf):
        raise ConfigError(
            f"stall_error: expected less than max_step ({max_step.tolist()}), beyond which no goal "
            f"is written, found {settings.stall_error}"
        )
    for name in ("command_timeout", "home_velocity", "stall_s"):
        if not getattr(settings, name) > 0:
            raise ConfigError(f"{name}: expected > 0, found {getattr(settings, name)}")
    return SafetyLimits(
        lower=lower,
        upper=upper,
        max_step=max_step,
        max_velocity=max_velocity,
        stall_error=np.where(gripper, np.inf, settings.stall_error),
        ramp_s=settings.ramp_s,
        command_timeout=settings.command_timeout,
        home_velocity=settings.home_velocity,
        stall_load=settings.stall_load,
        stall_s=settings.stall_s,
        period=1.0 / rate_hz,
    )


def _for_joints(name: str, values, joint_names: tuple[str, ...]) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.size == 1:
        array = np.full(len(joint_names), array.item())
    if array.shape != (len(joint_names),) or not np.isfinite(array).all():
        raise ConfigError(
            f"{name}: expected 1 or {len(joint_names)} finite numbers, found {list(values)}"
        )
    return array
