"""Reward term `success`."""

from dataclasses import dataclass

from residual_smolvla_ros.records import FAILURE, SUCCESS
from residual_smolvla_ros.rewards.term import RewardTerm
from residual_smolvla_ros.rewards.transition import Transition


@dataclass(frozen=True, kw_only=True)
class Success(RewardTerm):
    """1 in the step that succeeded, else 0: the sparse reward.

    A person's label, where there is one, stands above what another judge says.
    """

    of_outcome = True
    unit = "1"

    def __call__(self, transition: Transition) -> float:
        """Return 1 or 0."""
        label = transition.label
        return float(label == SUCCESS or (transition.success and label != FAILURE))
