"""An SO101 without an SO101: six emulated Feetech servos behind a pseudo-terminal.

They live in a process of their own, which shares no GIL with what is tested and ends when stdin
closes or its parent dies. A line on its stdin is a JSON list, [command, arguments...]; a line on
its stdout answers it, once the command has taken effect. The commands are the methods of `Arm`.
"""

import argparse
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
from feetech_wire import Port, Wire
from sts3215 import Servo

from residual_smolvla_ros.robots.units import JOINT_NAMES, lerobot_to_rad, rad_to_lerobot

# range_min, range_max and homing_offset: what a calibration of an SO101 leaves in its servos.
CALIBRATION = np.array(
    [
        (796, 3298, 112),
        (910, 3185, -1093),
        (955, 3139, 1450),
        (966, 3127, -640),
        (227, 3867, 0),
        (2030, 3281, -1210),
    ]
)
HOME = lerobot_to_rad([0, -60, 60, 60, 0, 20])

_LOW, _HIGH, _OFFSET = CALIBRATION.T
# What LeRobot calls 0 is the middle of the range, of the gripper its lower end.
_ZERO = np.append((_LOW + _HIGH)[:5] / 2, _LOW[5]) + _OFFSET
_UNITS_PER_STEP = np.array([360 / 4095] * 5 + [100 / (_HIGH[5] - _LOW[5])])


def to_rad(shaft: dict[str, float]) -> dict[str, float]:
    """Convert encoder positions of joints to joint positions."""
    steps = np.array([shaft.get(name, 0) for name in JOINT_NAMES])
    rad = lerobot_to_rad((steps - _ZERO) * _UNITS_PER_STEP)
    return {n: float(r) for n, r in zip(JOINT_NAMES, rad, strict=True) if n in shaft}


def to_shaft(joint: str, rad: float) -> float:
    """Convert the position of a joint to a position of its encoder."""
    index = JOINT_NAMES.index(joint)
    steps = rad_to_lerobot(np.full(len(JOINT_NAMES), rad)) / _UNITS_PER_STEP + _ZERO
    return float(steps[index])


class Arm:
    """Six servos, their wire and their port; each public method is a command."""

    def __init__(self, port: Port, wire: Wire):
        self._port, self._wire, self._servos = port, wire, wire.servos
        for name, rad in zip(JOINT_NAMES, HOME, strict=True):
            self.set_position(name, rad)

    def set_position(self, joint: str, rad: float) -> None:
        self._servos[joint].place(round(to_shaft(joint, rad)))

    def positions(self) -> dict[str, float]:
        for servo in self._servos.values():
            servo.advance(time.monotonic())
        return to_rad({name: servo.shaft for name, servo in self._servos.items()})

    def goals(self) -> dict[str, float]:
        return self._goals_to_rad({name: servo.goal for name, servo in self._servos.items()})

    def torque(self) -> dict[str, bool]:
        return {name: servo.torque for name, servo in self._servos.items()}

    def writes(self) -> list:
        written = [(t, self._goals_to_rad(goals)) for t, goals in self._wire.goal_writes]
        self._wire.goal_writes.clear()
        return written

    def obstacle(self, joint: str, rad: float | None) -> None:
        self._servos[joint].advance(time.monotonic())
        self._servos[joint].block(None if rad is None else to_shaft(joint, rad))

    def corrupt(self, n: int, servo: str | None) -> None:
        self._wire.corrupt = n, servo

    def silence(self, servo: str, silent: bool) -> None:
        (self._wire.silent.add if silent else self._wire.silent.discard)(servo)

    def alarm(self, servo: str, bits: int) -> None:
        self._servos[servo].alarm = bits

    def calibration(self) -> dict[str, dict[str, int]]:
        return {
            name: {
                "id": servo.id,
                "drive_mode": 0,
                "homing_offset": servo.homing_offset,
                "range_min": servo.limits[0],
                "range_max": servo.limits[1],
            }
            for name, servo in self._servos.items()
        }

    def plug(self) -> None:
        self._wire.buffer.clear()
        self._port.plug()

    def pull(self) -> None:
        self._port.pull()

    def _goals_to_rad(self, goals: dict[str, int]) -> dict[str, float]:
        return to_rad({n: goal + self._servos[n].homing_offset for n, goal in goals.items()})


