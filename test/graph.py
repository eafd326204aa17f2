"""Run the real pipeline in processes of its own, on a ROS domain of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from residual_smolvla_ros.recording.bag_reader import Bag
from residual_smolvla_ros.recording.checks.learner import check_learner
from residual_smolvla_ros.recording.checks.policy import recompute
from residual_smolvla_ros.recording.checks.reward import check_reward
from residual_smolvla_ros.recording.session import find_base, read_session

# Small enough for a test: an update is two episodes of twelve steps.
SETTINGS = {
    "/**/learner": {
        "episodes_per_update": 2,
        "warmup_updates": 1,
        "hidden_sizes": [16, 16],
        "features": ["state", "base_action", "vision", "vision_age", "privileged"],
        "critic_only": ["privileged"],
        "vision_cameras": ["wrist"],
        "vision_components": 4,
        "vision_period_steps": 5,
    },
    "/**/episode": {
        "max_steps": 12,
        "validation_episodes": 1,
        "validation_every": 2,
    },
}


def write_config(folder: Path, **further: dict) -> Path:
    """Write the small settings, and those of further nodes, as a parameter file."""
    file = folder / "small.yaml"
    settings = SETTINGS | {f"/**/{node}": values for node, values in further.items()}
    # JSON is YAML, which is what ROS 2 reads.
    file.write_text(json.dumps({k: {"ros__parameters": v} for k, v in settings.items()}))
    return file


def start(domain: int, mode: str, **arguments) -> subprocess.Popen:
    """Start `residual-smolvla <mode>` on a ROS domain."""
    words = [f"{name}:={value}" for name, value in arguments.items()]
    return subprocess.Popen(
        [sys.executable, "-m", "residual_smolvla_ros.cli", mode, *words],
        env=os.environ | {"ROS_DOMAIN_ID": str(domain)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(domain: int, mode: str, timeout_s: float = 240, **arguments) -> tuple[int, str]:
    """Run a pipeline to its end; return exit code and output."""
    process = start(domain, mode, **arguments)
    try:
        output, _ = process.communicate(timeout=timeout_s)
    finally:
        stop(process)
    return process.returncode, output


def stop(process: subprocess.Popen) -> str:
    """End a pipeline that a test started, if it still runs; return the rest of its output."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    return process.communicate(timeout=30)[0]


def wait_until(condition, process: subprocess.Popen, timeout_s: float = 120) -> None:
    """Wait for a condition while a process lives."""
    end = time.monotonic() + timeout_s
    while not condition():
        if process.poll() is not None:
            raise AssertionError(f"the pipeline ended early: {process.stdout.read()}")
        if time.monotonic() > end:
            raise AssertionError("the condition did not come true in time")
        time.sleep(0.05)


def children(process: subprocess.Popen) -> dict[str, int]:
    """Return the nodes that a pipeline has started and that live: name to process id."""
    import psutil

    found = {}
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            words = child.cmdline()
        except psutil.Error:  # it has just ended
            continue
        for word in words:
            if word.startswith("residual_smolvla_ros.nodes."):
                found[word.rsplit(".", 1)[1]] = child.pid
    return found


def check_bag(folder: Path) -> None:
    """Assert that what a session did is found again in its bag: weights, actions and rewards."""
    with Bag(folder) as bag:
        session = read_session(bag)
        base, _ = find_base(session)
        for report in (check_learner(bag), recompute(bag, session, base), check_reward(bag)):
            assert report.agrees, str(report)
