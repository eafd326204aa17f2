"""Print the control steps per second of the lockstep graph, and where the time goes.

    python benchmarks/graph_throughput.py [--episodes 60]

Runs the real pipeline (five processes), base alone and then with a residual, and reads each
process's CPU time. Cameras are rendered only where the base plans.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

MODULE = "residual_smolvla_ros.nodes."


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=60)
    parser.add_argument("--domain", type=int, default=90, help="ROS domain")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        process = start(run, options)
        try:
            usage = follow(run, process, options.episodes)
        finally:
            process.terminate()
            process.wait()
        report(run, usage, options.episodes)


def start(run: Path, options) -> subprocess.Popen:
    """Start a fine-tuning run whose training episodes are measured."""
    arguments = [f"output:={run}", "eval_episodes:=0", f"episodes:={2 * options.episodes}"]
    return subprocess.Popen(
        [sys.executable, "-m", "residual_smolvla_ros.cli", "finetune", *arguments],
        env=os.environ | {"ROS_DOMAIN_ID": str(options.domain)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def outcomes(run: Path) -> list[dict]:
    """Return the training outcomes so far."""
    file = run / "episodes.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    return [row for row in rows if row["phase"] in ("warmup", "train")]


def follow(run: Path, process: subprocess.Popen, episodes: int) -> dict[str, float]:
    """Wait for the measured episodes; return each node's CPU seconds in them."""
    first = None
    while len(outcomes(run)) < episodes:
        if process.poll() is not None:
            raise SystemExit("the pipeline ended before it was measured")
        if first is None and outcomes(run):
            first = cpu_times(process)
        time.sleep(0.05)
    last = cpu_times(process)
    return {name: last[name] - first[name] for name in first}


def cpu_times(process: subprocess.Popen) -> dict[str, float]:
    """Return the CPU seconds of each node so far."""
    times = {}
    for child in psutil.Process(process.pid).children(recursive=True):
        for word in child.cmdline():
            if word.startswith(MODULE):
                spent = child.cpu_times()
                times[word.removeprefix(MODULE)] = spent.user + spent.system
    return times


def report(run: Path, usage: dict[str, float], episodes: int) -> None:
    """Print steps per second and the CPU time of each node per step."""
    rows = outcomes(run)[:episodes]
    steps = sum(row["steps"] for row in rows[1:])
    seconds = rows[-1]["wall_s"] - rows[0]["wall_s"]
    print(
        f"{steps} control steps in {seconds:.1f} s: {steps / seconds:.0f} steps/s, updates included"
    )
    print(f"\n{'node':<12}{'CPU ms a step':>14}")
    for name, spent in sorted(usage.items(), key=lambda item: -item[1]):
        print(f"{name:<12}{1e3 * spent / steps:>14.2f}")
    print(f"{'wall':<12}{1e3 * seconds / steps:>14.2f}   ({os.cpu_count()} cores)")


if __name__ == "__main__":
    main()
