"""What goes into a replay, on disk: a file for what came since the one before.

Each is named after how many rows there were in all by then, and holds those of one or several
replays. The files up to a number make the replays as they were then.
"""

import contextlib
import hashlib
from dataclasses import fields
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save

from residual_smolvla_ros.errors import CheckpointError, DamagedCheckpointError
from residual_smolvla_ros.learning.durable import sync_folder, write_file
from residual_smolvla_ros.learning.replay import Transitions

_NAMES = [field.name for field in fields(Transitions)]
_SUM = "sha256"


def write_rows(
    folder: Path, total: int, rows: list[tuple[str, Transitions]], settings: dict[str, str]
) -> None:
    """Write the rows, each with the name of its replay, that make `total` with those before.

    What an interrupted run wrote after those before is renamed: it is of no checkpoint.
    Raises CheckpointError where it cannot be written.
    """
    tensors = {}
    for replay in {name for name, _ in rows}:
        own = [added for name, added in rows if name == replay]
        for name in _NAMES:
            tensors[f"{replay}.{name}"] = torch.cat([getattr(added, name) for added in own])
    data = save(tensors, metadata=settings | {_SUM: _sum(tensors, settings)})
    target = folder / f"{total:09d}.safetensors"
    temporary = folder / f".{target.name}.tmp"
    before = total - sum(len(added) for _, added in rows)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_file(temporary, data)
        for file in _files(folder):
            if int(file.stem) > before and file != target:
                file.rename(file.with_name(f"{file.name}.unused"))
        temporary.rename(target)
        sync_folder(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise CheckpointError(
            f"replay {target}: expected to be able to write it, found: {error}"
        ) from None


def read_rows(
    folder: Path, settings: dict[str, str], total: int | None = None
) -> list[tuple[str, Transitions]]:
    """Return the rows of a folder, in their order, up to the file that makes `total`.

    Raises CheckpointError for a file that is damaged, or was written with other settings.
    """
    rows = []
    for file in _files(folder):
        if total is None or int(file.stem) <= total:
            rows += _read(file, settings)
    return rows


def _files(folder: Path) -> list[Path]:
    files = [file for file in folder.glob("*.safetensors") if file.stem.isdecimal()]
    return sorted(files, key=lambda file: int(file.stem))


def _read(file: Path, settings: dict[str, str]) -> list[tuple[str, Transitions]]:
    try:
        with safe_open(file, framework="pt") as stored:
            found = dict(sorted((stored.metadata() or {}).items()))
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
        expected = found.pop(_SUM, None)  # those of before have none
        if expected not in (None, _sum(tensors, found)):
            raise ValueError("another sha256 than when it was written")
        replays = sorted({key.partition(".")[0] for key in tensors})
        rows = [
            (name, Transitions(**{f: tensors[f"{name}.{f}"] for f in _NAMES})) for name in replays
        ]
    except Exception as error:  # safetensors raises many kinds for bytes of no meaning
        raise DamagedCheckpointError(
            f"replay {file}: expected a complete file, found: {error}"
        ) from None
    if found != settings:
        raise CheckpointError(f"replay {file}: expected {settings}, found {found}")
    return rows


def _sum(tensors: dict[str, torch.Tensor], settings: dict[str, str]) -> str:
    found = hashlib.sha256(str(sorted(settings.items())).encode())
    for name, value in sorted(tensors.items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(value.contiguous().numpy())
    return found.hexdigest()
