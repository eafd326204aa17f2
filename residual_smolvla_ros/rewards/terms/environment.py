"""Reward term `environment`."""

from dataclasses import dataclass

from residual_smolvla_ros.rewards.term import RewardTerm
from residual_smolvla_ros.rewards.transition import Transition


@dataclass(frozen=True, kw_only=True)
class Environment(RewardTerm):
    """The simulator's own reward: so101-nexus's potential-shaped reach, grasp and lift."""

    needs = frozenset({"environment"})
    unit = "1"

    def __call__(self, transition: Transition) -> float:
        """Return the reward of the environment/state record."""
        return float(transition.require("environment")["reward"])
