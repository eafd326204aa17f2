"""The safety filter's limits, from parameters and the robot's calibration."""

from dataclasses import dataclass

import numpy as np

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.parameters import check_settings, setting
from residual_smolvla_ros.robots.safety import SafetyLimits
from residual_smolvla_ros.robots.units import is_gripper


@dataclass(frozen=True)
class ArmSettings:
    """How the safety filter is set, in rad and s; what is a list holds one number or one a joint.

    The limits are those of the calibration where `lower` and `upper` are empty. See SafetyLimits.
    """

    lower: tuple[float, ...] = setting((), "lower joint limits in rad; default: the calibration's")
    upper: tuple[float, ...] = setting((), "upper joint limits in rad; default: the calibration's")
    limit_margin: float = setting(
        0.02, "how far commands stay inside the joint limits, in rad", least=0
    )
    max_step: tuple[float, ...] = setting(
        (0.4,), "how far a goal may be from the measured position, in rad", above=0
    )
    max_velocity: tuple[float, ...] = setting((3.0,), "how fast a goal may move, in rad/s", above=0)
    ramp_s: float = setting(
        1.0, "after a hold the allowed velocity rises over this time, in s", least=0
    )
    command_timeout: float = setting(
        0.2, "hold where the arm is after so long without a command, in s", above=0
    )
    home_velocity: float = setting(
        0.5, "speed of the fastest joint on the way home, in rad/s", above=0
    )
    stall_error: float = setting(0.15, "lag of a joint that counts as a stall, in rad", least=0)
    stall_load: float = setting(
        0.6, "load that counts as a stall, as a share of full drive", least=0
    )
    stall_s: float = setting(1.0, "a stall of so long ends in a hold until `release`", above=0)


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
    check_settings(settings)
    if settings.stall_error >= max_step[~gripper].min(initial=np.inf):
        raise ConfigError(
            f"stall_error: expected less than max_step ({max_step.tolist()}), beyond which no goal "
            f"is written, found {settings.stall_error}"
        )
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
