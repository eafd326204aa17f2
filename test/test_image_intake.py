"""Images are taken in by their stamps, and decoded only when asked for."""

import struct

import numpy as np
import pytest
import video_device
from builtin_interfaces.msg import Time
from camera_process import ros
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.nodes.common import PipelineNode, image_qos, to_stamp
from residual_smolvla_ros.nodes.parts.image_intake import ImageIntake, read_stamp
from residual_smolvla_ros.nodes.parts.images import to_compressed_message, to_image_message

DOMAIN = 42
SECOND = 1_000_000_000


class Cameras:
    """Two cameras and an intake, on real topics."""

    def __init__(self, node: PipelineNode, executor, transport: str, lockstep: bool):
        self.node, self.executor, self.transport = node, executor, transport
        self.lockstep = lockstep
        self.calls: list[str] = []
        self.intake = ImageIntake(node, ["front", "wrist"], lockstep, self.calls.append)
        kind, topic = {
            "raw": (Image, "image_raw"),
            "compressed": (CompressedImage, "image_raw/compressed"),
        }[transport]
        self.publishers = {
            name: node.create_publisher(kind, f"{name}/{topic}", image_qos(lockstep))
            for name in ("front", "wrist")
        }
        self.spin_until(lambda: all(p.get_subscription_count() for p in self.publishers.values()))

    def spin_until(self, condition) -> None:
        for _ in range(600):
            if condition():
                return
            self.executor.spin_once(timeout_sec=0.1)
        raise AssertionError("not in time")

    def message(self, counter: int, stamp: int) -> Image | CompressedImage:
        if self.transport == "raw":
            return to_image_message(video_device.picture(counter), to_stamp(stamp), "front")
        return to_compressed_message(video_device.jpeg(counter), to_stamp(stamp), "front")

    def send(self, name: str, message) -> None:
        """Publish a message and wait until it has arrived."""
        calls = len(self.calls)
        self.publishers[name].publish(message)
        self.spin_until(lambda: len(self.calls) > calls)


@pytest.fixture(scope="module")
def context():
    with ros(DOMAIN) as context:
        yield context


def make_node(context, transport: str) -> PipelineNode:
    override = Parameter("image_transport", value=transport)
    return PipelineNode("intake", context=context, parameter_overrides=[override])


@pytest.fixture(params=[("raw", False), ("raw", True), ("compressed", False)])
def cameras(context, request):
    node = make_node(context, request.param[0])
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    yield Cameras(node, executor, *request.param)
    executor.shutdown()
    node.destroy_node()


def test_the_newest_image_wins_and_its_stamp_is_right(cameras):
    intake = cameras.intake
    assert intake.stamp("front") is None
    assert intake.oldest_stamp() is None
    for counter, stamp in ((1, 5 * SECOND + 1), (2, 6 * SECOND + 2), (3, 7 * SECOND + 3)):
        cameras.send("front", cameras.message(counter, stamp))
        assert intake.stamp("front") == stamp
    assert intake.oldest_stamp() is None  # no image of the other camera yet
    cameras.send("wrist", cameras.message(9, 6 * SECOND))
    assert intake.oldest_stamp() == 6 * SECOND
    assert video_device.read_counter(intake.pixels("front")) == 3
    assert video_device.read_counter(intake.pixels("wrist")) == 9
    assert cameras.calls == ["front", "front", "front", "wrist"]


def test_pixels_are_decoded_once_until_a_newer_image_comes(cameras):
    cameras.send("front", cameras.message(1, SECOND))
    first = cameras.intake.pixels("front")
    assert (first.shape, first.dtype) == ((240, 320, 3), np.uint8)
    assert cameras.intake.pixels("front") is first
    cameras.send("front", cameras.message(2, 2 * SECOND))
    assert video_device.read_counter(cameras.intake.pixels("front")) == 2


def test_a_broken_image_is_refused_when_asked_for_and_the_next_one_is_fine(cameras):
    broken = cameras.message(1, SECOND)
    broken.data = broken.data[: len(broken.data) // 2]
    cameras.send("front", broken)
    assert cameras.intake.stamp("front") == SECOND
    assert cameras.node.refused == 0
    with pytest.raises(ValueError, match=r"front/image_raw.*: .*expected.*found"):
        cameras.intake.pixels("front")
    cameras.send("front", cameras.message(2, 2 * SECOND))
    assert video_device.read_counter(cameras.intake.pixels("front")) == 2


def test_a_message_that_does_not_deserialise_is_refused_when_asked_for(cameras):
    whole = serialize_message(cameras.message(1, SECOND))
    cameras.intake.receive("front", whole[:-100])
    assert cameras.intake.stamp("front") == SECOND
    with pytest.raises(ValueError, match="front/image_raw"):
        cameras.intake.pixels("front")


def test_a_message_without_a_stamp_is_refused_and_counted(cameras):
    cameras.intake.receive("front", b"\x00\x01\x00\x00\x05\x00\x00\x00")
    assert cameras.intake.stamp("front") is None
    assert cameras.node.refused == 1
    with pytest.raises(ValueError, match=r"front/image_raw.*: expected an image, found none"):
        cameras.intake.pixels("front")


def test_stamps_are_read_in_either_byte_order():
    little = serialize_message(to_compressed_message(b"", Time(sec=-1, nanosec=7), "front"))
    assert read_stamp(little) == -SECOND + 7
    assert read_stamp(b"\x00\x00\x00\x00" + struct.pack(">iI", 3, 4)) == 3 * SECOND + 4
    with pytest.raises(ValueError, match="found 12 bytes"):
        read_stamp(b"\x7f" * 12)


def test_an_unknown_transport_is_named(context):
    node = make_node(context, "theora")
    with pytest.raises(ConfigError, match="expected raw or compressed, found 'theora'"):
        ImageIntake(node, ["front"], lockstep=False)
    node.destroy_node()


def test_images_fit_by_their_age_in_real_time_and_by_their_stamp_in_lockstep(cameras):
    """A camera that has gone ends a chunk that is under way; an old image starts none."""
    assert not cameras.intake.fit(SECOND, for_plan=True)
    for name in ("front", "wrist"):
        cameras.send(name, cameras.message(1, SECOND))
    fit = cameras.intake.fit
    ages_ms = (0, 40, 60, 140, 160)
    for_plan = [fit(SECOND + age * 1_000_000, for_plan=True) for age in ages_ms]
    to_go_on = [fit(SECOND + age * 1_000_000, for_plan=False) for age in ages_ms]
    if cameras.lockstep:
        assert for_plan == [True, False, False, False, False]
        assert all(to_go_on)
    else:
        assert for_plan == [True, True, False, False, False]
        assert to_go_on == [True, True, True, True, False]
        assert "front (160 ms old)" in cameras.intake.describe(SECOND + 160_000_000)
