"""One emulated Feetech STS3215: its registers, and how its shaft moves."""

import math

STEPS_PER_TURN = 4096

# Addresses of the registers that mean something here, as in Feetech's memory table.
FIRMWARE, MODEL, ID, RETURN_DELAY = 0, 3, 5, 7
MIN_POSITION, MAX_POSITION, PHASE, P_GAIN, HOMING_OFFSET = 9, 11, 18, 21, 31
TORQUE_ENABLE, ACCELERATION, GOAL_POSITION, GOAL_VELOCITY, TORQUE_LIMIT = 40, 41, 42, 46, 48
POSITION, VELOCITY, LOAD, STATUS, MOVING = 56, 58, 60, 65, 66
READ_ONLY = {*range(ID), *range(POSITION, 80)}

# What a servo holds when it comes out of its box, as far as it is not zero: (bytes, value).
DEFAULTS = {
    FIRMWARE: (2, 3 | 10 << 8),
    MODEL: (2, 777),
    RETURN_DELAY: (1, 250),
    8: (1, 1),  # Response_Status_Level: a status packet answers every request
    16: (2, 1000),  # Max_Torque_Limit
    PHASE: (1, 12),
    P_GAIN: (1, 32),
    22: (1, 32),  # D_Coefficient
    TORQUE_LIMIT: (2, 1000),
    55: (1, 1),  # Lock: the emulator has no power to lose, so that it changes nothing
    62: (1, 74),  # Present_Voltage: 7.4 V
    63: (1, 30),  # Present_Temperature
}

MAX_SPEED = 3063.0  # steps/s: 4.7 rad/s, without load at 7.4 V
MAX_ACCELERATION = 25400.0  # steps/s^2: register 254
LOAD_PER_STEP = 0.3125  # times the P gain: at 16, an error of 200 steps takes all the torque
TICK_S = 0.001


def encode_sign(value: float, bit: int) -> int:
    """Encode a number as sign and magnitude, the sign at a bit."""
    whole = round(value)
    return (abs(whole) & ((1 << bit) - 1)) | (whole < 0) << bit


def decode_sign(value: int, bit: int) -> int:
    """Decode sign and magnitude, the sign at a bit."""
    magnitude = value & ((1 << bit) - 1)
    return -magnitude if value >> bit & 1 else magnitude


class Servo:
    """A servo in position mode; positions and speeds are encoder steps."""

    def __init__(self, id_: int, range_min: int, range_max: int, homing_offset: int):
        self.registers = bytearray(96)
        for address, (size, value) in DEFAULTS.items():
            self._set(address, size, value)
        self._set(ID, 1, id_)
        self._set(MIN_POSITION, 2, range_min)
        self._set(MAX_POSITION, 2, range_max)
        self._set(HOMING_OFFSET, 2, encode_sign(homing_offset, 11))
        # Of the encoder, before the homing offset; it may pass a full turn.
        self.shaft = 0.0
        self.velocity = 0.0
        self.alarm = 0  # the error byte of every status packet
        self._ticks = 0
        self.block(None)

    @property
    def id(self) -> int:
        return self.registers[ID]

    @property
    def return_delay_s(self) -> float:
        return self.registers[RETURN_DELAY] * 2e-6

    @property
    def homing_offset(self) -> int:
        return decode_sign(self._get(HOMING_OFFSET), 11)

    @property
    def goal(self) -> int:
        return decode_sign(self._get(GOAL_POSITION), 15)

    @property
    def torque(self) -> bool:
        return self.registers[TORQUE_ENABLE] == 1

    @property
    def limits(self) -> tuple[int, int]:
        return self._get(MIN_POSITION), self._get(MAX_POSITION)

    def place(self, shaft: int) -> None:
        """Put the shaft, and the goal, at a position of the encoder."""
        self.shaft, self.velocity = float(shaft), 0.0
        self._set(GOAL_POSITION, 2, encode_sign(shaft - self.homing_offset, 15))
        self.block(self.obstacle)

    def block(self, shaft: float | None) -> None:
        """Put an obstacle where the shaft cannot pass, or take it away."""
        self.obstacle = shaft
        self.low, self.high = -math.inf, math.inf
        if shaft is not None and shaft >= self.shaft:
            self.high = shaft
        elif shaft is not None:
            self.low = shaft

    def read(self, address: int, size: int, now: float) -> bytes:
        """Return registers as they are at a time."""
        self.advance(now)
        self._set(POSITION, 2, round(self._reading()) % STEPS_PER_TURN)
        self._set(VELOCITY, 2, encode_sign(self.velocity, 15))
        self._set(LOAD, 2, encode_sign(self._load(), 10))
        self._set(STATUS, 1, self.alarm)
        self._set(MOVING, 1, self.velocity != 0)
        return bytes(self.registers[address : address + size])

    def write(self, address: int, data: bytes, now: float) -> None:
        """Write registers at a time; those that are read-only stay as they are."""
        self.advance(now)
        for place, byte in enumerate(data, address):
            if place not in READ_ONLY and place < len(self.registers):
                self.registers[place] = byte
        low, high = self.limits
        self._set(GOAL_POSITION, 2, encode_sign(min(max(self.goal, low), high), 15))

    def advance(self, now: float) -> None:
        """Move the shaft on to a time, in ticks of the servo's own control loop."""
        before, self._ticks = self._ticks, max(self._ticks, int(now / TICK_S))
        if self.torque:
            self._drive(self._ticks - before)
        else:
            self.velocity = 0.0

    def _drive(self, ticks: int) -> None:
        """Follow the goal with limited speed and acceleration."""
        speed = min(MAX_SPEED, self._get(GOAL_VELOCITY) or MAX_SPEED)
        acceleration = min(MAX_ACCELERATION, self.registers[ACCELERATION] * 100 or MAX_ACCELERATION)
        error, dt = self._error(), TICK_S
        for _ in range(ticks):
            if abs(error) < 0.01 and abs(self.velocity) <= acceleration * dt:
                self.shaft, self.velocity = self.shaft + error, 0.0
                break
            # The highest speed from which it can, a tick later, still stop at the goal.
            stopping = math.sqrt(dt * dt / 4 + 2 * abs(error) / acceleration) - dt / 2
            wanted = min(speed, acceleration * stopping, abs(error) / dt)
            change = math.copysign(wanted, error) - self.velocity
            self.velocity += min(max(change, -acceleration * dt), acceleration * dt)
            before, free = self.shaft, self.shaft + self.velocity * dt
            self.shaft = min(max(free, self.low), self.high)
            error -= self.shaft - before
            if self.shaft != free:
                self.velocity = 0.0
                if self.shaft == before:
                    break  # pressed against the obstacle

    def _reading(self) -> float:
        """Return the position as the servo sees it: an encoder knows no turns."""
        # Half a step below zero is still zero when rounded, not the end of the turn.
        return (self.shaft - self.homing_offset + 0.5) % STEPS_PER_TURN - 0.5

    def _error(self) -> float:
        return self.goal - self._reading()

    def _load(self) -> float:
        if not self.torque:
            return 0.0
        load = self._error() * self.registers[P_GAIN] * LOAD_PER_STEP
        limit = min(self._get(TORQUE_LIMIT), 1000)
        return min(max(load, -limit), limit)

    def _get(self, address: int) -> int:
        return int.from_bytes(self.registers[address : address + 2], "little")

    def _set(self, address: int, size: int, value: int) -> None:
        self.registers[address : address + size] = int(value).to_bytes(size, "little")
