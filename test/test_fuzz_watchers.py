"""Hostile topics at the nodes that watch or help: console, recorder, success_classifier, teleop.

Strangers' messages fail no callback, and a flood of them neither grows memory nor costs more than a
control period has.
"""

import json
import time
from collections import deque

import made_session
import numpy as np
import psutil
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from hostile import HOSTILE, MEGABYTES, blobs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rcl_interfaces.msg import Log
from rclpy.executors import SingleThreadedExecutor
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import String, UInt8MultiArray

from residual_smolvla_ros import pipeline
from residual_smolvla_ros.nodes import console, recorder, success_classifier, teleop
from residual_smolvla_ros.nodes.common import to_message, to_stamp
from residual_smolvla_ros.nodes.parts.images import to_image_message
from residual_smolvla_ros.records import SUCCESS_ESTIMATE, unpack

DOMAIN = 116
NODES = ("console", "recorder", "success_classifier", "teleop")


class Page:
    """The console's server without a network: nobody looks, nobody presses."""

    clients, port = 0, 0

    def __init__(self, *_):
        pass

    def start(self) -> None:
        pass

    stop = start


class LeaderAtRest:
    """A leader arm that nobody moves."""

    joint_names, trouble, errors = ("pan",), "", 0

    def __init__(self, _):
        pass

    def connect(self) -> None:
        pass

    close = connect

    def poll(self) -> np.ndarray:
        return np.zeros(1)


class Model:
    """A reward model that is sure."""

    type, meaning, cameras, normalised = "sure", "certainty", ("front",), True

    @classmethod
    def load(cls, *_):
        return cls()

    def check_cameras(self, _) -> None:
        pass

    def reset(self, task: str = "") -> None:
        pass

    def predict(self, images: dict) -> float:
        assert images["front"].dtype == np.uint8
        return 1.0


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """The nodes by name, and what is slow about them left out."""
    folder = tmp_path_factory.mktemp("watchers")
    sections = {"recorder": {"bag": str(folder / "bag"), "dataset": str(folder / "dataset"),
                             "dataset_videos": False, "session": "{}", "cameras": ["front"],
                             "image_transport": "raw"}}  # fmt: skip
    file = folder / "nodes.yaml"
    file.write_text(json.dumps({f"/**/{n}": {"ros__parameters": p} for n, p in sections.items()}))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in pipeline.environment().items():
            patch.setenv(name, value)
        patch.setattr(console, "ConsoleServer", Page)
        patch.setattr(recorder, "describe", lambda outline: made_session.session())
        patch.setattr(success_classifier, "SuccessModel", Model)
        patch.setattr(teleop, "Leader", LeaderAtRest)
        rclpy.init(args=["--ros-args", "--params-file", str(file)], domain_id=DOMAIN)
        made = [console.ConsoleNode(), recorder.RecorderNode(),
                success_classifier.SuccessClassifierNode(), teleop.TeleopNode()]  # fmt: skip
        made[0].look()
        made[0]._follow_viewers()
        for source in made[1]._sources:  # as if each had a publisher
            made[1]._subscribe(source, [console.WATCH_QOS])
        yield {node.get_name(): node for node in made}
        for node in made:
            node.close()
            node.destroy_node()
        rclpy.shutdown()


def take(node, subscription, message) -> None:
    """Hand a message to a subscription as rclpy does."""
    topic = subscription.topic_name.removeprefix("/")
    if node.get_name() == "recorder":
        (source,) = [s for s, heard in node._heard if heard is subscription]
        blob = message if isinstance(message, bytes) else serialize_message(message)
        node._take(source, blob, {"publication_sequence_number": 1, "received_timestamp": 0})
    elif topic.endswith("image_raw"):
        subscription.callback(message if isinstance(message, bytes) else serialize_message(message))
    else:
        subscription.callback(message)


def hostile(kind: type):
    """Yield messages of a type that nobody should send."""
    if kind in HOSTILE:
        yield from HOSTILE[kind]()
    elif kind is String:
        yield from (String(data=text) for text in ("", "\0", "x" * MEGABYTES, "[" * 9000))
    elif kind is Log:
        for level in (0, 30, 40, 255):
            yield Log(level=level, name="a.b/c\n", msg="x" * MEGABYTES)
    elif kind is DiagnosticArray:
        for level in (b"\x00", b"\x02", b"\xff"):
            values = [KeyValue(key="mode", value="x" * 100_000)]
            status = DiagnosticStatus(level=level, name="/\n" * 999, values=values)
            status.hardware_id, status.message = "residual_smolvla_ros", "x" * MEGABYTES
            yield DiagnosticArray(status=[status, DiagnosticStatus()])


