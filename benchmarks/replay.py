"""Print how long a bag takes to be played as fast as it goes, and to be judged anew.

    python benchmarks/replay.py [--minutes 10]

A bag of three cameras of 640x480 at 30 Hz (JPEG, noisy as a real camera's) and a control loop of
30 Hz, made for this. A process listens to all of it, and counts.
"""

import argparse
import dataclasses
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rclpy
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, JointState
from std_msgs.msg import UInt8MultiArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "test"))
import made_session as made
from robot_graph import isolate

from residual_smolvla_ros.learning.schedule import TRAIN, EpisodePlan
from residual_smolvla_ros.recording.bag_reader import Bag, Message
from residual_smolvla_ros.recording.bag_writer import BagWriter
from residual_smolvla_ros.recording.session import (
    IMAGE,
    JOINTS,
    RECORD,
    SESSION,
    STRING,
    image_topic,
)
from residual_smolvla_ros.records import REWARD, STEP, pack
from residual_smolvla_ros.robots.frames import encode_jpeg
from residual_smolvla_ros.robots.units import JOINT_NAMES

DOMAIN = 92
CAMERAS = ("front", "wrist", "side")
EPISODE_STEPS, FEATURES = 300, 300
IDLE_S = 20.0


def main() -> None:
    """Make the bag, time both, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="length of the bag")
    parser.add_argument("--listen", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    isolate(DOMAIN)
    if options.listen:
        listen(options.listen)
        return
    with tempfile.TemporaryDirectory() as folder:
        bag = write_bag(Path(folder) / "bag", round(options.minutes * 60 * 30))
        with Bag(bag) as opened:
            heard = ["joint_states", "policy/step", *map(image_topic, CAMERAS)]
            sent = sum(opened.counts[name] for name in heard)
            total = sum(opened.counts.values())
        size = sum(file.stat().st_size for file in bag.iterdir())
        print(f"{os.cpu_count()} cores, load of the last minute {os.getloadavg()[0]:.1f}; "
              f"{options.minutes:g} minutes, {total} messages, {size / 1e6:.0f} MB\n")  # fmt: skip
        listener = subprocess.Popen(
            [sys.executable, __file__, "--listen", str(sent)], stdout=subprocess.PIPE, text=True
        )
        played = run(bag, "rate:=0", f"wait_for:={','.join(heard)}")
        count = json.loads(listener.communicate()[0])
        judged = run(bag, "check:=reward", codes=(0, 1))
    print("| | s |\n|---|---|")
    print(
        f"| played, {count} of {sent} messages heard, from the command to its end | {played:.1f} |"
    )
    print(f"| `check:=reward` | {judged:.1f} |")


def run(bag: Path, *words: str, codes: tuple[int, ...] = (0,)) -> float:
    """Return how long a replay takes in s, its start included."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "residual_smolvla_ros.cli", "replay", f"bag:={bag}", *words]
    # The command chooses its own DDS profile where none is set.
    env = {n: v for n, v in os.environ.items() if n != "FASTRTPS_DEFAULT_PROFILES_FILE"}
    code = subprocess.run(command, check=False, stdout=subprocess.DEVNULL, env=env).returncode
    if code not in codes:
        raise SystemExit(f"replay ended with exit code {code}")
    return time.perf_counter() - start


def listen(expected: int) -> None:
    """Print how many messages came, once all have, or none for a while."""
    rclpy.init()
    node, count, newest = rclpy.create_node("listener"), [0], [time.monotonic() + 60]

    def take(message: bytes) -> None:
        count[0] += 1
        newest[0] = time.monotonic()

    kinds = {"joint_states": JointState, "policy/step": UInt8MultiArray}
    for topic, kind in (kinds | dict.fromkeys(map(image_topic, CAMERAS), CompressedImage)).items():
        node.create_subscription(kind, topic, take, QoSProfile(depth=2000), raw=True)
    executor = rclpy.executors.SingleThreadedExecutor()
    executor.add_node(node)
    while count[0] < expected and time.monotonic() - newest[0] < IDLE_S:
        executor.spin_once(timeout_sec=0.5)
    print(json.dumps(count[0]))
    node.destroy_node()
    rclpy.shutdown()


def write_bag(folder: Path, steps: int) -> Path:
    """Write a session of so many control steps."""
    rng = np.random.default_rng(0)
    shades = np.linspace(0, 200, 640, dtype=np.float32)[None, :, None]
    noisy = [shades + rng.normal(0, 4, (480, 640, 3)) for _ in range(61)]  # no two alike in a chunk
    jpegs = [encode_jpeg(pixels.clip(0, 255).astype(np.uint8), 90) for pixels in noisy]
    writer = BagWriter(folder)
    for message in itertools.chain([description()], messages(steps, jpegs, rng)):
        writer.write(message.topic, message.kind, message.data, message.stamp)
    writer.close()
    return folder


def description() -> Message:
    """Return a session whose rewards come from labels only."""
    session = made.session()
    parameters = {"environment": False, "executed_commands": False, "lockstep": False,
                  "terms.success.weight": 1.0}  # fmt: skip
    nodes = [n | {"parameters": parameters} if n["name"] == "reward" else n for n in session.nodes]
    text = dataclasses.replace(session, nodes=nodes).to_json()
    return Message(SESSION, STRING, made.serialise(STRING, data=text), 1)


def messages(steps: int, jpegs: list[bytes], rng: np.random.Generator):
    """Yield a session's messages by log time."""
    zeros = np.zeros(6)
    for index in range(steps):
        episode, tick = 1 + index // EPISODE_STEPS, index % EPISODE_STEPS
        # Scenes take 1 s to set.
        stamp = (index + 1) * made.PERIOD + episode * 1_000_000_000
        plan = EpisodePlan(episode, TRAIN, 0, episode, EPISODE_STEPS)
        if tick == 0:
            event = made.event(plan, "prepare", "", 0, 0)
            yield Message("episode/event", RECORD, event, stamp)
        header = made._header(stamp)
        for number, camera in enumerate(CAMERAS):
            data = np.frombuffer(jpegs[(3 * index + number) % len(jpegs)], dtype=np.uint8)
            image = made.serialise(IMAGE, header=header, format="jpeg", data=data)
            yield Message(image_topic(camera), IMAGE, image, stamp)
        state = made.serialise(JOINTS, header=header, name=list(JOINT_NAMES), velocity=zeros,
                               position=made.position(stamp), effort=zeros)  # fmt: skip
        yield Message("joint_states", JOINTS, state, stamp)
        tensors = {"features": rng.normal(size=FEATURES), "base": zeros, "residual": zeros[:5],
                   "command": zeros, "log_prob": 0.0, "value": 0.0}  # fmt: skip
        step = pack(STEP, tensors, stamp=stamp, episode=episode, tick=tick, weights_version=1,
                    decision=True, final=False, intervention=False, token_age_ms=-1,
                    plan_images={}, token_images={}, plan_age_ms=-1, plan={})  # fmt: skip
        yield Message("policy/step", RECORD, made.record(step), stamp + 5_000_000)
        reward = pack(REWARD, {"reward": 0.0, "terms": [0.0]}, stamp=stamp, terminated=False,
                      next_stamp=stamp + made.PERIOD, success=False, label="",
                      names=("success",), missing=())  # fmt: skip
        yield Message("reward", RECORD, made.record(reward), stamp + 10_000_000)
        if tick == EPISODE_STEPS - 1:
            event = made.event(plan, "end", "failure", stamp, EPISODE_STEPS)
            yield Message("episode/event", RECORD, event, stamp + 20_000_000)


if __name__ == "__main__":
    main()
