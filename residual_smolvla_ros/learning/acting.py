"""A policy that acts with what was learned; apart from checkpoints, since it imports LeRobot."""

import functools
import itertools
from pathlib import Path

import torch

from residual_smolvla_ros.learning.checkpoint import load_checkpoint
from residual_smolvla_ros.policy.actor_critic import ResidualActorCritic
from residual_smolvla_ros.policy.features import ResidualConfig
from residual_smolvla_ros.policy.residual_policy import ResidualPolicy
from residual_smolvla_ros.records import Record, RecordError


def load_residual(policy: ResidualPolicy, path: str | Path) -> None:
    """Let a policy act with a checkpoint, or with its base alone where `path` is empty."""
    if path:
        loaded = load_checkpoint(path)
        policy.load_weights(loaded.config, loaded.weights, loaded.counters["version"])
    else:
        config = ResidualConfig.from_names(["state"], policy.base.state_size)
        policy.load_weights(config, ResidualActorCritic(config).state_dict(), version=0)


@functools.lru_cache(maxsize=4)
def _read_config(text: str, most: int) -> tuple[ResidualConfig, dict[str, tuple[int, ...]]]:
    """Return a configuration and the shapes of its weights, of which there are `most`."""
    config = ResidualConfig.from_json(text)
    # Before it is built: a stranger's layers may be of any size.
    widths = (config.feature_size, *config.hidden_sizes)
    if sum(a * b for a, b in itertools.pairwise(widths[1:])) > most or max(widths) > most:
        raise ValueError(f"{most} weights for layers of {config.hidden_sizes}")
    expected = ResidualActorCritic(config).state_dict()
    return config, {name: tuple(value.shape) for name, value in expected.items()}


def check_weights(record: Record) -> ResidualConfig:
    """Return the configuration of a record `weights`; raise RecordError unless its tensors fit."""
    try:
        most = sum(value.size for value in record.tensors.values())
        config, shapes = _read_config(record.metadata["config"], most)
    except Exception as error:  # of any JSON
        found = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
    else:
        if shapes == {name: value.shape for name, value in record.tensors.items()}:
            return config
        found = "tensors of another one"
    raise RecordError(
        f"weights record: expected a residual's configuration and its weights, found: {found}"
    )


def take_weights(policy: ResidualPolicy, record: Record, config: ResidualConfig) -> None:
    """Let a policy act with a record `weights` of a configuration; raise ValueError if it cannot.

    `config` is what `check_weights` returned: within a control step nothing is parsed anew.
    """
    policy.load_weights(
        config,
        {name: torch.tensor(value) for name, value in record.tensors.items()},
        record.metadata["version"],
    )
