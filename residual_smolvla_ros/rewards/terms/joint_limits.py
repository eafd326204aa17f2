"""Reward term `joint_limits`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.rewards.term import RewardTerm, RobotDescription
from residual_smolvla_ros.rewards.transition import Transition
from residual_smolvla_ros.robots.urdf import joint_limits, so101_urdf


@dataclass(kw_only=True)
class JointLimits(RewardTerm):
    """How near the joints are to their limits, summed over joints.

    A joint gives 0 where it is `margin` or more away from both limits, 1 at a limit and beyond it,
    in between linearly. Isaac Lab's joint_pos_limits is the same with limits that lie `margin`
    further in, in rad, and not bounded.
    """

    needs = frozenset({"joints"})
    unit = "joints at a limit"

    margin: float = 0.1  # rad
    joints: tuple[str, ...] = ()  # all but the gripper
    lower: tuple[float, ...] = ()  # rad, of `joints`; else the robot's, else the URDF's
    upper: tuple[float, ...] = ()
    urdf: str = ""  # the SO101's of so101-nexus

    def __post_init__(self):
        if not self.margin > 0:
            raise ConfigError(f"margin: expected > 0 rad, found {self.margin}")

    def begin(self, robot: RobotDescription) -> None:
        """Take the limits of the joints; raise ConfigError if they are not known."""
        self._joints = robot.select(self.joints)
        lower, upper = robot.lower, robot.upper
        if lower is None and not self.lower and not self.upper:
            file = Path(self.urdf).expanduser() if self.urdf else so101_urdf()
            lower, upper = joint_limits(file, list(robot.joint_names))
        self._lower = self._limit("lower", self.lower, lower)
        self._upper = self._limit("upper", self.upper, upper)
        if not (self._lower < self._upper).all():
            raise ConfigError(
                f"lower, upper: expected lower < upper, found {self._lower} and {self._upper}"
            )

    def _limit(self, name: str, given: tuple[float, ...], known: np.ndarray | None) -> np.ndarray:
        if not given and known is not None:
            return known[self._joints]
        if len(given) != len(self._joints):
            raise ConfigError(
                f"{name}: expected {len(self._joints)} joint limits in rad, found {list(given)}"
            )
        return np.array(given)

    def __call__(self, transition: Transition) -> float:
        """Return the sum, from 0 to the number of joints."""
        position = transition.require("position")[self._joints]
        distance = np.minimum(position - self._lower, self._upper - position)
        return float(np.clip(1.0 - distance / self.margin, 0.0, 1.0).sum())
