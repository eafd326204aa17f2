"""Train the estimator of where the task's object is, between updates of the policy.

What acts is an average of its weights over many steps.
"""

import copy
import math

import numpy as np
import torch
from torch.nn import functional

from residual_smolvla_ros.learning.optimiser_state import pack_optimiser, unpack_optimiser
from residual_smolvla_ros.learning.rollout import Episode
from residual_smolvla_ros.policy.actor_critic import ResidualActorCritic
from residual_smolvla_ros.policy.features import TCP_SCALE, ResidualConfig

# Decisions that are remembered, those that it begins with, and gradient steps for each new one.
REMEMBERED, FIRST = 4000, 100
STEPS_PER_DECISION = 0.25
MINIBATCH_SIZE = 128
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-2
# Of the average: the last 200 steps or so, and at first all.
AVERAGE_DECAY = 0.995


class Estimation:
    """The estimator of a network in training."""

    def __init__(self, network: ResidualActorCritic, seed: int):
        self._config = network.config
        self._estimator = network.normaliser.projection
        self._layers = copy.deepcopy(self._estimator.layers).requires_grad_(True)
        self._optimiser = torch.optim.AdamW(
            self._layers.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY
        )
        self._generator = torch.Generator().manual_seed(seed)
        self._steps = 0
        # Half precision: they are part of every checkpoint.
        self._features = torch.zeros(0, self._config.feature_size, dtype=torch.float16)
        self._wanted = torch.zeros(0, 3, dtype=torch.float16)

    def learn(self, episodes: list[Episode]) -> dict[str, float]:
        """Learn from episodes and return metrics; from none whose target is known, nothing."""
        labelled = [pair for e in episodes if (pair := targets(e, self._config)) is not None]
        if not labelled:
            return {}
        features = torch.cat([rows for rows, _ in labelled])
        wanted = torch.cat([target for _, target in labelled])
        self._features = torch.cat([self._features, features.half()])[-REMEMBERED:]
        self._wanted = torch.cat([self._wanted, wanted.half()])[-REMEMBERED:]
        if len(self._wanted) < FIRST:
            return {}
        self._estimator.fit(self._features.float())
        if not self._steps:  # the weights may have been loaded since
            self._layers.load_state_dict(self._estimator.layers.state_dict())
        # Before it learns from them: what it is off by on scenes that are new to it.
        estimate = self._estimator.layers(self._estimator.inputs(features))
        error = (estimate - wanted).norm(dim=1).mean() / TCP_SCALE
        for _ in range(math.ceil(STEPS_PER_DECISION * len(features))):
            shape = (MINIBATCH_SIZE,)
            self._step(torch.randint(len(self._wanted), shape, generator=self._generator))
        return {"estimate_error_mm": 1000.0 * float(error)}

    def _step(self, rows: torch.Tensor) -> None:
        inputs = self._estimator.inputs(self._features[rows].float())
        loss = functional.mse_loss(self._layers(inputs), self._wanted[rows].float())
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self._optimiser.step()
        self._steps += 1
        share = max(1.0 - AVERAGE_DECAY, 1.0 / (1.0 + 0.2 * self._steps))
        with torch.no_grad():
            averaged = self._estimator.layers.parameters()
            for average, newest in zip(averaged, self._layers.parameters(), strict=True):
                average.lerp_(newest, share)

    def state(self) -> dict[str, torch.Tensor]:
        """Return all that a resume needs beside the network."""
        tensors = {
            "estimator.steps": torch.tensor(self._steps),
            "estimator.generator": self._generator.get_state(),
            "estimator.features": self._features,
            "estimator.wanted": self._wanted,
        }
        tensors |= {f"estimator.layers.{n}": v for n, v in self._layers.state_dict().items()}
        return tensors | pack_optimiser(self._optimiser, "estimator.optimiser")

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Take over what `state` returned."""
        self._steps = int(state["estimator.steps"])
        self._generator.set_state(state["estimator.generator"])
        self._features, self._wanted = state["estimator.features"], state["estimator.wanted"]
        prefix = "estimator.layers."
        layers = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        self._layers.load_state_dict(layers)
        unpack_optimiser(self._optimiser, state, "estimator.optimiser")


def targets(episode: Episode, config: ResidualConfig) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return the features (n, size) of decisions, and target_from_tcp (n, 3) of each.

    None where an episode does not tell. In hindsight the target of a successful one was where the
    tool centre point was lowest: that is where it grasped, and up to then nothing moved it.
    """
    features = torch.from_numpy(np.asarray(episode.features, dtype=np.float32))
    if config.estimate == "simulator":
        return features, features[:, config.columns("target_from_tcp")]
    if not episode.success or episode.intervened_steps:
        return None
    tcp = features[:, config.columns("tcp")]
    grasp = int(tcp[:, 2].argmin())
    before = tcp[: grasp + 1]
    offset = tcp[grasp] - before
    # Seen from the base, as target_from_tcp is.
    angle = torch.atan2(before[:, 1], before[:, 0])
    c, s = angle.cos(), angle.sin()
    forward, left = c * offset[:, 0] + s * offset[:, 1], c * offset[:, 1] - s * offset[:, 0]
    return features[: grasp + 1], torch.stack([forward, left, offset[:, 2]], dim=1)
