"""The serial line of emulated Feetech servos: a pseudo-terminal, packets, timing and faults."""

import contextlib
import os
import time
import tty
from collections import deque
from collections.abc import Callable
from pathlib import Path

from sts3215 import GOAL_POSITION, Servo, decode_sign

PING, READ, WRITE, REG_WRITE, ACTION, SYNC_READ, SYNC_WRITE = 1, 2, 3, 4, 5, 0x82, 0x83
BROADCAST = 0xFE

# A sleep ends up to this late (without timer slack, which the process takes off): spin the rest.
OVERSLEEP_S = 40e-6


def checksum(content: bytes) -> int:
    """Return the last byte of a packet, from what lies between header and it."""
    return ~sum(content) & 0xFF


def take_packet(buffer: bytearray) -> bytes | None:
    """Take the next whole packet off a buffer, and what lies before it."""
    while (start := buffer.find(b"\xff\xff")) >= 0:
        del buffer[:start]
        if len(buffer) < 4 or len(buffer) < buffer[3] + 4:
            return None
        packet = bytes(buffer[: buffer[3] + 4])
        if len(packet) >= 6 and packet[-1] == checksum(packet[2:-1]):
            del buffer[: len(packet)]
            return packet
        del buffer[0]
    del buffer[:-1]
    return None


def wait_until(moment: float) -> None:
    """Wait to within microseconds, asleep for most of it."""
    if (rest := moment - time.monotonic() - OVERSLEEP_S) > 0:
        time.sleep(rest)
    while time.monotonic() < moment:
        pass


class Port:
    """A pseudo-terminal whose far end has a name of our choice."""

    def __init__(self, link: str):
        self.link = Path(link)
        self.master: int | None = None

    def plug(self) -> None:
        """Make the port: when this returns, a program can open it."""
        self.pull()
        # The far end stays open here too: a host that closes it must not hang up the line.
        self.master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self.master, False)
        self.link.unlink(missing_ok=True)  # left by an emulator that was killed
        self.link.symlink_to(os.ttyname(self._slave))

    def pull(self) -> None:
        """Take the port away from whoever has it open."""
        if self.master is None:
            return
        self.link.unlink(missing_ok=True)
        os.close(self.master)
        os.close(self._slave)
        self.master = None

    def send(self, packet: bytes) -> None:
        """Send a packet to the host; what nobody reads is lost, as on a wire."""
        with contextlib.suppress(BlockingIOError):
            os.write(self.master, packet)


class Wire:
    """A half-duplex line with servos: one request after the other, at the speed of the line.

    A request that comes too early waits for the line, as it does behind a USB adapter's latency.
    """

    def __init__(self, servos: dict[str, Servo], send: Callable[[bytes], None], baud: int):
        self.servos, self.send = servos, send
        self.byte_s = 10 / baud
        self.silent: set[str] = set()
        # How many packets to spoil, and of which servo; None: of any.
        self.corrupt: tuple[int, str | None] = (0, None)
        self.goal_writes: deque = deque(maxlen=100_000)
        self.now = 0.0  # when the last byte so far has passed
        self.buffer = bytearray()
        self._held_back: dict[str, bytes] = {}

    def receive(self, data: bytes) -> None:
        """Take bytes from the host and answer the requests that they complete."""
        self.buffer += data
        while packet := take_packet(self.buffer):
            self.now = max(self.now, time.monotonic()) + len(packet) * self.byte_s
            self._handle(packet[2], packet[4], packet[5:-1])

    def _handle(self, id_: int, instruction: int, data: bytes) -> None:
        if instruction == SYNC_READ:
            for name in (name for one in data[2:] for name in self._addressed(one)):
                self._answer(name, self.servos[name].read(data[0], data[1], self.now))
        elif instruction == SYNC_WRITE:
            size = 1 + data[1]
            parts = [data[i : i + size] for i in range(2, len(data), size)]
            values = {name: part[1:] for part in parts for name in self._addressed(part[0])}
            self._write(data[0], values)
        else:
            for name in self._addressed(id_):
                answer = self._execute(name, instruction, data)
                # Of what is broadcast a ping alone is answered.
                if id_ != BROADCAST or instruction == PING:
                    self._answer(name, answer)

    def _execute(self, name: str, instruction: int, data: bytes) -> bytes:
        """Let one servo do what it is told; return the data of its answer."""
        if instruction == READ:
            return self.servos[name].read(data[0], data[1], self.now)
        if instruction == REG_WRITE:
            self._held_back[name] = data
        elif instruction == ACTION:
            data = self._held_back.pop(name, b"")
        if instruction in (WRITE, ACTION) and data:
            self._write(data[0], {name: data[1:]})
        return b""

    def _addressed(self, id_: int) -> list[str]:
        servos = self.servos.items()
        return [n for n, s in servos if id_ in (s.id, BROADCAST) and n not in self.silent]

    def _write(self, address: int, values: dict[str, bytes]) -> None:
        goals = {}
        for name, value in values.items():
            self.servos[name].write(address, value, self.now)
            if address <= GOAL_POSITION <= address + len(value) - 2:
                goal = value[GOAL_POSITION - address :][:2]
                goals[name] = decode_sign(int.from_bytes(goal, "little"), 15)
        if goals:
            self.goal_writes.append((self.now, goals))

    def _answer(self, name: str, data: bytes) -> None:
        """Send a status packet when its last byte would have arrived."""
        servo = self.servos[name]
        content = bytes([servo.id, len(data) + 2, servo.alarm]) + data
        check = checksum(content)
        left, victim = self.corrupt
        if left and victim in (name, None):
            self.corrupt = left - 1, victim
            check ^= 0x55
        packet = b"\xff\xff" + content + bytes([check])
        self.now += servo.return_delay_s + len(packet) * self.byte_s
        wait_until(self.now)
        self.send(packet)
