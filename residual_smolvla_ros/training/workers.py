"""Who plays a batch of episodes: this process, or several side by side."""

import itertools
import math
import multiprocessing
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Protocol

import torch

from residual_smolvla_ros.learning.schedule import EpisodePlan
from residual_smolvla_ros.policy.features import ResidualConfig
from residual_smolvla_ros.training.arm import Played
from residual_smolvla_ros.training.cohort import Cohort


class Players(Protocol):
    """Plays up to `size` episodes at a time with the weights that were loaded last."""

    size: int

    def load_weights(
        self, config: ResidualConfig, weights: dict[str, torch.Tensor], version: int
    ) -> None:
        """Swap in weights."""

    def play(self, plans: Sequence[EpisodePlan]) -> list[Played]:
        """Play episodes and return them in the order of their plans."""

    def close(self) -> None:
        """Release what plays."""


class Workers:
    """Play in `processes` processes, each with an equal share of `size` arms.

    `make_cohort` makes a process's cohort from its number of arms; it must be importable.
    Raises ChildProcessError if a process dies.
    """

    def __init__(self, make_cohort: Callable[[int], Cohort], size: int, processes: int):
        self.size = size
        self._share = math.ceil(size / processes)
        self._weights = None
        self._pool = ProcessPoolExecutor(
            processes,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin,
            initargs=(make_cohort, self._share),
        )
        # Ctrl-C goes to the whole group of a terminal: processes ignore it as this one does when
        # they are started, and are ended by `close`.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            for _ in range(processes):
                self._pool.submit(_ready)
        finally:
            signal.signal(signal.SIGINT, handler)

    def load_weights(
        self, config: ResidualConfig, weights: dict[str, torch.Tensor], version: int
    ) -> None:
        """Swap in weights."""
        arrays = {name: value.numpy() for name, value in weights.items()}
        self._weights = (config, arrays, version)

    def play(self, plans: Sequence[EpisodePlan]) -> list[Played]:
        """Play episodes and return them in the order of their plans."""
        busy = math.ceil(len(plans) / self._share)
        shares = itertools.batched(plans, math.ceil(len(plans) / busy))
        try:
            played = self._pool.map(_play, shares, itertools.repeat(self._weights))
            return list(itertools.chain.from_iterable(played))
        except BrokenProcessPool:
            raise ChildProcessError(
                "a simulating process ended unexpectedly: out of memory, or killed"
            ) from None

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown(cancel_futures=True)


_cohort: Cohort | None = None  # of a worker process
_version: int | None = None


def _begin(make_cohort: Callable[[int], Cohort], arms: int) -> None:
    global _cohort
    torch.set_num_threads(1)
    _cohort = make_cohort(arms)
    sys.stdout.flush()  # what LeRobot said: at the end it could follow the run's last words


def _ready() -> None:
    """Do nothing: the pool starts a process for a task that no idle one can take."""


def _play(plans: Sequence[EpisodePlan], weights) -> list[Played]:
    global _version
    config, arrays, version = weights
    if version != _version:
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        _cohort.load_weights(config, tensors, version)
        _version = version
    return _cohort.play(plans)
