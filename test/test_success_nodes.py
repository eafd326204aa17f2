"""`success_classifier` and `frame_collector` in processes of their own, on a made robot.

The test plays the cameras and the node `episode`; the scene changes when it says so.
"""

import contextlib
import json
import signal
import subprocess
import sys
import time

import pytest
import rclpy
import tiny_classifier
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from robot_graph import isolated
from sensor_msgs.msg import Image
from std_msgs.msg import Bool, Float32, UInt8MultiArray
from tiny_classifier import CAMERAS, scenes

from residual_smolvla_ros.learning.schedule import EpisodePlan
from residual_smolvla_ros.nodes.common import (
    LATCHED_QOS,
    RECORD_QOS,
    image_qos,
    to_message,
    to_nanoseconds,
)
from residual_smolvla_ros.nodes.parts.images import to_image_message
from residual_smolvla_ros.records import EPISODE_EVENT, SUCCESS_ESTIMATE, pack, unpack

pytestmark = pytest.mark.realtime

DOMAIN = 50
TIMEOUT_S = 60.0


def start(ended: contextlib.ExitStack, folder, node: str, **parameters) -> subprocess.Popen:
    """Start a node that lives until `ended`; its output goes to a file in the folder."""
    file = folder / f"{node}.yaml"
    file.write_text(json.dumps({"/**": {"ros__parameters": parameters}}))
    module = f"residual_smolvla_ros.nodes.{node}"
    process = subprocess.Popen(
        [sys.executable, "-m", module, "--ros-args", "--params-file", str(file)],
        stdout=(folder / f"{node}.log").open("w"),
        stderr=subprocess.STDOUT,
    )
    ended.callback(process.wait)
    ended.callback(process.kill)
    return process


