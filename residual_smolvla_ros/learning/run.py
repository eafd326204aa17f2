"""A learner's files in a run's folder: checkpoints, updates.jsonl, TensorBoard's events."""

import contextlib
import dataclasses
import errno
import hashlib
import itertools
import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from residual_smolvla_ros.errors import CheckpointError, DamagedCheckpointError
from residual_smolvla_ros.learning.checkpoint import (
    ResidualCheckpoint,
    checkpoints,
    load_checkpoint,
)
from residual_smolvla_ros.learning.learner import Learner

UPDATES = "updates.jsonl"
# What a run that is resumed must have been begun with, where its checkpoint tells.
SAME = ("seed", "base_sha256")


class LearnerRun:
    """Keep what a learner does in `<output>`; `settings` go into each checkpoint's `run`.

    A resumed run goes on from the newest good checkpoint; damaged ones that are newer are renamed,
    so that no later resume goes back to them. A run whose checkpoints hold the same `run_id` as
    `settings` is resumed in any case: this process takes the place of one that died.
    Raises CheckpointError where `output` holds checkpoints and is not to be resumed, where a
    checkpoint does not fit, and where something cannot be written.
    """

    def __init__(
        self, output: Path, learner: Learner, settings: dict, resume: bool, residual: str = ""
    ):
        self.learner = learner
        self._output = output
        self._checkpoints = output / "checkpoints"
        self._settings = settings | _identify(settings.get("base_checkpoint", ""))
        there = checkpoints(output)
        resume = resume or self._goes_on(there)
        if not resume and there:
            raise CheckpointError(
                f"output {output}: expected a folder without checkpoints, found "
                f"{there[0].name}; give resume:=true or another output"
            )
        if resume:
            self._resume(there)
        elif residual:
            learner.load(load_checkpoint(residual))
        if not resume:
            learner.begin()
        self._started = time.monotonic()
        with _writing(output):
            output.mkdir(parents=True, exist_ok=True)
            self._board = SummaryWriter(str(output / "tensorboard"))
        if not resume:
            self.save()

    def _goes_on(self, there: list[Path]) -> bool:
        own = self._settings.get("run_id")
        return bool(own and there) and load_checkpoint(self._output).run.get("run_id") == own

    def _resume(self, there: list[Path]) -> None:
        damaged: list[tuple[Path, CheckpointError]] = []
        for path in there or [self._output]:
            try:
                found = load_checkpoint(path, training=True)
                self._check(found.run, path)
                self.learner.resume(found)
                _tell_settings(found)
                break
            except DamagedCheckpointError as error:
                damaged.append((path, error))
        else:
            raise damaged[0][1]
        for file, error in damaged:
            with _writing(self._output):
                aside = _set_aside(file)
            logging.getLogger(__name__).warning(
                "%s; it is %s now, and the run goes on from %s", error, aside.name, path
            )

    def _check(self, found: dict, path: Path) -> None:
        for name in SAME:
            wanted, stored = (values.get(name) for values in (self._settings, found))
            if None not in (wanted, stored) and wanted != stored:
                raise CheckpointError(
                    f"residual checkpoint {path}: expected {name} {wanted}, found {stored}"
                )

    def save(self) -> Path:
        """Write a checkpoint of the last update; return its folder."""
        return self.learner.save(self._checkpoints, self._settings)

    def keep(self, metrics: dict[str, float]) -> None:
        """Write a checkpoint and the metrics of the update that has just been made."""
        self.save()
        counters = self.learner.counters
        line = dataclasses.asdict(counters) | metrics
        line["wall_s"] = time.monotonic() - self._started
        with _writing(self._output):
            for name, value in metrics.items():
                self._board.add_scalar(f"train/{name}", value, counters.env_steps)
            _append(self._output / UPDATES, json.dumps(line) + "\n")

    def judge(self, is_good: bool) -> None:
        """Accept the present version, or go back to the last one that was accepted."""
        learner = self.learner
        if is_good:
            learner.accept()
            return
        accepted = self._checkpoints / f"{learner.counters.accepted:06d}"
        learner.roll_back(load_checkpoint(accepted, training=True))
        self.save()

    def close(self) -> None:
        """Flush TensorBoard's events."""
        with contextlib.suppress(OSError):  # of a full disk, which has been reported
            self._board.close()


def _tell_settings(found: ResidualCheckpoint) -> None:
    """Say what had been changed while the run went on: a resumed one has its parameters again."""
    if settings := found.run.get("settings"):
        told = ", ".join(f"{name} {value}" for name, value in settings.items())
        logging.getLogger(__name__).warning(
            "residual checkpoint %s was made with %s, set while it ran; the run goes on with the "
            "parameters it is given now",
            found.path,
            told,
        )


@contextlib.contextmanager
def _writing(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"output {output}: expected a folder that can be written, found: {error}"
        ) from None


def _append(file: Path, line: str) -> None:
    """Add a line to a file, whole or not at all."""
    data = line.encode()
    with file.open("ab", buffering=0) as stream:
        size = stream.tell()
        if stream.write(data) < len(data):
            stream.truncate(size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))


def _set_aside(path: Path) -> Path:
    """Rename a damaged checkpoint to what is no checkpoint's name."""
    names = (f"{path.name}.damaged{number or ''}" for number in itertools.count())
    free = next(name for name in names if not path.with_name(name).exists())
    return path.rename(path.with_name(free))


def _identify(base: str) -> dict[str, str]:
    """Return what tells a base's weights from others, wherever they lie."""
    files = sorted(Path(base).glob("*.safetensors")) if base else []
    found = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            found.update(hashlib.file_digest(stream, "sha256").digest())
    return {"base_sha256": found.hexdigest()} if files else {}
