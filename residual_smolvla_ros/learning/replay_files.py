"""What goes into a replay, on disk: a file for what came since the one before.

Each is named after how many rows there were in all by then, and holds those of one or several
replays. The files up to a number make the replays as they were then.
"""

import os
from dataclasses import fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from residual_smolvla_ros.errors import CheckpointError
from residual_smolvla_ros.learning.replay import Transitions

_NAMES = [field.name for field in fields(Transitions)]


def write_rows(
    folder: Path, total: int, rows: list[tuple[str, Transitions]], settings: dict[str, str]
) -> None:
    """Write the rows, each with the name of its replay, that make `total` with those before."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for replay in {name for name, _ in rows}:
        own = [added for name, added in rows if name == replay]
        for name in _NAMES:
            tensors[f"{replay}.{name}"] = torch.cat([getattr(added, name) for added in own])
    target = folder / f"{total:09d}.safetensors"
    temporary = folder / f".{target.name}.tmp"
    save_file(tensors, temporary, metadata=settings)
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    temporary.rename(target)


def read_rows(
    folder: Path, settings: dict[str, str], total: int | None = None
) -> list[tuple[str, Transitions]]:
    """Return the rows of a folder, in their order, up to the file that makes `total`.

    Raises CheckpointError for a file that is damaged, or was written with other settings.
    """
    files = [file for file in folder.glob("*.safetensors") if file.stem.isdigit()]
    files = [file for file in files if total is None or int(file.stem) <= total]
    rows = []
    for file in sorted(files, key=lambda file: int(file.stem)):
        rows += _read(file, settings)
    return rows


def _read(file: Path, settings: dict[str, str]) -> list[tuple[str, Transitions]]:
    try:
        with safe_open(file, framework="pt") as stored:
            found = dict(sorted((stored.metadata() or {}).items()))
            if found != settings:
                raise CheckpointError(f"replay {file}: expected {settings}, found {found}")
            replays = sorted({key.partition(".")[0] for key in stored.keys()})  # noqa: SIM118
            return [
                (name, Transitions(**{f: stored.get_tensor(f"{name}.{f}") for f in _NAMES}))
                for name in replays
            ]
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"replay {file}: expected a complete file, found: {error}") from None
