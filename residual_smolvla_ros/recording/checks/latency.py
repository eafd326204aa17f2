"""How long after a state its answers came, by the log times of a bag."""

import numpy as np


class Latency:
    """Log times of states and of what answers them, by stamp; the first of each counts."""

    HEADER = ("joint_states to", "answers", "median ms", "99 % ms", "max ms")

    def __init__(self):
        self._asked: dict[int, int] = {}
        self._answered: dict[str, dict[int, int]] = {}

    def ask(self, stamp: int, at: int) -> None:
        """Take note of a state; `at` is its log time in ns."""
        self._asked.setdefault(stamp, at)

    def answer(self, topic: str, stamp: int, at: int) -> None:
        """Take note of what answers the state of a stamp."""
        self._answered.setdefault(topic, {}).setdefault(stamp, at)

    def rows(self) -> list[tuple]:
        """Return median, 99 % and largest latency in ms of each topic that answers."""
        rows = []
        for topic, answers in self._answered.items():
            took = [
                at - self._asked[stamp] for stamp, at in answers.items() if stamp in self._asked
            ]
            if took:
                ms = np.array(took) / 1e6
                values = [
                    float(round(v, 3)) for v in (np.median(ms), np.quantile(ms, 0.99), ms.max())
                ]
                rows.append((topic, len(took), *values))
        return rows
