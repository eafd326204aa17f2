"""Distance of a coloured object in an image, and the small images that it is found in."""

import cv2
import numpy as np
import pytest
import video_device
from camera_process import ros
from rclpy.parameter import Parameter
from rclpy.serialization import serialize_message

from residual_smolvla_ros.nodes.common import PipelineNode, to_stamp
from residual_smolvla_ros.nodes.parts.image_intake import ImageIntake
from residual_smolvla_ros.nodes.parts.images import to_compressed_message, to_image_message
from residual_smolvla_ros.rewards.composition import make_reward
from residual_smolvla_ros.rewards.term import RobotDescription
from residual_smolvla_ros.rewards.transition import Frame, Transition
from residual_smolvla_ros.robots.frames import encode_jpeg

DOMAIN = 43
MILLISECOND = 1_000_000
STATE = 10_000 * MILLISECOND
RED, GREEN, GREY = (200, 20, 20), (20, 200, 20), (90, 90, 90)
# Red is where the circle of hues closes: this range goes over it.
REDDISH = {"hsv_lower": [170, 100, 80], "hsv_upper": [10, 255, 255]}
GREENISH = {"hsv_lower": [50, 100, 80], "hsv_upper": [70, 255, 255]}


def scene(*boxes, width: int = 80, height: int = 60) -> np.ndarray:
    """A grey image with boxes: colour, left, top, width, height."""
    pixels = np.full((height, width, 3), GREY, np.uint8)
    for colour, left, top, w, h in boxes:
        pixels[top : top + h, left : left + w] = colour
    return pixels


def reward_of(**settings):
    values = {"weight": 1.0, "camera": "front"} | settings
    return make_reward({"image_distance": values}, RobotDescription(("pan",)), ["front"])


def step(pixels: np.ndarray, age_ms: int = 30) -> Transition:
    frame = Frame(STATE - age_ms * MILLISECOND, pixels)
    return Transition(stamp=0, next_stamp=STATE, tick=0, frames={"front": lambda: frame})


# 20x10 pixels with the centre at (50, 40) of 80x60, whose diagonal is 100 pixels.
BOX = (40, 35, 20, 10)


@pytest.mark.parametrize(
    ("point", "distance"),
    [([0.625, 2 / 3], 0.0), ([0.5, 0.5], np.hypot(10, 10) / 100), ([0.25, 2 / 3], 0.3)],
)
def test_the_distance_is_a_share_of_the_diagonal(point, distance):
    reward = reward_of(**GREENISH, point=point)
    assert reward(step(scene((GREEN, *BOX)))).total == pytest.approx(distance, abs=1e-6)


@pytest.mark.parametrize("hue", [0, 5, 175, 179])
def test_a_range_of_hues_may_go_over_red(hue):
    colour = cv2.cvtColor(np.uint8([[[hue, 220, 200]]]), cv2.COLOR_HSV2RGB)[0, 0]
    reward = reward_of(**REDDISH, point=[0.625, 2 / 3])
    assert reward(step(scene((colour, *BOX)))).total == pytest.approx(0.0, abs=1e-6)
    other = reward_of(**GREENISH, point=[0.625, 2 / 3])
    assert other(step(scene((colour, *BOX)))).total == 1.0


def test_the_largest_patch_is_the_object():
    reward = reward_of(**GREENISH, point=[0.625, 2 / 3])
    pixels = scene((GREEN, *BOX), (GREEN, 0, 0, 10, 10), (RED, 0, 50, 40, 10))
    assert reward(step(pixels)).total == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("min_area", "value"), [(0.04, np.hypot(10, 10) / 100), (0.05, 0.7)])
def test_what_is_too_small_is_not_seen(min_area, value):
    """200 of 4800 pixels are 0.0417."""
    reward = reward_of(**GREENISH, min_area=min_area, missing_value=0.7)
    shares = reward(step(scene((GREEN, *BOX))))
    assert (shares.total, shares.missing) == (pytest.approx(value, abs=1e-6), ())


def test_an_image_that_is_nothing_but_the_object_is_seen():
    assert reward_of(**GREENISH)(step(scene((GREEN, 0, 0, 80, 60)))).total == pytest.approx(0.0)


def failing():
    raise ValueError("front/image_raw: expected an image, found a broken one")


@pytest.mark.parametrize(
    ("transition", "text"),
    [
        (step(scene(), age_ms=201), "within 0.2 s of the state's, found one 0.201 s before it"),
        (Transition(0, STATE, 0), "camera front: expected an image, found none yet"),
        (Transition(0, STATE, 0, frames={"front": failing}), "front/image_raw: expected an image"),
    ],
)
def test_an_image_that_is_old_not_there_or_broken_is_missing(transition, text):
    reward = reward_of(**GREENISH)
    assert reward(transition).missing == ("image_distance",)
    assert text in reward.problems["image_distance"]


def test_an_image_may_be_exactly_as_old_as_allowed():
    assert reward_of(**GREENISH)(step(scene(), age_ms=200)).missing == ()


@pytest.fixture(scope="module")
def context():
    with ros(DOMAIN) as context:
        yield context


@pytest.fixture(params=["raw", "compressed"])
def intake(context, request):
    """An intake of one camera, and a function that gives it an image."""
    override = Parameter("image_transport", value=request.param)
    node = PipelineNode("intake", context=context, parameter_overrides=[override])
    intake = ImageIntake(node, ["front"], lockstep=False)

    def receive(pixels: np.ndarray) -> None:
        if request.param == "raw":
            message = to_image_message(pixels, to_stamp(STATE), "front")
        else:
            message = to_compressed_message(encode_jpeg(pixels, 95), to_stamp(STATE), "front")
        intake.receive("front", serialize_message(message))

    yield intake, receive
    node.destroy_node()


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_a_reduced_image_shows_the_same_scene(intake, factor):
    intake, receive = intake
    receive(scene((RED, 320, 240, 160, 120), width=641, height=480))
    pixels = intake.reduced("front", factor)
    assert (pixels.shape, pixels.dtype) == ((480 // factor, -(-641 // factor), 3), np.uint8)
    assert pixels.flags.c_contiguous
    red = reward_of(**REDDISH, point=[400 / 641, 300 / 480])(step(pixels))
    assert (red.total, red.missing) == (pytest.approx(0.0, abs=0.006), ())


def test_reduced_images_are_decoded_once_until_a_newer_image_comes(intake):
    intake, receive = intake
    receive(video_device.picture(1, (640, 480)))
    small, whole = intake.reduced("front", 4), intake.pixels("front")
    assert intake.reduced("front", 4) is small
    assert intake.pixels("front") is whole
    assert small.nbytes * 16 == whole.nbytes
    receive(video_device.picture(65535, (640, 480)))
    assert intake.reduced("front", 4).mean() > small.mean() + 50


def test_a_reduced_image_of_a_broken_message_is_refused(intake):
    intake, _ = intake
    with pytest.raises(ValueError, match=r"front/image_raw.*: expected an image, found none yet"):
        intake.reduced("front", 4)
    intake.receive("front", serialize_message(to_image_message(scene(), to_stamp(1), ""))[:60])
    with pytest.raises(ValueError, match=r"front/image_raw"):
        intake.reduced("front", 4)
