"""Which frames of an episode are kept, and which of them show success."""

import math
from dataclasses import dataclass, field

import numpy as np

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.records import DISCARD, SUCCESS
from residual_smolvla_ros.success.frames import FrameDataset


@dataclass(frozen=True)
class FrameWindow:
    """Times around the end of an episode in s.

    Of a success, the last `success_s` and what follows its end count as done. The `unsure_s`
    before that are left out: a person labels some time after the task is done. What follows the
    end is kept for `after_s` at most.
    """

    success_s: float = 0.5
    after_s: float = 1.0
    unsure_s: float = 1.0

    def __post_init__(self):
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value >= 0.0):
                raise ConfigError(f"{name}: expected 0 or more seconds, found {value}")


@dataclass
class _Episode:
    stamps: list[int] = field(default_factory=list)
    images: list[dict[str, np.ndarray]] = field(default_factory=list)
    end: int | None = None
    label: str = ""


class Collector:
    """Keep the frames of an episode until it is labelled, then add them to a dataset.

    Stamps are in ns. `begin` to `finish` is the life of an episode; of one that is discarded, or
    has no label by then, nothing is written.
    """

    def __init__(self, dataset: FrameDataset, window: FrameWindow):
        self._dataset = dataset
        self._window = window
        self._episode: _Episode | None = None

    @property
    def frames(self) -> int:
        """Frames of the present episode so far."""
        return len(self._episode.stamps) if self._episode else 0

    @property
    def has_ended(self) -> bool:
        """Whether the present episode has ended."""
        return self._episode is not None and self._episode.end is not None

    def begin(self) -> None:
        """An episode has started."""
        self._episode = _Episode()

    def wants(self, stamp: int) -> bool:
        """Tell whether a frame of this stamp belongs to the present episode."""
        episode = self._episode
        if episode is None:
            return False
        return episode.end is None or stamp - episode.end <= 1e9 * self._window.after_s

    def add(self, stamp: int, images: dict[str, np.ndarray]) -> None:
        """Keep a frame: an image of each camera."""
        self._episode.stamps.append(stamp)
        self._episode.images.append(images)

    def end(self, stamp: int, label: str) -> None:
        """Note that the episode's last state was that of `stamp`, and its label if it has one."""
        episode = self._episode
        # A node that comes up later hears of the episodes before, too.
        if episode is None or not episode.stamps or stamp < episode.stamps[0]:
            return
        episode.end = stamp
        self.label(stamp, label)

    def label(self, stamp: int, label: str) -> None:
        """Take the label of the episode that ended at `stamp`."""
        if self._episode is not None and self._episode.end == stamp:
            self._episode.label = label

    def finish(self) -> str:
        """Write the episode if it is labelled, and forget it; return what became of it."""
        episode, self._episode = self._episode, None
        if episode is None or not episode.stamps:
            return ""
        count = len(episode.stamps)
        if not episode.label:
            return f"{count} frames dropped: the episode has no label"
        if episode.label == DISCARD:
            return f"{count} frames dropped: the episode was discarded"
        kept, rewards = self._rewards(episode)
        if not kept.any():
            return f"{count} frames dropped: none is left of the success"
        images = [image for image, keep in zip(episode.images, kept, strict=True) if keep]
        self._dataset.add(images, rewards[kept])
        return (
            f"{episode.label}: {kept.sum()} frames, {rewards[kept].sum():.0f} of them positive "
            f"(episode {self._dataset.episodes} of the dataset)"
        )

    def _rewards(self, episode: _Episode) -> tuple[np.ndarray, np.ndarray]:
        """Return which frames to keep (frames,) and their rewards (frames,)."""
        before_end = (episode.end - np.array(episode.stamps)) / 1e9
        if episode.label != SUCCESS:
            return np.ones(len(before_end), dtype=bool), np.zeros(len(before_end))
        done = before_end <= self._window.success_s
        kept = done | (before_end > self._window.success_s + self._window.unsure_s)
        return kept, done.astype(np.float64)
