"""Take images in without decoding them: a control tick reads stamps; a plan decodes the newest."""

import struct
from collections.abc import Callable, Sequence

import numpy as np
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.nodes.common import PipelineNode, image_qos
from residual_smolvla_ros.nodes.images import from_compressed_message, from_image_message

TRANSPORTS = {
    "raw": (Image, "image_raw", from_image_message),
    "compressed": (CompressedImage, "image_raw/compressed", from_compressed_message),
}
# CDR: 4 bytes of encapsulation, of which the second tells the byte order; then the message, whose
# first field is the header, whose first field is the stamp.
STAMP_END = 12


class ImageIntake:
    """Keep the newest message of each camera as it came over the wire.

    `on_image` is called with the camera's name whenever one has arrived.
    """

    def __init__(
        self,
        node: PipelineNode,
        cameras: Sequence[str],
        lockstep: bool,
        on_image: Callable[[str], None] | None = None,
        transport: str = "raw",
    ):
        """Subscribe to the cameras; raise ConfigError for an unknown transport."""
        if transport not in TRANSPORTS:
            raise ConfigError(
                f"transport: expected one of {', '.join(TRANSPORTS)}, found {transport!r}"
            )
        self._type, topic, self._decode = TRANSPORTS[transport]
        self._node = node
        self._topics = {name: f"{name}/{topic}" for name in cameras}
        self._on_image = on_image
        self._messages: dict[str, bytes] = {}
        self._stamps: dict[str, int] = {}
        self._pixels: dict[str, np.ndarray] = {}
        for name, place in self._topics.items():
            node.create_subscription(
                self._type,
                place,
                lambda message, name=name: self.receive(name, message),
                image_qos(lockstep),
                raw=True,
            )

    def receive(self, name: str, message: bytes) -> None:
        """Take a serialised message; refuse, count and report one that has no stamp."""
        try:
            stamp = read_stamp(message)
        except ValueError as error:
            self._node.refused += 1
            self._node.get_logger().warning(
                f"{self._topics[name]}: {error}", throttle_duration_sec=5.0
            )
            return
        self._messages[name] = message
        self._stamps[name] = stamp
        self._pixels.pop(name, None)
        if self._on_image is not None:
            self._on_image(name)

    def stamp(self, name: str) -> int | None:
        """Return the stamp of a camera's newest image in ns, None if there is none yet."""
        return self._stamps.get(name)

    def oldest_stamp(self) -> int | None:
        """Return the oldest of the cameras' newest stamps in ns, None until all have an image."""
        if len(self._stamps) < len(self._topics):
            return None
        return min(self._stamps.values(), default=None)

    def pixels(self, name: str) -> np.ndarray:
        """Return a camera's newest image as RGB pixels, decoded once.

        Raises ValueError if there is none yet or it cannot be decoded.
        """
        if name in self._pixels:
            return self._pixels[name]
        topic = self._topics[name]
        if name not in self._messages:
            raise ValueError(f"{topic}: expected an image, found none yet")
        try:
            pixels = self._decode(deserialize_message(self._messages[name], self._type))
        except Exception as error:  # rclpy has an error of its own for what does not deserialise
            raise ValueError(f"{topic}: {' '.join(str(error).split())}") from None
        self._pixels[name] = pixels
        return pixels


def read_stamp(message: bytes) -> int:
    """Return the stamp in ns of a serialised message that begins with a header.

    Raises ValueError if it is too short for one, or is not CDR.
    """
    if len(message) < STAMP_END or message[0] != 0:
        raise ValueError(f"expected a CDR message with a header, found {len(message)} bytes")
    order = "<" if message[1] & 1 else ">"
    seconds, nanoseconds = struct.unpack_from(f"{order}iI", message, 4)
    return seconds * 1_000_000_000 + nanoseconds
