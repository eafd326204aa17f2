"""When estimates count as success: above a threshold, for long enough."""

import math

from residual_smolvla_ros.errors import ConfigError


class SuccessHold:
    """Success once the probability has kept to a threshold for `hold_s` without a break.

    Time is that of the images: predictions that are slow, or come in bursts, do not change it.
    Raises ConfigError for a threshold outside 0 to 1 or a time below 0.
    """

    def __init__(self, threshold: float = 0.9, hold_s: float = 0.3):
        if not 0.0 < threshold <= 1.0:
            raise ConfigError(
                f"threshold: expected a number above 0 and at most 1, found {threshold}"
            )
        if not (math.isfinite(hold_s) and hold_s >= 0.0):
            raise ConfigError(f"hold_s: expected 0 or more seconds, found {hold_s}")
        self._threshold = threshold
        self._hold_ns = round(1e9 * hold_s)
        self.reset()

    def reset(self) -> None:
        """Forget what was held: an episode starts, or the images have stopped."""
        self._since: int | None = None

    def update(self, stamp: int, probability: float) -> bool:
        """Take the probability for images of a stamp in ns; return whether success has held."""
        if probability < self._threshold:
            self._since = None
            return False
        if self._since is None or stamp < self._since:  # or the stamps jumped back
            self._since = stamp
        return stamp - self._since >= self._hold_ns
