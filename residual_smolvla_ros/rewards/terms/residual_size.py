"""Reward term `residual_size`."""

from dataclasses import dataclass

import numpy as np

from residual_smolvla_ros.rewards.term import RewardTerm
from residual_smolvla_ros.rewards.transition import Transition


@dataclass(frozen=True, kw_only=True)
class ResidualSize(RewardTerm):
    """Mean squared residual, in squared units of the residual (Isaac Lab: action_l2, a sum)."""

    needs = frozenset({"step"})
    unit = "units^2"

    def __call__(self, transition: Transition) -> float:
        """Return the mean square."""
        return float(np.mean(np.square(transition.require("residual"))))
