"""LeRobot's own training, of a reward classifier on frames with `next.reward`."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.configs.default import DatasetConfig
from lerobot.configs.train import TrainPipelineConfig
from lerobot.datasets import LeRobotDatasetMetadata
from lerobot.rewards import RewardClassifierConfig, make_reward_model
from lerobot.scripts import lerobot_train
from lerobot.utils.constants import OBS_IMAGES, REWARD
from transformers import AutoConfig

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.success.checkpoint import CONFIG, find_named_model, hub, one_line
from residual_smolvla_ros.success.frames import BACKEND, open_frames
from residual_smolvla_ros.success.model import check_device

ENCODER = "encoder"


@dataclass(frozen=True)
class Job:
    """A training that can start: its configuration, and which episodes are for what."""

    config: TrainPipelineConfig
    encoder: Path
    train: list[int]
    held_out: list[int]
    frames: int
    positives: int
    allow_code: bool


def prepare(data: Path, encoder: Path, output: Path, values: dict) -> Job:
    """Return the job for arguments of `train-success`.

    Raises ConfigError for a dataset or an encoder that cannot be trained with, CheckpointError
    for an encoder with code that may not run.
    """
    with hub(allowed=False):
        features = _image_features(data, values["cameras"])
        rewards, owners = _read_labels(data)
        successes = {int(k): bool((rewards[owners == k] > 0.5).any()) for k in np.unique(owners)}
        train, held_out = split(successes, values["held_out"], values["seed"])
        find_named_model(encoder, str(encoder), ENCODER, True, False, values["allow_code"])
        model = _model_config(encoder, features, values)
        _try_model(encoder, model)
    chosen = np.isin(owners, train)
    config = TrainPipelineConfig(
        dataset=DatasetConfig(data.name, root=str(data), episodes=train, video_backend=BACKEND),
        reward_model=model,
        output_dir=output,
        steps=values["steps"],
        batch_size=values["batch_size"],
        seed=values["seed"],
        num_workers=0,  # the frames are small
        log_freq=max(1, values["steps"] // 20),
        save_freq=values["steps"],
        env_eval_freq=0,
    )
    positives = int((rewards[chosen] > 0.5).sum())
    allow_code = values["allow_code"]
    return Job(config, encoder, train, held_out, int(chosen.sum()), positives, allow_code)


def train(job: Job) -> Path:
    """Run the training; return the checkpoint's folder, which holds its encoder too."""
    output = job.config.output_dir
    if output.is_dir():
        output.rmdir()  # empty; LeRobot makes it itself
    with hub(allowed=False):
        lerobot_train.train(job.config)
    checkpoint = (output / "checkpoints" / "last" / "pretrained_model").resolve()
    _add_encoder(checkpoint, job.encoder, job.allow_code)
    return checkpoint


def split(successes: dict[int, bool], share: float, seed: int) -> tuple[list[int], list[int]]:
    """Return the episodes to train on and those held out: a share of each kind, at least one.

    `successes` tells of each episode whether it has a frame that is labelled as done. Raises
    ConfigError unless a success is left for both.
    """
    if not 0.0 < share < 1.0:
        raise ConfigError(f"held_out: expected a share between 0 and 1, found {share:g}")
    rng = np.random.default_rng(seed)
    held_out: list[int] = []
    for kind in (True, False):
        episodes = sorted(k for k, success in successes.items() if success is kind)
        if kind and len(episodes) < 2:
            raise ConfigError(
                "data: expected 2 episodes or more with frames labelled as done, one of them to "
                f"test on, found {len(episodes)}"
            )
        if len(episodes) > 1:
            count = min(max(1, round(share * len(episodes))), len(episodes) - 1)
            held_out += rng.permutation(episodes)[:count].tolist()
    return sorted(successes.keys() - held_out), sorted(held_out)


def _image_features(data: Path, cameras: tuple[str, ...]) -> dict[str, PolicyFeature]:
    try:
        meta = LeRobotDatasetMetadata(data.name, root=data)
    except Exception as error:
        raise ConfigError(
            f"data: expected a LeRobotDataset in {data}, found: {one_line(error)}"
        ) from None
    if REWARD not in meta.features:
        raise ConfigError(f"data: expected a feature {REWARD}, found {sorted(meta.features)}")
    prefix = f"{OBS_IMAGES}."
    found = [key.removeprefix(prefix) for key in meta.camera_keys if key.startswith(prefix)]
    if not found or set(cameras) - set(found):
        wanted = list(cameras) or "images"
        raise ConfigError(f"cameras: expected {wanted} in the dataset, found {found}")
    features = {}
    for camera in cameras or found:
        key = prefix + camera
        height, width, channels = meta.features[key]["shape"]
        features[key] = PolicyFeature(type=FeatureType.VISUAL, shape=(channels, height, width))
    return features


def _read_labels(data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return `next.reward` (frames,) and the episode (frames,) of every frame."""
    table = open_frames(data).hf_dataset.data
    return tuple(table.column(name).to_numpy() for name in (REWARD, "episode_index"))


def _model_config(encoder: Path, features: dict, values: dict) -> RewardClassifierConfig:
    try:
        found = AutoConfig.from_pretrained(encoder, trust_remote_code=values["allow_code"])
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"encoder {encoder}: expected a transformers model, found: {one_line(error)}"
        ) from None
    vision = getattr(found, "vision_config", found)
    return RewardClassifierConfig(
        device=check_device(values["device"]),
        model_name=str(encoder),
        model_type="cnn" if hasattr(vision, "hidden_sizes") else "transformer",
        num_cameras=len(features),
        input_features=features,
        learning_rate=values["learning_rate"],
    )


def _try_model(encoder: Path, config: RewardClassifierConfig) -> None:
    """Ask the untrained model about black images, before LeRobot starts to train it."""
    shapes = [feature.shape for feature in config.input_features.values()]
    try:
        model = make_reward_model(config).eval()
        with torch.inference_mode():
            model.predict([torch.zeros(1, *shape, device=config.device) for shape in shapes])
    except (OSError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        # LeRobot's head takes a CNN's features on a grid of 4 by 4.
        raise ConfigError(
            f"encoder {encoder}: expected one for images of {shapes[0]}, a CNN's divided by 32 to "
            f"4x4, found: {one_line(error)}"
        ) from None


def _add_encoder(checkpoint: Path, encoder: Path, allow_code: bool) -> None:
    """Copy the encoder into a checkpoint, and let it name the copy."""
    (checkpoint / ENCODER).mkdir()
    for pattern in ("*.json", "*.safetensors", *(["*.py"] if allow_code else [])):
        for file in encoder.glob(pattern):
            shutil.copy2(file, checkpoint / ENCODER / file.name)
    config = json.loads((checkpoint / CONFIG).read_text())
    (checkpoint / CONFIG).write_text(json.dumps(config | {"model_name": ENCODER}, indent=4) + "\n")
