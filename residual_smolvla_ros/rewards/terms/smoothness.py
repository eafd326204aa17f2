"""Reward term `smoothness`."""

from dataclasses import dataclass

import numpy as np

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.rewards.term import RewardTerm
from residual_smolvla_ros.rewards.transition import Transition


@dataclass(kw_only=True)
class Smoothness(RewardTerm):
    """How much the command changed since the step before, in rad: the Euclidean norm over joints.

    With `order` 2 the change of that change: steady motion is free then, jerking is not. 0 until
    there are enough steps one after the other. Isaac Lab: action_rate_l2, there squared.
    """

    needs = frozenset({"step"})
    unit = "rad"

    order: int = 1

    def __post_init__(self):
        if self.order not in (1, 2):
            raise ConfigError(f"order: expected 1 or 2, found {self.order}")
        self._commands: list[np.ndarray] = []
        self._tick = 0

    def __call__(self, transition: Transition) -> float:
        """Return the norm in rad."""
        command = transition.require("command")
        if transition.tick == 0 or transition.tick != self._tick + 1:
            self._commands = []
        self._tick = transition.tick
        self._commands = [*self._commands[-self.order :], command]
        if len(self._commands) <= self.order:
            return 0.0
        return float(np.linalg.norm(np.diff(self._commands, n=self.order, axis=0)))
