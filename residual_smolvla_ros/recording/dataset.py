"""A session's episodes as a LeRobotDataset (v3) that `lerobot-train` takes."""

from dataclasses import dataclass
from pathlib import Path

import av
import datasets
import numpy as np
from lerobot.configs.video import RGBEncoderConfig
from lerobot.datasets import LeRobotDataset
from lerobot.utils.constants import ACTION, DONE, OBS_IMAGES, OBS_STATE, REWARD, SUCCESS

from residual_smolvla_ros.errors import BagError, ConfigError
from residual_smolvla_ros.policy.action_units import ActionUnits
from residual_smolvla_ros.recording.episodes import Layout, RecordedEpisode, RecordedStep
from residual_smolvla_ros.recording.session import Session

# LeRobot takes features whose names begin with "action" or "observation" for its policies' own.
INTERVENTION, BASE_ACTION, RESIDUAL_ACTION = "intervention", "base_action", "residual_action"
RESIDUAL, EPISODE_SUCCESS, WEIGHTS_VERSION = "residual", "episode_success", "weights_version"
# There may be no ffmpeg that LeRobot could choose.
BACKEND = "pyav"
# Not LeRobot's default: as root, SVT-AV1 takes real-time priority over all other processes, and
# leaves the thread that called it with it.
ENCODER = RGBEncoderConfig(vcodec="h264")
SIMULATED = "sim_so_follower"  # so101-nexus's name of the simulated arm


@dataclass(frozen=True)
class DatasetSettings:
    """What a dataset says of its robot, and how images are kept.

    `rate_hz` becomes LeRobot's fps, which is a whole number. Without `videos` each image is a PNG:
    nothing is lost. No image may be older than `max_image_age_s` at its step.
    """

    folder: Path
    cameras: tuple[str, ...]
    joint_names: tuple[str, ...]
    rate_hz: float
    robot_type: str = ""
    videos: bool = True
    max_image_age_s: float = 0.15

    def __post_init__(self):
        if self.rate_hz != round(self.rate_hz):
            raise ConfigError(
                f"dataset: expected a control rate in whole Hz, LeRobot's fps, found {self.rate_hz}"
            )

    @classmethod
    def of(cls, session: Session, folder: Path, **more) -> "DatasetSettings":
        """Return the settings for a session; `more` are further fields."""
        layout, policy = Layout.of(session), session.parameters("policy")
        robots = [n["parameters"].get("robot.type", "") for n in session.nodes]
        return cls(
            folder=folder,
            cameras=layout.cameras,
            joint_names=layout.joint_names,
            rate_hz=policy["rate_hz"],
            robot_type=next(filter(None, robots), SIMULATED),
            **more,
        )


