"""Demonstrations of the scripted expert, recorded as a LeRobotDataset."""

import shutil
from pathlib import Path

import datasets
import numpy as np
from expert import ScriptedExpert
from lerobot.datasets import LeRobotDataset
from tqdm import tqdm

from residual_smolvla_ros.robots.simulation import (
    CAMERAS,
    IMAGE_SIZE,
    RATE_HZ,
    TASK,
    SimulatedSO101,
)
from residual_smolvla_ros.robots.units import JOINT_NAMES, rad_to_lerobot

REPO_ID = "local/pick_lift_demonstrations"
LAST_SEED = 9_999  # evaluation seeds start far above


def dataset_features() -> dict:
    """Return the LeRobot features of a demonstration."""
    joints = {
        "dtype": "float32",
        "shape": (len(JOINT_NAMES),),
        "names": [f"{name}.pos" for name in JOINT_NAMES],
    }
    image = {
        "dtype": "image",
        "shape": (IMAGE_SIZE, IMAGE_SIZE, 3),
        "names": ["height", "width", "channels"],
    }
    return {
        "observation.state": joints,
        "action": dict(joints),
        **{f"observation.images.{name}": dict(image) for name in CAMERAS},
    }


def record(root: Path, episodes: int, noise_m: float, seed: int = 0) -> LeRobotDataset:
    """Record `episodes` successful demonstrations into `root`, replacing what is there."""
    # Only a complete data set gets its final name: an interrupted run is recorded again.
    partial = root.with_name(root.name + ".partial")
    for folder in (root, partial):
        if folder.exists():
            shutil.rmtree(folder)
    # Images, not video: training reads single frames, and 96x96 PNGs are small.
    dataset = LeRobotDataset.create(
        REPO_ID,
        fps=RATE_HZ,
        features=dataset_features(),
        root=partial,
        robot_type="so101_follower",
        use_videos=False,
    )
    datasets.disable_progress_bars()  # one bar for all episodes, below
    sim = SimulatedSO101()
    expert = ScriptedExpert(sim)
    rng = np.random.default_rng(seed)
    scenes = iter(range(LAST_SEED + 1))
    with tqdm(total=episodes, desc="demonstrations", unit="episode") as progress:
        kept = 0
        while kept < episodes:
            scene = next(scenes, None)
            if scene is None:
                raise ValueError(f"only {kept} of {LAST_SEED + 1} scenes gave a success")
            frames = _demonstrate(sim, expert, scene, rng, noise_m)
            if frames is None:
                continue
            for frame in frames:
                dataset.add_frame(frame)
            dataset.save_episode()
            kept += 1
            progress.update()
    dataset.finalize()
    sim.close()
    partial.rename(root)
    return LeRobotDataset(REPO_ID, root=root)


def _demonstrate(sim, expert, scene: int, rng, noise_m: float) -> list[dict] | None:
    """Return the frames of one episode, or None where the cube was not lifted."""
    sim.reset(scene)
    frames, success = [], False
    for command in expert.plan(rng, noise_m):
        frames.append(
            {
                "observation.state": rad_to_lerobot(sim.joint_positions()).astype(np.float32),
                "action": rad_to_lerobot(command).astype(np.float32),
                **{f"observation.images.{name}": sim.render(name) for name in CAMERAS},
                "task": TASK,
            }
        )
        sim.step(command)
        success |= sim.state().success
    return frames if success else None
