"""A camera's frame as pixels or as JPEG: from one to the other only when asked for."""

from dataclasses import dataclass

import cv2
import numpy as np

_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


@dataclass(frozen=True)
class Frame:
    """What a camera captured: (H, W, 3) uint8 RGB pixels, or the JPEG that the camera sent."""

    captured: float  # time.perf_counter()
    width: int
    height: int
    pixels: np.ndarray | None = None
    jpeg: bytes | None = None

    def to_pixels(self) -> np.ndarray:
        """Return the pixels; raise ValueError if the camera's JPEG is damaged."""
        return decode(self.jpeg) if self.pixels is None else self.pixels

    def to_jpeg(self, quality: int) -> bytes:
        """Return the camera's own JPEG, or else the pixels encoded with a quality of 1..100."""
        return encode_jpeg(self.pixels, quality) if self.jpeg is None else self.jpeg


def decode(data: bytes, factor: int = 1) -> np.ndarray:
    """Return a compressed image as (H, W, 3) uint8 RGB pixels; raise ValueError if damaged.

    Decoded at a size that is smaller by a factor of 1, 2, 4 or 8: a JPEG takes less time then.
    """
    values = np.frombuffer(data, dtype=np.uint8)
    # A camera's orientation tag must not turn a frame that the calibration is for.
    flags = _REDUCED[factor] | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(values, flags) if values.size else None
    if image is None:
        raise ValueError(f"expected a whole compressed image, found {values.size} other bytes")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def reduce(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Return one of each `factor` rows and columns of pixels (H, W, 3), rounded up."""
    if factor == 1:
        return pixels
    height, width, _ = pixels.shape
    size = -(-width // factor), -(-height // factor)
    return cv2.resize(pixels, size, interpolation=cv2.INTER_NEAREST)


def encode_jpeg(pixels: np.ndarray, quality: int) -> bytes:
    """Return (H, W, 3) uint8 RGB pixels as JPEG."""
    image = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
