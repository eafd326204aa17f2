"""The learner without ROS: takes finished episodes, updates, and keeps what a resume needs."""

import copy
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from residual_smolvla_ros.errors import CheckpointError
from residual_smolvla_ros.learning.checkpoint import (
    ResidualCheckpoint,
    prune_checkpoints,
    save_checkpoint,
)
from residual_smolvla_ros.learning.rollout import Episode, check_episode
from residual_smolvla_ros.policy.actor_critic import ResidualActorCritic
from residual_smolvla_ros.policy.features import ResidualConfig

KEEP_LAST, KEEP_EVERY = 3, 20
# In LeRobot's units (degrees, gripper 0..100): about one tick of a servo.
EXECUTED_TOLERANCE = 0.1
# When updates come: a resumed run must keep it.
CADENCE = ("episodes_per_update", "warmup_updates")
# What the weights of a residual were not trained for: all else must fit a checkpoint's.
FREE_SETTINGS = ("log_std_init",)


@dataclass
class Counters:
    """How far a run has come.

    `version` counts updates, warm-up included, and rollbacks; `accepted` is the version that did
    not do worse than the base when it was last looked at, 0 the untrained one.
    """

    version: int = 0
    episodes: int = 0
    env_steps: int = 0
    rollbacks: int = 0
    accepted: int = 0


