"""Print what recording costs the control loop, and whether all that was sent is in the bag.

    python benchmarks/recording.py [--seconds 60] [--rounds 3] [--transport compressed]

The real bridge on emulated servos and a process that answers each state, as in `bridge_loop.py`;
three cameras of 640x480 at 30 Hz, which send JPEGs as a camera does, or raw images, which the
recorder compresses without loss. The jitter is measured in turns without and with the recorder, so
that what else runs meets both alike. Each turn with it leaves a bag of its own.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import rclpy
from bridge_loop import row, start_bridge
from console_jitter import head, spending, take
from sensor_msgs.msg import CompressedImage, Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "test"))
from robot_graph import Emulator, isolate

from residual_smolvla_ros import pipeline
from residual_smolvla_ros.arguments import FINETUNE
from residual_smolvla_ros.nodes.common import image_qos
from residual_smolvla_ros.nodes.parts.images import to_compressed_message, to_image_message
from residual_smolvla_ros.recording.bag_reader import Bag
from residual_smolvla_ros.recording.session import image_topic
from residual_smolvla_ros.robots.frames import encode_jpeg

DOMAIN = 94
RATE_HZ = 30.0
CAMERAS = ("front", "wrist", "side")
SIZE = (640, 480)
QUALITY = 90


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns without and with")
    parser.add_argument("--transport", choices=("compressed", "raw"), default="compressed")
    parser.add_argument("--cameras", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    isolate(DOMAIN)
    if options.cameras:
        publish_images(options.transport)
    print(f"{os.cpu_count()} cores, load of the last minute {os.getloadavg()[0]:.1f}, "
          f"{options.rounds} turns of {options.seconds:g} s each, {RATE_HZ:g} Hz, "
          f"{options.transport} images")  # fmt: skip
    command = [sys.executable, __file__, "--cameras", "--transport", options.transport]
    cameras = subprocess.Popen(command)
    try:
        with tempfile.TemporaryDirectory() as name:
            measure(Path(name), options.seconds, options.rounds, options.transport)
    finally:
        cameras.terminate()
        cameras.wait()


def publish_images(transport: str) -> None:
    """Publish numbered frames of all cameras until a signal; one subscriber is the policy's."""
    rclpy.init()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    node = rclpy.create_node("cameras")
    kind, topic = {"compressed": (CompressedImage, "image_raw/compressed"),
                   "raw": (Image, "image_raw")}[transport]  # fmt: skip
    qos = image_qos(lockstep=False)
    publishers = {name: node.create_publisher(kind, f"{name}/{topic}", qos) for name in CAMERAS}
    frames = [np.roll(scene(), 8 * k, axis=1) for k in range(30)]
    jpegs = [encode_jpeg(frame, QUALITY) for frame in frames]
    count = 0

    def publish() -> None:
        nonlocal count
        count += 1
        stamp = node.get_clock().now().to_msg()
        for index, publisher in enumerate(publishers.values()):
            k = (count + 10 * index) % len(frames)  # no two alike within a chunk of the bag
            if transport == "compressed":
                publisher.publish(to_compressed_message(jpegs[k], stamp, str(count)))
            else:
                publisher.publish(to_image_message(frames[k], stamp, str(count)))

    for name in CAMERAS:
        node.create_subscription(kind, f"{name}/{topic}", lambda _: None, qos, raw=True)
    node.create_timer(1 / RATE_HZ, publish)
    rclpy.spin(node)


