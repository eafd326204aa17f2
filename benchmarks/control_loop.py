"""Control loops on one simulated arm whose time does not wait: ours, and LeRobot's own.

    python benchmarks/control_loop.py --episodes 20 --delays 100 200 370

The same checkpoint, scenes, machine and delay of planning for all. `sync` and `rtc` are those of
lerobot-rollout, `async` LeRobot's policy server with its robot client; `ours` is the ROS graph with
the base alone, and with a residual (--residual <run>) once more. A missed tick is a control period
of the arm without a new command, from an episode's first command on. Latency is from the reading
of the joints to the command at the arm: over DDS and back for ours, in LeRobot's process for the
others; async reads the arm only for its plans. Writes results/control_loop.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from graph_listener import Listener

from residual_smolvla_ros.pipeline import environment

HERE = Path(__file__).parent
RESULT = HERE / "results" / "control_loop.json"
HEADER = (
    f"{'loop':<22}{'delay':>7}{'rate':>8}{'missed':>9}{'latency, ms':>16}{'plan age, ms':>15}"
    f"{'success':>10}\n{'':<22}{'ms':>7}{'Hz':>8}{'/ 1,000':>9}{'median':>9}{'99 %':>7}"
    f"{'median':>9}{'max':>6}"
)


def play_lerobot(loop: str, delay_ms: float, episodes: int, folder: Path) -> list[dict]:
    """Return LeRobot's accounts of episodes, from a process of their own."""
    output = folder / f"{loop}.json"
    command = [sys.executable, str(HERE / "lerobot_loops.py"), loop, "--output", str(output)]
    command += ["--delay-ms", str(delay_ms), "--episodes", str(episodes)]
    with (folder / f"{loop}.log").open("w") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise SystemExit(f"{loop} failed:\n{(folder / f'{loop}.log').read_text()[-2000:]}")
    return json.loads(output.read_text())


def play_ours(delay_ms: float, episodes: int, folder: Path, options) -> list[dict]:
    """Return accounts of episodes in the ROS graph, as a listener on its topics sees them."""
    name = "residual" if options.residual else "base"
    config = folder / f"{name}.yaml"
    config.write_text(json.dumps(settings(delay_ms, options)))
    output = folder / name
    words = [f"config:={config}", f"output:={output}", "lockstep:=false"]
    words.append(f"eval_episodes:={episodes}")
    if options.residual:
        words.append(f"residual_checkpoint:={options.residual.resolve()}")
    process = subprocess.Popen(
        [sys.executable, "-m", "residual_smolvla_ros.cli", "evaluate", *words],
        stdout=(folder / f"{name}.log").open("w"),
        stderr=subprocess.STDOUT,
    )
    listener = Listener()
    try:
        while process.poll() is None:
            listener.spin(0.1)
    finally:
        process.terminate()
        process.wait()
        listener.close()
    if process.returncode:
        raise SystemExit(f"ours failed:\n{(folder / f'{name}.log').read_text()[-2000:]}")
    played = [json.loads(line) for line in (output / "episodes.jsonl").read_text().splitlines()]
    # With a residual the base alone is played first, and the same scenes again.
    played = played[episodes if options.residual else 0 :]
    return listener.accounts({row["episode"]: row["success"] for row in played})


def settings(delay_ms: float, options) -> dict:
    """Return the parameters of a run: as config/sim.yaml where it matters here."""
    policy = {"plan_delay_ms": float(delay_ms), "plan_overlap_steps": options.overlap_steps}
    policy["plan_switch"] = options.switch
    sections = {"policy": policy, "episode": {"max_steps": 100}}
    return {f"/**/{node}": {"ros__parameters": values} for node, values in sections.items()}


def summary(accounts: list[dict]) -> dict:
    """Return the figures of a loop's episodes."""
    ticks = sum(account["ticks"] for account in accounts)
    missed = sum(account["missed"] for account in accounts)
    latency = 1e3 * np.concatenate([account["latency_s"] for account in accounts])
    age = 1e3 * np.concatenate([account["plan_age_s"] for account in accounts])
    return {
        "ticks": ticks,
        "rate_hz": (ticks - missed) / sum(account["seconds"] for account in accounts),
        "missed_per_1000": 1e3 * missed / ticks,
        "latency_ms": [float(np.median(latency)), float(np.percentile(latency, 99))],
        "plan_age_ms": [float(np.median(age)), float(age.max())],
        "success": sum(account["success"] for account in accounts) / len(accounts),
        "episodes": len(accounts),
    }


def row(loop: str, delay_ms: float, found: dict) -> str:
    """Return a line of the table."""
    median, tail = found["latency_ms"]
    age, oldest = found["plan_age_ms"]
    latency = f"{'-':>9}{'-':>7}" if loop == "lerobot async" else f"{median:>9.1f}{tail:>7.1f}"
    return (
        f"{loop:<22}{delay_ms:>7g}{found['rate_hz']:>8.1f}{found['missed_per_1000']:>9.1f}"
        f"{latency}{age:>9.0f}{oldest:>6.0f}{found['success']:>10.2f}"
    )


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--delays", type=float, nargs="+", default=[100.0, 200.0, 370.0])
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--loops", nargs="+", default=["sync", "rtc", "async", "ours"])
    parser.add_argument("--overlap-steps", type=int, default=0, help="of ours")
    parser.add_argument("--switch", default="blend", choices=["blend", "rtc"], help="of ours")
    parser.add_argument("--residual", type=Path, help="trained run to play as well")
    parser.add_argument("--domain", type=int, default=91, help="ROS domain")
    options = parser.parse_args()
    os.environ.update(environment(), ROS_DOMAIN_ID=str(options.domain), HF_HUB_OFFLINE="1")
    found = {}
    print(HEADER, flush=True)
    with tempfile.TemporaryDirectory() as name:
        for delay_ms in options.delays:
            folder = Path(name) / str(delay_ms)
            folder.mkdir()
            for loop in options.loops:
                if loop == "ours":
                    title, accounts = "ours", play_ours(delay_ms, options.episodes, folder, options)
                else:
                    title = f"lerobot {loop}"
                    accounts = play_lerobot(loop, delay_ms, options.episodes, folder)
                title += ", residual" if loop == "ours" and options.residual else ""
                found[f"{title}, {delay_ms:g} ms"] = summary(accounts)
                print(row(title, delay_ms, summary(accounts)), flush=True)
    cores = f"{os.cpu_count()} cores"
    RESULT.write_text(json.dumps({"machine": cores, "loops": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