class Algorithm(Protocol):
    """What learns: it owns the network and all that a resume needs beside the counters."""

    name: str  # in the checkpoint: a run is resumed by the algorithm that it began with
    network: ResidualActorCritic

    def fit(self, episodes: list[Episode], env_steps: int, warmup: bool) -> dict[str, float]:
        """Learn from episodes, `env_steps` into the run, and return metrics; no actor in `warmup`.

        Raises ValueError, with network and state as they were, where nothing can be learned.
        """

    def configure(self, config: "AlgorithmConfig") -> None:
        """Go on with other hyperparameters."""

    def state(self) -> dict[str, torch.Tensor]:
        """Return all but the network's own state, by name."""

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Take over what `state` returned."""


class AlgorithmConfig(Protocol):
    """Hyperparameters, which know the algorithm that they belong to."""

    residual_ramp_steps: int  # control steps over which the residual's gain grows from 0 to 1

    def changed(self, values: dict) -> "AlgorithmConfig":
        """Return it with other values; raise ConfigError for one that cannot be changed."""

    def make(self, residual: ResidualConfig, seed: int) -> Algorithm:
        """Return the algorithm with an untrained network."""


class Learner:
    """One update of the residual every `episodes_per_update` episodes, by PPO or what `config` is.

    The first `warmup_updates` train the critic only and set the feature statistics. `settings` are
    those of the present version that were changed while the run went on.
    """

    def __init__(
        self,
        residual: ResidualConfig,
        config: AlgorithmConfig,
        episodes_per_update: int,
        warmup_updates: int,
        seed: int = 0,
    ):
        self.residual = residual
        self.config = config
        self.episodes_per_update = episodes_per_update
        self.warmup_updates = warmup_updates
        self.algorithm = config.make(residual, seed)
        self.counters = Counters()
        self.settings: dict[str, float] = {}
        self._asked: dict[str, float] = {}
        self._changed: set[str] = set()
        self._episodes: list[Episode] = []
        self._set_gain()

    @property
    def network(self) -> ResidualActorCritic:
        """The network that is trained."""
        return self.algorithm.network

    @property
    def warms_up(self) -> bool:
        """Whether the next update trains the critic only."""
        return self.counters.version < self.warmup_updates

    @property
    def collected(self) -> int:
        """Episodes waiting for the next update."""
        return len(self._episodes)

    @property
    def taken(self) -> int:
        """Episodes of the run that have been taken, learned from or not yet."""
        return self.counters.episodes + len(self._episodes)

    def begin(self) -> None:
        """Take what a new run begins with, beside weights."""

    def change(self, values: dict[str, float]) -> None:
        """Let hyperparameters or the action scale have other values from the next update on.

        Raises ConfigError, with all as it was, for one that is not taken.
        """
        asked = self._asked | values
        self._settled(asked)
        self._asked = asked

    def _settled(self, values: dict[str, float]) -> tuple[AlgorithmConfig, ResidualConfig]:
        own = {name: value for name, value in values.items() if name == "action_scale"}
        rest = {name: value for name, value in values.items() if name not in own}
        return self.config.changed(rest), dataclasses.replace(self.residual, **own)

    def _take_changes(self) -> None:
        """Between two updates: go on with what has been asked for."""
        if self._asked:
            self.config, self.residual = self._settled(self._asked)
            self.network.config = self.residual
            self.algorithm.configure(self.config)
            self._changed |= self._asked.keys()
            self._asked = {}

    def add_episode(self, episode: Episode) -> dict[str, float] | None:
        """Take an episode; return the metrics of the update that it completed, if any.

        Raises ValueError where the episode does not fit or holds a number that is not finite: it
        is not taken then, and all else stays as it was. Where an update fails, its episodes are
        gone, and weights, statistics and counters are those of before.
        """
        check_episode(episode, self.residual.feature_size, self.residual.residual_size)
        self._episodes.append(episode)
        if len(self._episodes) < self.episodes_per_update:
            return None
        episodes, self._episodes = self._episodes, []
        self._take_changes()
        return self._update(episodes)

    def _update(self, episodes: list[Episode]) -> dict[str, float]:
        warmup = self.warms_up
        metrics = {}
        # A person may have driven all the time: the update's turn is over, with nothing learned.
        if any(episode.segments() for episode in episodes):
            metrics = self.algorithm.fit(episodes, self.counters.env_steps, warmup)
        self.counters.version += 1
        self.counters.episodes += len(episodes)
        self.counters.env_steps += sum(episode.steps for episode in episodes)
        self._set_gain()
        metrics |= {
            "return": sum(e.episode_return for e in episodes) / len(episodes),
            "success": sum(e.success for e in episodes) / len(episodes),
            "episode_steps": sum(e.steps for e in episodes) / len(episodes),
            "warmup": float(warmup),
            "intervened": sum(e.intervened_steps for e in episodes)
            / max(1, sum(e.steps for e in episodes)),
        }
        self._tell_settings()
        metrics |= {f"setting/{name}": float(value) for name, value in self.settings.items()}
        return metrics | _executed_metrics(episodes)

    def _tell_settings(self) -> None:
        found = dataclasses.asdict(self.config) | {"action_scale": self.residual.action_scale}
        self.settings = {name: found[name] for name in sorted(self._changed)}

    def _set_gain(self) -> None:
        ramp = self.config.residual_ramp_steps
        self.network.gain.fill_(min(1.0, self.counters.env_steps / ramp) if ramp else 1.0)

    def progress(self) -> dict[str, int]:
        """Return the counters, after how many episodes the next ones follow, and the settings."""
        return dataclasses.asdict(self.counters) | self._cadence() | self._told_settings()

    def _cadence(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in CADENCE}

    def _told_settings(self) -> dict[str, dict]:
        return {"settings": self.settings} if self.settings else {}

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the network's state, feature statistics included."""
        return {name: value.detach().clone() for name, value in self.network.state_dict().items()}

    def save(self, folder: Path, run: dict) -> Path:
        """Write a checkpoint of the last update into `folder`."""
        path = save_checkpoint(
            folder,
            self.residual,
            self.weights(),
            self.algorithm.state(),
            dataclasses.asdict(self.counters),
            run | self._cadence() | {"algorithm": self.algorithm.name} | self._told_settings(),
        )
        prune_checkpoints(folder, KEEP_LAST, KEEP_EVERY, spare=self.counters.accepted)
        return path

    def load(self, checkpoint: ResidualCheckpoint) -> None:
        """Start from a checkpoint's weights, as a new run.

        Raises CheckpointError if its features, actions or network differ from this run's.
        """
        self._check(checkpoint)
        self.network.load_state_dict(checkpoint.weights)
        self._set_gain()

    def _check(self, checkpoint: ResidualCheckpoint) -> None:
        found, expected = checkpoint.config, self.residual
        for name in (f.name for f in dataclasses.fields(expected) if f.name not in FREE_SETTINGS):
            # As text: the order of the features counts.
            if str(getattr(found, name)) != str(getattr(expected, name)):
                raise CheckpointError(
                    f"residual checkpoint {checkpoint.path}: expected {name} "
                    f"{getattr(expected, name)}, found {getattr(found, name)}"
                )
        try:
            # Into another network: a failure leaves half of the weights behind.
            ResidualActorCritic(expected).load_state_dict(checkpoint.weights)
        except RuntimeError as error:
            raise CheckpointError(
                f"residual checkpoint {checkpoint.path}: expected weights of its configuration, "
                f"found: {str(error).strip().splitlines()[-1].strip()}"
            ) from None
        broken = [name for name, value in checkpoint.weights.items() if not value.isfinite().all()]
        if broken:
            raise CheckpointError(
                f"residual checkpoint {checkpoint.path}: expected finite weights, "
                f"found NaN or infinity in {broken[0]}"
            )

    def resume(self, checkpoint: ResidualCheckpoint) -> None:
        """Go on where the checkpoint's run stopped, to the bit.

        Raises CheckpointError as `load` does, and where the run's algorithm or the size of its
        updates was another.
        """
        found = {"algorithm": "ppo"} | checkpoint.run  # older ones know no other
        for name, value in ({"algorithm": self.algorithm.name} | self._cadence()).items():
            if found[name] != value:
                raise CheckpointError(
                    f"residual checkpoint {checkpoint.path}: expected {name} {value}, "
                    f"found {found[name]}"
                )
        self._check(checkpoint)
        before = copy.deepcopy(self.algorithm.state())
        try:
            counters = Counters(**checkpoint.counters)
            self.algorithm.load_state(checkpoint.training)
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            self.algorithm.load_state(before)  # some of it may have been taken
            raise CheckpointError(
                f"residual checkpoint {checkpoint.path}: expected the training state of "
                f"{self.algorithm.name}, found: {error}"
            ) from None
        self.network.load_state_dict(checkpoint.weights)
        self.counters = counters
        self._set_gain()

    def accept(self) -> None:
        """Take note that the present version does no worse than the base."""
        self.counters.accepted = self.counters.version

    def roll_back(self, checkpoint: ResidualCheckpoint) -> None:
        """Go back to the weights and the algorithm's state of the accepted version.

        They get a version of their own, and the action scale that they were trained at; the
        counters and other settings go on.
        """
        self.algorithm.load_state(checkpoint.training)
        self.network.load_state_dict(checkpoint.weights)
        scale = checkpoint.config.action_scale
        self.residual = self.network.config = dataclasses.replace(self.residual, action_scale=scale)
        self._tell_settings()
        self.counters.version += 1
        self.counters.rollbacks += 1
        self.accept()
        self._set_gain()


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
