"""The real `camera` node on a device that is plugged in, unplugged and hangs."""

import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
import video_device
from camera_process import Camera, ros, start_node
from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from residual_smolvla_ros.nodes.common import to_nanoseconds
from residual_smolvla_ros.nodes.parts.images import from_compressed_message, from_image_message
from residual_smolvla_ros.robots.cameras import CameraStream
from residual_smolvla_ros.robots.lerobot_config import camera_config

pytestmark = pytest.mark.realtime

DOMAIN = 41
CALIBRATION = """
image_width: 320
image_height: 240
camera_name: side
camera_matrix: {rows: 3, cols: 3, data: [300, 0, 160, 0, 301, 120, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [0.1, -0.2, 0.001, 0, 0]}
rectification_matrix: {rows: 3, cols: 3, data: [1, 0, 0, 0, 1, 0, 0, 0, 1]}
projection_matrix: {rows: 3, cols: 4, data: [290, 0, 161, 0, 0, 291, 121, 0, 0, 0, 1, 0]}
"""


@pytest.fixture(scope="module")
def context():
    """ROS on a domain of its own."""
    with ros(DOMAIN) as context:
        yield context


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("camera")
    (folder / "good.yaml").write_text(CALIBRATION)
    (folder / "bad.yaml").write_text(CALIBRATION.replace("301, ", ""))
    return folder


@pytest.fixture(scope="module")
def wrong(context, folder):
    """Nodes that must not come up. All nodes start at once: each imports LeRobot for seconds."""
    bad = {"camera_info_url": folder / "bad.yaml"}
    pipe = subprocess.PIPE
    processes = {
        "config": start_node("wrong_config", {}, pipe, type="opencv", index_or_path=0, widht=640),
        "calibration": start_node("wrong_file", bad, pipe, type="opencv", index_or_path=0),
    }
    yield processes
    for process in processes.values():
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def side(context, folder):
    """A camera that sends no JPEG, with a calibration; plugged in later."""
    device = video_device.VideoDevice(folder / "side", "ffv1")
    camera = Camera(context, "side", device, camera_info_url=f"file://{folder / 'good.yaml'}")
    yield camera
    camera.close()


@pytest.fixture(scope="module")
def front(context, folder, side, wrong):
    """A camera that sends JPEG."""
    device = video_device.VideoDevice(folder / "front")
    device.plug()
    camera = Camera(context, "front", device)
    yield camera
    camera.close()


def counters(images: list[Image]) -> list[int]:
    return [video_device.read_counter(from_image_message(image)) for image in images]


def stamps(messages: list) -> list[int]:
    return [to_nanoseconds(message.header.stamp) for message in messages]


def test_frames_arrive_in_order_with_rising_stamps(front):
    images = front.subscribe(Image, "image_raw")
    infos = front.subscribe(CameraInfo, "camera_info")
    front.wait_until(lambda: len(images) >= 20 and len(infos) >= 5)
    assert counters(images) == sorted(set(counters(images)))
    assert stamps(images) == sorted(set(stamps(images)))
    assert set(stamps(infos)) & set(stamps(images))
    assert 0 <= time.time_ns() - stamps(images)[-1] < 10_000_000_000
    assert (images[0].encoding, images[0].header.frame_id) == ("rgb8", "front_optical_frame")
    assert (infos[0].width, infos[0].height) == (320, 240)
    assert not infos[0].k.any()  # uncalibrated
    front.unsubscribe()


def test_the_camera_s_own_jpeg_is_passed_on_to_the_bit(front):
    jpegs = front.subscribe(CompressedImage, "image_raw/compressed")
    front.wait_until(lambda: len(jpegs) >= 10)
    for message in jpegs:
        counter = video_device.read_counter(from_compressed_message(message))
        assert bytes(message.data) == video_device.jpeg(counter)
        assert message.format == "jpeg"
    front.unsubscribe()


def test_nothing_is_decoded_while_nobody_subscribes(front):
    # The node learns of the unsubscription by discovery: from then on its count stands still.
    def still() -> bool:
        values = [report[2] for report in front.reports[-2:]]
        return (
            len(values) == 2
            and values[0]["decoded"] == values[1]["decoded"]
            and int(values[1]["frames"]) > int(values[0]["frames"])
        )

    front.reports.clear()
    front.wait_until(still)
    assert front.reports[-1][2]["encoded"] == "0"


