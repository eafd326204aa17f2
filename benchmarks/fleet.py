"""Print what several arms on one learner cost and lose, and what crosses the network for an arm.

    python benchmarks/fleet.py [--arms 1 4] [--steps 4000] [--eval 0] [--config config/sim.yaml]
    python benchmarks/fleet.py --bandwidth 20 [--config config/sim_camera.yaml]

First: a fine-tuning run in lockstep for each number of arms, 0 being a pipeline without a fleet,
with as many control steps each; their checkpoints are compared. CPU time of the learner counts
from the first update to the last. Second: the messages of one of two arms in real time.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import rclpy
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from safetensors.numpy import load_file
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import UInt8MultiArray
from trajectory_msgs.msg import JointTrajectory

from residual_smolvla_ros import pipeline
from residual_smolvla_ros.nodes.common import CONTROL_QOS, LATCHED_QOS, RECORD_QOS, image_qos
from residual_smolvla_ros.nodes.parts.images import from_image_message
from residual_smolvla_ros.robots.frames import encode_jpeg
from residual_smolvla_ros.robots.rendering import Renderer
from residual_smolvla_ros.robots.simulation import SPECTATOR, SimulatedSO101

LEARNER = "residual_smolvla_ros.nodes.learner"
JPEG_QUALITY = 90  # of the node camera
RATE_HZ = 30.0
LARGE, NOISE = (640, 480), 3.0  # noise in grey levels
RECORDS = ("policy/step", "reward", "episode/event")
CAMERAS = ("front", "wrist")
# What crosses the network where the node stands there, by its direction from the arm.
REMOTE = {
    "learner": {"out": RECORDS, "in": ("learner/weights",)},
    "policy, reward and learner": {
        "out": ("joint_states", *(f"{name} as JPEG" for name in CAMERAS), "episode/event"),
        "in": ("joint_trajectory", "reward"),
    },
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arms", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--eval", type=int, default=0, help="held-out episodes")
    parser.add_argument("--config", default="config/sim.yaml")
    parser.add_argument("--bandwidth", type=float, default=0.0, help="seconds to listen for")
    parser.add_argument("--domain", type=int, default=94, help="ROS domain")
    options = parser.parse_args()
    os.environ |= pipeline.environment() | {"ROS_DOMAIN_ID": str(options.domain)}
    with tempfile.TemporaryDirectory() as folder:
        if options.bandwidth:
            measure_bandwidth(Path(folder), options)
        else:
            measure_learner(Path(folder), options)


def start(run: Path, arms: int, options, **further) -> subprocess.Popen:
    """Start a fleet's fine-tuning run, or one without a fleet for 0 arms."""
    robots = ",".join(f"arm{number + 1}" for number in range(arms))
    given = {"output": run, "robots": robots, "config": options.config} | further
    words = [f"{name}:={value}" for name, value in given.items()]
    return subprocess.Popen(
        [sys.executable, "-m", "residual_smolvla_ros.cli", "finetune", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def stop(process: subprocess.Popen) -> None:
    """End a run."""
    process.terminate()
    process.wait()


# -- the learner ------------------------------------------------------------------------------


def measure_learner(folder: Path, options) -> None:
    """Run with each number of arms, and compare."""
    print(f"{'arms':>5}{'steps':>8}{'lost':>6}{'learner CPU ms a step':>24}{'steps/s':>9}  success")
    runs = []
    for arms in options.arms:
        run = folder / f"arms{arms}"
        process = start(run, arms, options, eval_episodes=options.eval, total_steps=options.steps)
        try:
            spent = follow(run, process)
        finally:
            stop(process)
        runs.append(run)
        show(run, arms, spent)
    same = all(equal(newest(runs[0]), newest(run)) for run in runs[1:])
    print(f"\nlast checkpoints: {'equal to the bit' if same else 'not equal'}")


def follow(run: Path, process: subprocess.Popen) -> tuple[float, int]:
    """Wait for the end; return the learner's CPU s and steps from the first update to the last."""
    samples: dict[int, tuple[float, int]] = {}
    while process.poll() is None:
        rows = lines(run / "updates.jsonl")
        if rows and len(rows) not in samples and (learner := find(process)):
            used = learner.cpu_times()
            samples[len(rows)] = used.user + used.system, rows[-1]["env_steps"]
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"the run ended with {process.returncode}: see {run / 'log'}")
    first, last = samples[min(samples)], samples[max(samples)]
    return last[0] - first[0], last[1] - first[1]


def find(process: subprocess.Popen) -> psutil.Process | None:
    """Return the learner's process."""
    for child in psutil.Process(process.pid).children(recursive=True):
        if LEARNER in child.cmdline():
            return child
    return None


def show(run: Path, arms: int, spent: tuple[float, int]) -> None:
    """Print a row; lost are steps that were played and not learned from."""
    summary = json.loads((run / "summary.json").read_text())
    lost = summary["env_steps"] - lines(run / "updates.jsonl")[-1]["env_steps"]
    success = f"{summary['success_base']} -> {summary['success_residual']}"
    per_step, rate = 1e3 * spent[0] / max(spent[1], 1), summary["steps_per_s"]
    print(f"{arms:>5}{summary['env_steps']:>8}{lost:>6}{per_step:>24.3f}{rate:>9.0f}  {success}",
          flush=True)  # fmt: skip


def lines(file: Path) -> list[dict]:
    """Return the whole lines of a file of JSON lines."""
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text().splitlines(True) if line.endswith("\n")]


