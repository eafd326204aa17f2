"""Reward term `velocity`."""

from dataclasses import dataclass

import numpy as np

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.rewards.term import RewardTerm, RobotDescription
from residual_smolvla_ros.rewards.transition import Transition


@dataclass(kw_only=True)
class Velocity(RewardTerm):
    """Speed of the joints beyond a limit, in rad/s: max(0, |velocity| - limit), summed over joints.

    Isaac Lab: joint_vel_limits, there at most 1 rad/s a joint; with a limit of 0 joint_vel_l1.
    """

    needs = frozenset({"joints"})
    unit = "rad/s"

    limit: float = 0.0  # rad/s
    joints: tuple[str, ...] = ()  # all but the gripper

    def __post_init__(self):
        if not self.limit >= 0:
            raise ConfigError(f"limit: expected >= 0 rad/s, found {self.limit}")

    def begin(self, robot: RobotDescription) -> None:
        """Find the joints."""
        self._joints = robot.select(self.joints)

    def __call__(self, transition: Transition) -> float:
        """Return the sum in rad/s."""
        speed = np.abs(transition.require("velocity")[self._joints])
        return float(np.maximum(speed - self.limit, 0.0).sum())
