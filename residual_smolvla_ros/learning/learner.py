"""The learner without ROS: takes finished episodes, updates, and keeps what a resume needs."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from residual_smolvla_ros.errors import CheckpointError
from residual_smolvla_ros.learning import ppo
from residual_smolvla_ros.learning.checkpoint import (
    ResidualCheckpoint,
    prune_checkpoints,
    save_checkpoint,
)
from residual_smolvla_ros.learning.rollout import Episode, make_batch
from residual_smolvla_ros.policy.actor_critic import ResidualActorCritic
from residual_smolvla_ros.policy.features import ResidualConfig

KEEP_LAST, KEEP_EVERY = 3, 20
# In LeRobot's units (degrees, gripper 0..100): about one tick of a servo.
EXECUTED_TOLERANCE = 0.1
# When updates come: a resumed run must keep it.
CADENCE = ("episodes_per_update", "warmup_updates")
# What the weights of a residual were trained for: a checkpoint of other values does not fit.
FIXED_SETTINGS = (
    "features",
    "action_size",
    "action_space",
    "action_scale",
    "residual_clip",
    "hold_steps",
    "hidden_sizes",
)


@dataclass
class Counters:
    """How far a run has come; `version` is the number of updates, warm-up included."""

    version: int = 0
    episodes: int = 0
    env_steps: int = 0


class Learner:
    """PPO over the residual network, one update every `episodes_per_update` episodes.

    The first `warmup_updates` train the critic only and set the feature statistics.
    """

    def __init__(
        self,
        residual: ResidualConfig,
        config: ppo.PPOConfig,
        episodes_per_update: int,
        warmup_updates: int,
        seed: int = 0,
    ):
        self.residual = residual
        self.config = config
        self.episodes_per_update = episodes_per_update
        self.warmup_updates = warmup_updates
        self.network = ResidualActorCritic(residual, seed=seed)
        self.optimiser = ppo.make_optimiser(self.network, config)
        self.counters = Counters()
        self._generator = torch.Generator().manual_seed(seed)
        self._episodes: list[Episode] = []

    @property
    def collected(self) -> int:
        """Episodes waiting for the next update."""
        return len(self._episodes)

    def add_episode(self, episode: Episode) -> dict[str, float] | None:
        """Take an episode; return the metrics of the update that it completed, if any.

        Raises ValueError, leaving the training state as it was, where the batch is not finite.
        """
        self._episodes.append(episode)
        if len(self._episodes) < self.episodes_per_update:
            return None
        episodes, self._episodes = self._episodes, []
        return self._update(episodes)

    @torch.no_grad()
    def _value(self, features: torch.Tensor) -> torch.Tensor:
        return self.network.value(features)

    def _update(self, episodes: list[Episode]) -> dict[str, float]:
        warmup = self.counters.version < self.warmup_updates
        metrics = {}
        # A person may have driven all the time: the update's turn is over, with nothing learned.
        if any(episode.segments() for episode in episodes):
            metrics = self._fit(episodes, warmup)
        self.counters.version += 1
        self.counters.episodes += len(episodes)
        self.counters.env_steps += sum(episode.steps for episode in episodes)
        metrics |= {
            "return": sum(e.episode_return for e in episodes) / len(episodes),
            "success": sum(e.success for e in episodes) / len(episodes),
            "episode_steps": sum(e.steps for e in episodes) / len(episodes),
            "warmup": float(warmup),
            "intervened": sum(e.intervened_steps for e in episodes)
            / max(1, sum(e.steps for e in episodes)),
        }
        return metrics | _executed_metrics(episodes)

    def _fit(self, episodes: list[Episode], warmup: bool) -> dict[str, float]:
        batch = make_batch(episodes, self._value, self.config.gamma, self.config.gae_lambda)
        if not self.network.normaliser.is_fitted:
            # Fixed from here on, so that the meaning of the network's input never shifts.
            self.network.normaliser.fit(batch.features)
        return ppo.update(
            self.network, self.optimiser, batch, self.config, self._generator, not warmup
        )

    def progress(self) -> dict[str, int]:
        """Return the counters, and after how many episodes the next ones follow."""
        return dataclasses.asdict(self.counters) | self._cadence()

    def _cadence(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in CADENCE}

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the network's state, feature statistics included."""
        return {name: value.detach().clone() for name, value in self.network.state_dict().items()}

    def save(self, folder: Path, run: dict) -> Path:
        """Write a checkpoint of the last update into `folder`."""
        path = save_checkpoint(
            folder,
            self.residual,
            self.weights(),
            self._training_state(),
            dataclasses.asdict(self.counters),
            run | self._cadence(),
        )
        prune_checkpoints(folder, KEEP_LAST, KEEP_EVERY)
        return path

    def load(self, checkpoint: ResidualCheckpoint) -> None:
        """Start from a checkpoint's weights, as a new run.

        Raises CheckpointError if its features, actions or network differ from this run's.
        """
        found, expected = checkpoint.config, self.residual
        for name in FIXED_SETTINGS:
            # As text: the order of the features counts.
            if str(getattr(found, name)) != str(getattr(expected, name)):
                raise CheckpointError(
                    f"residual checkpoint {checkpoint.path}: expected {name} "
                    f"{getattr(expected, name)}, found {getattr(found, name)}"
                )
        try:
            self.network.load_state_dict(checkpoint.weights)
        except RuntimeError as error:
            raise CheckpointError(
                f"residual checkpoint {checkpoint.path}: expected weights of its configuration, "
                f"found: {str(error).strip().splitlines()[-1].strip()}"
            ) from None

    def resume(self, checkpoint: ResidualCheckpoint) -> None:
        """Go on where the checkpoint's run stopped, to the bit.

        Raises CheckpointError as `load` does, and where the run's updates were of another size.
        """
        for name in CADENCE:
            if checkpoint.run[name] != getattr(self, name):
                raise CheckpointError(
                    f"residual checkpoint {checkpoint.path}: expected {name} "
                    f"{getattr(self, name)}, found {checkpoint.run[name]}"
                )
        self.load(checkpoint)
        self.counters = Counters(**checkpoint.counters)
        self._generator.set_state(checkpoint.training["generator"])
        state = self.optimiser.state_dict()
        for key, value in checkpoint.training.items():
            if key != "generator":
                _, index, name = key.split(".")
                state["state"].setdefault(int(index), {})[name] = value
        self.optimiser.load_state_dict(state)

    def _training_state(self) -> dict[str, torch.Tensor]:
        tensors = {"generator": self._generator.get_state()}
        for index, entry in self.optimiser.state_dict()["state"].items():
            for name, value in entry.items():
                tensors[f"optimiser.{index}.{name}"] = value
        return tensors


def _executed_metrics(episodes: list[Episode]) -> dict[str, float]:
    """Return how far the robot departed from the commands, where it reports what it executed."""
    gaps = [
        np.abs(np.subtract(episode.executed, episode.commands))
        for episode in episodes
        if episode.executed
    ]
    if not gaps:
        return {}
    gap = np.concatenate(gaps)
    return {
        "executed_gap": float(gap.mean()),
        "executed_changed": float((gap.max(axis=1) > EXECUTED_TOLERANCE).mean()),
    }
