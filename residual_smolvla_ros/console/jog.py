"""Joint targets from buttons that a person presses: at limited speed, and only while pressed."""

import threading

# A press lasts for so long unless the page says that it goes on: the arm stops with the link.
PRESS_S = 0.3
# How far a target may be ahead of the measured position: a blocked joint winds nothing up.
LEAD_RAD = 0.15
# A late tick moves no further than a few control periods.
MAX_STEP_S = 0.1


class Jog:
    """Move targets of joints from where they are, at `speed`; positions in rad, times in s.

    Its methods may be called by different threads.
    """

    def __init__(self, speed: float):
        self._speed = speed
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Forget all targets: the next ones are the measured positions."""
        with self._lock:
            self._pressed: dict[str, tuple[int, float]] = {}
            self._targets: dict[str, float] = {}
            self._moved_at: float | None = None

    def rest(self, measured: dict[str, float]) -> None:
        """Forget what is pressed, and stay where the joints are as far as that is known."""
        with self._lock:
            self._pressed.clear()
            self._targets |= {j: p for j, p in measured.items() if j in self._targets}

    def press(self, joint: str, direction: int, now: float) -> None:
        """Move a joint up (1) or down (-1) for PRESS_S from now, or no longer (0).

        Raises ValueError for another joint or direction.
        """
        with self._lock:
            if joint not in self._targets:
                raise ValueError(f"joint: expected one of {list(self._targets)}, found {joint!r}")
            if direction not in (-1, 0, 1):
                raise ValueError(f"direction: expected -1, 0 or 1, found {direction}")
            self._pressed[joint] = direction, now + PRESS_S

    def targets(self, measured: dict[str, float], now: float) -> dict[str, float]:
        """Return the targets of now: empty until positions were measured, and still without."""
        with self._lock:
            self._targets = self._targets or dict(measured)
            elapsed = 0.0 if self._moved_at is None else min(now - self._moved_at, MAX_STEP_S)
            self._moved_at = now
            for joint, (direction, until) in self._pressed.items():
                if direction and now < until and joint in measured:
                    wanted = self._targets[joint] + direction * self._speed * elapsed
                    near = measured[joint]
                    self._targets[joint] = min(max(wanted, near - LEAD_RAD), near + LEAD_RAD)
            return dict(self._targets)
