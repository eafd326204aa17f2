"""The progress bar of a run, drawn from the files that the run writes."""

import json
import sys
import threading
import time
from collections import deque
from pathlib import Path

from tqdm import tqdm

from residual_smolvla_ros.learning.schedule import BASE, RESIDUAL, TRAINING_PHASES
from residual_smolvla_ros.records import DISCARD
from residual_smolvla_ros.reporting.results import EPISODES

REFRESH_S = 0.5
LINE_S = 20.0
LABELS = {
    "base": "base alone",
    "warmup": "critic warm-up",
    "train": "training",
    "validation": "validation",
    "residual": "base + residual",
    "clip_base": "clip",
    "clip_residual": "clip",
}


class ProgressBar:
    """Follow `<run>/episodes.jsonl`: phase, success over the last 20, steps/s, update number.

    Where the output is no terminal, a line every LINE_S seconds stands in for the bar.
    """

    def __init__(self, run: Path, total_steps: int, eval_episodes: int, resume: bool = False):
        self._file = run / EPISODES
        # Of a resumed run only what is new is followed.
        self._offset = self._file.stat().st_size if resume and self._file.is_file() else 0
        self._is_terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=2 * eval_episodes + total_steps,
            dynamic_ncols=True,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed} {postfix}",
            disable=not self._is_terminal,
        )
        self._bar.set_description_str("starting")
        self._recent: deque[bool] = deque(maxlen=20)
        self._rates: deque[tuple[float, int]] = deque(maxlen=20)
        self._phase = ""
        self._steps = self._episodes = 0
        self._line = ""
        self._line_at = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "ProgressBar":
        self._thread.start()
        return self

    def __exit__(self, *error) -> None:
        self._stop.set()
        self._thread.join()
        self._bar.close()

    def show(self, line: str) -> None:
        """Print a line above the bar."""
        tqdm.write(line)

    def _follow(self) -> None:
        while not self._stop.wait(REFRESH_S):
            self._read()
        self._read()

    def _read(self) -> None:
        known = self._steps
        if self._file.is_file():
            with self._file.open() as stream:
                stream.seek(self._offset)
                for line in stream:
                    if not line.endswith("\n"):
                        break
                    self._offset += len(line.encode())
                    self._take(json.loads(line))
        if self._steps > known:  # once for episodes that were played side by side
            self._rates.append((time.monotonic(), self._steps))
        self._bar.refresh()
        if not self._is_terminal and self._line and time.monotonic() - self._line_at > LINE_S:
            self._line_at = time.monotonic()
            self.show(self._line)

    def _take(self, outcome: dict) -> None:
        phase = outcome["phase"]
        if outcome["label"] == DISCARD:
            return  # played again
        if phase != self._phase:
            self._phase = phase
            self._recent.clear()
        self._recent.append(outcome["success"])
        self._steps += outcome["steps"]
        self._episodes += 1
        if phase in TRAINING_PHASES:
            self._bar.update(outcome["steps"])
        elif phase in (BASE, RESIDUAL):
            self._bar.update(1)
        success = sum(self._recent) / len(self._recent)
        label = LABELS.get(phase, phase)
        values = (
            f"episode {self._episodes}  success(last {len(self._recent)}) {success:.2f}  "
            f"{self._rate():.0f} steps/s  update {max(outcome['weights_version'], 0)}"
        )
        self._bar.set_description_str(label)
        self._bar.set_postfix_str(values)
        self._line = f"{label}: {self._steps} steps  {values}"

    def _rate(self) -> float:
        if not self._rates:
            return 0.0
        (t0, s0), (t1, s1) = self._rates[0], self._rates[-1]
        return (s1 - s0) / (t1 - t0) if t1 > t0 else 0.0
