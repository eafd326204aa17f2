"""The kinds of reward models: what goes in, and what the number that comes out means."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from lerobot.configs.rewards import RewardModelConfig
from lerobot.utils.constants import OBS_IMAGE, OBS_IMAGES

from residual_smolvla_ros.errors import CheckpointError

# Frames that a model gets which sets no limit itself.
MAX_FRAMES = 64


@dataclass(frozen=True)
class Kind:
    """How to ask one kind of reward model.

    `read` returns the number for a batch of one; `history` is the number of frames, the newest
    last, that make up its input, 0 for a single image.
    """

    image_keys: tuple[str, ...]
    meaning: str
    read: Callable[[torch.nn.Module, dict], torch.Tensor]
    history: int = 0


def describe(config: RewardModelConfig) -> Kind:
    """Return how to ask the model of a configuration; raise CheckpointError if it cannot be."""
    if config.type == "reward_classifier":
        return _classifier(config)
    frames = config.max_frames or MAX_FRAMES
    if config.type == "robometer":
        if config.reward_output == "success":
            meaning = f"1 above its own success_threshold {config.success_threshold:g}, else 0"
        else:
            meaning = "progress of the task, 0 to 1"
        return Kind((config.image_key,), meaning, _compute_reward, frames)
    if math.isfinite(config.success_threshold):
        meaning = f"1 above its own success_threshold {config.success_threshold:g}, else 0"
        return Kind((config.image_key,), meaning, _compute_reward, frames)
    meaning = "probability that its VLM says True of the task, uncalibrated"
    return Kind((config.image_key,), meaning, _exp_reward, frames)


def _classifier(config: RewardModelConfig) -> Kind:
    if config.num_classes != 2:
        raise CheckpointError(
            f"num_classes: expected 2, success and none, found {config.num_classes}"
        )
    keys = tuple(key for key in config.input_features if key.startswith(OBS_IMAGE))
    if not keys:
        raise CheckpointError(
            f"input_features: expected {OBS_IMAGES}.<camera>, found {sorted(config.input_features)}"
        )
    return Kind(keys, "probability of success", _probability)


def _probability(model: torch.nn.Module, batch: dict) -> torch.Tensor:
    # `compute_reward` is the same, cut at 0.5.
    keys = [key for key in model.config.input_features if key.startswith(OBS_IMAGE)]
    return model.predict([batch[key] for key in keys]).probabilities


def _compute_reward(model: torch.nn.Module, batch: dict) -> torch.Tensor:
    return model.compute_reward(batch)


def _exp_reward(model: torch.nn.Module, batch: dict) -> torch.Tensor:
    return model.compute_reward(batch).exp()  # of a log-probability


def camera_of(key: str) -> str:
    """Return the camera of a feature; raise CheckpointError if its name has none."""
    camera = key.removeprefix(f"{OBS_IMAGES}.")
    if camera == key:
        raise CheckpointError(f"image key: expected {OBS_IMAGES}.<camera>, found {key!r}")
    return camera
