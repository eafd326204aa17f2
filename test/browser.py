"""The node `console` in a process of its own, Chromium, and a node that stands for the pipeline."""

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger

from residual_smolvla_ros.learning.schedule import EpisodePlan
from residual_smolvla_ros.nodes.common import (
    CONTROL_QOS,
    LATCHED_QOS,
    RECORD_QOS,
    image_qos,
    to_message,
)
from residual_smolvla_ros.nodes.parts.images import to_compressed_message, to_image_message
from residual_smolvla_ros.records import EPISODE_EVENT, REWARD, STEP, pack
from residual_smolvla_ros.robots.frames import encode_jpeg
from residual_smolvla_ros.robots.units import JOINT_NAMES

TIMEOUT_S = 30.0
SERVICES = (
    "so101_bridge/hold", "so101_bridge/release", "reset_environment/done", "episode/start",
    "episode/stop", "episode/success", "episode/failure", "episode/discard", "intervention/start",
    "intervention/stop",
)  # fmt: skip


def wait_until(condition, what: str, timeout_s: float = TIMEOUT_S) -> None:
    """Wait for a condition."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not within {timeout_s} s: {what}"
        time.sleep(0.01)


class Console:
    """The node `console`; `url` is its address, `log` its output so far."""

    def __init__(self, folder: Path, **parameters):
        file = folder / f"console_{time.monotonic_ns()}.yaml"
        parameters = {"port": 0} | parameters
        file.write_text(json.dumps({"/**": {"ros__parameters": parameters}}))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "residual_smolvla_ros.nodes.console",
             "--ros-args", "--params-file", str(file)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder,
        )  # fmt: skip
        self.log = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.log += line

    @property
    def url(self) -> str:
        """The page's address, once the node serves it."""
        served = "console: http://"
        wait_until(lambda: served in self.log or self.process.poll() is not None, "a page")
        assert served in self.log, self.log
        return "http://" + self.log.split(served)[1].split("/")[0]

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.url.rsplit(":", 1)[1])

    def wait(self) -> int:
        """Return the exit code of a node that ends by itself."""
        code = self.process.wait(timeout=TIMEOUT_S)
        self._reader.join()
        return code

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """End the node; return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signum)
        return self.wait()


class Session:
    """A node with the topics and services of a pipeline; `calls` are those that came."""

    def __init__(self):
        self._context = Context()
        rclpy.init(context=self._context)
        self.node = rclpy.create_node("session", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self.calls: list[str] = []
        self.refusals: dict[str, str] = {}  # service: what it says no with
        self.positions = [0.0, -1.0, 1.0, 0.5, 0.1, 0.2]
        self.targets: list[JointState] = []
        self.consoles: dict[int, dict[str, str]] = {}  # port: what a console reports of itself
        self.mode = "follow"
        self._tick = 0
        create = self.node.create_publisher
        self._states = create(JointState, "joint_states", CONTROL_QOS)
        self._actions = [create(JointState, f"policy/{n}_action", 1) for n in ("base", "residual")]
        self._images = {n: create(Image, f"{n}/image_raw", image_qos(False))
                        for n in ("front", "wrist")}  # fmt: skip
        self._compressed = create(CompressedImage, "front/image_raw/compressed", image_qos(False))
        self.jpeg = encode_jpeg(np.full((48, 64, 3), 90, dtype=np.uint8), 90)
        records = ("episode/event", "policy/step", "reward")
        record_type = type(to_message(b""))
        self._records = {name: create(record_type, name, RECORD_QOS) for name in records}
        self._active = create(Bool, "episode/active", LATCHED_QOS)
        self._state = create(String, "episode/state", LATCHED_QOS)
        self._intervention = create(Bool, "intervention/active", LATCHED_QOS)
        self._diagnostics = create(DiagnosticArray, "/diagnostics", 10)
        self.node.create_subscription(
            JointState, "intervention/command", self._on_target, QoSProfile(depth=1)
        )
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        for name in SERVICES:
            self.node.create_service(
                Trigger, name, lambda _, response, name=name: self._serve(name, response)
            )
        self.node.create_timer(1 / 30, self._step)
        self.node.create_timer(0.5, self._report)
        self.plan = EpisodePlan(1, "train", 0, 1, 300, 1)
        self.event("prepare")
        self._active.publish(Bool(data=True))
        self.say("running")
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        with contextlib.suppress(rclpy.executors.ExternalShutdownException):
            self._executor.spin()

    def say(self, state: str) -> None:
        """Publish what the node `episode` is doing."""
        self._state.publish(String(data=state))

    def event(self, event: str, **further) -> None:
        """Publish an event of the episode."""
        values = {"reason": "", "success": False, "label": "", "last_stamp": 0, "steps": 0}
        blob = pack(EPISODE_EVENT, event=event, episode=self.plan.episode,
                    plan=self.plan.to_json(), **(values | further))  # fmt: skip
        self._records["episode/event"].publish(to_message(blob))

    def end_intervention(self) -> None:
        """Give the arm back to the policy, as the end of an episode does."""
        self._intervention.publish(Bool(data=False))

    def warn(self, text: str) -> None:
        """Log a warning."""
        self.node.get_logger().warning(text)

    def _serve(self, name: str, response: Trigger.Response) -> Trigger.Response:
        self.calls.append(name)
        response.success = name not in self.refusals
        response.message = self.refusals.get(name, f"{name} is done")
        if response.success and name in ("intervention/start", "intervention/stop"):
            self._intervention.publish(Bool(data=name == "intervention/start"))
        return response

    def _on_target(self, message: JointState) -> None:
        self.targets.append(message)
        self.positions = list(message.position)  # an arm that follows at once

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == "/console":
                port = int(status.message.rsplit(" ", 1)[1])
                self.consoles[port] = {value.key: value.value for value in status.values}

    def _step(self) -> None:
        self._tick = (self._tick + 1) % 300
        now = self.node.get_clock().now()
        stamp, nanoseconds = now.to_msg(), now.nanoseconds
        zeros = [0.0] * len(JOINT_NAMES)
        small = [0.02 * np.sin(self._tick / 10 + k) for k in range(len(JOINT_NAMES))]
        for publisher, position in (
            (self._states, self.positions),
            (self._actions[0], self.positions),
            (self._actions[1], small),
        ):
            message = JointState(name=JOINT_NAMES, position=position)
            message.velocity = message.effort = zeros
            message.header.stamp = stamp
            publisher.publish(message)
        tensors = {"features": zeros, "base": zeros, "residual": zeros, "command": zeros,
                   "log_prob": 0.0, "value": 0.0}  # fmt: skip
        step = pack(STEP, tensors, stamp=nanoseconds, episode=1, tick=self._tick, decision=True,
                    weights_version=1, final=False, intervention=False,
                    token_age_ms=-1, token_images={}, plan_age_ms=-1,
                    plan_images={}, plan={})  # fmt: skip
        self._records["policy/step"].publish(to_message(step))
        reach = float(np.sin(self._tick / 30))
        reward = pack(
            REWARD, {"reward": 0.5 * reach - 0.1, "terms": [0.5 * reach, -0.1]},
            stamp=nanoseconds, next_stamp=nanoseconds + 1, success=False, terminated=False,
            label="", names=("reach", "smoothness"), missing=(),
        )  # fmt: skip
        self._records["reward"].publish(to_message(reward))
        for name, publisher in self._images.items():
            publisher.publish(to_image_message(self._picture(name), stamp, name))

        self._compressed.publish(to_compressed_message(self.jpeg, stamp, "front"))

    def _picture(self, name: str) -> np.ndarray:
        pixels = np.full((240, 320, 3), 60 if name == "front" else 110, dtype=np.uint8)
        pixels[:, self._tick : self._tick + 20] = (230, 160, 40)
        return pixels

    def _report(self) -> None:
        reports = {
            "/learner": {"version": "3", "kl": "0.012", "collected": "2/20"},
            "/so101_bridge": {"mode": self.mode},
        }
        message = DiagnosticArray(
            status=[
                DiagnosticStatus(
                    name=name, level=DiagnosticStatus.OK, message="fine",
                    hardware_id="residual_smolvla_ros",
                    values=[KeyValue(key=k, value=v) for k, v in values.items()],
                )
                for name, values in reports.items()
            ]
        )  # fmt: skip
        self._diagnostics.publish(message)

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown()
        self._thread.join()
        self.node.destroy_node()
        self._context.try_shutdown()


@contextlib.contextmanager
def chromium():
    """Yield a headless Chromium; skip where there is none."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    path = path or shutil.which("google-chrome")
    if path is None:
        pytest.skip("needs Chromium: found none of chromium, chromium-browser, google-chrome")
    from playwright.sync_api import sync_playwright

    # Its sandbox needs rights that a container, or root, does not have.
    options = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=options)
        try:
            yield browser
        finally:
            browser.close()