def newest(run: Path) -> Path:
    """Return the newest checkpoint."""
    return max((run / "checkpoints").glob("[0-9]*"))


def equal(one: Path, other: Path) -> bool:
    """Return whether two checkpoints hold the same numbers."""
    if one.name != other.name:
        return False
    for name in ("residual.safetensors", "training.safetensors"):
        a, b = load_file(one / name), load_file(other / name)
        if a.keys() != b.keys() or not all(np.array_equal(a[key], b[key]) for key in a):
            return False
    return True


# -- the network ------------------------------------------------------------------------------


class Listener:
    """Count the messages and bytes of an arm's topics, as they are serialised."""

    def __init__(self, arm: str):
        rclpy.init()
        self.node = Node("fleet_listener")
        self.sizes: dict[str, list[int]] = {}
        kinds = dict.fromkeys(RECORDS, (UInt8MultiArray, RECORD_QOS))
        kinds["learner/weights"] = UInt8MultiArray, LATCHED_QOS
        kinds["joint_states"] = JointState, CONTROL_QOS
        kinds["joint_trajectory"] = JointTrajectory, CONTROL_QOS
        for name in CAMERAS:
            kinds[f"{name}/image_raw"] = Image, image_qos(False)
            kinds[f"{name}/camera_info"] = CameraInfo, image_qos(False)
        for topic, (kind, qos) in kinds.items():
            self.node.create_subscription(
                kind, f"/{arm}/{topic}", lambda blob, topic=topic: self._take(topic, blob), qos,
                raw=True,
            )  # fmt: skip

    def _take(self, topic: str, blob: bytes) -> None:
        self.sizes.setdefault(topic, []).append(len(blob))
        if topic.endswith("image_raw"):
            pixels = from_image_message(deserialize_message(blob, Image))
            jpeg = encode_jpeg(pixels, JPEG_QUALITY)
            name = f"{topic.partition('/')[0]} as JPEG"
            self.sizes.setdefault(name, []).append(len(jpeg))

    def spin(self, seconds: float) -> None:
        """Listen for a time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            rclpy.spin_once(self.node, timeout_sec=left)


def measure_bandwidth(folder: Path, options) -> None:
    """Print size and rate of what an arm says and hears, and what of it crosses a network."""
    run = folder / "run"
    process = start(run, 2, options, eval_episodes=0, total_steps=10**6, lockstep="false")
    listener = Listener("arm1")
    try:
        while len(lines(run / "episodes.jsonl")) < 2:
            if process.poll() is not None:
                raise SystemExit(f"the run ended early: see {run / 'log'}")
            listener.spin(0.5)
        listener.sizes.clear()
        listener.spin(options.bandwidth)
    finally:
        stop(process)
    print(f"{'topic':<26}{'bytes':>10}{'per s':>8}{'at 30 Hz, kB/s':>16}")
    per_s = {}
    for topic, sizes in sorted(listener.sizes.items()):
        rate = len(sizes) / options.bandwidth
        # A busy machine is late: what counts is the rate that is due in an episode.
        due = rate if topic in ("learner/weights", "episode/event") else RATE_HZ
        per_s[topic] = np.mean(sizes) * due
        print(f"{topic:<26}{np.mean(sizes):>10.0f}{rate:>8.1f}{per_s[topic] / 1e3:>16.1f}")
    large = large_jpeg()
    print(f"a picture of {LARGE[0]}x{LARGE[1]}, JPEG of quality {JPEG_QUALITY}: {large} bytes, "
          f"{8e-3 * RATE_HZ * large:.0f} kbit/s at 30 Hz")  # fmt: skip
    for what, ways in REMOTE.items():
        sums = {way: sum(per_s.get(topic, 0.0) for topic in topics) for way, topics in ways.items()}
        print(f"remote {what}: {8e-3 * sums['out']:.0f} kbit/s from the arm, "
              f"{8e-3 * sums['in']:.0f} kbit/s to it")  # fmt: skip


def large_jpeg() -> int:
    """Return the bytes of a picture as large and as noisy as a small camera's."""
    sim = SimulatedSO101()
    sim.reset(0)
    view = dataclasses.replace(SPECTATOR, width=LARGE[0], height=LARGE[1])
    with contextlib.closing(Renderer(sim.model, {"large": view})) as renderer:
        pixels = renderer.render(sim.data, "large")
    sim.close()
    noise = np.random.default_rng(0).normal(scale=NOISE, size=pixels.shape)
    pixels = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    return len(encode_jpeg(pixels, JPEG_QUALITY))


if __name__ == "__main__":
    main()
