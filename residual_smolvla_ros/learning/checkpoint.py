"""Checkpoints of a run: a numbered folder each, written whole or not at all.

In `<run>/checkpoints/<version>/`: residual.safetensors, the network and feature statistics;
training.safetensors, the optimiser and random state; state.json, configuration, counters and the
sha256 of all three, without which a changed bit of a weight would go unnoticed.
"""

import contextlib
import hashlib
import json
import logging
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load, save

from residual_smolvla_ros.errors import CheckpointError, DamagedCheckpointError
from residual_smolvla_ros.learning.durable import sync_folder, write_file
from residual_smolvla_ros.policy.features import ResidualConfig

FORMAT = 1
_NETWORK, _TRAINING, _STATE = "residual.safetensors", "training.safetensors", "state.json"
_ENTRIES = {"format", "residual", "counters", "run", "sha256"}
# A version, or what it was until one that was saved anew was put in its place.
_NAME = re.compile(r"(?P<version>[0-9]+)|\.(?P<replaced>[0-9]+)\.old")


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
    """Write `<folder>/<version>` through a temporary folder and a rename; return its path.

    Raises CheckpointError, naming the last good one, where it cannot be written.
    """
    files = {
        name: save({key: value.contiguous() for key, value in tensors.items()})
        for name, tensors in ((_NETWORK, weights), (_TRAINING, training))
    }
    state = {
        "format": FORMAT,
        "residual": json.loads(config.to_json()),
        "counters": counters,
        "run": run,
    }
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    state["sha256"] = sums | {_STATE: _sum_of_state(state)}
    files[_STATE] = (json.dumps(state, indent=1) + "\n").encode()
    target = folder / f"{counters['version']:06d}"
    temporary, replaced = (folder / f".{target.name}.{end}" for end in ("tmp", "old"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        for name, data in files.items():
            write_file(temporary / name, data)
        sync_folder(temporary)
        if target.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            target.rename(replaced)
        temporary.rename(target)
        sync_folder(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"residual checkpoint {target}: expected to be able to write it, found: {error}; "
            f"{_describe_last_good(folder)}"
        ) from None
    shutil.rmtree(replaced, ignore_errors=True)
    return target


def load_checkpoint(path: str | Path, training: bool = False) -> ResidualCheckpoint:
    """Read a checkpoint folder, or the newest good one of a run's folder.

    Damaged ones that are newer are passed over with a warning.
    Raises CheckpointError, naming the path, what was expected and found, and the last good one.
    """
    path = Path(path).expanduser()
    candidates = [path] if (path / _STATE).is_file() else checkpoints(path)
    if not candidates:
        found = "no checkpoint in it" if path.is_dir() else "no such folder"
        raise CheckpointError(
            f"residual checkpoint {path}: expected a folder with {_STATE}, found {found}"
        )
    problem: CheckpointError | None = None
    for candidate in candidates:
        try:
            found = read_checkpoint(candidate, training)
        except DamagedCheckpointError as error:
            problem = problem or error
            continue
        except CheckpointError as error:
            problem = problem or error
            break  # whole, but of another kind: not to be passed over
        if problem is not None:
            logging.getLogger(__name__).warning(
                "%s; the last good one is taken: %s", problem, found.path
            )
        return found
    raise type(problem)(f"{problem}; {_describe_last_good(candidates[0].parent)}")


def read_checkpoint(path: Path, training: bool) -> ResidualCheckpoint:
    """Read one checkpoint folder.

    Raises DamagedCheckpointError where it is not whole, CheckpointError for another format.
    """
    try:
        state = json.loads((path / _STATE).read_bytes())
        sums = state.get("sha256")  # those of before have none
        if sums is not None and sums[_STATE] != _sum_of_state(state):
            raise ValueError(f"{_STATE} with another sha256 than when it was written")
        if state["format"] != FORMAT:
            raise CheckpointError(
                f"residual checkpoint {path}: expected format {FORMAT}, found {state['format']}"
            )
        if strange := state.keys() - _ENTRIES:  # the sums' own name may be what changed
            raise ValueError(f"{_STATE} with {', '.join(strange)}")
        return ResidualCheckpoint(
            path=path,
            config=ResidualConfig.from_json(json.dumps(state["residual"])),
            weights=_read_tensors(path / _NETWORK, sums),
            counters=dict(state["counters"]),
            training=_read_tensors(path / _TRAINING, sums) if training else {},
            run=dict(state["run"]),
        )
    except CheckpointError:
        raise
    except Exception as error:  # safetensors and JSON raise many kinds for bytes of no meaning
        text = " ".join(str(error).split())
        found = f"{type(error).__name__} {text}" if isinstance(error, KeyError) else text
        raise DamagedCheckpointError(
            f"residual checkpoint {path}: expected a complete checkpoint, found: {found}"
        ) from None


def _read_tensors(file: Path, sums: dict[str, str] | None) -> dict[str, torch.Tensor]:
    data = file.read_bytes()
    if sums is not None and hashlib.sha256(data).hexdigest() != sums[file.name]:
        raise ValueError(f"{file.name} with another sha256 than when it was written")
    # In memory of their own: what is read on from a file changes with it.
    return {name: value.clone() for name, value in load(data).items()}


def _sum_of_state(state: dict) -> str:
    rest = {name: value for name, value in state.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest).encode()).hexdigest()


def checkpoints(run: Path) -> list[Path]:
    """Return the checkpoints of a run's folder, whole or not, the newest first.

    Raises CheckpointError where the folder cannot be read.
    """
    try:
        folder = run / "checkpoints" if (run / "checkpoints").is_dir() else run
        names = [p.name for p in folder.iterdir() if p.is_dir()] if folder.is_dir() else []
    except OSError as error:
        raise CheckpointError(
            f"residual checkpoint {run}: expected a folder that can be read, found: {error}"
        ) from None
    # Those replaced, whose names begin with a dot, come first: others of their version win.
    found = {_version(name): folder / name for name in sorted(filter(_NAME.fullmatch, names))}
    return [found[version] for version in sorted(found, reverse=True)]


def _version(name: str) -> int:
    match = _NAME.fullmatch(name)
    return int(match["version"] or match["replaced"])


def _describe_last_good(folder: Path) -> str:
    found = []
    with contextlib.suppress(CheckpointError):
        found = checkpoints(folder)
    for path in found:
        with contextlib.suppress(CheckpointError):
            return f"the last good one is {read_checkpoint(path, training=True).path}"
    return "no good one is beside it"


def prune_checkpoints(folder: Path, keep_last: int, keep_every: int, spare: int = 0) -> None:
    """Delete all but the newest `keep_last` checkpoints, each `keep_every`-th, and `spare`."""
    for path in checkpoints(folder)[keep_last:]:
        version = _version(path.name)
        if version % keep_every and version != spare:
            shutil.rmtree(path, ignore_errors=True)
