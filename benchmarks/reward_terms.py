"""Print what the analytic reward terms take in a control step, decoding of images included, in ms.

    python benchmarks/reward_terms.py

Each step brings a raw image and a JPEG of 640x480 as they come over the wire, and the state of an
SO101. All twelve terms are computed, `image_distance` for both images.
"""

import argparse
import statistics
import time

import cv2
import numpy as np
import rclpy
from rclpy.parameter import Parameter
from rclpy.serialization import serialize_message

from residual_smolvla_ros.nodes.common import PipelineNode, to_stamp
from residual_smolvla_ros.nodes.parts.image_intake import ImageIntake
from residual_smolvla_ros.nodes.parts.images import to_compressed_message, to_image_message
from residual_smolvla_ros.records import Record
from residual_smolvla_ros.rewards.composition import Reward, make_reward
from residual_smolvla_ros.rewards.registry import BUILT_IN
from residual_smolvla_ros.rewards.term import RobotDescription
from residual_smolvla_ros.rewards.transition import Frame, Pose, Transition
from residual_smolvla_ros.robots.frames import encode_jpeg
from residual_smolvla_ros.robots.units import JOINT_NAMES

PERIOD_NS = 33_333_333
REDUCE = 4  # as the node `reward` does
RED = {"type": "image_distance", "hsv_lower": [170, 100, 80], "hsv_upper": [10, 255, 255]}
SETTINGS = {
    "target_distance": {"topic": "cube/pose"},
    "joint_limits": {"lower": [-2.0] * 5, "upper": [2.0] * 5},
}
PLAIN = {name: SETTINGS.get(name, {}) for name in BUILT_IN if name != "image_distance"}
RAW = {"image_raw": RED | {"camera": "raw"}}
JPEG = {"image_jpeg": RED | {"camera": "compressed"}}
CASES = {
    "all terms": PLAIN | RAW | JPEG,
    "all but image_distance": PLAIN,
    "image_distance, raw": RAW,
    "image_distance, JPEG": JPEG,
    "target_distance": {"target_distance": PLAIN["target_distance"]},
}


class Steps:
    """Control steps with a red box in grey noise, whose JPEG is as large as a real scene's."""

    def __init__(self):
        self._rng = np.random.default_rng(0)
        noise = self._rng.integers(96, 160, (120, 160), np.uint8)
        pixels = cv2.cvtColor(cv2.resize(noise, (640, 480)), cv2.COLOR_GRAY2RGB)
        pixels[200:280, 400:500] = (200, 20, 20)
        self.jpeg = encode_jpeg(pixels, 90)
        messages = {
            "raw": to_image_message(pixels, to_stamp(0), "raw"),
            "compressed": to_compressed_message(self.jpeg, to_stamp(0), "compressed"),
        }
        self._messages = {name: serialize_message(message) for name, message in messages.items()}
        self._intakes = {name: make_intake(name) for name in messages}

    def next(self, tick: int) -> Transition:
        """Return a step; its images have come and are not decoded yet."""
        for name, intake in self._intakes.items():
            intake.receive(name, self._messages[name])
        stamp = tick * PERIOD_NS
        position, velocity, effort, command = self._rng.uniform(-1.0, 1.0, (4, len(JOINT_NAMES)))
        return Transition(
            stamp=stamp,
            next_stamp=stamp + PERIOD_NS,
            tick=tick,
            position=position,
            velocity=velocity,
            effort=effort,
            command=command,
            executed=0.9 * command,
            residual=self._rng.normal(size=5),
            environment=Record({"reward": np.float32(0.1)}, {}),
            frames={
                name: lambda name=name: Frame(stamp, self._intakes[name].reduced(name, REDUCE))
                for name in self._intakes
            },
            poses={"cube/pose": Pose("base_link", stamp, np.array([0.2, 0.0, 0.02]))},
        )


def make_intake(name: str) -> ImageIntake:
    """Return the intake of a camera that is named after its transport."""
    override = Parameter("image_transport", value=name)
    node = PipelineNode(f"intake_{name}", parameter_overrides=[override])
    return ImageIntake(node, [name], lockstep=False)


def make(terms: dict) -> Reward:
    """Return the reward of terms, all with weight 1."""
    weighted = {name: {"weight": 1.0} | settings for name, settings in terms.items()}
    return make_reward(weighted, RobotDescription(JOINT_NAMES), ["raw", "compressed"])


def measure(reward: Reward, steps: Steps, count: int) -> list[float]:
    """Return the durations of calls in ms."""
    durations = []
    for tick in range(count):
        transition = steps.next(tick)
        start = time.perf_counter()
        shares = reward(transition)
        durations.append(1e3 * (time.perf_counter() - start))
        assert not shares.missing, reward.problems
    return durations


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3000)
    count = parser.parse_args().steps
    cv2.setNumThreads(1)
    rclpy.init()
    steps = Steps()
    kilobytes = len(steps.jpeg) / 1e3
    print(f"JPEG of {kilobytes:.0f} kB")
    print(f"{'':<34}{'median':>9}{'99th percentile':>18}   ms, 1 thread")
    for name, terms in CASES.items():
        reward = make(terms)
        measure(reward, steps, 20)
        row(name, measure(reward, steps, count))
    rclpy.shutdown()


def row(name: str, values: list[float]) -> None:
    """Print a line of the table."""
    tail = float(np.percentile(values, 99))
    print(f"{name:<34}{statistics.median(values):>9.3f}{tail:>18.3f}")


if __name__ == "__main__":
    main()
