"""A `camera` node in a process of its own, and ROS in the process of the tests."""

import contextlib
import os
import subprocess
import sys
import time

import rclpy
import video_device
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor

from residual_smolvla_ros.nodes.common import image_qos
from residual_smolvla_ros.pipeline import share_directory

ENVIRONMENT = {
    "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    "FASTRTPS_DEFAULT_PROFILES_FILE": str(share_directory() / "config" / "fastdds.xml"),
}


@contextlib.contextmanager
def ros(domain: int):
    """Yield a ROS context on a domain of its own; node processes started meanwhile are on it."""
    before = dict(os.environ)
    os.environ.update(ENVIRONMENT, ROS_DOMAIN_ID=str(domain))
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain)
    try:
        yield context
    finally:
        rclpy.shutdown(context=context)
        os.environ.clear()
        os.environ.update(before)


class Camera:
    """A `camera` node in a process of its own, and what it publishes."""

    def __init__(self, context, name: str, device: video_device.VideoDevice, **parameters):
        self.name = name
        self.device = device
        self._log = device.path.with_suffix(".log")
        fields = {"type": "opencv", "index_or_path": device.path}
        self.process = start_node(name, parameters, self._log.open("w"), **fields)
        self.reports: list[tuple[int, str, dict]] = []
        self._ros = rclpy.create_node(f"test_{name}", context=context)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self._ros)
        self._ros.create_subscription(DiagnosticArray, "/diagnostics", self._on_report, 10)

    def _on_report(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == f"/{self.name}":
                values = {v.key: v.value for v in status.values}
                self.reports.append((status.level, status.message, values))

    def subscribe(self, kind, topic: str) -> list:
        """Return a list that the messages of a topic are appended to."""
        messages: list = []
        self._ros.create_subscription(
            kind, f"{self.name}/{topic}", messages.append, image_qos(lockstep=False)
        )
        return messages

    def unsubscribe(self) -> None:
        """End all subscriptions to images."""
        for subscription in list(self._ros.subscriptions):
            if subscription.topic_name != "/diagnostics":
                self._ros.destroy_subscription(subscription)

    def wait_until(self, condition, timeout_s: float = 60) -> None:
        """Take messages until a condition comes true."""
        end = time.monotonic() + timeout_s
        while not condition():
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < end, f"not in time; reports: {self.reports[-3:]}"
            self._executor.spin_once(timeout_sec=0.1)

    def wait_for_level(self, level) -> tuple[str, dict]:
        """Return message and values of the next report of a level."""
        self.reports.clear()
        self.wait_until(lambda: self.reports and self.reports[-1][0] == level)
        return self.reports[-1][1:]

    def output(self) -> str:
        """Return what the node has printed."""
        return self._log.read_text()

    def close(self) -> None:
        """End what a failed test left."""
        self.process.kill()
        self.process.wait()
        self.device.unplug()
        self._ros.destroy_node()


def start_node(name: str, parameters: dict, output, **fields) -> subprocess.Popen:
    """Start a `camera` node with fields of LeRobot's camera and further parameters."""
    values = {"name": name} | parameters | {f"camera.{k}": v for k, v in fields.items()}
    words = [word for key, value in values.items() for word in ("-p", f"{key}:={value}")]
    module = "residual_smolvla_ros.nodes.camera"
    return subprocess.Popen(
        [sys.executable, "-m", module, "--ros-args", "-r", f"__node:={name}", *words],
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
    )