class Robot:
    """Cameras and episodes; what the nodes publish is kept."""

    def __init__(self, folder, processes):
        self._folder, self.processes = folder, processes
        self._context = Context()
        rclpy.init(context=self._context)
        self._ros = rclpy.create_node("robot", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._ros)
        qos = image_qos(lockstep=False)
        self._cameras = {
            name: self._ros.create_publisher(Image, f"{name}/image_raw", qos) for name in CAMERAS
        }
        self._active = self._ros.create_publisher(Bool, "episode/active", LATCHED_QOS)
        self._events = self._ros.create_publisher(UInt8MultiArray, "episode/event", RECORD_QOS)
        self.estimates: list = []
        self.probabilities: list[float] = []
        self.reports: dict[str, DiagnosticStatus] = {}
        self._ros.create_subscription(
            UInt8MultiArray, "success/estimate", self._on_estimate, RECORD_QOS
        )
        self._ros.create_subscription(
            Float32, "success/probability", lambda m: self.probabilities.append(m.data), 10
        )
        self._ros.create_subscription(DiagnosticArray, "/diagnostics", self._on_report, 10)
        self._seed = 0
        self.done = False
        self.cameras_on = set(CAMERAS)
        self._ros.create_timer(1 / 30, self._send_images)

    def _on_estimate(self, message) -> None:
        self.estimates.append(unpack(SUCCESS_ESTIMATE, message.data))

    def _on_report(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.reports[status.name.strip("/")] = status

    def now(self) -> int:
        return self._ros.get_clock().now().nanoseconds

    def _send_images(self) -> None:
        self._seed += 1
        stamp = self._ros.get_clock().now().to_msg()
        for name, pixels in scenes(self.done, self._seed % 8).items():
            if name in self.cameras_on:
                self._cameras[name].publish(to_image_message(pixels, stamp, name))
        self.stamp = to_nanoseconds(stamp)

    def event(self, event: str, label: str = "", stamp: int = 0) -> None:
        plan = EpisodePlan(episode=1, phase="train", index=0, seed=0, max_steps=100)
        blob = pack(
            EPISODE_EVENT, event=event, episode=1, plan=plan.to_json(), reason="", steps=1,
            success=label == "success", label=label, last_stamp=stamp,
        )  # fmt: skip
        self._events.publish(to_message(blob))

    def set_active(self, active: bool) -> None:
        self._active.publish(Bool(data=active))

    def until(self, condition, what: str) -> None:
        """Spin until a condition holds."""
        end = time.monotonic() + TIMEOUT_S
        while not condition():
            for node, process in self.processes.items():
                assert process.poll() is None, f"{node} ended: {self.log(node)}"
            assert time.monotonic() < end, f"not in time: {what}; {self.logs()}"
            self._executor.spin_once(timeout_sec=0.05)

    def wait_for_report(self, node: str, condition) -> DiagnosticStatus:
        """Return the next report of a node that meets a condition."""
        self.reports.pop(node, None)
        self.until(lambda: node in self.reports and condition(self.reports[node]), f"{node}")
        return self.reports[node]

    def wait_for_value(self, node: str, name: str, least: int) -> None:
        """Wait until a node reports that a count has reached a number."""
        self.wait_for_report(
            node, lambda s: int({v.key: v.value for v in s.values}.get(name, 0)) >= least
        )

    def log(self, node: str) -> str:
        return (self._folder / f"{node}.log").read_text()

    def logs(self) -> str:
        return "\n".join(self.log(node)[-2000:] for node in self.processes)

    def close(self) -> None:
        self._executor.shutdown()
        self._ros.destroy_node()
        self._context.try_shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("nodes")


@pytest.fixture(scope="module")
def domain():
    with isolated(DOMAIN):
        yield


@pytest.fixture(scope="module")
def robot(domain, folder, tmp_path_factory):
    """The made robot with both nodes, which import LeRobot for seconds: all start at once."""
    collector = {"output": str(folder / "frames"), "rate_hz": 10.0, "silence_s": 0.5}
    collector |= {"success_s": 0.2, "unsure_s": 0.2, "task": "Put it into the box"}
    with contextlib.ExitStack() as ended:
        processes = {"frame_collector": start(ended, folder, "frame_collector", **collector)}
        run = tiny_classifier.train(tmp_path_factory.getbasetemp() / "tiny_classifier")[1]
        classifier = {"checkpoint": str(run), "threshold": 0.5, "rate_hz": 10.0, "silence_s": 0.5}
        processes["success_classifier"] = start(ended, folder, "success_classifier", **classifier)
        robot = Robot(folder, processes)
        ended.callback(robot.close)
        for node in processes:
            robot.wait_for_report(node, lambda s: s.message == "waiting for an episode")
        yield robot


def test_success_is_estimated_while_an_episode_is_active(robot):
    """Not before it, not after it, and only once it has held."""
    robot.set_active(True)
    robot.until(lambda: len(robot.estimates) >= 4, "estimates of the scene before")
    assert not any(e.metadata["success"] for e in robot.estimates)
    robot.done = True
    robot.until(lambda: robot.estimates[-1].metadata["success"], "success")
    good = [e for e in robot.estimates if e["probability"] >= 0.5]
    held = robot.estimates[-1].metadata["stamp"] - good[0].metadata["stamp"]
    assert held >= 300_000_000
    stamps = [e.metadata["stamp"] for e in robot.estimates]
    assert stamps == sorted(set(stamps))
    robot.event("end", "success", robot.stamp)
    robot.set_active(False)
    robot.wait_for_report("success_classifier", lambda s: s.message == "waiting for an episode")
    count = len(robot.estimates)
    robot.wait_for_report("success_classifier", lambda s: s.message == "waiting for an episode")
    assert len(robot.estimates) == count
    assert set(robot.probabilities) <= {float(e["probability"]) for e in robot.estimates}
    assert max(robot.probabilities) >= 0.5


def test_the_next_episode_does_not_begin_with_the_last_ones_success(robot):
    """The scene that ends an episode is still there when the reset begins."""
    robot.event("prepare")
    robot.wait_for_value("frame_collector", "episodes", 1)
    robot.done = False
    robot.estimates.clear()
    robot.set_active(True)
    robot.until(lambda: len(robot.estimates) >= 4, "estimates of the second episode")
    assert not any(e.metadata["success"] for e in robot.estimates)


def test_a_silent_camera_is_told_and_nothing_waits_for_it(robot):
    robot.cameras_on = {"front"}
    for node in robot.processes:
        status = robot.wait_for_report(node, lambda s: s.level == DiagnosticStatus.WARN)
        assert status.message == "no images of wrist"
        assert "camera wrist: no image for" in robot.log(node)
    robot.cameras_on = set(CAMERAS)
    robot.estimates.clear()
    robot.until(lambda: robot.estimates, "estimates once it is back")


def test_a_discarded_episode_leaves_no_frame(robot):
    robot.set_active(False)
    robot.event("end", "", robot.stamp)
    robot.event("label", "discard", robot.stamp)
    robot.event("prepare")
    robot.until(lambda: "the episode was discarded" in robot.log("frame_collector"), "the discard")


def test_sigterm_keeps_what_is_labelled_and_training_can_read_it(robot, folder):
    """A success that was written, one that was discarded, a failure that SIGTERM comes upon."""
    from residual_smolvla_ros.success.frames import open_frames

    robot.set_active(True)
    robot.wait_for_value("frame_collector", "episode_frames", 5)
    robot.event("end", "failure", robot.stamp)
    robot.set_active(False)
    robot.wait_for_report("frame_collector", lambda s: s.message == "waiting for an episode")
    for process in robot.processes.values():
        process.send_signal(signal.SIGTERM)
    assert [process.wait(TIMEOUT_S) for process in robot.processes.values()] == [0, 0]
    assert "Traceback" not in robot.logs()
    frames = open_frames(folder / "frames").hf_dataset.data
    owners = frames.column("episode_index").to_numpy()
    rewards = frames.column("next.reward").to_numpy()
    assert set(owners) == {0, 1}
    assert 0 < rewards[owners == 0].sum() < (owners == 0).sum()
    assert rewards[owners == 1].sum() == 0
