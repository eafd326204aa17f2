"""Reward term `image_distance`."""

from dataclasses import dataclass

import cv2
import numpy as np

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.rewards.term import RewardTerm
from residual_smolvla_ros.rewards.transition import Transition

LARGEST_HUE = 179


@dataclass(frozen=True, kw_only=True)
class ImageDistance(RewardTerm):
    """Distance of a coloured object from a point of the image, as a share of its diagonal.

    The object is the largest connected patch of pixels whose hue, saturation and value lie from
    `hsv_lower` to `hsv_upper` (OpenCV's: hue 0..179, the others 0..255); a lower hue that is above
    the upper one goes over red, where the circle of hues closes. Distance is that of its centroid.
    """

    unit = "share of the diagonal"

    camera: str
    hsv_lower: tuple[int, int, int]
    hsv_upper: tuple[int, int, int]
    point: tuple[float, float] = (0.5, 0.5)  # from the left and from the top, shares 0..1
    min_area: float = 0.001  # share of the image; less is not the object
    missing_value: float = 1.0  # where it is not seen
    max_age_s: float = 0.2

    def __post_init__(self):
        for name in ("hsv_lower", "hsv_upper"):
            values, largest = getattr(self, name), (LARGEST_HUE, 255, 255)
            if not all(0 <= v <= m for v, m in zip(values, largest, strict=True)):
                raise ConfigError(f"{name}: expected 0..{LARGEST_HUE}, 0..255, 0..255, "
                                  f"found {list(values)}")  # fmt: skip
        if any(a > b for a, b in zip(self.hsv_lower[1:], self.hsv_upper[1:], strict=True)):
            raise ConfigError(
                f"hsv_lower, hsv_upper: expected saturation and value to rise, "
                f"found {list(self.hsv_lower)} and {list(self.hsv_upper)}"
            )
        if not all(0 <= share <= 1 for share in (*self.point, self.min_area)):
            raise ConfigError(f"point, min_area: expected shares from 0 to 1, "
                              f"found {list(self.point)} and {self.min_area}")  # fmt: skip
        if not self.max_age_s > 0:
            raise ConfigError(f"max_age_s: expected > 0 s, found {self.max_age_s}")

    @property
    def cameras(self) -> tuple[str, ...]:
        """The camera that it looks through."""
        return (self.camera,)

    def __call__(self, transition: Transition) -> float:
        """Return the distance, 0..1, or `missing_value`."""
        pixels = transition.frame(self.camera, self.max_age_s).pixels
        size = np.array(pixels.shape[1::-1])
        # The algorithm that is OpenCV's default takes three times as long.
        _, _, stats, centroids = cv2.connectedComponentsWithStatsWithAlgorithm(
            self._mask(pixels), 8, cv2.CV_32S, cv2.CCL_SPAGHETTI
        )
        # The first component is all the rest.
        areas = stats[1:, cv2.CC_STAT_AREA]
        if not areas.size or areas.max() < self.min_area * size.prod():
            return self.missing_value
        centroid = centroids[1 + areas.argmax()] + 0.5  # of pixels, whose centres count from 0
        offset = centroid - np.array(self.point) * size
        return float(np.linalg.norm(offset) / np.linalg.norm(size))

    def _mask(self, pixels: np.ndarray) -> np.ndarray:
        """Return where an image (H, W, 3) has the colour: (H, W) uint8, 255 or 0."""
        hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
        lower, upper = self.hsv_lower, self.hsv_upper
        if lower[0] <= upper[0]:
            return cv2.inRange(hsv, lower, upper)
        return cv2.bitwise_or(
            cv2.inRange(hsv, lower, (LARGEST_HUE, *upper[1:])),
            cv2.inRange(hsv, (0, *lower[1:]), upper),
        )
