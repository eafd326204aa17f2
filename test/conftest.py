"""What the tests of the ROS-free core share."""

import fcntl
import importlib
import os
import sys
from pathlib import Path

# Read when MuJoCo and the hub's client are first imported: no display, and no test that waits
# for a network.
os.environ.setdefault("MUJOCO_GL", "osmesa")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import torch

from residual_smolvla_ros.arguments import DEMO_CHECKPOINT
from residual_smolvla_ros.learning.rollout import Episode
from residual_smolvla_ros.policy.features import ResidualConfig

ROOT = Path(__file__).resolve().parents[1]
# Helpers with fixtures: their assertions explain themselves as those of tests do.
pytest.register_assert_rewrite("console_pages", "played_policy")
# One order of summation: what must be equal to the bit is.
torch.set_num_threads(1)


# Tests side by side (pytest -n 2) share it; it lies in the checkout, as all of them do.
MACHINE = os.open(__file__, os.O_RDONLY)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    """Leave the machine to tests that are marked `realtime`, fixtures included.

    What is due at 30 Hz would be late beside another test's graph.
    """
    alone, goes_on = (test and test.get_closest_marker("realtime") for test in (item, nextitem))
    fcntl.flock(MACHINE, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
    try:
        return (yield)
    finally:
        if not (alone and goes_on):
            fcntl.flock(MACHINE, fcntl.LOCK_UN)


@pytest.fixture(scope="session")
def base():
    """The frozen base of the demo. Imported here: LeRobot takes seconds to import."""
    from residual_smolvla_ros.policy.base import FrozenSmolVLA

    return FrozenSmolVLA(DEMO_CHECKPOINT)


@pytest.fixture(scope="session")
def kinematics():
    """Kinematics of the SO101."""
    from residual_smolvla_ros.robots.kinematics import Kinematics

    return Kinematics()


@pytest.fixture(scope="session")
def sim():
    """A simulated SO101, one for all tests: each takes 60 MB, and its renderer a second."""
    from residual_smolvla_ros.robots.simulation import SimulatedSO101

    simulator = SimulatedSO101()
    yield simulator
    simulator.close()


@pytest.fixture(scope="session")
def config() -> ResidualConfig:
    """A small residual in joint space: its numbers do not follow the demo's tuning."""
    return ResidualConfig.from_names(
        ["state", "base_action", "chunk_position", "episode_time"],
        joints=6,
        action_space="joint",
        action_scale=0.2,
        residual_clip=2.0,
        hold_steps=3,
        hidden_sizes=(8, 8),
        log_std_init=-1.0,
    )


@pytest.fixture(scope="session")
def make_episode(config):
    """Return a function that makes an episode of random numbers from a seed."""

    def make(seed: int, steps: int = 8, truncated: bool = True) -> Episode:
        rng = np.random.default_rng(seed)
        episode = Episode(success=not truncated)
        for _ in range(steps):
            episode.add_step(
                reward=rng.normal(),
                decision=True,
                features=rng.normal(size=config.feature_size).astype(np.float32),
                residual=rng.normal(size=config.residual_size).astype(np.float32),
                log_prob=rng.normal(),
                value=rng.normal(),
            )
        if truncated:
            episode.final_features = rng.normal(size=config.feature_size).astype(np.float32)
        return episode

    return make


@pytest.fixture(scope="module")
def reference_tool():
    """Return a function that imports a module of tools/reference."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "tools" / "reference")
        yield importlib.import_module
        for name in ("page", "sros2", "interfaces"):
            sys.modules.pop(name, None)
