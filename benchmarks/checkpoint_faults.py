"""Print what comes of a checkpoint that is cut at each byte, changed in each, or not written.

    python benchmarks/checkpoint_faults.py [--seed 0] [--step 1]

A run of two versions of a small residual, PPO's state included; the newer one is damaged, one byte
at a time, and the run is loaded. Right is the older version, or the newer one where its values did
not change (the last newline of state.json). Then it is saved anew with room for so many bytes
only, is killed at each call to the file system, and meets a disk that is full (as root, in a tmpfs)
or read only. Any other exception than CheckpointError ends the benchmark.
"""

import argparse
import contextlib
import itertools
import logging
import os
import random
import resource
import shutil
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import Self

import numpy as np
import torch

from residual_smolvla_ros.errors import CheckpointError
from residual_smolvla_ros.learning.checkpoint import load_checkpoint
from residual_smolvla_ros.learning.learner import Learner
from residual_smolvla_ros.learning.ppo import PPOConfig
from residual_smolvla_ros.learning.rollout import Episode
from residual_smolvla_ros.policy.features import ResidualConfig

CALLS = ("mkdir", "fsync", "rename", "unlink", "rmdir")
DISK_KB = 256


class Killed(BaseException):
    """Stands for SIGKILL: no handler of the package catches it."""


