"""Handover of the arm between policy and person, free of jumps.

A person who takes over drives relative to where the arm was commanded to be: the offset to their
own target decays. Given back, the command moves from the person's last one to the policy's, always
between the two, since the policy may plan anew on the way and a held offset would overshoot then.
"""

import math

import numpy as np

from residual_smolvla_ros.errors import ConfigError

POLICY, PERSON = "policy", "person"
# A pause between two commands is no time in which the arm could follow: the blend waits with it.
MAX_TICK_S = 0.1


class Handover:
    """Who drives the arm, without a jump when that changes.

    Times are s, of the `joint_states` stamps; commands and targets (joints,) in rad.
    Raises ConfigError if `handover_s` is not a finite time; at 0 a switch may jump.
    """

    def __init__(self, handover_s: float = 1.0):
        if not (math.isfinite(handover_s) and handover_s >= 0.0):
            raise ConfigError(f"handover_s: expected a time in s, 0 or more, found {handover_s}")
        self._duration = handover_s
        self.end()

    @property
    def driver(self) -> str:
        """Who drives: "policy" or "person"."""
        return self._driver

    def take(self, now: float, position: np.ndarray, target: np.ndarray) -> None:
        """Let a person drive, from `position`, the last command, with their present `target`.

        While they drive already, as after a gap in their targets, it begins anew.
        """
        self._driver = PERSON
        self._last = np.array(position, dtype=np.float64)
        self._offset = self._last - target
        self._begin(now)

    def give_back(self, now: float) -> None:
        """Let the policy drive; nothing changes if it does already."""
        if self._driver == PERSON:
            self._driver = POLICY
            self._begin(now)

    def person(self, now: float, target: np.ndarray) -> np.ndarray:
        """Return the command (joints,) for a person's target."""
        self._last = target + self._advance(now) * self._offset
        return self._last

    def policy(self, now: float, command: np.ndarray) -> tuple[np.ndarray, bool]:
        """Return the command (joints,) for the policy's, and whether the blend is under way."""
        share = self._advance(now) if self._last is not None else 0.0
        if share == 0.0:
            self._last = None
            return command, False
        return share * self._last + (1.0 - share) * np.asarray(command), True

    def end(self) -> None:
        """Let the policy drive with nothing to blend: an episode is over."""
        self._driver = POLICY
        self._last: np.ndarray | None = None  # the person's last command, while it counts
        self._offset: np.ndarray | None = None
        self._begin(0.0)

    def _begin(self, now: float) -> None:
        self._now, self._elapsed = now, 0.0

    def _advance(self, now: float) -> float:
        """Return what share of the state before the switch is left: a smoothstep from 1 to 0."""
        self._elapsed += min(max(now - self._now, 0.0), MAX_TICK_S)
        self._now = now
        if self._elapsed >= self._duration:
            return 0.0
        x = self._elapsed / self._duration
        return 1.0 - x * x * (3.0 - 2.0 * x)
