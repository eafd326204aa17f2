"""A residual policy whose episodes are played without ROS, and what its base does alone."""

import numpy as np
import pytest
import torch

from residual_smolvla_ros.policy.actor_critic import ResidualActorCritic
from residual_smolvla_ros.policy.features import ResidualConfig
from residual_smolvla_ros.policy.residual_policy import PolicyStep, ResidualPolicy

STATE = np.array([5.0, -60.0, 55.0, 60.0, -10.0, 20.0])
TARGET = np.array([0.2, 0.05, 0.01])
EXTRA = {"privileged": np.linspace(-1, 1, 4), "target": TARGET}


@pytest.fixture(scope="module")
def images(base) -> dict[str, np.ndarray]:
    """Return an image of noise for each of the base's cameras."""
    rng = np.random.default_rng(0)
    return {name: rng.integers(0, 256, (96, 96, 3), dtype=np.uint8) for name in base.cameras}


@pytest.fixture(scope="module")
def everything() -> ResidualConfig:
    """Return all features in the documented order, in the action space of the gripper."""
    return ResidualConfig.from_names(
        ResidualConfig.FEATURE_NAMES, joints=6, privileged_size=4, hidden_sizes=(8,), hold_steps=3
    )


@pytest.fixture
def make_policy(base, kinematics):
    """Return a function that makes a policy; `head` scales the actor's last weights."""

    def make(config: ResidualConfig, head: float = 0.3) -> ResidualPolicy:
        network = ResidualActorCritic(config, seed=1)
        weight = network.actor[-1].weight
        noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(2))
        with torch.no_grad():
            weight.copy_(head * noise)
        policy = ResidualPolicy(base, "Lift the red cube", kinematics)
        policy.load_weights(config, network.state_dict(), version=5)
        return policy

    return make


def play(policy, images, steps: int, seed: int = 1, **settings) -> list[PolicyStep]:
    """Play an episode in which the state moves a little with every step."""
    policy.begin_episode(seed, max_steps=200, **settings)
    played = []
    for tick in range(steps):
        state = STATE + 0.1 * tick
        if policy.needs_plan:
            policy.plan(images, state)
        played.append(policy.step(state, EXTRA))
    return played


def base_commands(base, images, steps: int, seed: int = 1) -> np.ndarray:
    """What the base alone does in that episode, straight from its plans."""
    commands = []
    for number in range(-(-steps // base.chunk_size)):
        state = STATE + 0.1 * number * base.chunk_size
        noise = base.make_noise(seed, number)
        plan = base.plan(images, state, "Lift the red cube", noise)
        commands += [base.unnormalise_action(action) for action in plan]
    return np.array(commands[:steps])


def stack(played: list[PolicyStep], name: str) -> np.ndarray:
    return np.array([getattr(step, name) for step in played])