def main() -> None:
    """Try all faults and print how many there were and what came of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--step", type=int, default=1, help="try each so many-th byte only")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    print(f"{'fault':<24}{'tried':>8}{'last good':>12}{'unchanged':>12}{'new':>8}{'wrong':>8}")
    with tempfile.TemporaryDirectory() as name:
        faults = Faults(Path(name), random.Random(given.seed), given.step)
        sizes = {file.name: file.stat().st_size for file in sorted(faults.newest.iterdir())}
        for label, fault in {
            "cut at a byte": faults.cut,
            "a bit of a byte changed": faults.flip,
            "room for n bytes a file": faults.no_room,
            "killed at a call": faults.kill,
            "disk with n free pages": faults.full,
            "disk read only": faults.read_only,
        }.items():
            try:
                outcomes = fault()
            except PermissionError:
                print(f"{label:<24}{'not tried: it takes root':>32}")
                continue
            older, newer, new, wrong = (outcomes[k] for k in ("older", "newer", "new", "wrong"))
            total = outcomes.total()
            print(f"{label:<24}{total:>8}{older:>12}{newer:>12}{new:>8}{wrong:>8}", flush=True)
    print(f"\nbytes: {sum(sizes.values())}, {', '.join(f'{n} {s}' for n, s in sizes.items())}")


class Faults:
    """A run's folder with two versions, and what may happen to the newer one or to a third."""

    def __init__(self, folder: Path, rng: random.Random, step: int):
        self.folder, self._rng, self._step = folder, rng, step
        config = ResidualConfig.from_names(
            ["state"], joints=2, action_space="joint", hidden_sizes=(4,)
        )
        self._learner = Learner(
            config, PPOConfig(epochs=1), episodes_per_update=1, warmup_updates=0
        )
        self._known = {name: self._save(folder) for name in ("older", "newer")}
        self._update()
        self._known["new"] = self._values()  # saved in none but the last faults
        self.newest = folder / "000002"

    def _update(self) -> None:
        rng, episode = np.random.default_rng(0), Episode()
        for _ in range(8):
            features, residual = rng.normal(size=(2, 2)).astype(np.float32)
            episode.add_step(rng.normal(), True, features, residual, 0.0, 0.0)
        self._learner.add_episode(episode)

    def _values(self):
        return (
            self._learner.weights(),
            {name: value.clone() for name, value in self._learner.algorithm.state().items()},
            vars(self._learner.counters).copy(),
        )

    def _save(self, folder: Path):
        self._update()
        self._learner.save(folder, {"base_checkpoint": "somewhere", "seed": 0})
        return self._values()

    def _outcome(self, folder: Path) -> str:
        found = load_checkpoint(folder, training=True)
        for name, (weights, training, counters) in self._known.items():
            if (
                found.counters == counters
                and found.config == self._learner.residual
                and list(found.config.features) == list(self._learner.residual.features)
                and found.run["base_checkpoint"] == "somewhere"
                and same(found.weights, weights)
                and same(found.training, training)
            ):
                return name
        return "wrong"

    def _damage(self, change) -> Counter:
        outcomes = Counter()
        for file in sorted(self.newest.iterdir()):
            whole = file.read_bytes()
            for position in range(0, len(whole), self._step):
                file.write_bytes(change(whole, position))
                outcomes[self._outcome(self.folder)] += 1
            file.write_bytes(whole)
        return outcomes

    def cut(self) -> Counter:
        """Cut each file at each byte."""
        return self._damage(lambda whole, position: whole[:position])

    def flip(self) -> Counter:
        """Change a bit, which by chance, of each byte of each file."""

        def change(whole: bytes, position: int) -> bytes:
            changed = bytearray(whole)
            changed[position] ^= 1 << self._rng.randrange(8)
            return bytes(changed)

        return self._damage(change)

    def _after_save(self, folder: Path) -> str:
        with contextlib.suppress(CheckpointError, Killed):
            self._learner.save(folder, {"base_checkpoint": "somewhere", "seed": 0})
        outcome = self._outcome(folder)
        # What was the newest before is the last good one now.
        return "older" if outcome == "newer" else outcome

    def no_room(self) -> Counter:
        """Save with room for n bytes a file only, for each n."""
        outcomes, limits = Counter(), resource.getrlimit(resource.RLIMIT_FSIZE)
        most = max(file.stat().st_size for file in self.newest.iterdir())
        for size in range(0, most, self._step):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
            try:
                outcomes[self._after_save(self.folder)] += 1
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        return outcomes

    def kill(self) -> Counter:
        """Kill at each call to the file system, while a version is saved, and saved anew."""
        outcomes = Counter()
        for saved_before in (False, True):
            for limit in itertools.count():
                with tempfile.TemporaryDirectory() as name:
                    folder = shutil.copytree(self.folder, Path(name) / "run")
                    if saved_before:
                        self._after_save(folder)
                    with KilledAfter(limit) as calls:
                        outcomes[self._after_save(folder)] += 1
                if calls.left > 0:
                    break
        return outcomes

    def full(self) -> Counter:
        """Save to a tmpfs with n free pages; raise PermissionError where none can be mounted."""
        outcomes = Counter()
        with mounted(f"size={DISK_KB}k") as disk:
            folder = shutil.copytree(self.folder, disk / "run")
            fill = disk / "fill"
            for pages in range(DISK_KB // 4, -1, -1):
                fill.write_bytes(b"")
                free = os.statvfs(disk).f_bavail
                fill.write_bytes(bytes(4096 * max(0, free - pages)))
                outcomes[self._after_save(folder)] += 1
                for path in folder.glob("[0-9]*3"):
                    shutil.rmtree(path)
        return outcomes

    def read_only(self) -> Counter:
        """Save to a tmpfs that is mounted read only; raise as `full` does."""
        with mounted(f"size={DISK_KB}k") as disk:
            folder = shutil.copytree(self.folder, disk / "run")
            subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
            return Counter([self._after_save(folder)])


class KilledAfter:
    """Raise Killed at the call to the file system after `left` others."""

    def __init__(self, left: int):
        self.left = left

    def __enter__(self) -> Self:
        self._calls = {name: getattr(os, name) for name in CALLS}
        for name, call in self._calls.items():
            setattr(os, name, self._counted(call))
        return self

    def _counted(self, call):
        def counted(*args, **settings):
            self.left -= 1
            if self.left < 0:
                raise Killed
            return call(*args, **settings)

        return counted

    def __exit__(self, *_):
        for name, call in self._calls.items():
            setattr(os, name, call)


@contextlib.contextmanager
def mounted(options: str):
    """Mount a tmpfs; raise PermissionError where that is not allowed."""
    with tempfile.TemporaryDirectory() as name:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", name]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            raise PermissionError("mount")
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", name], check=True)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Tell whether two states are the same bits."""
    return a.keys() == b.keys() and all(
        v.dtype == b[k].dtype and torch.equal(v, b[k]) for k, v in a.items()
    )


if __name__ == "__main__":
    main()
