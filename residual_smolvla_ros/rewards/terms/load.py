"""Reward term `load`."""

from dataclasses import dataclass

import numpy as np

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.rewards.term import RewardTerm, RobotDescription
from residual_smolvla_ros.rewards.transition import Transition


@dataclass(kw_only=True)
class Load(RewardTerm):
    """Load of the servos above a threshold, in shares of full drive, summed over joints.

    The value is the sum of max(0, |effort| - threshold). Isaac Lab's joint_torques_l2 counts all
    torque; an arm needs some to hold itself up.
    """

    needs = frozenset({"joints"})
    unit = "share of full drive"

    threshold: float = 0.5  # share of full drive
    joints: tuple[str, ...] = ()  # all but the gripper

    def __post_init__(self):
        if not 0 <= self.threshold < 1:
            raise ConfigError(f"threshold: expected a share from 0 to 1, found {self.threshold}")

    def begin(self, robot: RobotDescription) -> None:
        """Find the joints."""
        self._joints = robot.select(self.joints)

    def __call__(self, transition: Transition) -> float:
        """Return the sum."""
        load = np.abs(transition.require("effort")[self._joints])
        return float(np.maximum(load - self.threshold, 0.0).sum())
