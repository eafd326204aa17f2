"""A LeRobot robot with joint positions: connect without a question or a jump, read, write."""

import contextlib
import dataclasses
import termios
import time

import numpy as np
from lerobot.motors.feetech import FeetechMotorsBus
from lerobot.motors.motors_bus import SerialMotorsBus
from lerobot.robots.config import RobotConfig
from lerobot.robots.robot import Robot
from lerobot.robots.utils import make_robot_from_config

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.robots.lerobot_config import robot_config
from residual_smolvla_ros.robots.units import is_gripper, lerobot_to_rad, rad_to_lerobot

SUFFIX = ".pos"
FULL_LOAD = 1000.0  # Feetech's Present_Load counts tenths of a percent of full drive
# Longer than six servos take to answer: after it the line is quiet.
QUIET_S = 0.002
CONNECT_ATTEMPTS, CONNECT_PAUSE_S = 3, 0.05


class RobotLost(ConnectionError):
    """The robot cannot be reached, read or written; the message says why, in one line."""


class RobotDriver:
    """Drive a LeRobot robot in rad; the cameras of its configuration are left to others.

    `values` are the robot's type and fields, as a LeRobot user writes them. Raises ConfigError
    where they are wrong, or its actions are not joint positions in degrees.
    """

    def __init__(self, values: dict):
        self._values = values
        self._config = _adapt(robot_config(values))
        self._robot = self._make_robot()
        names = [name for name in self._robot.action_features if name.endswith(SUFFIX)]
        if not names or len(names) != len(self._robot.action_features):
            raise ConfigError(
                f"robot {values['type']}: expected a robot whose actions are joint positions, "
                f"found {sorted(self._robot.action_features)}"
            )
        self.joint_names = tuple(name.removesuffix(SUFFIX) for name in names)

    def _make_robot(self) -> Robot:
        try:
            return make_robot_from_config(self._config)
        except (ImportError, ValueError, OSError) as error:
            raise ConfigError(f"robot {self._values['type']}: {_one_line(error)}") from None

    @property
    def _bus(self) -> SerialMotorsBus | None:
        bus = getattr(self._robot, "bus", None)
        return bus if isinstance(bus, SerialMotorsBus) else None

    def connect(self) -> None:
        """Connect, with torque on and the arm staying where it is.

        LeRobot writes the servos' settings on the way, for which it lets go of the arm for some
        hundredths of a second. Raises RobotLost where the robot cannot be reached, and
        ConfigError where its calibration is missing or is not that of the servos.
        """
        for _ in range(CONNECT_ATTEMPTS - 1):
            # LeRobot asks each servo some dozen questions, and gives up at the first bad answer.
            with contextlib.suppress(RobotLost):
                return self._open()
            time.sleep(CONNECT_PAUSE_S)
        return self._open()

    def _open(self) -> None:
        # Anew, since the servo SDK keeps a port marked as in use after an error.
        self._robot = self._make_robot()
        bus = self._bus
        try:
            if bus is not None:
                # Not a byte before it is known that nobody else has the port.
                bus.connect(handshake=False)
                self._lock_port()
                bus.disconnect(disable_torque=False)
                bus.connect()
                self._check_calibration()
                # The goal of an earlier session would be gone to as soon as torque is on.
                present = bus.sync_read("Present_Position", normalize=False, num_retry=2)
                bus.sync_write("Goal_Position", present, normalize=False)
                bus.disconnect(disable_torque=False)
            self._configure()
            self._lock_port()
            self._check_calibration()
        except ConfigError:
            self.close()
            raise
        # Drivers raise whatever their libraries do, down to termios.error.
        except Exception as error:
            self.close()
            raise RobotLost(self._where() + _one_line(error)) from None

    def _lock_port(self) -> None:
        """Let no second driver of this kind open the port: two would take each other's answers."""
        if self._bus is not None:
            self._bus.port_handler.ser.exclusive = True

    def _configure(self) -> None:
        try:
            self._robot.connect(calibrate=False)
        except Exception:
            # It lets go of one servo after the other, and stops at the first that fails.
            with contextlib.suppress(Exception):
                self._bus.enable_torque(num_retry=2)
            raise

    def _check_calibration(self) -> None:
        if self._robot.is_calibrated:
            return
        file = self._robot.calibration_fpath
        found = "another one in the servos" if file.is_file() else "no such file"
        options = [
            f"--robot.{name}={self._values[name]}"
            for name in ("type", "port", "id", "calibration_dir")
            if name in self._values
        ]
        raise ConfigError(
            f"calibration: expected that of {file}, found {found}; run: "
            f"lerobot-calibrate {' '.join(options)}"
        )

    def limits(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the ends of the joints' ranges in rad, or None where no calibration tells them."""
        bus = self._bus
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
            return self._read()
        except Exception:
            # One corrupted packet is no reason to stop.
            time.sleep(QUIET_S)
        try:
            return self._read()
        except Exception as error:
            raise RobotLost(self._where() + _one_line(error)) from None

    def _read(self) -> tuple[np.ndarray, np.ndarray | None]:
        bus = self._bus
        if bus is not None:
            # Answers left over from a failed read would be taken for those to this one.
            bus.port_handler.ser.reset_input_buffer()
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
            raise RobotLost(self._where() + _one_line(error)) from None

    def close(self) -> None:
        """Close the port; torque stays on, and the servos at their last goal."""
        with contextlib.suppress(Exception):
            self._robot.disconnect()
        bus = self._bus
        if bus is not None and bus.is_connected:
            with contextlib.suppress(Exception):
                bus.port_handler.closePort()

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
    # LeRobot's own retries of a read can leave answers behind, and every later read would then
    # return the state before: `read` tries again by itself, on a quiet line.
    changes = {"cameras": {}, "disable_torque_on_disconnect": False, "num_read_retries": 0}
    return dataclasses.replace(config, **{k: v for k, v in changes.items() if hasattr(config, k)})


def _one_line(error: Exception) -> str:
    """Return the message of an error, and of the one behind it, in one line."""
    # termios.error holds a number and a text, and would show as a tuple.
    text = " ".join(str(error.args[1] if len(error.args) == 2 else error).split())
    # Of an IndexError in the servo SDK the text alone would say little.
    if not text or not isinstance(error, OSError | RuntimeError | termios.error):
        text = f"{type(error).__name__}: {text}"
    # LeRobot says "could not connect", the one behind it "permission denied".
    return f"{text} ({_one_line(error.__cause__)})" if error.__cause__ else text
