"""Success rate of the base policy alone on held-out scenes."""

import contextlib
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from expert import EPISODE_STEPS
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from tqdm import tqdm
from train import CHUNK_SIZE, VLM_FOLDER

from residual_smolvla_ros.robots.simulation import CAMERAS, TASK, SimulatedSO101
from residual_smolvla_ros.robots.units import lerobot_to_rad, rad_to_lerobot

HELD_OUT_SEEDS = range(1_000_000, 1_000_200)
GRASP_TICK = 49  # the expert is down around the cube, about to close


@dataclass(frozen=True)
class Result:
    """Successes, the 95% interval of their rate and the miss before closing in m."""

    successes: int
    episodes: int
    misses: np.ndarray  # (episodes,) horizontal distance between tool and cube

    @property
    def rate(self) -> float:
        """Share of the episodes that succeed."""
        return self.successes / self.episodes

    def __str__(self) -> str:
        low, high = wilson(self.successes, self.episodes)
        quartiles = np.percentile(self.misses * 1e3, [25, 50, 75, 95])
        return (
            f"success {self.rate:.3f} "
            f"(95% Wilson {low:.3f} to {high:.3f}, {self.episodes} episodes); tool to cube before "
            "closing, 25/50/75/95%: " + "/".join(f"{q:.0f}" for q in quartiles) + " mm"
        )


def wilson(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Return the Wilson score interval of a success rate."""
    rate = successes / trials
    scale = 1 + z * z / trials
    centre = (rate + z * z / (2 * trials)) / scale
    half = z / scale * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    return centre - half, centre + half


def load(checkpoint: Path):
    """Return policy, preprocessor and postprocessor of a saved checkpoint."""
    if not (checkpoint / "config.json").exists():  # LeRobot would look for it on the hub
        raise FileNotFoundError(f"no checkpoint in {checkpoint}")
    vlm = str(checkpoint / VLM_FOLDER)
    config = PreTrainedConfig.from_pretrained(checkpoint)
    config.vlm_model_name = vlm
    config.device = "cpu"
    with contextlib.redirect_stdout(io.StringIO()):
        policy = SmolVLAPolicy.from_pretrained(checkpoint, config=config)
    processors = make_pre_post_processors(
        config,
        pretrained_path=str(checkpoint),
        preprocessor_overrides={"tokenizer_processor": {"tokenizer_name": vlm}},
    )
    return policy, *processors


def flow_noise(policy: SmolVLAPolicy, seed: int, chunk: int) -> torch.Tensor:
    """Return the noise a chunk starts from; fixed by the episode's seed and chunk index."""
    generator = torch.Generator().manual_seed(seed * 1_000 + chunk)
    shape = (1, policy.config.chunk_size, policy.config.max_action_dim)
    return torch.randn(shape, generator=generator)


def observe(sim: SimulatedSO101) -> dict:
    """Return what the robot sees, in LeRobot's names and units."""
    images = {name: torch.from_numpy(sim.render(name)) for name in CAMERAS}
    state = rad_to_lerobot(sim.joint_positions()).astype(np.float32)
    return {
        "observation.state": torch.from_numpy(state),
        **{f"observation.images.{k}": v.permute(2, 0, 1) / 255 for k, v in images.items()},
        "task": TASK,
    }


def evaluate(
    sim: SimulatedSO101, policy, preprocessor, postprocessor, seeds: Iterable[int], label: str
) -> Result:
    """Run one episode a seed; success is any step with the cube lifted."""
    successes, misses = 0, []
    for seed in tqdm(seeds, desc=label, unit="episode", leave=False):
        sim.reset(seed)
        success = False
        for tick in range(EPISODE_STEPS):
            if tick % CHUNK_SIZE == 0:
                noise = flow_noise(policy, seed, tick // CHUNK_SIZE)
                batch = preprocessor(observe(sim))
                chunk = postprocessor(policy.predict_action_chunk(batch, noise=noise))
                commands = lerobot_to_rad(chunk[0].numpy())
            sim.step(commands[tick % CHUNK_SIZE])
            success |= sim.state().success
            if tick == GRASP_TICK:
                tool = sim.data.site("gripperframe").xpos[:2]
                misses.append(np.linalg.norm(sim.data.body("pick_slot_0").xpos[:2] - tool))
        successes += success
    return Result(successes, len(misses), np.array(misses))