def serve(arm: Arm, port: Port, wire: Wire) -> None:
    """Answer host and test until stdin closes or the parent dies."""
    parent = os.getppid()
    commands = bytearray()
    while os.getppid() == parent:
        sources = [0] if port.master is None else [0, port.master]
        ready = select.select(sources, [], [], 1.0)[0]
        if port.master in ready:
            wire.receive(os.read(port.master, 4096))
        if 0 in ready:
            data = os.read(0, 65536)
            if not data:
                return
            *lines, rest = (commands + data).split(b"\n")
            commands = rest
            for line in lines:
                print(json.dumps(obey(arm, line)), flush=True)


def obey(arm: Arm, line: bytes) -> dict:
    """Do what a line says; return the answer."""
    try:
        command, *arguments = json.loads(line)
        return {"result": getattr(arm, command)(*arguments)}
    except Exception as error:
        return {"error": repr(error)}


def main() -> None:
    """Run the emulator."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--link", required=True, help="name to give to the serial port")
    parser.add_argument("--baud", type=int, default=1_000_000)
    options = parser.parse_args()
    # Ctrl-C is meant for the test, which closes stdin when it is done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A sleep may end 50 us late by default, half a packet.
    Path("/proc/self/timerslack_ns").write_text("1")
    # A busy host does not slow real servos down; not everyone may ask for this.
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -15)
    servos = {
        name: Servo(id_, *(int(value) for value in values))
        for id_, (name, values) in enumerate(zip(JOINT_NAMES, CALIBRATION, strict=True), 1)
    }
    port = Port(options.link)
    wire = Wire(servos, port.send, options.baud)
    arm = Arm(port, wire)
    port.plug()
    try:
        serve(arm, port, wire)
    finally:
        port.pull()


class Emulator:
    """An emulated arm for the time of a `with` block; positions are rad of the joints."""

    def __init__(self, folder: Path, baud: int = 1_000_000):
        self.port = str(Path(folder) / "arm")
        self._command = [sys.executable, __file__, "--link", self.port, "--baud", str(baud)]
        self._lock = threading.Lock()

    def __enter__(self) -> "Emulator":
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, text=True)
        try:
            self.positions()  # answered when the port is there
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    @property
    def pid(self) -> int:
        """The emulator's process id."""
        return self._process.pid

    def set_position(self, joint: str, rad: float) -> None:
        """Put a joint at a position, and its goal with it."""
        self._ask("set_position", joint, float(rad))

    def positions(self) -> dict[str, float]:
        """Return where the joints are."""
        return self._ask("positions")

    def goals(self) -> dict[str, float]:
        """Return what the servos' goal registers hold: clamped to their position limits."""
        return self._ask("goals")

    def torque(self) -> dict[str, bool]:
        """Return which servos have torque."""
        return self._ask("torque")

    def writes(self) -> list[tuple[float, dict[str, float]]]:
        """Return time.monotonic() and goals, as sent, of each write since the last call."""
        return [(moment, goals) for moment, goals in self._ask("writes")]

    def corrupt(self, n: int, servo: str | None = None) -> None:
        """Give the next n status packets, of one servo or of any, a wrong checksum."""
        self._ask("corrupt", n, servo)

    def silence(self, servo: str, silent: bool = True) -> None:
        """Let a servo neither hear nor answer; it keeps its goal and its torque."""
        self._ask("silence", servo, silent)

    def alarm(self, servo: str, bits: int) -> None:
        """Set the error byte that a servo sends with each answer; 32 is overload."""
        self._ask("alarm", servo, bits)

    def obstacle(self, joint: str, rad: float | None) -> None:
        """Put an obstacle that a joint cannot pass; None takes it away."""
        self._ask("obstacle", joint, None if rad is None else float(rad))

    def pull(self) -> None:
        """Pull the cable: the port is gone, the servos keep power and goals."""
        self._ask("pull")

    def plug(self) -> None:
        """Put the cable back: a new port of the same name."""
        self._ask("plug")

    def calibrate(self, folder: Path, id: str) -> None:
        """Write LeRobot's calibration file of an arm, as the servos have it."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / f"{id}.json").write_text(json.dumps(self._ask("calibration")))

    def _ask(self, command: str, *arguments):
        with self._lock:
            self._process.stdin.write(json.dumps([command, *arguments]) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the emulator has ended")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["result"]


if __name__ == "__main__":
    main()
