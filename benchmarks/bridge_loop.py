"""Print how regular the bridge's control loop is, and how long a command takes to the motors.

    python benchmarks/bridge_loop.py [--seconds 120] [--rates 30 100]

The real node, LeRobot's real driver, and the emulated servos at the true speed of their bus
(1 Mbaud, half duplex; a USB adapter's own latency is not in it). A process that answers each
state at once stands for the policy, so that the policy's own work is left out.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import rclpy
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from residual_smolvla_ros import pipeline
from residual_smolvla_ros.nodes.common import CONTROL_QOS, to_nanoseconds

TEST = Path(__file__).resolve().parents[1] / "test"
DOMAIN = 91


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120.0, help="length of each measurement")
    parser.add_argument("--rates", type=float, nargs="+", default=[30.0, 100.0], help="Hz")
    parser.add_argument("--answer", help=argparse.SUPPRESS)
    parser.add_argument("--bridge", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.answer:
        answer(Path(options.answer), options.bridge, options.seconds)
        return
    os.environ.update(pipeline.environment() | {"ROS_DOMAIN_ID": str(DOMAIN)})
    print(f"{os.cpu_count()} cores, load of the last minute {os.getloadavg()[0]:.1f}, "
          f"{options.seconds:g} s each")  # fmt: skip
    for rate in options.rates:
        measure(rate, options.seconds)


def measure(rate: float, seconds: float) -> None:
    """Run bridge and answering process for a time, and print their figures."""
    sys.path.insert(0, str(TEST))
    from feetech_emulator import Emulator

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Emulator(folder) as servos:
            servos.calibrate(folder, "arm")
            bridge = start_bridge(folder, servos.port, rate)
            try:
                subprocess.run(
                    [sys.executable, __file__, "--answer", str(folder / "states.json"),
                     "--bridge", str(bridge.pid), "--seconds", str(seconds)], check=True
                )  # fmt: skip
            finally:
                bridge.terminate()
                bridge.wait()
            writes = np.array([moment for moment, _ in servos.writes()])
        seen = json.loads((folder / "states.json").read_text())
    report(rate, np.array(seen["stamps"]), writes + clock_offset(), seen["cpu_share"])


def clock_offset() -> float:
    """Return wall clock minus monotonic clock: the emulator writes down the latter."""
    return time.time() - time.monotonic()


def start_bridge(folder: Path, port: str, rate: float) -> subprocess.Popen:
    """Start the node on the emulated servos."""
    robot = {"type": "so101_follower", "port": port, "id": "arm", "calibration_dir": str(folder)}
    parameters = {"rate_hz": rate} | {f"robot.{name}": value for name, value in robot.items()}
    file = folder / "bridge.yaml"
    file.write_text(json.dumps({"/**": {"ros__parameters": parameters}}))
    return subprocess.Popen(
        [sys.executable, "-m", "residual_smolvla_ros.nodes.so101_bridge",
         "--ros-args", "--params-file", str(file)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def answer(file: Path, bridge: int, seconds: float) -> None:
    """Answer each state with its own position for a time; write down stamps and CPU share."""
    stamps: list[float] = []
    rclpy.init()
    node = rclpy.create_node("answer")
    commands = node.create_publisher(JointTrajectory, "joint_trajectory", CONTROL_QOS)

    def on_state(message: JointState) -> None:
        command = JointTrajectory(joint_names=message.name)
        command.points = [JointTrajectoryPoint(positions=message.position)]
        command.header.stamp = message.header.stamp
        commands.publish(command)
        stamps.append(to_nanoseconds(message.header.stamp) / 1e9)

    node.create_subscription(JointState, "joint_states", on_state, CONTROL_QOS)
    while not stamps:
        rclpy.spin_once(node, timeout_sec=0.1)
    start, spent = time.monotonic(), sum(psutil.Process(bridge).cpu_times()[:2])
    end = start + seconds
    while time.monotonic() < end:
        rclpy.spin_once(node, timeout_sec=0.1)
    node.destroy_node()
    rclpy.shutdown()
    share = (sum(psutil.Process(bridge).cpu_times()[:2]) - spent) / (time.monotonic() - start)
    # The first second holds start-up and discovery.
    later = [stamp for stamp in stamps if stamp > stamps[0] + 1.0]
    file.write_text(json.dumps({"stamps": later, "cpu_share": share}))


def report(rate: float, stamps: np.ndarray, writes: np.ndarray, share: float) -> None:
    """Print jitter of the ticks and latency of the answers."""
    jitter = 1e3 * np.abs(np.diff(stamps) - 1.0 / rate)
    # The first goal that was written after each state.
    index = np.searchsorted(writes, stamps)
    known = index < len(writes)
    latency = 1e3 * (writes[index[known]] - stamps[known])
    print(f"\n{rate:g} Hz, {len(stamps)} states, {100 * share:.0f} % of a core for the bridge")
    print(f"{'':<44}{'median':>9}{'99 %':>9}{'99.9 %':>9}{'max':>9}   ms")
    row("jitter: departure from the period", jitter)
    row("start of the read to motor write", latency)


def row(name: str, values: np.ndarray) -> None:
    """Print a line of the table."""
    numbers = [*np.percentile(values, [50, 99, 99.9]), values.max()]
    print(f"{name:<44}" + "".join(f"{n:>9.2f}" for n in numbers))


if __name__ == "__main__":
    main()
