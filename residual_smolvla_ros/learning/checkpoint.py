"""Checkpoints of a run: a numbered folder each, written whole or not at all.

In `<run>/checkpoints/<version>/`: residual.safetensors, the network and feature statistics;
training.safetensors, the optimiser and random state; state.json, configuration and counters.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from residual_smolvla_ros.errors import CheckpointError
from residual_smolvla_ros.policy.features import ResidualConfig

FORMAT = 1
_NETWORK, _TRAINING, _STATE = "residual.safetensors", "training.safetensors", "state.json"


@dataclass(frozen=True)
class ResidualCheckpoint:
    """What a checkpoint folder holds. `training` is empty where only weights were asked for."""

    path: Path
    config: ResidualConfig
    weights: dict[str, torch.Tensor]
    counters: dict[str, int]
    training: dict[str, torch.Tensor]
    run: dict


def save_checkpoint(
    folder: Path,
    config: ResidualConfig,
    weights: dict[str, torch.Tensor],
    training: dict[str, torch.Tensor],
    counters: dict[str, int],
    run: dict,
) -> Path:
    """Write `<folder>/<version>` through a temporary folder and a rename; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{counters['version']:06d}"
    temporary = folder / f".{target.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    save_file({k: v.contiguous() for k, v in weights.items()}, temporary / _NETWORK)
    save_file({k: v.contiguous() for k, v in training.items()}, temporary / _TRAINING)
    state = {
        "format": FORMAT,
        "residual": json.loads(config.to_json()),
        "counters": counters,
        "run": run,
    }
    (temporary / _STATE).write_text(json.dumps(state, indent=1) + "\n")
    for file in temporary.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    return target


def load_checkpoint(path: str | Path, training: bool = False) -> ResidualCheckpoint:
    """Read a checkpoint folder, or the newest one of a run's folder.

    Raises CheckpointError, naming the path, what was expected and what was found.
    """
    path = Path(path).expanduser()
    if not (path / _STATE).is_file():
        newest = newest_checkpoint(path)
        if newest is None:
            found = "no checkpoint in it" if path.is_dir() else "no such folder"
            raise CheckpointError(
                f"residual checkpoint {path}: expected a folder with {_STATE}, found {found}"
            )
        path = newest
    try:
        state = json.loads((path / _STATE).read_text())
        if state["format"] != FORMAT:
            raise CheckpointError(
                f"residual checkpoint {path}: expected format {FORMAT}, found {state['format']}"
            )
        return ResidualCheckpoint(
            path=path,
            config=ResidualConfig.from_json(json.dumps(state["residual"])),
            weights=load_file(path / _NETWORK),
            counters=state["counters"],
            training=load_file(path / _TRAINING) if training else {},
            run=state["run"],
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"residual checkpoint {path}: expected a complete checkpoint, found: {error}"
        ) from None


def newest_checkpoint(run: Path) -> Path | None:
    """Return the newest complete checkpoint of a run's folder, or None."""
    folder = run / "checkpoints" if (run / "checkpoints").is_dir() else run
    if not folder.is_dir():
        return None
    found = [p for p in folder.iterdir() if p.name.isdigit() and (p / _STATE).is_file()]
    return max(found, key=lambda p: int(p.name), default=None)


def prune_checkpoints(folder: Path, keep_last: int, keep_every: int, spare: int = 0) -> None:
    """Delete all but the newest `keep_last` checkpoints, each `keep_every`-th, and `spare`."""
    versions = sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())
    for version in versions[:-keep_last]:
        if version % keep_every and version != spare:
            shutil.rmtree(folder / f"{version:06d}")