@pytest.mark.parametrize("name", NODES)
def test_no_message_on_any_topic_fails_a_callback(nodes, name):
    node, topics = nodes[name], 0
    for subscription in list(node.subscriptions):
        messages = list(hostile(subscription.msg_type))
        if subscription.topic_name.endswith("image_raw") or name == "recorder":
            messages += [b"", b"\x00\x01\x00\x00", b"\xff" * 64]
        refused, sent = node.refused, 0
        for message in messages:
            take(node, subscription, message)
            sent += 1
        topics += bool(sent)
        if subscription.msg_type is UInt8MultiArray and name != "recorder":
            assert node.refused - refused == sent, subscription.topic_name
    assert topics >= 1
    node._report()


def test_the_console_shows_what_came_and_not_megabytes_of_it(nodes):
    """A page would be sent each text again and again, ten times a second."""
    for subscription in nodes["console"].subscriptions:
        for message in hostile(subscription.msg_type):
            take(nodes["console"], subscription, message)
    view = nodes["console"]._state.view()
    assert len(repr(view)) < 300_000


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    stamp=st.tuples(st.integers(-(2**31), 2**31 - 1), st.integers(0, 2**32 - 1)),
    shape=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    size=st.integers(0, 30),
    encoding=st.sampled_from(["rgb8", "bgr8", "mono8", "16UC1", "bayer_rggb8", "yuv422", ""]),
)
def test_whatever_image_comes_success_is_estimated_from_the_next_that_is_one(
    nodes, stamp, shape, size, encoding
):
    node = nodes["success_classifier"]
    node._on_active(success_classifier.Bool(data=True))
    (images,) = [s for s in node.subscriptions if s.msg_type is Image]
    published = []
    node._estimates = type("Publisher", (), {"publish": staticmethod(published.append)})
    strange = Image(width=shape[0], height=shape[1], encoding=encoding, step=3 * shape[0])
    strange.data = bytes(size)
    strange.header.stamp.sec, strange.header.stamp.nanosec = stamp
    take(node, images, strange)
    settle(node)
    for stamp in (10**12, 2 * 10**12, 3 * 10**12):
        pixels = np.zeros((4, 4, 3), np.uint8)
        take(node, images, to_image_message(pixels, to_stamp(stamp), "front"))
        settle(node)
    newest = unpack(SUCCESS_ESTIMATE, bytes(published[-1].data))
    assert newest.metadata["stamp"] == 3 * 10**12
    assert newest.metadata["success"]


def settle(node) -> None:
    """Let the prediction under way come to its end."""
    while node._prediction is not None:
        node._prediction.exception(timeout=10)
        node._on_predicted()


# -- floods: what is refused costs less than 1 ms, so that 1 kHz of it leaves room for the rest ---

COUNT = 2000


def flood(node, subscription, messages) -> tuple[float, float]:
    """Take many messages; return CPU seconds of each and bytes that memory grew by in its half."""
    messages, process, grown = deque(messages), psutil.Process(), []
    begun = time.thread_time()
    for _ in range(2):
        for _ in range(COUNT // 2):
            take(node, subscription, messages[0])
            messages.rotate()
        grown.append(process.memory_info().rss)
    return (time.thread_time() - begun) / COUNT, grown[1] - grown[0]


@pytest.mark.parametrize(
    ("name", "topic"),
    [
        ("console", "episode/event"),
        ("console", "policy/step"),
        ("recorder", "policy/step"),
        ("recorder", "episode/event"),
        ("success_classifier", "front/image_raw"),
    ],
)
def test_a_flood_of_1_khz_leaves_room_for_what_is_valid(nodes, name, topic):
    node = nodes[name]
    (subscription,) = [s for s in node.subscriptions if s.topic_name == f"/{topic}"]
    wrong = [b"\x00\x01\x00\x00", b"\xff" * 64]
    if subscription.msg_type is UInt8MultiArray:
        wrong = [to_message(blob) for blob in blobs() if len(blob) < 10_000]
    seconds, grown = flood(node, subscription, wrong)
    assert seconds < 1e-3
    assert grown < 20e6


def test_nodes_that_nobody_started_and_lines_that_differ_do_not_fill_the_console(nodes):
    node = nodes["console"]
    (reports,) = [s for s in node.subscriptions if s.msg_type is DiagnosticArray]
    (logs,) = [s for s in node.subscriptions if s.msg_type is Log]
    for index in range(COUNT):
        status = DiagnosticStatus(name=f"/stranger_{index}", hardware_id="residual_smolvla_ros")
        take(node, reports, DiagnosticArray(status=[status]))
        take(node, logs, Log(level=30, name="stranger", msg=f"{index}"))
    assert len(node._state._reports) <= 200
    assert len(node._state.view().warnings) <= 300


def test_the_recorder_goes_on_after_all_that(nodes):
    node = nodes["recorder"]
    assert node._thread.error == ""
    assert node._dataset._thread.error == ""
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    written = node._thread.written
    (subscription,) = [s for s in node.subscriptions if s.topic_name == "/task"]
    take(node, subscription, String(data="Lift"))
    for _ in range(100):
        executor.spin_once(timeout_sec=0.1)
        if node._thread.written > written:
            break
    assert node._thread.written > written
    executor.remove_node(node)
