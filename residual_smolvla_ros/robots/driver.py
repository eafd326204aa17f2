"""A LeRobot robot with joint positions: connect without a question or a jump, read, write."""

import contextlib
import dataclasses

import numpy as np
from lerobot.motors.feetech import FeetechMotorsBus
from lerobot.robots.config import RobotConfig
from lerobot.robots.robot import Robot
from lerobot.robots.utils import make_robot_from_config

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.robots.lerobot_config import robot_config
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
from residual_smolvla_ros.robots.units import is_gripper, lerobot_to_rad, rad_to_lerobot

SUFFIX = ".pos"
FULL_LOAD = 1000.0  # Feetech's Present_Load counts tenths of a percent of full drive


class RobotLost(DeviceLost):
    """The robot cannot be reached, read or written; the message says why, in one line."""


class RobotDriver:
    """Drive a LeRobot robot in rad; the cameras of its configuration are left to others.

    `values` are the robot's type and fields, as a LeRobot user writes them, or what LeRobot has
    parsed of them. Raises ConfigError where they are wrong, or its actions are not joint positions
    in degrees.
    """

    def __init__(self, values: dict | RobotConfig):
        is_parsed = isinstance(values, RobotConfig)
        self._config = _adapt(values if is_parsed else robot_config(values))
        if is_parsed:
            fields = {name: value for name, value in vars(values).items() if value is not None}
            values = {"type": values.type} | fields
        self._values = values
        self._robot = self._make_robot()
        names = [name for name in self._robot.action_features if name.endswith(SUFFIX)]
        if not names or len(names) != len(self._robot.action_features):
            raise ConfigError(
                f"robot {values['type']}: expected a robot whose actions are joint positions, "
                f"found {sorted(self._robot.action_features)}"
            )
        self.joint_names = tuple(name.removesuffix(SUFFIX) for name in names)
        self.name = self._robot.name  # as LeRobot's datasets call it

    def _make_robot(self) -> Robot:
        try:
            return make_robot_from_config(self._config)
        # A driver whose packages are missing, a calibration file that is none, and what else comes.
        except Exception as error:
            raise ConfigError(f"robot {self._values['type']}: {one_line(error)}") from None

    def connect(self) -> None:
        """Connect, with torque on and the arm staying where it is.

        LeRobot writes the servos' settings on the way, for which it lets go of the arm for some
        hundredths of a second. Raises RobotLost where the robot cannot be reached, and
        ConfigError where its calibration is missing or is not that of the servos.
        """
        connect_patiently(self._open)

    def _open(self) -> None:
        # Anew, since the servo SDK keeps a port marked as in use after an error.
        self._robot = self._make_robot()
        bus = bus_of(self._robot)
        try:
            if bus is not None:
                open_alone(bus)
                check_calibration(self._robot, "robot", self._values)
                # The goal of an earlier session would be gone to as soon as torque is on.
                present = bus.sync_read("Present_Position", normalize=False, num_retry=2)
                bus.sync_write("Goal_Position", present, normalize=False)
                bus.disconnect(disable_torque=False)
            self._configure()
            lock_port(bus)
            check_calibration(self._robot, "robot", self._values)
        except ConfigError:
            self.close()
            raise
        # Drivers raise whatever their libraries do, down to termios.error.
        except Exception as error:
            self.close()
            raise RobotLost(self._where() + one_line(error)) from None

    def _configure(self) -> None:
        try:
            self._robot.connect(calibrate=False)
        except Exception:
            # It lets go of one servo after the other, and stops at the first that fails.
            with contextlib.suppress(Exception):
                bus_of(self._robot).enable_torque(num_retry=2)
            raise

    def limits(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the ends of the joints' ranges in rad, or None where no calibration tells them."""
        bus = bus_of(self._robot)
        if bus is None:
            return None
        upper = np.empty(len(self.joint_names))
        for index, name in enumerate(self.joint_names):
            calibration, model = bus.calibration[name], bus.motors[name].model
            ticks = bus.model_resolution_table[model] - 1
            degrees = (calibration.range_max - calibration.range_min) * 360.0 / ticks / 2
            upper[index] = 100.0 if is_gripper(name) else degrees
        lower = np.where([is_gripper(name) for name in self.joint_names], 0.0, -upper)
        return lerobot_to_rad(lower, self.joint_names), lerobot_to_rad(upper, self.joint_names)

    def read(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Return positions (joints,) in rad, and loads as shares of full drive where measured.

        Raises RobotLost.
        """
        try:
            return read_twice(bus_of(self._robot), self._read)
        except Exception as error:
            raise RobotLost(self._where() + one_line(error)) from None

    def _read(self) -> tuple[np.ndarray, np.ndarray | None]:
        bus = bus_of(self._robot)
        observation = self._robot.get_observation()
        position = [observation[name + SUFFIX] for name in self.joint_names]
        load = None
        if isinstance(bus, FeetechMotorsBus):
            loads = bus.sync_read("Present_Load")
            load = np.array([loads[name] for name in self.joint_names]) / FULL_LOAD
        return lerobot_to_rad(position, self.joint_names), load

    def write(self, goal: np.ndarray) -> None:
        """Send joint goals (joints,) in rad; raise RobotLost."""
        values = rad_to_lerobot(goal, self.joint_names).tolist()
        try:
            self._robot.send_action(
                {name + SUFFIX: v for name, v in zip(self.joint_names, values, strict=True)}
            )
        except Exception as error:
            raise RobotLost(self._where() + one_line(error)) from None

    def close(self) -> None:
        """Close the port; torque stays on, and the servos at their last goal."""
        with contextlib.suppress(Exception):
            self._robot.disconnect()
        close_port(bus_of(self._robot))

    def _where(self) -> str:
        port = getattr(self._config, "port", None)
        return f"port {port}: " if port else ""


def _adapt(config: RobotConfig) -> RobotConfig:
    """Return the configuration with what this package's own parts do switched off."""
    if not getattr(config, "use_degrees", True):
        raise ConfigError("robot: expected use_degrees: true, found false: topics are in rad")
    if getattr(config, "max_relative_target", None) is not None:
        raise ConfigError(
            "robot: expected no max_relative_target, found "
            f"{config.max_relative_target}: the parameter max_step takes its place"
        )
    # Without LeRobot's retries of a read: `read_twice` takes their place.
    changes = {"cameras": {}, "disable_torque_on_disconnect": False, "num_read_retries": 0}
    return dataclasses.replace(config, **{k: v for k, v in changes.items() if hasattr(config, k)})