def test_an_unplugged_camera_falls_silent_and_comes_back(front):
    images = front.subscribe(Image, "image_raw")
    jpegs = front.subscribe(CompressedImage, "image_raw/compressed")
    front.wait_until(lambda: images and jpegs)
    told = front.output()
    front.device.unplug()
    message, values = front.wait_for_level(DiagnosticStatus.ERROR)
    assert message.startswith("camera gone: ")
    assert "gone_since" in values
    images.clear()
    jpegs.clear()
    front.wait_for_level(DiagnosticStatus.ERROR)
    front.wait_for_level(DiagnosticStatus.ERROR)
    assert not images
    assert not jpegs
    front.device.plug(first=5000)
    front.wait_until(lambda: len(images) >= 5 and len(jpegs) >= 5)
    assert min(counters(images)) >= 5000
    front.wait_for_level(DiagnosticStatus.OK)
    lines = front.output().removeprefix(told).splitlines()
    assert len(lines) == 2, lines
    assert "camera gone: " in lines[0]
    assert "camera is back" in lines[1]


def test_a_camera_that_hangs_is_gone_and_comes_back(front):
    images = front.subscribe(Image, "image_raw")
    front.wait_until(lambda: images)
    front.device.hang()
    message, _ = front.wait_for_level(DiagnosticStatus.ERROR)
    assert message == "camera gone: no frame for 1.0 s"
    images.clear()
    front.device.unplug()
    front.device.plug(first=10_000)
    front.wait_until(lambda: len(images) >= 5)
    assert min(counters(images)) >= 10_000


def test_a_camera_is_waited_for_and_encoded_while_someone_subscribes(side):
    message, _ = side.wait_for_level(DiagnosticStatus.ERROR)
    assert message == f"camera gone: {side.device.path}: no such device"
    side.device.plug()
    _, values = side.wait_for_level(DiagnosticStatus.OK)
    assert values["encoded"] == "0"
    jpegs = side.subscribe(CompressedImage, "image_raw/compressed")
    infos = side.subscribe(CameraInfo, "camera_info")
    side.wait_until(lambda: len(jpegs) >= 10 and infos)
    seen = [video_device.read_counter(from_compressed_message(message)) for message in jpegs]
    assert seen == sorted(set(seen))
    assert infos[0].k.tolist() == [300, 0, 160, 0, 301, 120, 0, 0, 1]
    assert infos[0].p.tolist() == [290, 0, 161, 0, 0, 291, 121, 0, 0, 0, 1, 0]
    assert list(infos[0].d) == [0.1, -0.2, 0.001, 0, 0]
    assert infos[0].distortion_model == "plumb_bob"


def test_it_ends_on_ctrl_c_and_on_sigterm(front, side):
    for camera, signum in ((front, signal.SIGINT), (side, signal.SIGTERM)):
        camera.process.send_signal(signum)
        assert camera.process.wait(timeout=15) == 0
        assert "Traceback" not in camera.output()


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("config", "camera: error: camera: expected the fields of LeRobot's opencv, found"),
        ("calibration", "camera: error: camera_info_url: expected a calibration"),
    ],
)
def test_a_wrong_configuration_ends_the_node_with_one_line(wrong, what, line):
    output, _ = wrong[what].communicate(timeout=60)
    assert wrong[what].returncode == 1
    assert output.startswith(line), output
    assert len(output.splitlines()) == 1, output


@pytest.mark.parametrize(("rotation", "passed_on"), [(0, True), (90, False)])
def test_a_rotated_frame_is_not_the_camera_s_own_jpeg(tmp_path, rotation, passed_on):
    device = video_device.VideoDevice(tmp_path / "front")
    fields = {"type": "opencv", "index_or_path": str(device.path), "rotation": rotation}
    arrived = threading.Event()
    stream = CameraStream(camera_config(fields), arrived.set)
    device.plug()
    stream.start()
    try:
        assert arrived.wait(60)
        frame = stream.take()
    finally:
        stream.close()
        device.unplug()
    assert (frame.jpeg is not None) == passed_on
    assert (frame.width, frame.height) == ((320, 240) if passed_on else (240, 320))
    assert frame.to_pixels().shape == (frame.height, frame.width, 3)
