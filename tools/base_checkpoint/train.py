"""Behaviour cloning of a tiny SmolVLA with its own flow-matching loss."""

import contextlib
import io
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from lerobot.configs.types import FeatureType
from lerobot.datasets import LeRobotDataset
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from lerobot.processor import TokenizerProcessorStep
from lerobot.utils.feature_utils import dataset_to_policy_features
from tqdm import trange
from vlm import write_vlm

from residual_smolvla_ros.robots.simulation import CAMERAS, IMAGE_SIZE, TASK

CHUNK_SIZE = 50
VLM_FOLDER = "vlm"  # inside the checkpoint; saved as this relative name
BATCH_SIZE, LEARNING_RATE, WARMUP_STEPS = 64, 1e-3, 100
# The policy plans at ticks 0 and 50 of an episode, so half of the samples start near those.
PLAN_TICKS, PLAN_JITTER, PLAN_SHARE = (0, 50), 3, 0.5


def make_policy(checkpoint: Path, dataset: LeRobotDataset):
    """Return an untrained policy with its processors; write its VLM folder first."""
    write_vlm(checkpoint / VLM_FOLDER)
    features = dataset_to_policy_features(dataset.meta.features)
    outputs = {k: f for k, f in features.items() if f.type is FeatureType.ACTION}
    config = SmolVLAConfig(
        vlm_model_name=str(checkpoint / VLM_FOLDER),
        load_vlm_weights=False,
        freeze_vision_encoder=False,
        train_expert_only=False,
        num_vlm_layers=2,
        resize_imgs_with_padding=(IMAGE_SIZE, IMAGE_SIZE),
        max_state_dim=6,
        max_action_dim=6,
        tokenizer_max_length=16,
        chunk_size=CHUNK_SIZE,
        n_action_steps=CHUNK_SIZE,
        num_steps=4,
        input_features={k: f for k, f in features.items() if k not in outputs},
        output_features=outputs,
        device="cpu",
        push_to_hub=False,
    )
    with contextlib.redirect_stdout(io.StringIO()):  # LeRobot prints how it cuts the VLM
        policy = SmolVLAPolicy(config)
    processors = make_pre_post_processors(config, dataset_stats=dataset.meta.stats)
    return policy, *processors


def save(checkpoint: Path, policy, preprocessor, postprocessor) -> None:
    """Save policy and processors so that no path of this machine is in them."""
    tokenizer = next(s for s in preprocessor.steps if isinstance(s, TokenizerProcessorStep))
    name, tokenizer.tokenizer_name = tokenizer.tokenizer_name, VLM_FOLDER
    policy.config.vlm_model_name = VLM_FOLDER
    policy.save_pretrained(checkpoint)
    preprocessor.save_pretrained(checkpoint)
    postprocessor.save_pretrained(checkpoint)
    policy.config.vlm_model_name = tokenizer.tokenizer_name = name


class Frames:
    """All frames of a dataset in memory, images as uint8."""

    def __init__(self, dataset: LeRobotDataset) -> None:
        rows = dataset.hf_dataset.with_format(None)
        self._images = {
            f"observation.images.{name}": torch.empty(
                len(rows), 3, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8
            )
            for name in CAMERAS
        }
        for i in trange(len(rows), desc="loading", unit="frame"):
            row = rows[i]
            for key, images in self._images.items():
                images[i] = torch.from_numpy(np.array(row[key])).permute(2, 0, 1)
        columns = rows.remove_columns(list(self._images)).with_format("numpy")
        self._state = torch.from_numpy(np.stack(columns["observation.state"]))
        self._action = torch.from_numpy(np.stack(columns["action"]))
        episode = np.asarray(columns["episode_index"])
        self._first = torch.from_numpy(np.searchsorted(episode, np.unique(episode)))
        self._last = torch.from_numpy(np.searchsorted(episode, episode, side="right") - 1)

    def batch(self, size: int, generator: torch.Generator) -> dict:
        """Return random frames with the chunk of actions that follows each."""
        index = torch.randint(len(self._state), (size,), generator=generator)
        planned = int(size * PLAN_SHARE)
        first = self._first[torch.randint(len(self._first), (planned,), generator=generator)]
        tick = torch.tensor(PLAN_TICKS)[torch.randint(2, (planned,), generator=generator)]
        jitter = torch.randint(-PLAN_JITTER, PLAN_JITTER + 1, (planned,), generator=generator)
        index[:planned] = first + (tick + jitter).clamp_min(0)
        steps = index[:, None] + torch.arange(CHUNK_SIZE)
        last = self._last[index][:, None]
        images = {key: images[index].float() / 255 for key, images in self._images.items()}
        return {
            **images,
            "observation.state": self._state[index],
            "action": self._action[steps.minimum(last)],
            "action_is_pad": steps > last,
            "task": [TASK] * size,
        }


def train(
    policy: SmolVLAPolicy,
    preprocessor: Callable,
    frames: Frames,
    steps: int,
    seed: int,
    every: int = 0,
    good_enough: Callable[[int], bool] | None = None,
) -> tuple[int, float]:
    """Train until `good_enough`, asked each `every` steps; return steps and seconds spent."""
    generator = torch.Generator().manual_seed(seed)
    parameters = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, LEARNING_RATE, betas=(0.9, 0.95), weight_decay=1e-6)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda k: (
            min(1.0, (k + 1) / WARMUP_STEPS)
            * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, k / steps))))
        ),
    )
    seconds, average = 0.0, None
    policy.train()
    progress = trange(1, steps + 1, desc="training", unit="step")
    for step in progress:
        begun = time.perf_counter()
        batch = preprocessor(frames.batch(BATCH_SIZE, generator))
        loss, _ = policy.forward(batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        seconds += time.perf_counter() - begun
        average = loss.item() if average is None else 0.98 * average + 0.02 * loss.item()
        progress.set_postfix(loss=f"{average:.3f}")
        if every and good_enough and step % every == 0:
            if good_enough(step):
                break
            policy.train()
    return step, seconds