def scene() -> np.ndarray:
    """Return pixels about as hard to compress as a room: soft shapes and a sensor's noise."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    soft = cv2.resize(coarse, SIZE, interpolation=cv2.INTER_CUBIC).astype(np.float32)
    noisy = soft + generator.normal(0.0, 4.0, soft.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def measure(folder: Path, seconds: float, rounds: int, transport: str) -> None:
    """Print the bridge's jitter without and with the recorder, and what its bags hold."""
    turns: dict[str, list] = {"no recorder": [], "recorder": []}
    shares: list[float] = []
    bags: list[tuple[Path, list[float]]] = []
    with Emulator(folder) as servos:
        servos.calibrate(folder, "arm")
        bridge = start_bridge(folder, servos.port, RATE_HZ)
        try:
            for index in range(rounds):
                turns["no recorder"].append(take(folder, bridge, seconds))
                bag = folder / f"bag{index}"
                with recording(folder, bag, transport) as process, spending(process.pid, shares):
                    turns["recorder"].append(take(folder, bridge, seconds))
                bags.append((bag, json.loads((folder / "states.json").read_text())["stamps"]))
        finally:
            bridge.terminate()
            bridge.wait()
    head("jitter: departure from the period")
    for kind, parts in turns.items():
        row(kind, np.concatenate(parts))
        for index, part in enumerate(parts, 1):
            row(f"    turn {index}", part)
    print(f"recorder: {100 * np.mean(shares):.0f} % of a core")
    print(f"\n{'':<36}{'sent':>10}{'in the bag':>12}{'missing':>10}{'MB/min':>10}{'kB each':>10}")
    for bag, stamps in bags:
        report(bag, stamps)


@contextlib.contextmanager
def recording(folder: Path, bag: Path, transport: str):
    """Record as long as the block runs; yield the process of the node."""
    given = {"record": "true", "output": str(folder / "run")}
    built = pipeline.build(FINETUNE, given)
    node = next(node for node in built.nodes if node.executable == "recorder")
    values = node.parameters | {
        "bag": str(bag), "cameras": list(CAMERAS), "image_transport": transport,
        "needed": ["joint_states"],
    }  # fmt: skip
    file = folder / "recorder.json"
    file.write_text(json.dumps({"/**": {"ros__parameters": values}}))
    process = subprocess.Popen(
        [sys.executable, "-m", node.module, "--ros-args", "--params-file", str(file)]
    )
    rclpy.init()
    looker = rclpy.create_node("looker")
    try:
        while not looker.count_publishers("session"):
            assert process.poll() is None, "the recorder ended"
            time.sleep(0.05)
        yield process
    finally:
        looker.destroy_node()
        rclpy.shutdown()
        process.terminate()
        process.wait()


def report(path: Path, stamps: list[float]) -> None:
    """Print what was sent and what a bag holds; `stamps` are of the states answered, in s."""
    sent = {round(1e9 * stamp) // 1000 for stamp in stamps}
    with Bag(path) as bag:
        minutes = (bag.end - bag.start) / 60e9
        total = sum(file.stat().st_size for file in path.iterdir())
        print(f"{path.name}: {total / minutes / 1e6:.0f} MB a minute")
        for topic in ("joint_states", "joint_trajectory"):
            found, size = {}, 0
            for message in bag.messages([topic] if topic in bag.topics else []):
                stamp = bag.decode(message).header.stamp
                # In microseconds: the other process tells stamps as floating-point seconds.
                found[(stamp.sec * 10**9 + stamp.nanosec + 500) // 1000] = True
                size += len(message.data)
            # The process that answers is not there yet when the recorder begins.
            since = min(found, default=0) - 1
            answered = {moment for moment in sent if moment >= since}
            near = found.keys() | {s + 1 for s in found} | {s - 1 for s in found}
            line(topic, len(answered), len(answered & near), size, minutes, len(found))
        for camera in CAMERAS:
            numbers, size = [], 0
            for message in bag.messages([image_topic(camera)]):
                numbers.append(int(bag.decode(message).header.frame_id))
                size += len(message.data)
            count = max(numbers) - min(numbers) + 1
            line(image_topic(camera), count, len(set(numbers)), size, minutes, len(numbers))


def line(topic: str, sent: int, found: int, size: int, minutes: float, count: int) -> None:
    """Print a line of the table."""
    print(f"    {topic:<32}{sent:>10}{found:>12}{sent - found:>10}"
          f"{size / minutes / 1e6:>10.2f}{size / max(count, 1) / 1e3:>10.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
