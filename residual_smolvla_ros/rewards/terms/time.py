"""Reward term `time`."""

from dataclasses import dataclass

from residual_smolvla_ros.rewards.term import RewardTerm
from residual_smolvla_ros.rewards.transition import Transition


@dataclass(frozen=True, kw_only=True)
class Time(RewardTerm):
    """1 in every step: with a negative weight it pays to be done early (Isaac Lab: is_alive)."""

    unit = "steps"

    def __call__(self, transition: Transition) -> float:
        """Return 1."""
        return 1.0
