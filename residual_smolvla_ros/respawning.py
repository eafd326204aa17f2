"""Which of a pipeline's nodes are started again when they end while it runs."""

import time
import uuid
from collections.abc import Callable
from pathlib import Path

from residual_smolvla_ros.arguments import ArgumentError

DELAY_S = 1.0
REFUSED = 1  # the exit code of a node that cannot work with what it was given
# A node that ends so many times, and each time soon and without an episode in between, stays down.
TRIES, LONG_S = 3, 60.0
ENDS = ("episode", "fleet")  # the nodes whose end is that of a complete run
_EPISODES, _SUMMARY = "episodes.jsonl", "summary.json"


class Respawning:
    """Decide what becomes of nodes that end; `output` is the run's folder.

    A node that refused its parameters, a checkpoint or a file is not started again: it would
    refuse them once more.
    """

    def __init__(self, output: Path, is_on: bool, clock: Callable[[], float] = time.monotonic):
        self._output, self._is_on, self._clock = output, is_on, clock
        self._summary = _mark(output / _SUMMARY)
        self._ends: dict[str, int] = {}  # in a row, by node
        self._last: dict[str, tuple[float, tuple]] = {}

    def is_complete(self, name: str, code: int) -> bool:
        """Tell whether a node's end is that of the whole run, which leaves a summary."""
        if name.rsplit("/")[-1] not in ENDS or code != 0:
            return False
        # Also told to end by a signal it ends with 0.
        return not self._is_on or _mark(self._output / _SUMMARY) != self._summary

    def respawns(self, name: str, code: int) -> bool:
        """Tell whether a node that has ended is to be started again; to be called once an end."""
        if not self._is_on or code == REFUSED or self.is_complete(name, code):
            return False
        now, progress = self._clock(), _mark(self._output / _EPISODES)
        before = self._last.get(name)
        self._last[name] = now, progress
        goes_on = before is None or progress != before[1] or now - before[0] > LONG_S
        self._ends[name] = 1 if goes_on else self._ends[name] + 1
        return self._ends[name] < TRIES


def new_run_id(values: dict) -> str:
    """Return what nodes know their own run by when they are started again, "" if none is.

    Raises ArgumentError for a fleet, which knows by itself what to do without an arm.
    """
    if values["respawn"] and values.get("robots"):
        raise ArgumentError("respawn: expected false with robots, found true")
    return uuid.uuid4().hex if values["respawn"] else ""


def _mark(file: Path) -> tuple:
    """Return what changes with a file."""
    if not file.is_file():
        return ()
    found = file.stat()
    return found.st_mtime_ns, found.st_size
