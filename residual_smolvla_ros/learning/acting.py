"""A policy that acts with what was learned; apart from checkpoints, since it imports LeRobot."""

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


def take_weights(policy: ResidualPolicy, record: Record) -> None:
    """Let a policy act with the weights of a record `weights`; raise ValueError if it cannot."""
    try:
        policy.load_weights(
            ResidualConfig.from_json(record.metadata["config"]),
            {name: torch.tensor(value) for name, value in record.tensors.items()},
            record.metadata["version"],
        )
    except (TypeError, LookupError, AttributeError, RuntimeError) as error:  # of any JSON
        found = " ".join(str(error).split())[:200]
        raise RecordError(
            f"weights record: expected a residual's configuration and its weights, found: {found}"
        ) from None
