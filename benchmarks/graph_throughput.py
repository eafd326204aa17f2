"""Print the control steps per second of the lockstep graph, and where the time goes.

    python benchmarks/graph_throughput.py [--episodes 100]

Runs the first episodes of the real pipeline (five processes, updates and validation included)
and, after it, the same steps in one process without topics, as the ratio that the graph costs.
Cameras are rendered only where the base plans.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch

from residual_smolvla_ros.arguments import DEMO_CHECKPOINT
from residual_smolvla_ros.learning.schedule import TRAINING_SEED
from residual_smolvla_ros.policy.actor_critic import ResidualActorCritic
from residual_smolvla_ros.policy.base import FrozenSmolVLA
from residual_smolvla_ros.policy.features import ResidualConfig
from residual_smolvla_ros.policy.residual_policy import ResidualPolicy
from residual_smolvla_ros.robots.kinematics import Kinematics
from residual_smolvla_ros.robots.simulation import CAMERAS, PRIVILEGED_NAMES, TASK, SimulatedSO101
from residual_smolvla_ros.robots.units import lerobot_to_rad, rad_to_lerobot

MODULE = "residual_smolvla_ros.nodes."
MAX_STEPS = 100


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--domain", type=int, default=90, help="ROS domain")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        process = start(run, options)
        try:
            usage = follow(run, process, options.episodes)
        finally:
            process.terminate()
            process.wait()
        graph_rate = report(run, usage, options.episodes)
    one_process = one_process_rate(options.episodes)
    print(f"\none process, no topics, no updates: {one_process:.0f} steps/s; "
          f"the graph reaches {graph_rate / one_process:.2f} of it")  # fmt: skip


def start(run: Path, options) -> subprocess.Popen:
    """Start a fine-tuning run whose first episodes are measured."""
    arguments = [f"output:={run}", "eval_episodes:=0", f"episodes:={2 * options.episodes}"]
    return subprocess.Popen(
        [sys.executable, "-m", "residual_smolvla_ros.cli", "finetune", *arguments],
        env=os.environ | {"ROS_DOMAIN_ID": str(options.domain)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def outcomes(run: Path) -> list[dict]:
    """Return the outcomes so far, of training and validation."""
    file = run / "episodes.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def follow(run: Path, process: subprocess.Popen, episodes: int) -> dict[str, float]:
    """Wait for the measured episodes; return each node's CPU seconds in them."""
    first = None
    while len(outcomes(run)) < episodes:
        if process.poll() is not None:
            raise SystemExit("the pipeline ended before it was measured")
        if first is None and outcomes(run):
            first = cpu_times(process)
        time.sleep(0.05)
    last = cpu_times(process)
    return {name: last[name] - first[name] for name in first}


def cpu_times(process: subprocess.Popen) -> dict[str, float]:
    """Return the CPU seconds of each node so far."""
    times = {}
    for child in psutil.Process(process.pid).children(recursive=True):
        for word in child.cmdline():
            if word.startswith(MODULE):
                spent = child.cpu_times()
                times[word.removeprefix(MODULE)] = spent.user + spent.system
    return times


def report(run: Path, usage: dict[str, float], episodes: int) -> float:
    """Print steps per second and the CPU time of each node per step; return the rate."""
    rows = outcomes(run)[:episodes]
    steps = sum(row["steps"] for row in rows[1:])
    seconds = rows[-1]["wall_s"] - rows[0]["wall_s"]
    rate = steps / seconds
    print(f"graph: {steps} control steps in {seconds:.1f} s, {rate:.0f} steps/s")
    print(f"\n{'node':<12}{'CPU ms a step':>14}")
    for name, spent in sorted(usage.items(), key=lambda item: -item[1]):
        print(f"{name:<12}{1e3 * spent / steps:>14.2f}")
    print(f"{'wall':<12}{1e3 / rate:>14.2f}   ({os.cpu_count()} cores)")
    return rate


def one_process_rate(episodes: int) -> float:
    """Return the steps per second of simulator and policy called one after the other."""
    torch.set_num_threads(1)
    policy = ResidualPolicy(FrozenSmolVLA(DEMO_CHECKPOINT), TASK, Kinematics())
    config = ResidualConfig.from_names(ResidualConfig.FEATURE_NAMES, 6, len(PRIVILEGED_NAMES))
    policy.load_weights(config, ResidualActorCritic(config).state_dict(), version=0)
    robot = SimulatedSO101()
    robot.reset(0)
    for name in CAMERAS:
        robot.render(name)  # makes the OpenGL context, once
    steps = 0
    start = time.perf_counter()
    for episode in range(episodes):
        steps += play(robot, policy, TRAINING_SEED + episode)
    rate = steps / (time.perf_counter() - start)
    robot.close()
    return rate


def play(robot: SimulatedSO101, policy: ResidualPolicy, seed: int) -> int:
    """Play an episode; return its steps."""
    robot.reset(seed)
    policy.begin_episode(seed, MAX_STEPS)
    for step in range(1, MAX_STEPS + 1):
        joints = rad_to_lerobot(robot.joint_positions())
        state = robot.state()
        if policy.needs_plan:
            policy.plan({name: robot.render(name) for name in CAMERAS}, joints)
        extra = {"privileged": state.privileged, "target": state.target}
        robot.step(lerobot_to_rad(policy.step(joints, extra).command))
        if robot.state().success:
            return step
    return MAX_STEPS


if __name__ == "__main__":
    main()
