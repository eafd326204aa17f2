"""Let the graph run for hours, and say what grew: memory, threads, file descriptors, the clock.

    python benchmarks/long_run.py [--hours 1]

A training session in lockstep (with the demo's settings, which the command's further words
change: episodes, config, ...), recorder and console included. Every few seconds each process is
looked at. Memory is the proportional set size: pages that several processes share count once.
The first fifth is warm-up. Flat is: memory within 2 % an hour, no thread and no descriptor more
at the end than after the warm-up; and the simulated clock is at the count of its steps times
their period. Written to results/long_run.json too.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil

from residual_smolvla_ros import pipeline

MODULE = "residual_smolvla_ros.nodes."
RESULTS = Path(__file__).parent / "results" / "long_run.json"
WARM_UP, END = 0.2, 0.1  # shares of the run: left out, and what counts as its end
GROWTH = 2.0  # % an hour


def main() -> None:
    """Run, look, print a table; end with exit code 1 where something grew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--every", type=float, default=5.0, help="s between two looks")
    parser.add_argument("--domain", type=int, default=93, help="ROS domain")
    given, words = parser.parse_known_args()
    os.environ.update(pipeline.environment() | {"ROS_DOMAIN_ID": str(given.domain)})
    with tempfile.TemporaryDirectory() as folder:
        process = start(Path(folder), words)
        try:
            clock = SimulatedClock()
            looks = follow(process, given.hours * 3600, given.every)
            drift, steps = clock.drift_ns, clock.steps
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)
    rows = {name: row(name, looks) for name in looks[-1].processes}
    report(rows, drift, steps, looks[-1].at)
    RESULTS.write_text(
        json.dumps({"hours": round(looks[-1].at / 3600, 3), "processes": rows,
                    "control_steps": steps, "clock_drift_ns": drift}, indent=1) + "\n"
    )  # fmt: skip
    sys.exit(not all(r["flat"] for r in rows.values()) or drift != 0)


def start(folder: Path, words: list[str]) -> subprocess.Popen:
    """Start the session: it does not end by itself."""
    arguments = {"output": folder / "run", "eval_episodes": 2, "total_steps": 10**9,
                 "record": "true", "console": "true"}  # fmt: skip
    given = [f"{name}:={value}" for name, value in arguments.items()]
    command = [sys.executable, "-m", "residual_smolvla_ros.cli", "finetune", *given, *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


class Look:
    """What the processes had at a time: (MB, threads, file descriptors) of each."""

    def __init__(self, process: subprocess.Popen, began: float):
        self.at = time.monotonic() - began
        self.processes: dict[str, tuple[float, int, int]] = {}
        parent = psutil.Process(process.pid)
        for child in [parent, *parent.children(recursive=True)]:
            try:
                names = [w.removeprefix(MODULE) for w in child.cmdline() if w.startswith(MODULE)]
                if names or child == parent:
                    memory = child.memory_full_info().pss / 1e6
                    found = memory, child.num_threads(), child.num_fds()
                    self.processes[names[0] if names else "starter"] = found
            except psutil.Error:
                continue  # it has just ended


def follow(process: subprocess.Popen, seconds: float, every_s: float) -> list[Look]:
    """Look at the processes again and again, for as long as asked for."""
    began, looks = time.monotonic(), []
    while not looks or looks[-1].at < seconds:
        time.sleep(every_s)
        if process.poll() is not None:
            sys.exit(f"expected a session that goes on, found exit code {process.returncode}")
        looks.append(Look(process, began))
    return looks


def row(name: str, looks: list[Look]) -> dict:
    """Return what a process had after the warm-up and at the end, and its growth in % an hour."""
    end = looks[-1].at
    seen = [(look.at, look.processes[name]) for look in looks
            if look.at >= WARM_UP * end and name in look.processes]  # fmt: skip
    hours = np.array([at for at, _ in seen]) / 3600
    memory = np.array([values[0] for _, values in seen])
    slope = float(np.polyfit(hours, memory, 1)[0]) if len(seen) > 1 else 0.0
    size = max(1, int(END * len(seen)))
    first, last = ([values for _, values in part] for part in (seen[:size], seen[-size:]))
    found = {}
    for index, what in enumerate(("memory_mb", "threads", "descriptors")):
        found[what] = [
            round(statistics.median(v[index] for v in part), 1) for part in (first, last)
        ]
    found["memory_percent_per_hour"] = round(100 * slope / float(memory.mean()), 2)
    still = all(found[what][1] <= found[what][0] for what in ("threads", "descriptors"))
    found["flat"] = still and found["memory_percent_per_hour"] <= GROWTH
    return found


def report(rows: dict[str, dict], drift: int, steps: int, seconds: float) -> None:
    """Print a table."""
    print(f"{seconds / 3600:.2f} h, {steps} control steps; clock less steps x period: {drift} ns\n")
    print(f"{'process':<12}{'PSS MB':>16}{'% an hour':>12}{'threads':>12}{'descriptors':>14}")
    for name, found in rows.items():
        memory, threads, descriptors = (
            "{:g} to {:g}".format(*found[what]) for what in ("memory_mb", "threads", "descriptors")
        )
        print(f"{name:<12}{memory:>16}{found['memory_percent_per_hour']:>12.2f}"
              f"{threads:>12}{descriptors:>14}  {'flat' if found['flat'] else 'GREW'}")  # fmt: skip


class SimulatedClock:
    """Hear the simulator's reports: `drift_ns` is its clock less its steps times their period."""

    def __init__(self):
        # Only now: DDS reads the environment when it is loaded.
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray

        self.drift_ns, self.steps = 0, 0
        rclpy.init()
        node = rclpy.create_node("long_run")
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_report, 10)
        threading.Thread(target=rclpy.spin, args=[node], daemon=True).start()

    def _on_report(self, message) -> None:
        from residual_smolvla_ros.nodes.so101_sim import PERIOD_NS, RESET_STEPS

        for status in message.status:
            if status.name == "/so101_sim":
                values = {value.key: value.value for value in status.values}
                self.steps = int(values.get("steps", 0))
                periods = 1 + self.steps + RESET_STEPS * int(values.get("resets", 0))
                self.drift_ns = int(values["stamp"]) - periods * PERIOD_NS


if __name__ == "__main__":
    main()
