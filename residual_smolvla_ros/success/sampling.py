"""When to look at the cameras: by the stamps of their images, never by waiting for one."""

import math
from collections.abc import Sequence

from residual_smolvla_ros.errors import ConfigError


class ImageClock:
    """Tell when a set with an image of each camera is due, at `rate_hz` of the images' time.

    Stamps are in ns. Images from before `start` do not count, so that the last episode's scene is
    never taken for this one's. `now` is a clock in s that goes on where the images do not.
    Raises ConfigError for a rate that is not above 0.
    """

    def __init__(self, cameras: Sequence[str], rate_hz: float):
        if not (math.isfinite(rate_hz) and rate_hz > 0.0):
            raise ConfigError(f"rate_hz: expected a rate above 0, found {rate_hz}")
        self._cameras = tuple(cameras)
        self._period = round(1e9 / rate_hz)
        self.start(0.0)

    def start(self, now: float) -> None:
        """Begin an episode: only images from here on count."""
        self._stamps: dict[str, int] = {}
        self._seen = dict.fromkeys(self._cameras, now)
        self._next: int | None = None

    def see(self, camera: str, stamp: int, now: float) -> None:
        """Note that an image has come."""
        self._stamps[camera] = stamp
        self._seen[camera] = now

    def take(self) -> int | None:
        """Return the stamp of the set that is due, that of its oldest image; None if none is."""
        if len(self._stamps) < len(self._cameras):
            return None
        oldest = min(self._stamps.values())
        # One that is far behind: the stamps jumped, or a stranger's was ahead.
        if self._next is None or oldest < self._next - self._period:
            self._next = oldest
        if oldest < self._next:
            return None
        # On a grid: counted from each image, the rate would fall by the wait for the next one.
        self._next += (1 + (oldest - self._next) // self._period) * self._period
        return oldest

    def silent(self, now: float, limit_s: float) -> dict[str, float]:
        """Return the cameras without an image for longer than `limit_s`, and for how long in s."""
        ages = {camera: now - seen for camera, seen in self._seen.items()}
        return {camera: age for camera, age in ages.items() if age > limit_s}
