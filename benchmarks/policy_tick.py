"""Print what a control tick of the node `policy` costs while three cameras stream, and where.

    python benchmarks/policy_tick.py --seconds 60

The node runs with a SmolVLA of three cameras at 512 px (few and random weights); other processes
publish three 640x480 streams at 30 Hz, and states at the control rate, and take the commands.
First with what a real arm's residual sees at 30 Hz and plans of 370 ms, then with a residual that
sees the joints alone at 100 Hz, with plans as fast as they are.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool
from trajectory_msgs.msg import JointTrajectory

sys.path.append(str(Path(__file__).parents[1] / "test"))

from tiny_smolvla import CAMERAS, make_checkpoint

from residual_smolvla_ros.learning.checkpoint import save_checkpoint
from residual_smolvla_ros.learning.schedule import EpisodePlan
from residual_smolvla_ros.nodes.common import (
    CONTROL_QOS,
    LATCHED_QOS,
    RECORD_QOS,
    image_qos,
    to_message,
    to_nanoseconds,
)
from residual_smolvla_ros.nodes.parts.images import to_image_message
from residual_smolvla_ros.nodes.policy import PolicyNode
from residual_smolvla_ros.pipeline import environment
from residual_smolvla_ros.policy.actor_critic import ResidualActorCritic
from residual_smolvla_ros.policy.features import ResidualConfig
from residual_smolvla_ros.records import EPISODE_EVENT, pack
from residual_smolvla_ros.robots.units import JOINT_NAMES

REAL_ARM = ["state", "base_action", "planned_tcp", "chunk_position", "episode_time"]
CAMERA_HZ = 30.0
# Features, action space, control rate and what a plan takes at least.
CASES = ((REAL_ARM, "gripper", 30.0, 370.0), (["state"], "joint", 100.0, 0.0))
# From the state's callback on; the command is published at the end of the fourth.
PARTS = ("_read_joints", "_look", "_step", "_publish_command", "_publish_step", "_look_ahead")


class TimedPolicy(PolicyNode):
    """The node, with the time that the parts of its ticks take."""

    def __init__(self):
        self.ticks: list[dict[str, float]] = []
        self._tick: dict[str, float] = {}
        super().__init__()
        for name in PARTS:
            setattr(self, name, self._timed(name, getattr(self, name)))

    def _timed(self, name: str, method):
        def timed(*args, **kwargs):
            start = time.perf_counter()
            result = method(*args, **kwargs)
            end = time.perf_counter()
            self._tick[name] = 1e3 * (end - start)
            if name == "_publish_command":
                self._tick["callback to publish"] = 1e3 * (end - self._called)
            return result

        return timed

    def _on_joint_states(self, message: JointState) -> None:
        self._tick, self._called = {"planning": not self._planner.idle}, time.perf_counter()
        super()._on_joint_states(message)
        if "_publish_step" in self._tick:
            self._tick["whole tick"] = 1e3 * (time.perf_counter() - self._called)
            self.ticks.append(self._tick)


@contextlib.contextmanager
def spinning(name: str):
    """Make a node of a helper process; its end is a signal."""
    rclpy.init()
    node = rclpy.create_node(name)
    with contextlib.suppress(ExternalShutdownException, KeyboardInterrupt):
        yield node
        rclpy.spin(node)


def stream_images() -> None:
    """Publish three streams until a signal."""
    with spinning("cameras") as node:
        qos = image_qos(lockstep=False)
        streams = {n: node.create_publisher(Image, f"{n}/image_raw", qos) for n in CAMERAS}
        frame = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)

        def publish() -> None:
            stamp = node.get_clock().now().to_msg()
            for name, stream in streams.items():
                stream.publish(to_image_message(frame, stamp, name))

        node.create_timer(1.0 / CAMERA_HZ, publish)


def run_arm(rate_hz: float, file: Path) -> None:
    """Publish states, take commands, and write when which came, until a signal."""
    sent: dict[int, float] = {}
    came: dict[int, float] = {}
    with spinning("arm") as node:
        states = node.create_publisher(JointState, "joint_states", CONTROL_QOS)
        events = node.create_publisher(type(to_message(b"")), "episode/event", RECORD_QOS)
        active = node.create_publisher(Bool, "episode/active", LATCHED_QOS)
        plan = EpisodePlan(episode=1, phase="residual", index=0, seed=0, max_steps=10**9)
        event = {"event": "prepare", "episode": 1, "plan": plan.to_json(), "reason": ""}
        event |= {"success": False, "label": "", "last_stamp": 0, "steps": 0}

        def on_command(message: JointTrajectory) -> None:
            came.setdefault(to_nanoseconds(message.header.stamp), time.monotonic())

        def publish() -> None:
            if not events.get_subscription_count() or not states.get_subscription_count():
                return
            if not sent:
                events.publish(to_message(pack(EPISODE_EVENT, **event)))
                active.publish(Bool(data=True))
            position = 0.1 * np.sin(time.monotonic() + np.arange(6))
            message = JointState(name=list(JOINT_NAMES), position=position.tolist())
            message.velocity = message.effort = [0.0] * 6
            message.header.stamp = node.get_clock().now().to_msg()
            sent[to_nanoseconds(message.header.stamp)] = time.monotonic()
            states.publish(message)

        node.create_subscription(JointTrajectory, "joint_trajectory", on_command, CONTROL_QOS)
        node.create_timer(1.0 / rate_hz, publish)
    file.write_text(json.dumps([[at, came.get(stamp)] for stamp, at in sent.items()]))


def measure(case: tuple, seconds: float, folder: Path) -> None:
    """Run the node for a time and print its ticks."""
    features, space, rate_hz, delay_ms = case
    size = {"action_space": space, "hold_steps": 5 if space == "gripper" else 1}
    config = ResidualConfig.from_names(features, len(JOINT_NAMES), **size)
    weights = ResidualActorCritic(config).state_dict()
    save_checkpoint(folder / "checkpoints", config, weights, {}, {"version": 1}, {})
    parameters = {
        "base_checkpoint": str(folder.parent / "base"),
        "residual_checkpoint": str(folder),
        "wait_for_weights": False,
        "cameras": list(CAMERAS),
        "lockstep": False,
        "rate_hz": rate_hz,
        "plan_delay_ms": delay_ms,
    }
    file = folder / "policy.yaml"
    file.write_text(json.dumps({"/**": {"ros__parameters": parameters}}))
    rclpy.init(args=["--ros-args", "--params-file", str(file)])
    node = TimedPolicy()
    arm_file = folder / "arm.json"
    helper = [sys.executable, __file__]
    helpers = [
        subprocess.Popen([*helper, "--cameras"]),
        subprocess.Popen([*helper, "--arm", str(arm_file), "--rate", str(rate_hz)]),
    ]
    try:
        end = time.monotonic() + 60
        while not node.ticks and time.monotonic() < end:
            rclpy.spin_once(node, timeout_sec=0.1)
        start, begun = time.monotonic(), len(node.ticks)
        while time.monotonic() - start < seconds:
            rclpy.spin_once(node, timeout_sec=0.1)
        elapsed = time.monotonic() - start
    finally:
        for process in helpers:
            process.terminate()
            process.wait()
        node.close()
        node.destroy_node()
        rclpy.try_shutdown()
    ticks = node.ticks[begun:]
    if not ticks:
        raise SystemExit("the policy answered no state")
    print(f"\n{', '.join(features)} at {rate_hz:g} Hz: {len(ticks) / elapsed:.1f} commands/s, "
          f"{node.counts['plans']} plans of {node._planner.status()['plan_ms']} ms at most, "
          f"missed ticks {node.counts.get('missed_ticks', 0)}")  # fmt: skip
    print(f"{'':<44}{'median':>9}{'99 %':>9}{'max':>9}   ms")
    for name in (*PARTS, "callback to publish", "whole tick"):
        row(name.removeprefix("_").replace("_", " "), [tick[name] for tick in ticks])
    for planning, when in ((False, "no plan"), (True, "a plan")):
        times = [tick["callback to publish"] for tick in ticks if tick["planning"] is planning]
        row(f"  callback to publish while {when} is made", times)
    rows = [(sent, came) for sent, came in json.loads(arm_file.read_text()) if came]
    row("state to command, over DDS and back", [1e3 * (came - sent) for sent, came in rows[10:]])


def row(name: str, values: list[float]) -> None:
    """Print a line of the table."""
    tail = np.percentile(values, 99)
    print(f"{name:<44}{np.median(values):>9.2f}{tail:>9.2f}{max(values):>9.2f}")


def main() -> None:
    """Measure and print, or be one of the helpers."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--domain", type=int, default=92, help="ROS domain")
    parser.add_argument("--switch-interval", type=float, default=0.005, help="Python's, in s")
    parser.add_argument("--cameras", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--arm", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rate", type=float, default=30.0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cameras:
        stream_images()
    elif options.arm:
        run_arm(options.rate, options.arm)
    else:
        os.environ.update(environment(), ROS_DOMAIN_ID=str(options.domain), HF_HUB_OFFLINE="1")
        sys.setswitchinterval(options.switch_interval)
        print(f"{os.cpu_count()} cores, load of the last minute {os.getloadavg()[0]:.1f}")
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make_checkpoint(folder / "base")
            for number, case in enumerate(CASES):
                (folder / str(number)).mkdir()
                measure(case, options.seconds, folder / str(number))


if __name__ == "__main__":
    main()