class SessionDataset:
    """A LeRobotDataset that grows by episodes; `close` it, or it does not open.

    With `settles` it is closed and opened again on the way, so that an accident takes the newest
    episodes only: the last one, of many a twentieth. LeRobot reads all of them each time.
    """

    def __init__(self, settings: DatasetSettings, units: ActionUnits, settles: bool = False):
        av.logging.set_level(av.logging.ERROR)
        self.settings = settings
        self.episodes = self.frames = self.successes = 0
        self._units = units
        self._settles = settles
        self._settled = 0
        self._dataset: LeRobotDataset | None = None
        self._sizes: dict[str, tuple[int, ...]] = {}

    def add(self, episode: RecordedEpisode) -> None:
        """Write an episode.

        Raises BagError, having written nothing of it, where its images are too old, too damaged,
        or of another size than those before.
        """
        number, limit = episode.plan.episode, self.settings.max_image_age_s
        if episode.image_age > 1e9 * limit:
            raise BagError(
                f"episode {number}: expected images at most {limit:g} s old at each step, found "
                f"one of {episode.image_age / 1e9:.2f} s (in lockstep: camera_period_steps:=1)"
            )
        dataset = self._open(episode.steps[0])
        try:
            for step in episode.steps:
                dataset.add_frame(self._frame(step, episode, step is episode.steps[-1]))
        except BagError as error:
            dataset.clear_episode_buffer()
            raise BagError(f"episode {number}: {error}") from None
        # LeRobot switches them on again: a line for each episode is enough.
        datasets.disable_progress_bars()
        # Not in processes of its own, which would be forked from one with threads.
        dataset.save_episode(parallel_encoding=False)
        self.episodes += 1
        self.frames += len(episode.steps)
        self.successes += episode.success
        if self._settles and self.episodes - self._settled > self.episodes // 20:
            self.close()

    def close(self) -> None:
        """Make the dataset on disk complete."""
        if self._dataset is not None:
            self._dataset.finalize()
            self._dataset = None
            self._settled = self.episodes

    def _frame(self, step: RecordedStep, episode: RecordedEpisode, last: bool) -> dict:
        record = step.record
        base = self._units.unnormalise(record["base"])
        frame = {
            OBS_STATE: step.state,
            ACTION: step.action,
            BASE_ACTION: base,
            RESIDUAL_ACTION: record["command"] - base,
            RESIDUAL: record["residual"],
            REWARD: np.array([step.reward], dtype=np.float32),
            SUCCESS: np.array([step.success]),
            DONE: np.array([last]),
            INTERVENTION: np.array([record.metadata["intervention"]]),
            EPISODE_SUCCESS: np.array([episode.success]),
            WEIGHTS_VERSION: np.array([record.metadata["weights_version"]]),
            "task": episode.task,
        }
        for camera, image in step.images.items():
            pixels = image.pixels()
            if pixels.shape != self._sizes[camera]:
                raise BagError(
                    f"{camera}: expected images of {self._sizes[camera]}, found {pixels.shape}"
                )
            frame[f"{OBS_IMAGES}.{camera}"] = pixels
        return frame

    def _open(self, first: RecordedStep) -> LeRobotDataset:
        if self._dataset is None:
            folder = self.settings.folder
            if self._sizes:
                self._dataset = LeRobotDataset.resume(
                    _repo_id(folder), root=folder, video_backend=BACKEND, rgb_encoder=ENCODER
                )
            else:
                self._dataset = self._create(first)
        return self._dataset

    def _create(self, first: RecordedStep) -> LeRobotDataset:
        settings = self.settings
        sizes = {name: image.pixels().shape for name, image in first.images.items()}
        if settings.folder.is_dir():
            settings.folder.rmdir()  # empty; LeRobot makes it itself
        settings.folder.parent.mkdir(parents=True, exist_ok=True)
        dataset = LeRobotDataset.create(
            _repo_id(settings.folder),
            round(settings.rate_hz),
            self._features(sizes, len(first.record["residual"])),
            root=settings.folder,
            robot_type=settings.robot_type or None,
            use_videos=settings.videos,
            video_backend=BACKEND,
            rgb_encoder=ENCODER,
        )
        self._sizes = sizes
        return dataset

    def _features(self, sizes: dict[str, tuple[int, ...]], residual_size: int) -> dict:
        """Return the features as LeRobot describes them; the policies' own come first."""
        names = [f"{name}.pos" for name in self.settings.joint_names]
        joints = {"dtype": "float32", "shape": (len(names),), "names": names}
        flag = {"dtype": "bool", "shape": (1,), "names": None}
        image = {
            "dtype": "video" if self.settings.videos else "image",
            "names": ["height", "width", "channels"],
        }
        return {
            OBS_STATE: joints,
            ACTION: dict(joints),
            **{f"{OBS_IMAGES}.{name}": {**image, "shape": size} for name, size in sizes.items()},
            REWARD: {"dtype": "float32", "shape": (1,), "names": None},
            SUCCESS: flag,
            DONE: dict(flag),
            INTERVENTION: dict(flag),
            BASE_ACTION: dict(joints),
            RESIDUAL_ACTION: dict(joints),
            RESIDUAL: {"dtype": "float32", "shape": (residual_size,), "names": None},
            EPISODE_SUCCESS: dict(flag),
            WEIGHTS_VERSION: {"dtype": "int64", "shape": (1,), "names": None},
        }


def _repo_id(folder: Path) -> str:
    return f"local/{folder.name}"
