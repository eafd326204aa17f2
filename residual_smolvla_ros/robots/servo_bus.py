"""What robots and leader arms of LeRobot share: a serial bus of servos, and how it fails."""

import contextlib
import termios
import time
from collections.abc import Callable

from lerobot.motors.motors_bus import SerialMotorsBus
from lerobot.robots.robot import Robot
from lerobot.teleoperators import Teleoperator

from residual_smolvla_ros.errors import ConfigError

# Longer than six servos take to answer: after it the line is quiet.
QUIET_S = 0.002
CONNECT_ATTEMPTS, CONNECT_PAUSE_S = 3, 0.05

type Device = Robot | Teleoperator


class DeviceLost(ConnectionError):
    """A device cannot be reached, read or written; the message says why, in one line."""


def bus_of(device: Device) -> SerialMotorsBus | None:
    """Return the servo bus of a device, if it has one."""
    bus = getattr(device, "bus", None)
    return bus if isinstance(bus, SerialMotorsBus) else None


def connect_patiently(connect: Callable[[], None]) -> None:
    """Connect; again after a pause where the device was lost on the way.

    LeRobot asks each servo some dozen questions, and gives up at the first bad answer.
    """
    for _ in range(CONNECT_ATTEMPTS - 1):
        with contextlib.suppress(DeviceLost):
            return connect()
        time.sleep(CONNECT_PAUSE_S)
    return connect()


def open_alone(bus: SerialMotorsBus) -> None:
    """Open the port without writing a byte before it is known that nobody else has it."""
    bus.connect(handshake=False)
    lock_port(bus)
    bus.disconnect(disable_torque=False)
    bus.connect()


def lock_port(bus: SerialMotorsBus | None) -> None:
    """Let no second driver of this kind open the port: two would take each other's answers."""
    if bus is not None:
        bus.port_handler.ser.exclusive = True


def close_port(bus: SerialMotorsBus | None) -> None:
    """Close the port though the servos may not answer."""
    if bus is not None and bus.is_connected:
        with contextlib.suppress(Exception):
            bus.port_handler.closePort()


def read_twice[Value](bus: SerialMotorsBus | None, read: Callable[[], Value]) -> Value:
    """Return what is read; one corrupted packet is no reason to stop.

    LeRobot's own retries can leave answers behind, and every later read would then return the
    state before: here each read begins on a quiet line.
    """
    try:
        return _read_fresh(bus, read)
    except Exception:
        time.sleep(QUIET_S)
    return _read_fresh(bus, read)


def _read_fresh[Value](bus: SerialMotorsBus | None, read: Callable[[], Value]) -> Value:
    if bus is not None:
        bus.port_handler.ser.reset_input_buffer()
    return read()


def check_calibration(device: Device, what: str, values: dict) -> None:
    """Raise ConfigError, with LeRobot's command, unless the servos have the file's calibration.

    `what` is robot or teleop, as the command's options name it; `values` are its fields.
    """
    if device.is_calibrated:
        return
    file = device.calibration_fpath
    found = "another one in the servos" if file.is_file() else "no such file"
    options = [
        f"--{what}.{name}={values[name]}"
        for name in ("type", "port", "id", "calibration_dir")
        if name in values
    ]
    raise ConfigError(
        f"calibration: expected that of {file}, found {found}; run: "
        f"lerobot-calibrate {' '.join(options)}"
    )


def one_line(error: BaseException) -> str:
    """Return the message of an error, and of the one behind it, in one line."""
    # termios.error holds a number and a text, and would show as a tuple.
    text = " ".join(str(error.args[1] if len(error.args) == 2 else error).split())
    # Of an IndexError in the servo SDK the text alone would say little.
    if not text or not isinstance(error, OSError | RuntimeError | termios.error):
        text = f"{type(error).__name__}: {text}"
    # LeRobot says "could not connect", the one behind it "permission denied".
    return f"{text} ({one_line(error.__cause__)})" if error.__cause__ else text
