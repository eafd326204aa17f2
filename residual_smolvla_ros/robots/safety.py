"""The safety filter: what the motors may be told, from commands and measured states.

It knows neither ROS nor a robot: times are seconds of one monotonic clock, positions (joints,)
in rad. Whoever owns the motors writes what `measure` and `command` return, and nothing else.
"""

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

# A stamp may be this far ahead: clocks of two hosts differ a little.
FUTURE_S = 0.05
HOME_TOLERANCE_RAD = 0.05
# How long the last of the way home may take before the arm counts as home all the same: a loaded
# joint stops short of its goal.
HOME_SETTLE_S = 1.0
_EPSILON = 1e-9


class Mode(StrEnum):
    """What the filter is doing."""

    HOLD = "hold"  # stays where it was measured; the next command is followed
    FOLLOW = "follow"
    HOME = "home"
    LATCHED = "latched hold"  # stays until `release`


class CommandRefused(ValueError):
    """A command was not followed; `kind` is a short name to count by."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class SafetyLimits:
    """Bounds on what the motors may be told: (joints,) arrays in rad, times in s.

    `max_step` bounds how far a goal may be from the measured position (LeRobot's
    max_relative_target), `max_velocity` how fast it may move, in rad/s. After every hold the
    allowed velocity rises from 0 over `ramp_s`. A joint is stalled that lags by `stall_error`
    under at least `stall_load` (0 to 1) for `stall_s`.
    """

    lower: np.ndarray
    upper: np.ndarray
    max_step: np.ndarray
    max_velocity: np.ndarray
    stall_error: np.ndarray
    ramp_s: float = 1.0
    command_timeout: float = 0.2
    home_velocity: float = 0.5
    stall_load: float = 0.6
    stall_s: float = 1.0
    # A goal moves at most as far in one go as the velocity allows in two control periods.
    period: float = 1.0 / 30.0


class SafetyFilter:
    """Turn commands into goals that are safe to write; hold when they stay away."""

    def __init__(self, joint_names: tuple[str, ...], limits: SafetyLimits):
        self.joint_names = tuple(joint_names)
        self.limits = limits
        self.mode = Mode.HOLD
        self.reason = "start"
        self.clipped: Counter[str] = Counter()
        self.goal: np.ndarray | None = None
        self._measured: np.ndarray | None = None
        self._home: np.ndarray | None = None
        self._home_since = 0.0
        self._followed_since = self._commanded_at = self._moved_at = 0.0
        self._last_stamp = float("-inf")
        self._stalled_since = np.full(len(self.joint_names), np.inf)

    # -- states -----------------------------------------------------------------------------

    def measure(
        self, now: float, position: np.ndarray, load: np.ndarray | None = None
    ) -> np.ndarray | None:
        """Take a measured state; return the goal to write now, or None while commands set it.

        `load` (joints,) is a share of full drive, -1 to 1; None where the robot measures none.
        """
        self._measured = np.asarray(position, dtype=np.float64)
        if self.goal is None:
            self._stay(now)
        if self.mode is Mode.FOLLOW and now - self._commanded_at > self.limits.command_timeout:
            self._hold(now, Mode.HOLD, f"no command for {self.limits.command_timeout} s")
        stalled = self._stalled(now, load)
        if stalled and self.mode is not Mode.LATCHED:
            self._hold(now, Mode.LATCHED, f"stalled: {', '.join(stalled)}")
        if self.mode is Mode.HOME:
            self._approach_home(now)
        return None if self.mode is Mode.FOLLOW else self.goal

    def lost(self, now: float, reason: str) -> np.ndarray | None:
        """Take note that the robot cannot be read; return the goal to write if it hears at all."""
        if self.mode is not Mode.LATCHED:
            self.mode, self.reason = Mode.HOLD, reason
        goal, self.goal, self._measured = self._measured, None, None
        return goal

    def _stay(self, now: float) -> None:
        self.goal = self._measured.copy()
        self._moved_at = now
        self._stalled_since[:] = np.inf

    def _stalled(self, now: float, load: np.ndarray | None) -> list[str]:
        lags = np.abs(self.goal - self._measured) > self.limits.stall_error
        if load is not None:
            lags &= np.abs(load) >= self.limits.stall_load
        self._stalled_since = np.where(lags, np.minimum(self._stalled_since, now), np.inf)
        stalled = now - self._stalled_since >= self.limits.stall_s
        return [name for name, stuck in zip(self.joint_names, stalled, strict=True) if stuck]

    def _approach_home(self, now: float) -> None:
        way = self._home - self.goal
        reach = self.limits.home_velocity * self._elapsed(now)
        # All joints arrive together.
        share = min(1.0, reach / max(np.abs(way).max(), _EPSILON))
        near = self._measured - self.limits.max_step, self._measured + self.limits.max_step
        self.goal = np.clip(self.goal + share * way, *near)
        self._moved_at = now
        if share < 1.0:
            self._home_since = now
        there = np.abs(self._home - self._measured).max() < HOME_TOLERANCE_RAD
        if there or now - self._home_since > HOME_SETTLE_S:
            self.mode, self.reason = Mode.HOLD, "home"

    # -- commands ---------------------------------------------------------------------------

    def command(
        self, now: float, joint_names: list[str], position, stamp: float, age: float
    ) -> np.ndarray:
        """Take a command; return the goal to write now.

        `stamp` orders commands, `age` is how old it is, both in s.
        Raises CommandRefused, naming what was expected and found, where it is not followed.
        """
        wanted = self._read(joint_names, position)
        self._check_time(stamp, age)
        if self._measured is None:
            raise CommandRefused("no_state", f"expected a readable robot, found: {self.reason}")
        if self.mode in (Mode.LATCHED, Mode.HOME):
            raise CommandRefused(
                "held", f"expected no command in {self.mode} ({self.reason}), found one"
            )
        if self.mode is Mode.HOLD:
            # From the goal, not from where a loaded joint hangs below it: no jump at all.
            self.mode, self.reason = Mode.FOLLOW, ""
            self._followed_since = self._moved_at = now
        self._last_stamp, self._commanded_at = stamp, now
        self.goal = self._bound(now, wanted)
        self._moved_at = now
        return self.goal

    def _read(self, joint_names: list[str], position) -> np.ndarray:
        if sorted(joint_names) != sorted(self.joint_names):
            raise CommandRefused(
                "names", f"expected joints {list(self.joint_names)}, found {list(joint_names)}"
            )
        values = np.asarray(position, dtype=np.float64)
        if values.shape != (len(self.joint_names),):
            raise CommandRefused(
                "length", f"expected {len(self.joint_names)} positions, found {values.size}"
            )
        if not np.isfinite(values).all():
            raise CommandRefused(
                "not_finite", f"expected finite positions, found {values.tolist()}"
            )
        return values[[list(joint_names).index(name) for name in self.joint_names]]

    def _check_time(self, stamp: float, age: float) -> None:
        limit = self.limits.command_timeout
        if age > limit:
            raise CommandRefused(
                "stale", f"expected a stamp at most {limit} s old, found {age:.3f} s"
            )
        if age < -FUTURE_S:
            raise CommandRefused(
                "future", f"expected a stamp of the past, found one {-age:.3f} s ahead"
            )
        # Not after a hold: a wall clock that was set back must not shut the arm off.
        if self.mode is Mode.FOLLOW and stamp < self._last_stamp:
            raise CommandRefused(
                "order", "expected stamps that do not go back, found "
                f"one {self._last_stamp - stamp:.3f} s before the last"
            )  # fmt: skip

    def _bound(self, now: float, wanted: np.ndarray) -> np.ndarray:
        limits = self.limits
        inside = np.clip(wanted, limits.lower, limits.upper)
        self._count("limit", inside, wanted)
        ramp = min(1.0, (now - self._followed_since) / max(limits.ramp_s, _EPSILON))
        reach = ramp * limits.max_velocity * self._elapsed(now)
        slow = np.clip(inside, self.goal - reach, self.goal + reach)
        self._count("velocity" if ramp == 1.0 else "ramp", slow, inside)
        # Last, since it bounds where the servos go should nobody ever write again.
        near = np.clip(slow, self._measured - limits.max_step, self._measured + limits.max_step)
        self._count("step", near, slow)
        return near

    def _elapsed(self, now: float) -> float:
        return min(max(now - self._moved_at, 0.0), 2 * self.limits.period)

    def _count(self, kind: str, after: np.ndarray, before: np.ndarray) -> None:
        if np.abs(after - before).max() > _EPSILON:
            self.clipped[kind] += 1

    # -- requests ---------------------------------------------------------------------------

    def hold(self, now: float, reason: str) -> np.ndarray | None:
        """Stay where the arm is until `release`; return the goal to write."""
        return self._hold(now, Mode.LATCHED, reason)

    def release(self, now: float) -> None:
        """End a hold: the next command is followed, from where the arm is, with a ramp."""
        self._hold(now, Mode.HOLD, "released")

    def home(self, now: float, position: np.ndarray) -> None:
        """Move to a position, all joints together; commands are refused on the way.

        Raises CommandRefused in a latched hold and while the robot cannot be read.
        """
        if self._measured is None:
            raise CommandRefused("no_state", f"expected a readable robot, found: {self.reason}")
        if self.mode is Mode.LATCHED:
            raise CommandRefused("held", f"expected a released arm, found a hold: {self.reason}")
        self._stay(now)
        self._home = np.clip(position, self.limits.lower, self.limits.upper)
        self._home_since = now
        self.mode, self.reason = Mode.HOME, ""

    def _hold(self, now: float, mode: Mode, reason: str) -> np.ndarray | None:
        self.mode, self.reason = mode, reason
        if self._measured is not None:
            self._stay(now)
        return self.goal
