"""Take images in without decoding them: a control tick reads stamps; a plan decodes the newest."""

import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image

from residual_smolvla_ros.nodes.common import PipelineNode, image_qos
from residual_smolvla_ros.nodes.parts.images import from_compressed_message, from_image_message
from residual_smolvla_ros.parameters import About

TRANSPORTS = {
    "raw": (Image, "image_raw", from_image_message),
    "compressed": (CompressedImage, "image_raw/compressed", from_compressed_message),
}
TRANSPORT = About("images to take", choices=tuple(TRANSPORTS))
# CDR: 4 bytes of encapsulation, of which the second tells the byte order; then the message, whose
# first field is the header, whose first field is the stamp.
STAMP_END = 12


class ImageIntake:
    """Keep the newest message of each camera as it came over the wire.

    `on_image` is called with the camera's name whenever one has arrived. Declares the node's
    parameters image_transport, max_image_age_s and camera_timeout_s; raises ConfigError for an
    unknown transport.
    """

    def __init__(
        self,
        node: PipelineNode,
        cameras: Sequence[str],
        lockstep: bool,
        on_image: Callable[[str], None] | None = None,
    ):
        transport = node.parameter("image_transport", "raw", TRANSPORT)
        image_age = node.parameter(
            "max_image_age_s", 0.05, About("no plan from an older image; not in lockstep", 0)
        )
        camera_timeout = node.parameter(
            "camera_timeout_s", 0.15, About("no command once a camera has been silent so long", 0)
        )
        self._image_age_ns = round(1e9 * image_age)
        self._camera_timeout_ns = round(1e9 * camera_timeout)
        self._lockstep = lockstep
        self._type, topic, self._decode = TRANSPORTS[transport]
        self._node = node
        self._topics = {name: f"{name}/{topic}" for name in cameras}
        self._on_image = on_image
        self._newest: dict[str, TakenImage] = {}
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
        topic = self._topics[name]
        try:
            stamp = read_stamp(message)
        except ValueError as error:
            self._node.refuse(topic, error)
            return
        self._newest[name] = TakenImage(message, stamp, topic, self._type, self._decode)
        if self._on_image is not None:
            self._on_image(name)

    def stamp(self, name: str) -> int | None:
        """Return the stamp of a camera's newest image in ns, None if there is none yet."""
        return self._newest[name].stamp if name in self._newest else None

    @property
    def stamps(self) -> dict[str, int]:
        """The stamps in ns of the newest images by camera, of those that have one."""
        return {name: image.stamp for name, image in self._newest.items()}

    def oldest_stamp(self) -> int | None:
        """Return the oldest of the cameras' newest stamps in ns, None until all have an image."""
        if len(self._newest) < len(self._topics):
            return None
        return min(self.stamps.values(), default=None)

    def fit(self, stamp: int, for_plan: bool) -> bool:
        """Tell whether the images will do at a state: for a plan, or to go on playing one.

        In lockstep a plan needs those of the state itself. In real time it needs young ones, and
        a chunk is not played on blindly once a camera has gone.
        """
        oldest = self.oldest_stamp()
        if self._lockstep:
            return oldest == stamp or not for_plan
        limit = self._image_age_ns if for_plan else self._camera_timeout_ns
        return oldest is not None and stamp - oldest <= limit

    def describe(self, stamp: int) -> str:
        """Return what a state lacks, for a log."""
        ages = [
            f"{name} ({(stamp - self._newest[name].stamp) / 1e6:.0f} ms old)"
            if name in self._newest else f"{name} (none yet)"
            for name in self._topics
        ]  # fmt: skip
        return f"images of {', '.join(ages)}"

    def pixels(self, name: str) -> np.ndarray:
        """Return a camera's newest image as RGB pixels, decoded once.

        Raises ValueError if there is none yet or it cannot be decoded.
        """
        return self.reduced(name, 1)

    def reduced(self, name: str, factor: int) -> np.ndarray:
        """Return `pixels` with width and height reduced, as TakenImage does."""
        if name not in self._newest:
            raise ValueError(f"{self._topics[name]}: expected an image, found none yet")
        return self._newest[name].reduced(factor)

    def snapshot(self) -> "Snapshot":
        """Return the newest images of the cameras, as they are now."""
        return Snapshot(dict(self._newest))


class TakenImage:
    """A serialised image and its stamp in ns; decoded when first asked for, by any thread."""

    def __init__(self, message: bytes, stamp: int, topic: str, kind: type, decode: Callable):
        self.stamp = stamp
        self._message, self._topic, self._kind, self._decode = message, topic, kind, decode
        self._decoding = threading.Lock()
        self._decoded: dict[int, np.ndarray] = {}  # by the factor it is reduced by

    def reduced(self, factor: int = 1) -> np.ndarray:
        """Return RGB pixels, width and height reduced by a factor of 1, 2, 4 or 8, rounded up.

        A JPEG is decoded at that size; of other images one pixel of so many is taken. Raises
        ValueError if it cannot be decoded.
        """
        with self._decoding:
            if factor not in self._decoded:
                try:
                    message = deserialize_message(self._message, self._kind)
                    self._decoded[factor] = self._decode(message, factor)
                except Exception as error:  # rclpy has an error of its own here
                    raise ValueError(f"{self._topic}: {' '.join(str(error).split())}") from None
            return self._decoded[factor]


@dataclass(frozen=True)
class Snapshot:
    """The images of several cameras at one moment."""

    images: dict[str, TakenImage]

    @property
    def stamps(self) -> dict[str, int]:
        """Their stamps in ns by camera."""
        return {name: image.stamp for name, image in self.images.items()}

    def pixels(self) -> dict[str, np.ndarray]:
        """Return RGB pixels (H, W, 3) by camera; raise ValueError for one that is broken."""
        return {name: image.reduced() for name, image in self.images.items()}


def read_stamp(message: bytes) -> int:
    """Return the stamp in ns of a serialised message that begins with a header.

    Raises ValueError if it is too short for one, or is not CDR.
    """
    if len(message) < STAMP_END or message[0] != 0:
        raise ValueError(f"expected a CDR message with a header, found {len(message)} bytes")
    order = "<" if message[1] & 1 else ">"
    seconds, nanoseconds = struct.unpack_from(f"{order}iI", message, 4)
    return seconds * 1_000_000_000 + nanoseconds
