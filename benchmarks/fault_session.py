"""A small session of the real graph in simulation, watched from outside, for faults.py."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import psutil

from residual_smolvla_ros import pipeline

EPISODES_PER_UPDATE = 2
STOPPED_S = 5.0
PATIENCE_S = 300.0
MODULE = "residual_smolvla_ros.nodes."
SETTINGS = {
    "/**/learner": {
        "episodes_per_update": EPISODES_PER_UPDATE,
        "warmup_updates": 1,
        "hidden_sizes": [16, 16],
        "features": ["state", "base_action"],
    },
    "/**/episode": {"max_steps": 12},
    "/**/console": {"port": 0},
}


class Broken(Exception):
    """What was expected after a fault, and what was found."""


class Session:
    """A run with respawn, recorder and console, until its end is asked for.

    It is heard on `domain`: `state` is the newest episode/state, `version` that of the weights.
    """

    def __init__(self, folder: Path, domain: int, episodes: int = 0):
        config = folder / "small.yaml"
        # JSON is YAML, which is what ROS 2 reads.
        config.write_text(json.dumps({k: {"ros__parameters": v} for k, v in SETTINGS.items()}))
        self.run = folder / "run"
        self.arguments = {
            "config": str(config), "output": str(self.run), "eval_episodes": "1",
            "record": "true", "console": "true", "respawn": "true",
        }  # fmt: skip
        self._domain, self._episodes = domain, episodes
        self.state, self.version, self._tick, self._event = "", -1, -1, ("", False)
        self._heard: dict[str, int] = {}
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        os.environ.update(pipeline.environment() | {"ROS_DOMAIN_ID": str(self._domain)})
        self._log = (self.run.parent / "starter.log").open("w+")
        self._process = self._start(episodes=self._episodes)
        self._listen()
        return self

    def __exit__(self, *_) -> None:
        for pid in self.nodes().values():
            os.kill(pid, signal.SIGCONT)
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        self._process.wait(timeout=60)
        self._executor.shutdown()
        self._context.try_shutdown()
        self._thread.join()
        self._log.close()

    def _start(self, **further) -> subprocess.Popen:
        words = [f"{name}:={value}" for name, value in (self.arguments | further).items()]
        command = [sys.executable, "-m", "residual_smolvla_ros.cli", "finetune", *words]
        return subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT)

    def nodes(self) -> dict[str, int]:
        """Return the process ids of the nodes that live."""
        found = {}
        for child in psutil.Process().children(recursive=True):
            try:
                names = [w.removeprefix(MODULE) for w in child.cmdline() if w.startswith(MODULE)]
                if names and child.status() != psutil.STATUS_ZOMBIE:
                    found[names[0]] = child.pid
            except psutil.Error:
                continue  # it has just ended
        return found

    def last_words(self) -> str:
        """Return the end of what the starter and the nodes said."""
        files = [Path(self._log.name), *sorted((self.run / "log").glob("*.log"))]
        return "\n".join(f"{f.name}: {line}" for f in files
                         for line in f.read_text().splitlines()[-8:])  # fmt: skip

    # -- the end ----------------------------------------------------------------------------

    def finish(self) -> None:
        """Interrupt the run, and let one that resumes it evaluate and report."""
        self.until(lambda: self.trained() % EPISODES_PER_UPDATE == 0 and self.state == "running",
                   "an update")  # fmt: skip
        self._process.send_signal(signal.SIGINT)
        self._process.wait(timeout=60)
        episodes = -(-self.trained() // EPISODES_PER_UPDATE) * EPISODES_PER_UPDATE
        self._process = self._start(resume="true", episodes=episodes)
        self.join()

    def join(self) -> None:
        """Wait for the run's end; raise Broken where it lacks a report or leaves a node."""
        try:
            code = self._process.wait(timeout=2 * PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise Broken("expected the run to end, found that it goes on") from None
        if code or not (self.run / "report.html").is_file() or self.nodes():
            raise Broken(f"expected a report, found exit code {code} and {self.nodes()}")

    # -- what is seen and heard -------------------------------------------------------------

    def finished(self) -> int:
        """Return how many episodes are kept."""
        return len(outcomes(self.run))

    def trained(self) -> int:
        """Return how many training episodes are kept."""
        return sum(o["phase"] in ("warmup", "train") for o in outcomes(self.run))

    def heard(self, node: str) -> int:
        """Return how often a node has reported."""
        return self._heard.get(node, 0)

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until a condition holds; raise Broken where it takes too long."""
        self._wait(condition, what, 0.05)

    def _wait(self, condition: Callable[[], bool], what: str, poll_s: float) -> None:
        end = time.monotonic() + PATIENCE_S
        with self._changed:
            while not condition():
                if time.monotonic() > end:
                    raise Broken(f"expected {what}, found none in {PATIENCE_S:.0f} s")
                if self._process.poll() not in (None, 0):
                    raise Broken(f"expected {what}, found that the run ended")
                self._changed.wait(poll_s)

    def await_phase(self, phase: str) -> None:
        """Wait until a phase has just begun."""
        temporary = self.run / "checkpoints"
        conditions = {
            "episode": lambda: self.state == "running" and self._tick >= 3,
            "reset": lambda: self._event[0] == "prepare",
            "update": lambda: self._event == ("end", True),
            "saving": lambda: any(temporary.glob(".*.tmp")),
        }
        self._event, self._tick = ("", False), -1
        self._wait(conditions[phase], f"the phase {phase}", 0.001 if phase == "saving" else 0.05)

    def _listen(self) -> None:
        # Only now: DDS reads the environment when it is loaded.
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.executors import SingleThreadedExecutor
        from std_msgs.msg import String

        from residual_smolvla_ros.learning.schedule import EpisodePlan
        from residual_smolvla_ros.nodes.common import LATCHED_QOS, PipelineNode
        from residual_smolvla_ros.records import EPISODE_EVENT, STEP, WEIGHTS, Record

        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        node = PipelineNode("fault_listener", context=self._context)

        def on_event(record: Record) -> None:
            plan = EpisodePlan.from_json(record.metadata["plan"])
            last = (plan.index + 1) % EPISODES_PER_UPDATE == 0 and plan.is_training
            counts = last and record.metadata["label"] != "discard"
            self._set(_event=(record.metadata["event"], counts), _tick=-1)

        def on_diagnostics(message: DiagnosticArray) -> None:
            names = [status.name.strip("/") for status in message.status]
            self._set(_heard=self._heard | {n: self.heard(n) + 1 for n in names})

        def on_step(record: Record) -> None:
            self._set(_tick=record.metadata["tick"])

        node.record_subscription(EPISODE_EVENT, "episode/event", on_event, LATCHED_QOS)
        node.record_subscription(STEP, "policy/step", on_step, LATCHED_QOS)
        node.record_subscription(
            WEIGHTS, "learner/weights", lambda r: self._set(version=r.metadata["version"]),
            LATCHED_QOS,
        )  # fmt: skip
        node.create_subscription(
            String, "episode/state", lambda m: self._set(state=m.data), LATCHED_QOS
        )
        node.create_subscription(DiagnosticArray, "/diagnostics", on_diagnostics, 10)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()

    def _set(self, **values) -> None:
        with self._changed:
            vars(self).update(values)
            self._changed.notify_all()


def outcomes(run: Path) -> list[dict]:
    """Return the outcomes of a run that count."""
    file = run / "episodes.jsonl"
    lines = file.read_text().splitlines() if file.is_file() else []
    found = [json.loads(line) for line in lines if line.endswith("}")]
    return [outcome for outcome in found if outcome["label"] != "discard"]
