"""Print how old the images of three cameras are at each control tick, and what taking them costs.

    python benchmarks/image_intake.py [--seconds 15]

Three real `camera` nodes publish 640x480 at 30 Hz. Their devices are named pipes that processes
feed with MJPEG video, opened by LeRobot's opencv camera. A further process takes the images in as
the `policy` node does: each tick reads the stamps, each 50th decodes all three. The naive way
deserialises every message. The tick is at 29.7 Hz, so that it meets the frames at every phase.
"""

import argparse
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
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage, Image

from residual_smolvla_ros.nodes.common import PipelineNode, image_qos, to_nanoseconds
from residual_smolvla_ros.nodes.parts.image_intake import ImageIntake
from residual_smolvla_ros.nodes.parts.images import from_compressed_message, from_image_message

sys.path.insert(0, str(Path(__file__).parents[1] / "test"))
from camera_process import Camera, ros
from video_device import RATE_HZ, VideoDevice

CAMERAS = ("front", "wrist", "side")
SIZE = (640, 480)
TICK_HZ = 29.7
DECODE_EVERY = 50
WARM_UP_S = 2.0
WIDTHS = (9, 9, 9, 10, 10, 10, 6)


class NaiveIntake:
    """Keep the newest message of each camera, deserialised on arrival."""

    def __init__(self, node, cameras, lockstep, on_image):
        transport = node.parameter("image_transport", "raw", "")
        kind, topic, self._decode = {
            "raw": (Image, "image_raw", from_image_message),
            "compressed": (CompressedImage, "image_raw/compressed", from_compressed_message),
        }[transport]
        self._messages = {}

        def receive(name, message):
            self._messages[name] = message
            on_image(name)

        for name in cameras:
            node.create_subscription(
                kind,
                f"{name}/{topic}",
                lambda message, name=name: receive(name, message),
                image_qos(lockstep),
            )

    def stamp(self, name):
        """Return the stamp of a camera's newest image in ns, None if there is none yet."""
        message = self._messages.get(name)
        return None if message is None else to_nanoseconds(message.header.stamp)

    def pixels(self, name):
        """Return a camera's newest image as RGB pixels."""
        return self._decode(self._messages[name])


class Taker(PipelineNode):
    """Take images in and tick; raise SystemExit when the time is over."""

    def __init__(self, kind: str, transport: str, seconds: float):
        override = Parameter("image_transport", value=transport)
        super().__init__("taker", parameter_overrides=[override])
        intake = ImageIntake if kind == "intake" else NaiveIntake
        self.intake = intake(self, CAMERAS, False, self._on_image)
        self._seconds = seconds
        self.stamps: dict[str, list[int]] = {name: [] for name in CAMERAS}
        self.ages: list[float] = []
        self._ticks = 0
        self._started = self._begun = None
        self.create_timer(1.0 / TICK_HZ, self._tick)

    def _on_image(self, name: str) -> None:
        if self._started is not None:
            self.stamps[name].append(self.intake.stamp(name))

    def _tick(self) -> None:
        stamps = [self.intake.stamp(name) for name in CAMERAS]
        if None in stamps:
            return
        now = time.monotonic()
        self._begun = self._begun or now
        if self._started is None:
            if now - self._begun < WARM_UP_S:
                return
            self._started, self._cpu = now, time.process_time()
        if now - self._started > self._seconds:
            self.cpu = (time.process_time() - self._cpu) / (now - self._started)
            raise SystemExit
        self.ages.append(1e-6 * (self.get_clock().now().nanoseconds - min(stamps)))
        self._ticks += 1
        if self._ticks % DECODE_EVERY == 0:
            for name in CAMERAS:
                self.intake.pixels(name)

    def result(self) -> dict:
        """Return ages in ms, the share of one core, frames taken and lost."""
        gaps = np.concatenate([np.diff(stamps) for stamps in self.stamps.values()])
        lost = np.maximum(np.rint(1e-9 * gaps * RATE_HZ) - 1, 0).sum()
        return {
            "median": float(np.median(self.ages)),
            "tail": float(np.percentile(self.ages, 99)),
            "max": max(self.ages),
            "cpu": self.cpu,
            "frames": sum(map(len, self.stamps.values())),
            "lost": int(lost),
        }


def take(kind: str, transport: str, seconds: float) -> None:
    """Take images in for some seconds, in a process of its own; print the result as JSON."""
    rclpy.init()
    node = Taker(kind, transport, seconds)
    try:
        rclpy.spin(node)
    except SystemExit:
        print(json.dumps(node.result()), flush=True)
    # Else the cameras would go on publishing to it until DDS misses it, 20 s later.
    node.destroy_node()
    rclpy.shutdown()
    os._exit(0)


def measure(cameras: list[Camera], kind: str, transport: str, seconds: float) -> dict:
    """Return the result of one way, and the mean share of a core of a camera node meanwhile."""
    before = sum(map(cpu_time, cameras)), time.monotonic()
    command = [sys.executable, __file__, "--take", kind, transport, "--seconds", str(seconds)]
    output = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=seconds + 60)
    for camera in cameras:
        assert camera.process.poll() is None, camera.output()
    spent, passed = sum(map(cpu_time, cameras)) - before[0], time.monotonic() - before[1]
    return json.loads(output.stdout) | {"camera": spent / passed / len(cameras)}


def cpu_time(camera: Camera) -> float:
    """Return the CPU seconds of a camera node so far."""
    times = psutil.Process(camera.process.pid).cpu_times()
    return times.user + times.system


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--domain", type=int, default=45, help="ROS domain")
    parser.add_argument("--take", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.take:
        take(*options.take, options.seconds)
    with tempfile.TemporaryDirectory() as folder, ros(options.domain) as context:
        cameras = []
        try:
            for name in CAMERAS:
                device = VideoDevice(Path(folder) / name, size=SIZE)
                device.plug()
                cameras.append(Camera(context, name, device))
            for camera in cameras:
                camera.wait_until(lambda camera=camera: camera.reports)
            report(cameras, options.seconds)
        finally:
            for camera in cameras:
                camera.close()


def report(cameras: list[Camera], seconds: float) -> None:
    """Measure each way and print its line."""
    print(f"{'':<22}{'oldest image at a tick, ms':>27}{'share of a core':>20}{'frames':>16}")
    heads = ("median", "99 %", "max", "intake", "a camera", "taken", "lost")
    print(f"{'':<22}" + "".join(f"{head:>{w}}" for head, w in zip(heads, WIDTHS, strict=True)))
    for transport in ("raw", "compressed"):
        results = {}
        for kind in ("intake", "naive"):
            r = results[kind] = measure(cameras, kind, transport, seconds)
            texts = [f"{r[key]:.1f}" for key in ("median", "tail", "max")]
            texts += [f"{r[key]:.1%}" for key in ("cpu", "camera")]
            texts += [str(r[key]) for key in ("frames", "lost")]
            cells = "".join(f"{text:>{w}}" for text, w in zip(texts, WIDTHS, strict=True))
            print(f"{transport + ', ' + kind:<22}{cells}")
        ratio = results["intake"]["cpu"] / results["naive"]["cpu"]
        print(f"{transport}: intake costs {ratio:.2f} of the CPU of deserialising everything")


if __name__ == "__main__":
    main()
