"""The LeRobotDataset of a session: the features and frames that lerobot-record writes."""

import contextlib
from pathlib import Path

import av
import datasets
from lerobot.common.control_utils import sanity_check_dataset_robot_compatibility
from lerobot.configs.dataset import DatasetRecordConfig
from lerobot.datasets import (
    LeRobotDataset,
    aggregate_pipeline_dataset_features,
    create_initial_features,
)
from lerobot.processor import make_default_processors
from lerobot.utils.constants import ACTION, HF_LEROBOT_HOME, OBS_STR
from lerobot.utils.feature_utils import build_dataset_frame, combine_feature_dicts

from residual_smolvla_ros.errors import ConfigError

# There may be no ffmpeg that LeRobot could choose.
BACKEND = "pyav"


class Recording:
    """A dataset that grows by episodes: observation and action of each step, in LeRobot's units.

    Without a `repo_id` nothing is written. `close` it, or it does not open. Raises ConfigError
    where the dataset to write is there already, or the one to `resume` is not or has other
    features.
    """

    def __init__(self, config: DatasetRecordConfig, robot, resume: bool):
        self._config = config
        self._dataset: LeRobotDataset | None = None
        if not config.repo_id:
            return
        av.logging.set_level(av.logging.ERROR)
        for name, shape in robot.observation_features.items():
            if shape is not float and None in shape:
                raise ConfigError(
                    f"robot.cameras.{name}: expected width and height where a dataset is written, "
                    "found none"
                )
        try:
            self._dataset = self._open(robot, resume)
        except (OSError, ValueError) as error:
            text = " ".join(str(error).split())
            raise ConfigError(
                f"dataset {config.repo_id}: expected "
                f"{'one to add to' if resume else 'a new folder'}, found: {text}"
            ) from None

    def _open(self, robot, resume: bool) -> LeRobotDataset:
        config = self._config
        features = _features(robot, config.video)
        how = {
            "root": config.root,
            "video_backend": BACKEND,
            "batch_encoding_size": config.video_encoding_batch_size,
            "rgb_encoder": config.rgb_encoder,
            "depth_encoder": config.depth_encoder,
            "encoder_threads": config.encoder_threads,
            "streaming_encoding": config.streaming_encoding,
            "encoder_queue_maxsize": config.encoder_queue_maxsize,
            "image_writer_processes": config.num_image_writer_processes,
            "image_writer_threads": config.num_image_writer_threads_per_camera * len(robot.cameras),
        }
        if resume:
            folder = Path(config.root or HF_LEROBOT_HOME / config.repo_id)
            if not (folder / "meta" / "info.json").is_file():
                # LeRobot would look for it on the hub.
                raise ValueError(f"none in {folder}")
            dataset = LeRobotDataset.resume(config.repo_id, **how)
            sanity_check_dataset_robot_compatibility(dataset, robot, config.fps, features)
            return dataset
        config.stamp_repo_id()
        return LeRobotDataset.create(
            config.repo_id,
            config.fps,
            features=features,
            robot_type=robot.name,
            use_videos=config.video,
            **how,
        )

    def add(self, observation: dict, action: dict) -> None:
        """Write a step of the present episode."""
        if self._dataset is None:
            return
        features = self._dataset.features
        self._dataset.add_frame(
            build_dataset_frame(features, observation, prefix=OBS_STR)
            | build_dataset_frame(features, action, prefix=ACTION)
            | {"task": self._config.single_task}
        )

    def keep(self) -> None:
        """Keep the present episode."""
        if self._dataset is not None:
            # LeRobot switches them on again: a line for each episode is enough.
            datasets.disable_progress_bars()
            self._dataset.save_episode()

    def drop(self) -> None:
        """Forget the present episode."""
        if self._dataset is not None and self._dataset.has_pending_frames():
            self._dataset.clear_episode_buffer()

    def close(self) -> None:
        """Make the dataset on disk complete, and upload it where `push_to_hub` says so."""
        if self._dataset is None:
            return
        self.drop()
        self._dataset.finalize()
        with contextlib.suppress(OSError):
            (self._dataset.root / "images").rmdir()
        if self._config.push_to_hub and self._dataset.num_episodes:
            self._dataset.push_to_hub(tags=self._config.tags, private=self._config.private)


def _features(robot, videos: bool) -> dict:
    teleop, _, observe = make_default_processors()
    return combine_feature_dicts(
        aggregate_pipeline_dataset_features(
            pipeline=teleop,
            initial_features=create_initial_features(action=robot.action_features),
            use_videos=videos,
        ),
        aggregate_pipeline_dataset_features(
            pipeline=observe,
            initial_features=create_initial_features(observation=robot.observation_features),
            use_videos=videos,
        ),
    )
