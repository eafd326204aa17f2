"""A learner's files in a run's folder: checkpoints, updates.jsonl, TensorBoard's events."""

import dataclasses
import json
import time
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from residual_smolvla_ros.errors import CheckpointError
from residual_smolvla_ros.learning.checkpoint import load_checkpoint, newest_checkpoint
from residual_smolvla_ros.learning.learner import Learner

UPDATES = "updates.jsonl"


class LearnerRun:
    """Keep what a learner does in `<output>`; `settings` go into each checkpoint's `run`.

    Raises CheckpointError where `output` holds checkpoints and is not to be resumed, or where a
    checkpoint does not fit.
    """

    def __init__(
        self, output: Path, learner: Learner, settings: dict, resume: bool, residual: str = ""
    ):
        self.learner = learner
        self._output = output
        self._checkpoints = output / "checkpoints"
        self._settings = settings
        if not resume and newest_checkpoint(output):
            raise CheckpointError(
                f"output {output}: expected a folder without checkpoints, found "
                f"{newest_checkpoint(output).name}; give resume:=true or another output"
            )
        if resume:
            learner.resume(load_checkpoint(output, training=True))
        elif residual:
            learner.load(load_checkpoint(residual))
        if not resume:
            learner.begin()
        self._started = time.monotonic()
        output.mkdir(parents=True, exist_ok=True)
        self._board = SummaryWriter(str(output / "tensorboard"))
        if not resume:
            self.save()

    def save(self) -> Path:
        """Write a checkpoint of the last update; return its folder."""
        return self.learner.save(self._checkpoints, self._settings)

    def keep(self, metrics: dict[str, float]) -> None:
        """Write a checkpoint and the metrics of the update that has just been made."""
        self.save()
        counters = self.learner.counters
        for name, value in metrics.items():
            self._board.add_scalar(f"train/{name}", value, counters.env_steps)
        line = dataclasses.asdict(counters) | metrics
        line["wall_s"] = time.monotonic() - self._started
        with (self._output / UPDATES).open("a") as stream:
            stream.write(json.dumps(line) + "\n")

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
        self._board.close()
