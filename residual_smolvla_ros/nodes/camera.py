"""Node `camera`: one LeRobot camera -> image topics, for as long as it takes.

`camera.type` and the other `camera.*` parameters are the fields of LeRobot's camera configuration.
Only what someone subscribes to is decoded, encoded and published.
"""

import time
from datetime import datetime
from pathlib import Path

import yaml
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.nodes.common import image_qos, to_stamp
from residual_smolvla_ros.nodes.common import main as run
from residual_smolvla_ros.nodes.parts.images import to_compressed_message, to_image_message
from residual_smolvla_ros.nodes.parts.managed import ManagedNode
from residual_smolvla_ros.parameters import About
from residual_smolvla_ros.robots.cameras import RETRY_S, CameraStream
from residual_smolvla_ros.robots.frames import Frame
from residual_smolvla_ros.robots.lerobot_config import camera_config


class CameraNode(ManagedNode):
    """Publish the frames of a camera, stamped with the time of their capture."""

    _stream: CameraStream | None = None

    def __init__(self):
        super().__init__("camera", automatically_declare_parameters_from_overrides=True)

    def configure(self) -> None:
        """Open the camera, for as long as it takes."""
        name = self.parameter("name", "camera", "topic name of the camera")
        frame_id = self.parameter(
            "frame_id", "", "frame of the images (REP-103); default: <name>_optical_frame"
        )
        url = self.parameter(
            "camera_info_url", "", "calibration file as camera_calibration writes it, or file://"
        )
        self._quality = self.parameter(
            "jpeg_quality", 90, About("where the camera sends no JPEG itself", 1, 100)
        )
        if not name:
            raise ConfigError("name: expected the topic name of the camera, found none")
        self._frame_id = frame_id or f"{name}_optical_frame"
        self._calibration = load_calibration(url.removeprefix("file://")) if url else None
        config = camera_config(
            self.group("camera", "the camera, as in LeRobot's `--robot.cameras`")
        )

        qos = image_qos(lockstep=False)
        self._images = self.create_publisher(Image, f"{name}/image_raw", qos)
        self._jpegs = self.create_publisher(CompressedImage, f"{name}/image_raw/compressed", qos)
        self._infos = self.create_publisher(CameraInfo, f"{name}/camera_info", qos)
        self.counts = dict.fromkeys(("frames", "decoded", "encoded", "damaged"), 0)
        self._was_gone = False
        self._size: tuple[int, int] | None = None
        # The reading thread only wakes the executor: all of ROS stays in one thread.
        changed = self.create_guard_condition(self._on_change)
        self._stream = CameraStream(config, changed.trigger)
        self._stream.start()

    def _on_change(self) -> None:
        self._tell_gone()
        frame = self._stream.take()
        if frame is None or not self.active:
            return
        self.tally("frames")
        size = (frame.width, frame.height)
        if size != self._size:
            self._size = size
            self._check_calibration()
        age = time.perf_counter() - frame.captured
        stamp = to_stamp(self.now_ns() - round(1e9 * age))
        if self._infos.get_subscription_count():
            self._infos.publish(self._camera_info(stamp))
        if self._jpegs.get_subscription_count():
            self._publish_jpeg(frame, stamp)
        if self._images.get_subscription_count():
            self._publish_image(frame, stamp)

    def _tell_gone(self) -> None:
        """Log once that the camera went away, and once that it is back."""
        gone = self._stream.gone
        if gone and not self._was_gone:
            self.get_logger().error(
                f"camera gone: {gone.reason}; trying to open it every {RETRY_S:.0f} s"
            )
        elif self._was_gone and not gone:
            self.get_logger().warning("camera is back")
        self._was_gone = gone is not None

    def _publish_jpeg(self, frame: Frame, stamp: Time) -> None:
        if frame.jpeg is None:
            self.tally("encoded")
        jpeg = frame.to_jpeg(self._quality)
        self._jpegs.publish(to_compressed_message(jpeg, stamp, self._frame_id))

    def _publish_image(self, frame: Frame, stamp: Time) -> None:
        if frame.pixels is None:
            self.tally("decoded")
        try:
            pixels = frame.to_pixels()
        except ValueError as error:
            self.tally("damaged")
            self.get_logger().warning(f"frame: {error}", throttle_duration_sec=5.0)
            return
        self._images.publish(to_image_message(pixels, stamp, self._frame_id))

    def _camera_info(self, stamp: Time) -> CameraInfo:
        width, height = self._size
        # Without a calibration K is all zeros, as sensor_msgs defines it.
        message = self._calibration or CameraInfo(width=width, height=height)
        message.header.stamp = stamp
        message.header.frame_id = self._frame_id
        return message

    def _check_calibration(self) -> None:
        info = self._calibration
        if info and (info.width, info.height) != self._size:
            self.get_logger().error(
                f"camera_info_url: expected a calibration of {self._size[0]}x{self._size[1]}, "
                f"found {info.width}x{info.height}"
            )

    def status(self):
        """Report whether frames come, and since when they do not."""
        gone = self._stream.gone
        if gone:
            since = datetime.fromtimestamp(gone.since).astimezone().isoformat(timespec="seconds")
            return DiagnosticStatus.ERROR, f"camera gone: {gone.reason}", {"gone_since": since}
        if self._size is None:
            return DiagnosticStatus.WARN, "opening the camera", {}
        size = f"{self._size[0]}x{self._size[1]}"
        return DiagnosticStatus.OK, "frames come", {"size": size}

    def release(self) -> None:
        """Stop the camera."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()


def load_calibration(path: str) -> CameraInfo:
    """Return the calibration in a YAML file of the ROS package camera_calibration.

    Raises ConfigError if the file cannot be read or is not such a calibration.
    """
    try:
        values = yaml.safe_load(Path(path).expanduser().read_text())
        return CameraInfo(
            width=values["image_width"],
            height=values["image_height"],
            distortion_model=values["distortion_model"],
            d=_numbers(values, "distortion_coefficients"),
            k=_numbers(values, "camera_matrix", 9),
            r=_numbers(values, "rectification_matrix", 9),
            p=_numbers(values, "projection_matrix", 12),
        )
    except OSError as error:
        found = error.strerror
    except (yaml.YAMLError, UnicodeDecodeError):
        found = "no YAML"
    except ValueError as error:
        found = str(error)
    except KeyError as error:
        found = f"no {error.args[0]}"
    except (TypeError, AssertionError):  # rclpy checks the types of a message's fields
        found = "other values"
    raise ConfigError(
        f"camera_info_url: expected a calibration as camera_calibration writes it in {path}, "
        f"found {found}"
    )


def _numbers(values: dict, name: str, size: int | None = None) -> list[float]:
    data = [float(value) for value in values[name]["data"]]
    if size is not None and len(data) != size:
        raise ValueError(f"{len(data)} numbers in {name} instead of {size}")
    return data


def main(args=None) -> None:
    """Entry point of the executable."""
    run(CameraNode, args)


if __name__ == "__main__":
    main()
