"""A LeRobot leader arm: the joint targets of the hand that moves it, without a question asked."""

import contextlib
import dataclasses
import time

import numpy as np
from lerobot.motors import MotorNormMode
from lerobot.teleoperators import (
    Teleoperator,
    TeleoperatorConfig,
    make_teleoperator_from_config,
)

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.robots.lerobot_config import teleop_config
from residual_smolvla_ros.robots.servo_bus import (
    DeviceLost,
    bus_of,
    check_calibration,
    close_port,
    connect_patiently,
    lock_port,
    one_line,
    open_alone,
    read_twice,
)
from residual_smolvla_ros.robots.units import is_gripper, lerobot_to_rad

SUFFIX = ".pos"
RECONNECT_S = 1.0
# Errors that go on for so long are more than noise: the port is closed and opened anew.
BROKEN_S = 0.3


class Leader:
    """Read a LeRobot teleoperator in rad, for as long as it takes; its torque stays off.

    `values` are the teleoperator's type and fields, as a LeRobot user writes them. Raises
    ConfigError where they are wrong, or its actions are not joint positions in degrees.
    """

    def __init__(self, values: dict):
        self._values = values
        self._config = _adapt(teleop_config(values))
        self._teleop = self._make()
        names = [str(name) for name in self._teleop.action_features]
        if not names or not all(name.endswith(SUFFIX) for name in names):
            raise ConfigError(
                f"teleop {values['type']}: expected a teleoperator whose actions are joint "
                f"positions, found {sorted(names)}"
            )
        self.joint_names = tuple(name.removesuffix(SUFFIX) for name in names)
        self._check_units()
        self.connected = False
        self.trouble = ""  # why the leader is lost, if it is
        self.errors = 0  # of reading
        self._failing_since: float | None = None
        self._tried_at: float | None = None

    def poll(self) -> np.ndarray | None:
        """Return targets (joints,) in rad; None while the leader cannot be read.

        `trouble` says why then. A leader that is not there is looked for once a second.
        """
        if not self.connected and not self._reconnect():
            return None
        try:
            target = self.read()
        except DeviceLost as error:
            self._fail(error)
            return None
        self._failing_since = None
        return target

    def connect(self) -> None:
        """Connect, with torque off.

        Raises DeviceLost where the leader cannot be reached, and ConfigError where its calibration
        is missing or is not that of the servos: the port may be another arm's, which LeRobot would
        let go of. Nothing is written to the servos then.
        """
        connect_patiently(self._open)
        self.connected, self.trouble, self._failing_since = True, "", None

    def read(self) -> np.ndarray:
        """Return positions (joints,) in rad; raise DeviceLost."""
        try:
            action = read_twice(bus_of(self._teleop), self._teleop.get_action)
        except Exception as error:
            raise DeviceLost(self._where() + one_line(error)) from None
        position = [action[name + SUFFIX] for name in self.joint_names]
        return lerobot_to_rad(position, self.joint_names)

    def close(self) -> None:
        """Close the port."""
        self.connected = False
        with contextlib.suppress(Exception):
            self._teleop.disconnect()
        close_port(bus_of(self._teleop))

    def _make(self) -> Teleoperator:
        try:
            return make_teleoperator_from_config(self._config)
        # A driver whose packages are missing, a calibration file that is none, and what else comes.
        except Exception as error:
            raise ConfigError(f"teleop {self._values['type']}: {one_line(error)}") from None

    def _check_units(self) -> None:
        bus = bus_of(self._teleop)
        if bus is None:
            return
        for name, motor in bus.motors.items():
            wanted = MotorNormMode.RANGE_0_100 if is_gripper(name) else MotorNormMode.DEGREES
            if motor.norm_mode is not wanted:
                raise ConfigError(
                    f"teleop {self._values['type']}: expected {name} in {wanted.value}, found "
                    f"{motor.norm_mode.value}: topics are in rad"
                )

    def _open(self) -> None:
        # Anew, since the servo SDK keeps a port marked as in use after an error.
        self._teleop = self._make()
        bus = bus_of(self._teleop)
        try:
            if bus is not None:
                open_alone(bus)
                check_calibration(self._teleop, "teleop", self._values)
                bus.disconnect(disable_torque=False)
            self._teleop.connect(calibrate=False)
            lock_port(bus)
            check_calibration(self._teleop, "teleop", self._values)
        except ConfigError:
            self._abandon()
            raise
        # Drivers raise whatever their libraries do, down to termios.error.
        except Exception as error:
            self._abandon()
            raise DeviceLost(self._where() + one_line(error)) from None

    def _abandon(self) -> None:
        """Close the port without a word to servos that may be another arm's."""
        bus = bus_of(self._teleop)
        if bus is None:
            self.close()
        else:
            close_port(bus)

    def _reconnect(self) -> bool:
        now = time.monotonic()
        if self._tried_at is not None and now - self._tried_at < RECONNECT_S:
            return False
        try:
            self.connect()
        except (DeviceLost, ConfigError) as error:
            self._tried_at, self.trouble = time.monotonic(), str(error)
            return False
        return True

    def _fail(self, error: DeviceLost) -> None:
        now = time.monotonic()
        self.errors += 1
        if self._failing_since is None:
            self._failing_since = now
        elif now - self._failing_since > BROKEN_S:
            self.trouble = str(error)
            self.close()

    def _where(self) -> str:
        port = getattr(self._config, "port", None)
        return f"port {port}: " if port else ""


def _adapt(config: TeleoperatorConfig) -> TeleoperatorConfig:
    """Return the configuration without LeRobot's retries: `read_twice` takes their place."""
    if not hasattr(config, "num_read_retries"):
        return config
    return dataclasses.replace(config, num_read_retries=0)
