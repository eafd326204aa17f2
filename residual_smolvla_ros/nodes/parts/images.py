"""Images on topics: numpy (H, W, 3) uint8 RGB <-> sensor_msgs/Image and CompressedImage."""

import array

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from rosbags.image import message_to_cvimage
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from residual_smolvla_ros.robots.frames import decode, reduce


def to_image_message(pixels: np.ndarray, stamp: Time, frame_id: str) -> Image:
    """Return RGB pixels as an rgb8 message."""
    height, width, _ = pixels.shape
    message = Image(height=height, width=width, encoding="rgb8", step=3 * width)
    message.header.stamp = stamp
    message.header.frame_id = frame_id
    # An ndarray would be copied element by element: 100 ms instead of 0.5 ms.
    message.data = array.array("B", np.ascontiguousarray(pixels).tobytes())
    return message


def from_image_message(message: Image, factor: int = 1) -> np.ndarray:
    """Return an image message as RGB pixels; raise ValueError if it cannot be decoded.

    Of each `factor` rows and columns one is taken.
    """
    pixels = _to_pixels(message)
    if not pixels.size:
        raise ValueError("image: expected pixels, found none")
    return reduce(pixels, factor)


def _to_pixels(message: Image) -> np.ndarray:
    if message.encoding == "rgb8" and message.step == 3 * message.width:
        data = np.frombuffer(message.data, dtype=np.uint8)
        if data.size == message.height * message.step:
            return data.reshape(message.height, message.width, 3)
    # Not cv_bridge: built for numpy 1 it imports beside numpy 2, and then converts nothing.
    try:
        return message_to_cvimage(message, "rgb8")
    except Exception as error:
        raise ValueError(
            f"image: expected an encoding that converts to rgb8, found {message.encoding!r} "
            f"{message.width}x{message.height}, {len(message.data)} bytes ({error})"
        ) from None


def to_compressed_message(jpeg: bytes, stamp: Time, frame_id: str) -> CompressedImage:
    """Return a JPEG as a message."""
    message = CompressedImage(format="jpeg", data=array.array("B", jpeg))
    message.header.stamp = stamp
    message.header.frame_id = frame_id
    return message


def from_compressed_message(message: CompressedImage, factor: int = 1) -> np.ndarray:
    """Return a compressed image message as RGB pixels; raise ValueError if it is damaged.

    Decoded at a size that is smaller by a factor of 1, 2, 4 or 8: a JPEG takes less time then.
    """
    try:
        return decode(message.data, factor)
    except ValueError as error:
        raise ValueError(f"compressed image: {error} (format {message.format!r})") from None


def to_png_message(message: Image) -> CompressedImage:
    """Return an image without loss as a PNG message; raise ValueError if it cannot be decoded."""
    pixels = cv2.cvtColor(from_image_message(message), cv2.COLOR_RGB2BGR)
    # More compression takes several times as long, for a tenth less.
    _, png = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    # As image_transport names it: what it decodes to, and the order of colours that OpenCV took.
    encoded = CompressedImage(header=message.header, format="rgb8; png compressed bgr8")
    encoded.data = array.array("B", png.tobytes())
    return encoded


def pinhole_info(stamp: Time, frame_id: str, width: int, height: int, fovy: float) -> CameraInfo:
    """Return the CameraInfo of an ideal camera with a vertical field of view `fovy` in rad."""
    focal = 0.5 * height / np.tan(0.5 * fovy)
    cx, cy = 0.5 * width, 0.5 * height
    message = CameraInfo(width=width, height=height, distortion_model="plumb_bob")
    message.header.stamp = stamp
    message.header.frame_id = frame_id
    message.d = [0.0] * 5
    message.k = [focal, 0.0, cx, 0.0, focal, cy, 0.0, 0.0, 1.0]
    message.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    message.p = [focal, 0.0, cx, 0.0, 0.0, focal, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    return message
