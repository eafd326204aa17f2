"""Print what the residual adds to a control step: features, actor and critic, in ms.

    python benchmarks/residual_tick.py

The plan is SmolVLA's; the rest of a step (topics, servo bus) is measured by graph_throughput.py.
"""

import argparse
import statistics
import time

import numpy as np
import torch

from residual_smolvla_ros.arguments import DEMO_CHECKPOINT
from residual_smolvla_ros.policy.actor_critic import ResidualActorCritic
from residual_smolvla_ros.policy.base import FrozenSmolVLA
from residual_smolvla_ros.policy.features import ResidualConfig
from residual_smolvla_ros.policy.residual_policy import ResidualPolicy
from residual_smolvla_ros.robots.kinematics import Kinematics
from residual_smolvla_ros.robots.simulation import IMAGE_SIZE, PRIVILEGED_NAMES, TASK


def measure(hold_steps: int, episodes: int) -> tuple[list[float], list[float]]:
    """Return the durations of steps and of plans, in ms."""
    base = FrozenSmolVLA(DEMO_CHECKPOINT)
    policy = ResidualPolicy(base, TASK, Kinematics())
    names = ResidualConfig.FEATURE_NAMES
    config = ResidualConfig.from_names(names, 6, len(PRIVILEGED_NAMES), hold_steps=hold_steps)
    policy.load_weights(config, ResidualActorCritic(config).state_dict(), version=0)
    images = {name: np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8) for name in base.cameras}
    extra = {"privileged": np.zeros(len(PRIVILEGED_NAMES)), "target": np.array([0.2, 0.0, 0.01])}
    state = np.array([0.0, -60.0, 60.0, 60.0, 0.0, 20.0])
    steps, plans = [], []
    for episode in range(episodes):
        policy.begin_episode(episode, max_steps=2 * base.chunk_size)
        for _ in range(2 * base.chunk_size):
            if policy.needs_plan:
                start = time.perf_counter()
                policy.plan(images, state)
                plans.append(1e3 * (time.perf_counter() - start))
            start = time.perf_counter()
            policy.step(state, extra)
            steps.append(1e3 * (time.perf_counter() - start))
    return steps, plans


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=30)
    episodes = parser.parse_args().episodes
    torch.set_num_threads(1)
    print(f"{'':<34}{'median':>9}{'99th percentile':>18}   ms, 1 thread")
    for hold_steps in (1, 5):
        steps, plans = measure(hold_steps, episodes)
        row(f"step, residual held {hold_steps} step(s)", steps)
    row("plan of the demo's SmolVLA", plans)


def row(name: str, values: list[float]) -> None:
    """Print a line of the table."""
    tail = float(np.percentile(values, 99))
    print(f"{name:<34}{statistics.median(values):>9.3f}{tail:>18.3f}")


if __name__ == "__main__":
    main()
