"""The recorder: what is heard is written, to the last message, whatever ends it."""

import json
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import rclpy
from camera_process import ros
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image, JointState

from residual_smolvla_ros import pipeline
from residual_smolvla_ros.arguments import FINETUNE
from residual_smolvla_ros.errors import BagError
from residual_smolvla_ros.nodes.common import to_stamp
from residual_smolvla_ros.nodes.parts.images import to_image_message
from residual_smolvla_ros.recording.bag_reader import Bag
from residual_smolvla_ros.recording.bag_thread import BagThread
from residual_smolvla_ros.recording.session import Session, describe, image_topic, read_session
from residual_smolvla_ros.robots.frames import decode

pytestmark = pytest.mark.realtime

DOMAIN = 33
BURST = 100  # messages that are sent at once
STRING = "std_msgs/msg/String"


# -- without ROS -----------------------------------------------------------------------------------


def test_messages_are_sorted_by_stamp_though_images_take_time_to_encode(tmp_path):
    thread = BagThread(tmp_path / "bag", 1_000_000)
    now = time.time_ns()
    thread.put("image", STRING, b"a", now + 3, encode=lambda data: time.sleep(0.05) or data * 2)
    thread.put("image", STRING, b"", now + 4, encode=lambda data: data.index(b"x"))
    thread.put("late", STRING, b"b", now + 1)
    thread.put("step", STRING, b"c", now + 2)
    thread.close(timeout_s=10)
    with Bag(tmp_path / "bag") as bag:
        assert [m.data for m in bag.messages()] == [b"b", b"c", b"aa"]
    assert (thread.written, thread.dropped, thread.refused) == (3, 0, 1)
    assert thread.refusal == "image: subsection not found"


def test_what_a_killed_recorder_leaves_reads_up_to_the_last_second(tmp_path):
    thread = BagThread(tmp_path / "bag", 1_000_000)
    put_at, head = time.monotonic(), thread.size
    thread.put("step", STRING, b"data", time.time_ns())
    while thread.size == head:
        assert time.monotonic() - put_at < 2.0  # 1 s on an idle machine
        time.sleep(0.01)
    with Bag(tmp_path / "bag" / "bag_0.mcap") as bag:  # as the file is now
        assert [m.data for m in bag.messages()] == [b"data"]
        assert bag.truncated
    thread.close(timeout_s=10)


def test_a_disk_that_is_too_slow_drops_images_and_counts_them(tmp_path):
    thread = BagThread(tmp_path / "bag", max_waiting=1000)
    later = time.time_ns() + 10**9
    for _ in range(3):
        thread.put("image", STRING, b"x" * 400, later, is_image=True)
    thread.put("step", STRING, b"x" * 400, later)
    thread.close(timeout_s=10)
    assert (thread.written, thread.dropped) == (3, 1)


def test_an_end_that_cannot_wait_for_images_keeps_everything_else(tmp_path):
    thread, released = BagThread(tmp_path / "bag", 1_000_000), threading.Event()
    thread.put("image", STRING, b"a", 1, encode=lambda data: released.wait() and data)
    thread.put("step", STRING, b"b", 2)
    thread.close(timeout_s=0.1)
    released.set()
    with Bag(tmp_path / "bag") as bag:
        assert [m.data for m in bag.messages()] == [b"b"]
    assert (thread.written, thread.dropped) == (1, 1)


def recorder_of(output: Path, **given) -> pipeline.NodeSpec:
    built = pipeline.build(FINETUNE, {"record": "true", "output": str(output)} | given)
    return next(node for node in built.nodes if node.executable == "recorder")


def test_the_description_explains_the_run(tmp_path):
    config = tmp_path / "my.yaml"
    config.write_text(
        "/**/pipeline: {ros__parameters: {task: Grab, eval_episodes: 3}}\n"
        "/**/reward: {ros__parameters: {terms: {success: {weight: 2.0}}}}\n"
        "/**: {ros__parameters: {seed: 5}}\n"
    )
    node = recorder_of(tmp_path / "run", config=str(config), seed="7")
    session = Session.from_json(describe(node.parameters["session"]).to_json())
    assert session.mode == FINETUNE
    assert session.arguments["task"] == "Grab"
    assert session.cameras == ["front", "wrist"]
    assert session.parameters("reward")["terms.success.weight"] == 2.0
    assert session.parameters("learner")["seed"] == 7
    assert session.parameters("policy")["seed"] == 5
    assert session.parameter_files == {str(config): config.read_text()}
    assert len(session.base_checkpoint["sha256"]) == 64
    assert (session.resumed, session.start_checkpoint) == (False, "")
    with pytest.raises(BagError, match="expected a node teleop, found so101_sim"):
        session.parameters("teleop")


