"""Print how long the arm goes on moving after each fault, and how far.

    python benchmarks/fault_stop.py [--repeats 5]

The real node, LeRobot's real driver and emulated servos; a peer commands a movement of 0.5 rad/s
without an end. The arm counts as stopped once it stays within 0.01 rad of where it comes to rest.
"""

import argparse
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "test"))
from robot_graph import HOME, Bridge, Emulator, Peer, isolate

DOMAIN = 92
JOINT = "shoulder_pan"
SPEED = 0.5
START, MOVING, END = -1.6, -1.2, 1.8
TOLERANCE = 0.01
REST_S = 0.6


def commands_end(arm, servos, bridge):
    """The policy is killed, or falls silent."""
    arm.answer = None


def not_finite(arm, servos, bridge):
    """Commands turn into NaN."""
    arm.answer = [float("nan")] * 6


def servo_silent(arm, servos, bridge):
    """A servo stops answering."""
    servos.silence("elbow_flex")


def cable_pulled(arm, servos, bridge):
    """The serial port is gone."""
    servos.pull()


def second_publisher(arm, servos, bridge):
    """Another node can publish commands as well, once DDS has discovered it."""
    arm.intruder = Peer("intruder")
    arm.until(arm.intruder.is_heard, "a discovered intruder")
    return time.monotonic()


def hold(arm, servos, bridge):
    """A person calls the service hold."""
    arm.call("so101_bridge/hold")


def bridge_terminated(arm, servos, bridge):
    """SIGTERM to the bridge, as when any other node has died."""
    bridge.process.send_signal(signal.SIGTERM)


def bridge_killed(arm, servos, bridge):
    """SIGKILL to the bridge: the servos go to their last goal."""
    bridge.process.send_signal(signal.SIGKILL)


FAULTS = (commands_end, not_finite, servo_silent, cable_pulled, second_publisher, hold,
          bridge_terminated, bridge_killed)  # fmt: skip


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    isolate(DOMAIN)
    print(
        f"{'fault':<20}{'stopped after, s (max of ' + str(repeats) + ')':>32}{'went on, rad':>16}"
    )
    for fault in FAULTS:
        results = [measure(fault) for _ in range(repeats)]
        seconds, way = (max(column) for column in zip(*results, strict=True))
        print(f"{fault.__name__:<20}{seconds:>20.3f}{way:>16.3f}", flush=True)


def measure(fault) -> tuple[float, float]:
    """Return for how long and how far the arm moves after a fault, in s and rad."""
    with tempfile.TemporaryDirectory() as name, Emulator(Path(name)) as servos:
        servos.calibrate(Path(name), "arm")
        servos.set_position(JOINT, START)
        arm = Peer()
        bridge = Bridge(Path(name), servos.port, max_velocity=[SPEED])
        samples, done = [], threading.Event()
        watcher = threading.Thread(target=watch, args=(servos, samples, done))
        try:
            arm.answer = [END, *HOME[1:]]
            arm.until(lambda: arm.states and arm.position()[JOINT] > MOVING, "a movement")
            watcher.start()
            moment = time.monotonic()
            moment = fault(arm, servos, bridge) or moment
            arm.until(lambda: at_rest(samples), "an arm at rest")
        finally:
            done.set()
            watcher.join()
            bridge.stop(signal.SIGKILL)
            for peer in (arm, getattr(arm, "intruder", None)):
                if peer is not None:
                    peer.close()
    final = samples[-1][1]
    stopped = max((t for t, p in samples if abs(p - final) > TOLERANCE), default=moment)
    at_fault = next(p for t, p in samples if t >= moment)
    return max(0.0, stopped - moment), abs(final - at_fault)


def watch(servos, samples: list, done: threading.Event) -> None:
    """Write down where the joint is, 200 times a second."""
    while not done.wait(0.005):
        samples.append((time.monotonic(), servos.positions()[JOINT]))


def at_rest(samples: list) -> bool:
    """Tell whether the last samples do not differ."""
    recent = [p for t, p in samples if t > time.monotonic() - REST_S]
    return len(recent) > 50 and max(recent) - min(recent) < TOLERANCE / 2


if __name__ == "__main__":
    main()
