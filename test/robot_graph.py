"""The bridge in a process of its own on emulated servos, and a node that stands for its peers."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from feetech_emulator import Emulator
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from residual_smolvla_ros import pipeline
from residual_smolvla_ros.nodes.common import CONTROL_QOS, RECORD_QOS, to_nanoseconds, to_stamp
from residual_smolvla_ros.robots.units import JOINT_NAMES

HOME = (0.0, -1.047, 1.047, 1.047, 0.0, 0.21)
TIMEOUT_S = 30.0


def isolate(domain: int) -> None:
    """Keep this process and its children on a ROS domain of its own."""
    os.environ.update(pipeline.environment() | {"ROS_DOMAIN_ID": str(domain)})


@contextlib.contextmanager
def isolated(domain: int):
    """Isolate for a while; the environment is put back."""
    before = dict(os.environ)
    isolate(domain)
    try:
        yield domain
    finally:
        os.environ.clear()
        os.environ.update(before)


class Bridge:
    """The node `so101_bridge` on an emulated arm; `log` holds its output so far."""

    def __init__(self, folder: Path, port, **parameters):
        parameters = {
            "robot.type": "so101_follower", "robot.port": str(port), "robot.id": "arm",
            "robot.calibration_dir": str(folder),
            "home": list(HOME), "home_velocity": 2.0, "ramp_s": 0.3,
        } | parameters  # fmt: skip
        file = folder / "bridge.yaml"
        file.write_text(json.dumps({"/**": {"ros__parameters": parameters}}))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "residual_smolvla_ros.nodes.so101_bridge",
             "--ros-args", "--params-file", str(file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip
        self.log = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.log += line

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """End the node; return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signum)
        code = self.process.wait(timeout=TIMEOUT_S)
        self._reader.join()
        return code

    def wait(self) -> int:
        """Return the exit code of a node that ends by itself."""
        code = self.process.wait(timeout=TIMEOUT_S)
        self._reader.join()
        return code


class Peer:
    """A node that sees what the bridge publishes, and commands it."""

    def __init__(self, name: str = "peer"):
        self._context = Context()
        rclpy.init(context=self._context)
        self.node = rclpy.create_node(name, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self.states: list[JointState] = []
        self.executed: dict[int, JointState] = {}
        self.status = ""
        self.values: dict[str, str] = {}
        self.answer: list[float] | None = None  # the command to each state
        self._commands = self.node.create_publisher(
            JointTrajectory, "joint_trajectory", CONTROL_QOS
        )
        self.node.create_subscription(JointState, "joint_states", self._on_state, CONTROL_QOS)
        self.node.create_subscription(JointState, "executed_command", self._on_executed, RECORD_QOS)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def _on_state(self, message: JointState) -> None:
        self.states.append(message)
        if self.answer is not None:
            self.send(self.answer, stamp=to_nanoseconds(message.header.stamp))

    def _on_executed(self, message: JointState) -> None:
        self.executed[to_nanoseconds(message.header.stamp)] = message

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name.endswith("so101_bridge"):
                self.status = status.message
                self.values = {value.key: value.value for value in status.values}

    def send(self, position, names=JOINT_NAMES, stamp: int = 0, age_s: float = 0.0) -> None:
        """Publish a command with a stamp, or one of now."""
        stamp = stamp or self.node.get_clock().now().nanoseconds - round(age_s * 1e9)
        point = JointTrajectoryPoint(positions=[float(p) for p in position])
        message = JointTrajectory(joint_names=list(names), points=[point])
        message.header.stamp = to_stamp(stamp)
        self._commands.publish(message)

    def is_heard(self) -> bool:
        """Tell whether someone takes this node's commands."""
        return self._commands.get_subscription_count() > 0

    def until(self, condition, what: str = "", timeout_s: float = TIMEOUT_S) -> None:
        """Spin until a condition holds."""
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, f"not within {timeout_s} s: {what or condition}"
            self._executor.spin_once(timeout_sec=0.02)

    def ticks(self, count: int) -> None:
        """Spin until so many further states have come."""
        wanted = len(self.states) + count
        self.until(lambda: len(self.states) >= wanted, f"{count} further states")

    def position(self) -> dict[str, float]:
        """Return the newest joint positions."""
        return dict(zip(self.states[-1].name, self.states[-1].position, strict=True))

    def move(self, position) -> None:
        """Command a position until the arm is there."""
        self.answer = list(position)
        self.until(lambda: self.is_at(position), f"arm at {position}")
        self.answer = None

    def is_at(self, position, tolerance: float = 0.03) -> bool:
        """Tell whether the newest state is near a position."""
        if not self.states:
            return False
        pairs = zip(self.states[-1].position, position, strict=True)
        return all(abs(found - wanted) < tolerance for found, wanted in pairs)

    def call(self, service: str) -> Trigger.Response:
        """Call a service of the bridge."""
        client = self.node.create_client(Trigger, service)
        self.until(client.service_is_ready, f"service {service}")
        future = client.call_async(Trigger.Request())
        self.until(future.done, f"answer of {service}")
        self.node.destroy_client(client)
        return future.result()

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()


__all__ = ["HOME", "Bridge", "Emulator", "Peer", "isolate", "isolated"]