@pytest.mark.parametrize("text", ["hello", "[]", '{"mode": "finetune"}'])
def test_other_text_is_no_session_of_this_package(text):
    with pytest.raises(BagError, match="expected a session of this package"):
        Session.from_json(text)


# -- the node --------------------------------------------------------------------------------------


class Recorder:
    """The node in a process of its own, and the robot that it listens to, in a namespace."""

    def __init__(self, folder: Path, context):
        self.bag, self._log = folder / "bag", folder / "log"
        node = recorder_of(folder / "run", camera_period_steps="1")
        values = node.parameters | {
            "bag": str(self.bag), "cameras": ["front"], "needed": ["joint_states"],
        }  # fmt: skip
        file = folder / "recorder.json"
        file.write_text(json.dumps({"/**": {"ros__parameters": values}}))
        self.process = subprocess.Popen(
            [sys.executable, "-m", node.module,
             "--ros-args", "--params-file", str(file), "-r", "__ns:=/arm"],
            stdout=self._log.open("w"), stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._node = rclpy.create_node("robot", context=context, namespace="/arm")
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self._node)
        # Deep: on a busy machine none may give way to the next before it is on its way.
        qos = QoSProfile(depth=BURST)
        self._states = self._node.create_publisher(JointState, "joint_states", qos)
        self._images = self._node.create_publisher(Image, "front/image_raw", qos)
        heard = (self._states, self._images)
        self.wait_until(lambda: self._node.count_publishers("session"))
        self.wait_until(lambda: all(one.get_subscription_count() for one in heard))

    def publish(self, tick: int) -> np.ndarray:
        """Publish a state and an image that no compression makes small; return its pixels."""
        stamp = to_stamp(tick + 1)
        pixels = np.random.default_rng(tick).integers(0, 256, (120, 160, 3), dtype=np.uint8)
        self._images.publish(to_image_message(pixels, stamp, "front_optical_frame"))
        state = JointState(name=["pan"], position=[float(tick)])
        state.header.stamp = stamp
        self._states.publish(state)
        return pixels

    def wait_until(self, condition, timeout_s: float = 60) -> None:
        """Spin until a condition holds, while the node lives."""
        end = time.monotonic() + timeout_s
        while not condition():
            assert self.process.poll() is None, self.log
            assert time.monotonic() < end, self.log
            self._executor.spin_once(timeout_sec=0.02)

    def stop(self) -> int:
        """End the node as the starter does; return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)

    def close(self) -> None:
        """End what a failed test left."""
        self.process.kill()
        self.process.wait()
        self._node.destroy_node()

    @property
    def log(self) -> str:
        return self._log.read_text()


@pytest.fixture(scope="module")
def context():
    with ros(DOMAIN) as context:
        yield context


@pytest.fixture
def start(tmp_path, context):
    started = []

    def start() -> Recorder:
        started.append(Recorder(tmp_path, context))
        return started[-1]

    yield start
    for recorder in started:
        recorder.close()


def test_what_was_sent_before_the_end_is_in_the_bag(start):
    """The end of a session finds images that wait to be compressed, and states in DDS."""
    recorder = start()
    sent = [recorder.publish(tick) for tick in range(BURST)]
    assert recorder.stop() == 0
    assert "missing" in recorder.log
    with Bag(recorder.bag) as bag:
        assert not bag.truncated
        assert bag.namespace == "/arm/"
        assert read_session(bag).mode == FINETUNE
        assert next(bag.messages()).topic == "session"
        states = [bag.decode(m) for m in bag.messages(["joint_states"])]
        assert [s.position[0] for s in states] == list(range(BURST))
        images = [bag.decode(m) for m in bag.messages([image_topic("front")])]
    assert [i.header.stamp.nanosec for i in images] == list(range(1, BURST + 1))
    assert all((decode(i.data) == s).all() for i, s in zip(images, sent, strict=True))
    assert images[0].header.frame_id == "front_optical_frame"


def test_a_full_disk_is_told_once_and_ends_the_bag_only(start):
    recorder = start()
    # Not before: the memory that DDS shares between processes consists of files, too.
    resource.prlimit(recorder.process.pid, resource.RLIMIT_FSIZE, (2_500_000, 2_500_000))
    ticks = iter(range(10_000))
    recorder.wait_until(lambda: recorder.publish(next(ticks)) is None or "bag ends" in recorder.log)
    recorder.publish(next(ticks))
    assert recorder.stop() == 0
    assert recorder.log.count("[ERROR]") == 1
    assert "expected room to write, found: File too large" in recorder.log
    with Bag(recorder.bag) as bag:
        assert bag.truncated == "File too large"
        assert read_session(bag)
        images = len(list(bag.messages([image_topic("front")])))
        assert images == bag.counts[image_topic("front")] >= 10
