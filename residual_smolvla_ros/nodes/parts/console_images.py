"""Camera frames for the console: the newest only, and only while somebody asks for them."""

import threading
import time
from collections.abc import Sequence

import cv2
from rclpy.serialization import deserialize_message

from residual_smolvla_ros.console.server import Picture
from residual_smolvla_ros.nodes.common import PipelineNode, image_qos
from residual_smolvla_ros.nodes.parts.image_intake import TRANSPORT, TRANSPORTS, read_stamp
from residual_smolvla_ros.nodes.parts.images import from_image_message
from residual_smolvla_ros.parameters import About
from residual_smolvla_ros.robots.frames import encode_jpeg

JPEG_QUALITY = 80
# A camera that nobody has asked for in so long is no longer subscribed to.
ASKED_S = 2.0
FORMATS = {b"\xff\xd8": "image/jpeg", b"\x89P": "image/png"}


class CameraViews:
    """Keep the newest message of each camera; encode it when a browser asks for it.

    Declares the node's parameters image_transport and image_width; raises ConfigError for others
    than they may be.
    """

    def __init__(self, node: PipelineNode, cameras: Sequence[str]):
        transport = node.parameter("image_transport", "raw", TRANSPORT)
        self._width = node.parameter("image_width", 480, About("width of raw images at most", 16))
        self._type, self._topic, _ = TRANSPORTS[transport]
        self._encode = self._from_raw if transport == "raw" else self._from_compressed
        self._node = node
        self._asked_at = dict.fromkeys(cameras, -ASKED_S)
        self._locks = {name: threading.Lock() for name in cameras}
        self._subscriptions: dict = {}
        self._newest: dict[str, tuple[int, bytes]] = {}
        self._pictures: dict[str, Picture] = {}

    @property
    def subscribed(self) -> int:
        """How many cameras are subscribed to."""
        return len(self._subscriptions)

    def follow(self, in_view: bool) -> None:
        """Subscribe to the cameras that are asked for, and to no other; in the ROS thread."""
        now = time.monotonic()
        for name, asked_at in self._asked_at.items():
            wanted = in_view and now - asked_at < ASKED_S
            if wanted and name not in self._subscriptions:
                self._subscriptions[name] = self._node.create_subscription(
                    self._type,
                    f"{name}/{self._topic}",
                    lambda message, name=name: self._receive(name, message),
                    image_qos(lockstep=False),
                    raw=True,
                )
            elif not wanted and name in self._subscriptions:
                self._node.destroy_subscription(self._subscriptions.pop(name))
                self._newest.pop(name, None)

    def picture(self, name: str, seen: int) -> Picture | None:
        """Return the newest frame if its stamp is not `seen`; in any thread.

        Raises ValueError where it cannot be shown.
        """
        self._asked_at[name] = time.monotonic()
        with self._locks[name]:
            stamp, message = self._newest.get(name, (seen, b""))
            if stamp == seen:
                return None
            known = self._pictures.get(name)
            if known is None or known.stamp != stamp:
                data, media_type = self._encode(message)
                known = self._pictures[name] = Picture(stamp, data, media_type)
            return known

    def _receive(self, name: str, message: bytes) -> None:
        try:
            self._newest[name] = read_stamp(message), message
        except ValueError as error:
            self._node.refuse(name, error)

    def _from_raw(self, message: bytes) -> tuple[bytes, str]:
        pixels = from_image_message(deserialize_message(message, self._type))
        height, width, _ = pixels.shape
        if width > self._width:
            size = self._width, max(1, round(height * self._width / width))
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        return encode_jpeg(pixels, JPEG_QUALITY), "image/jpeg"

    def _from_compressed(self, message: bytes) -> tuple[bytes, str]:
        data = bytes(deserialize_message(message, self._type).data)
        if data[:2] not in FORMATS:
            raise ValueError(f"compressed image: expected JPEG or PNG, found {data[:2]!r}")
        return data, FORMATS[data[:2]]