class Proxy:
    """Pass connections on to a port. `stall` stops those of the page's socket, `cut` ends them.

    From then on new ones are treated alike; all else goes on.
    """

    SOCKET = b"/_nicegui_ws/"

    def __init__(self, port: int):
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._mode = "pass"
        self._pages: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def stall(self) -> None:
        """Let nothing through on the page's sockets from now on, and keep them open."""
        self._mode = "stall"

    def cut(self) -> None:
        """Close the page's sockets, and new ones at once."""
        self._mode = "cut"
        for connection in self._pages:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                kind = {"page": False}
                for source, sink, up in ((client, server, True), (server, client, False)):
                    threading.Thread(
                        target=self._pump, args=(source, sink, kind, up), daemon=True
                    ).start()

    def send(self, sink: socket.socket, data: bytes, upward: bool) -> None:
        """Pass data on, to the server (upward) or to the browser."""
        sink.sendall(data)

    def _pump(self, source: socket.socket, sink: socket.socket, kind: dict, up: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(16384):
                if self.SOCKET in data[:200]:
                    kind["page"] = True
                    self._pages.append(source)
                if kind["page"] and self._mode == "cut":
                    break
                if not kind["page"] or self._mode == "pass":
                    self.send(sink, data, up)
        for connection in (source, sink):
            connection.close()

    def close(self) -> None:
        """Take no further connections."""
        self._listener.close()
