"""What the adapters of other libraries share: normalised features, counted steps."""

import numpy as np
import torch
from torch import nn


class Rollouts:
    """Step ResidualVectorEnv; its observations (n, size) pass through our feature normaliser.

    `decisions` is how many decisions of each arm make a batch: those of a whole episode, so that a
    batch is as large as one of ours without a success. `steps` counts from the warm-up's on.
    """

    def __init__(self, env, network, config, first_scene: int, steps: int):
        self.env = env
        self.steps = steps
        self._config = config
        self.decisions = -(-env.max_steps // env.residual.hold_steps)
        self._normaliser = network.normaliser
        self._first_scene = first_scene

    def reset(self) -> np.ndarray:
        """Begin with the scenes of training."""
        return self._normalised(self.env.reset(options={"scene": self._first_scene})[0])

    def step(self, residuals: np.ndarray):
        """Return observations, rewards, terminated, truncated, and what was observed at an end.

        Where the return ends at the time limit, that is a termination.
        """
        observations, rewards, terminated, truncated, info = self.env.step(residuals)
        self.steps += int(info["steps"].sum())
        final = info.get("final_obs", [])
        final = [one if one is None else self._normalised(one[None])[0] for one in final]
        if self._config.time_limit_ends:
            terminated, truncated = terminated | truncated, np.zeros_like(truncated)
        return self._normalised(observations), rewards, terminated, truncated, final

    @property
    def learning_rate(self) -> float:
        """Our actor's learning rate at this step, with our schedule."""
        config, left = self._config, 1.0
        if config.learning_rate_schedule == "linear":
            left = max(0.0, 1.0 - self.steps / config.total_steps)
        return left * config.actor_learning_rate

    @torch.no_grad()
    def _normalised(self, observations: np.ndarray) -> np.ndarray:
        return self._normaliser(torch.from_numpy(observations)).numpy()


def copy_parameters(source: nn.Module, target: nn.Module) -> None:
    """Copy parameters in their order."""
    with torch.no_grad():
        for theirs, ours in zip(source.parameters(), target.parameters(), strict=True):
            ours.copy_(theirs)
