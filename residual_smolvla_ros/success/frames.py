"""Labelled frames as a LeRobotDataset, in the shape that `reward_classifier` is trained on."""

from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
from lerobot.datasets import LeRobotDataset
from lerobot.utils.constants import OBS_IMAGES, REWARD

from residual_smolvla_ros.errors import ConfigError

REPO_ID = "local/success"
# There are no videos; asking LeRobot to choose fills the log where ffmpeg is missing.
BACKEND = "pyav"


class FrameDataset:
    """A LeRobotDataset (v3) with `observation.images.<camera>` and `next.reward`.

    `next.reward` is float32 (1,): 1 where the task is done. Images are kept without loss, as PNG.
    Each episode is complete on disk once it has been added. `size` is height and width in pixels.
    Raises ConfigError where the folder holds files.
    """

    def __init__(
        self,
        folder: str | Path,
        cameras: Sequence[str],
        rate_hz: float,
        size: tuple[int, int] = (128, 128),
        task: str = "",
    ):
        if not str(folder):
            raise ConfigError("output: expected a folder for the dataset, found none")
        self.folder = Path(folder).expanduser().resolve()
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise ConfigError(f"output: expected a new or empty folder, found files in {folder}")
        if len(size) != 2 or min(size) < 1:
            raise ConfigError(f"image_size: expected height and width, found {list(size)}")
        if not cameras:
            raise ConfigError("cameras: expected the names of cameras, found none")
        datasets.disable_progress_bars()  # a line in the log for each episode is enough
        self.cameras, self.size, self._task = tuple(cameras), tuple(size), task
        # A whole number in LeRobot. It only numbers the frames: the classifier sees one at a time.
        self._fps = max(1, round(rate_hz))
        self.episodes = self.frames = self.positives = 0

    def add(self, images: Sequence[dict[str, np.ndarray]], rewards: np.ndarray) -> None:
        """Write an episode: images (height, width, 3) uint8 by camera, and rewards (frames,)."""
        dataset = self._open()
        for frame, reward in zip(images, rewards, strict=True):
            features = {f"{OBS_IMAGES}.{name}": frame[name] for name in self.cameras}
            dataset.add_frame(
                features | {REWARD: np.array([reward], dtype=np.float32), "task": self._task}
            )
        dataset.save_episode()
        # Only then can its files be read: an episode must not be lost with the next one.
        dataset.finalize()
        self.episodes += 1
        self.frames += len(rewards)
        self.positives += int(np.sum(rewards))

    def _open(self) -> LeRobotDataset:
        if self.episodes:
            return LeRobotDataset.resume(REPO_ID, root=self.folder, video_backend=BACKEND)
        if self.folder.is_dir():
            self.folder.rmdir()  # empty; LeRobot makes it itself
        image = {"dtype": "image", "shape": (*self.size, 3)}
        image["names"] = ["height", "width", "channels"]
        features = {f"{OBS_IMAGES}.{name}": dict(image) for name in self.cameras}
        features[REWARD] = {"dtype": "float32", "shape": (1,), "names": None}
        return LeRobotDataset.create(
            REPO_ID, self._fps, features, root=self.folder, use_videos=False, video_backend=BACKEND
        )


def open_frames(folder: Path, episodes: list[int] | None = None) -> LeRobotDataset:
    """Open a dataset to read all or some of its episodes; images are (3, H, W), uint8 or 0 to 1."""
    return LeRobotDataset(
        folder.name, root=folder, episodes=episodes, return_uint8=True, video_backend=BACKEND
    )
