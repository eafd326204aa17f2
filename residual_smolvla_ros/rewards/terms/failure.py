"""Reward term `failure`."""

from dataclasses import dataclass

from residual_smolvla_ros.records import FAILURE
from residual_smolvla_ros.rewards.term import RewardTerm
from residual_smolvla_ros.rewards.transition import Transition


@dataclass(frozen=True, kw_only=True)
class Failure(RewardTerm):
    """1 in the step that a person labelled as failure, else 0."""

    of_outcome = True
    unit = "1"

    def __call__(self, transition: Transition) -> float:
        """Return 1 or 0."""
        return float(transition.label == FAILURE)
