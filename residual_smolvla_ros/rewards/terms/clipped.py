"""Reward term `clipped`."""

from dataclasses import dataclass

import numpy as np

from residual_smolvla_ros.rewards.term import RewardTerm
from residual_smolvla_ros.rewards.transition import Transition


@dataclass(frozen=True, kw_only=True)
class Clipped(RewardTerm):
    """How far the safety filter moved the policy's command, in rad: the joint moved most.

    Isaac Lab's applied_torque_limits is the same idea for torques, summed.
    """

    needs = frozenset({"step", "executed"})
    unit = "rad"

    def __call__(self, transition: Transition) -> float:
        """Return the largest distance of a joint in rad."""
        executed, command = transition.require("executed"), transition.require("command")
        return float(np.abs(executed - command).max())
