"""A robot behind the safety filter: the only way to its motors."""

import time
from collections import Counter
from dataclasses import dataclass

import numpy as np

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.robots.driver import RobotDriver, RobotLost
from residual_smolvla_ros.robots.limits import ArmSettings, make_limits
from residual_smolvla_ros.robots.safety import SafetyFilter

RECONNECT_S = 1.0
# Errors that go on for so long are more than noise: the port is closed and opened anew.
BROKEN_S = 0.5


@dataclass(frozen=True)
class ArmState:
    """A measured state: (joints,) in rad and rad/s; load as a share of full drive, or None."""

    position: np.ndarray
    velocity: np.ndarray
    load: np.ndarray | None


class SafeArm:
    """Read a robot once a period, write what the filter allows, reconnect when it is lost.

    Raises ConfigError, as the driver does, and RobotLost where the robot is not there.
    """

    def __init__(
        self, driver: RobotDriver, settings: ArmSettings, rate_hz: float, clock=time.monotonic
    ):
        self._driver = driver
        self._clock = clock
        self.joint_names = driver.joint_names
        driver.connect()
        limits = make_limits(self.joint_names, settings, driver.limits(), rate_hz)
        self.filter = SafetyFilter(self.joint_names, limits)
        self.connected = True
        self.trouble = ""  # why the robot cannot be read, if it cannot
        self.errors: Counter[str] = Counter()
        self._failing_since: float | None = None
        self._tried_at = 0.0
        self._previous: tuple[float, np.ndarray] | None = None

    def tick(self) -> ArmState | None:
        """Read the state and write the goal that the filter asks for.

        Return None while the robot cannot be read; `trouble` says why.
        """
        if not self.connected and not self._reconnect():
            return None
        try:
            position, load = self._driver.read()
        except RobotLost as error:
            self._fail(error)
            return None
        now = self._clock()
        self._failing_since, self.trouble = None, ""
        velocity = self._differentiate(now, position)
        self._write(self.filter.measure(now, position, load))
        return ArmState(position, velocity, load)

    def command(self, joint_names: list[str], position, stamp: float, age: float) -> None:
        """Follow a command as far as the filter allows; raise CommandRefused where it does not."""
        self._write(self.filter.command(self._clock(), joint_names, position, stamp, age))

    def hold(self, reason: str) -> None:
        """Stay where the arm is, until `release`."""
        self._write(self.filter.hold(self._clock(), reason))

    def release(self) -> None:
        """End a hold."""
        self.filter.release(self._clock())

    def home(self, position: np.ndarray) -> None:
        """Begin to move to a position (joints,) in rad; raise CommandRefused while it cannot."""
        self.filter.home(self._clock(), position)

    def close(self) -> None:
        """Hold where the arm was last measured, with torque on, and close the port."""
        self.hold("closed")
        self._driver.close()

    def _differentiate(self, now: float, position: np.ndarray) -> np.ndarray:
        velocity = np.zeros_like(position)
        if self._previous is not None:
            then, before = self._previous
            velocity = (position - before) / max(now - then, 1e-3)
        self._previous = now, position
        return velocity

    def _write(self, goal: np.ndarray | None) -> None:
        if goal is None or not self.connected:
            return
        try:
            self._driver.write(goal)
        except RobotLost as error:
            self._fail(error)

    def _fail(self, error: RobotLost) -> None:
        now = self._clock()
        self.errors["bus"] += 1
        self._previous = None
        if self._failing_since is None:
            self._failing_since, self.trouble = now, str(error)
            # Servos that still hear are told to stay; this write may fail as well.
            self._write(self.filter.lost(now, "robot lost"))
        elif now - self._failing_since > BROKEN_S:
            self._driver.close()
            self.connected = False

    def _reconnect(self) -> bool:
        if self._clock() - self._tried_at < RECONNECT_S:
            return False
        try:
            self._driver.connect()
        except (RobotLost, ConfigError) as error:
            self._tried_at, self.trouble = self._clock(), str(error)
            return False
        self.connected, self._failing_since = True, None
        self.errors["reconnected"] += 1
        return True
