"""Success over env steps and wall time, of several training seeds; interrupted, it goes on.

    .venv/bin/python benchmarks/success.py config/sim.yaml --seeds 0 1 2 3 4 --total-steps 400000

trains each config of benchmarks/configs/ (or a path) with each seed by `residual-smolvla train`,
evaluates on the same held-out scenes with the same flow noise, and writes to benchmarks/results/:
<name>.json, each seed's curve and every held-out episode's outcome; success.png, all curves there.
Intervals are 95 %, by bootstrap over seeds and, within each, over paired held-out episodes.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from residual_smolvla_ros.learning.schedule import BASE, RESIDUAL, TRAINING_PHASES, VALIDATION
from residual_smolvla_ros.reporting.results import SUMMARY, read_outcomes

HERE = Path(__file__).parent
RESULTS = HERE / "results"
RESAMPLES = 10_000


def train(config: Path, seed: int, options: argparse.Namespace) -> Path:
    """Train with a seed, or go on with it; return the run's folder."""
    output = options.output / config.stem / f"seed_{seed}"
    if (output / SUMMARY).is_file():
        return output
    command = [sys.executable, "-m", "residual_smolvla_ros.cli", "train", f"config:={config}"]
    command += [f"seed:={seed}", f"output:={output}", f"total_steps:={options.total_steps}"]
    command += [f"num_envs:={options.num_envs}", f"eval_episodes:={options.eval_episodes}"]
    command += [f"resume:={str((output / 'checkpoints').is_dir()).lower()}"]
    print(f"{config.stem}, seed {seed}: {output}", flush=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    with (output.parent / f"seed_{seed}.log").open("a") as log:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=True)
    return output


def read(run: Path) -> dict:
    """Return the curve of a run's validations and the outcome of each held-out episode."""
    outcomes = sorted(read_outcomes(run), key=lambda o: o.episode)
    steps, training_s, before, curve = 0, 0.0, 0.0, {}
    for o in outcomes:
        if o.phase in TRAINING_PHASES:
            steps += o.steps
            training_s += o.wall_s - before
        elif o.phase == VALIDATION:
            point = curve.setdefault(o.weights_version, [steps, training_s, []])
            point[2].append(o.success)
        before = o.wall_s
    newest = max((o.weights_version for o in outcomes if o.phase == RESIDUAL), default=-1)
    held_out = {
        name: [
            int(o.success)
            for o in sorted(outcomes, key=lambda o: o.index)
            if o.phase == phase and (phase == BASE or o.weights_version == newest)
        ]
        for name, phase in (("base", BASE), ("residual", RESIDUAL))
    }
    return {
        "env_steps": steps,
        "training_s": round(training_s, 1),
        "curve": [[at, round(s, 1), float(np.mean(found))] for at, s, found in curve.values()],
        "validation_episodes": len(next(iter(curve.values()))[2]) if curve else 0,
        **held_out,
    }


def interval(episodes: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of the mean of (seeds, episodes), resampling seeds and episodes."""
    generator = np.random.default_rng(0)
    seeds, count = episodes.shape
    picked = generator.integers(seeds, size=(RESAMPLES, seeds))
    # The same held-out scenes for each seed: they are resampled together.
    scenes = generator.integers(count, size=(RESAMPLES, count))
    means = [episodes[s][:, e].mean() for s, e in zip(picked, scenes, strict=True)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def steps_to(runs: dict[str, dict], level: float) -> str:
    """Return after how many env steps validation first reached a level, mean over seeds."""
    reached = [
        next((at for at, _, success in run["curve"] if success >= level), None)
        for run in runs.values()
    ]
    known = [at for at in reached if at is not None]
    share = f"{len(known)} of {len(reached)} seeds"
    return f"{np.mean(known):,.0f} ({share})" if known else f"never ({share})"


def describe(name: str, runs: dict[str, dict]) -> str:
    """Return a config's figures as a line."""
    residual = np.array([run["residual"] for run in runs.values()], dtype=float)
    base = np.array([run["base"] for run in runs.values()], dtype=float)
    low, high = interval(residual)
    gain_low, gain_high = interval(residual - base)
    steps = np.mean([run["env_steps"] for run in runs.values()])
    wall = np.mean([run["training_s"] for run in runs.values()])
    return (
        f"{name}: {len(runs)} seeds, {steps:,.0f} env steps, {wall:.0f} s of training: base "
        f"{base.mean():.3f}, base + residual {residual.mean():.3f} [{low:.3f}, {high:.3f}], "
        f"seeds {', '.join(f'{r:.3f}' for r in residual.mean(axis=1))}; gain "
        f"{(residual - base).mean():+.3f} [{gain_low:+.3f}, {gain_high:+.3f}]; first at 50 % after "
        f"{steps_to(runs, 0.5)}, 70 % {steps_to(runs, 0.7)}, 90 % {steps_to(runs, 0.9)}"
    )


def draw(file: Path) -> None:
    """Draw the curves of all results: mean over seeds, and each seed."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained", sharey=True)
    for index, result in enumerate(sorted(RESULTS.glob("success_*.json"))):
        runs = json.loads(result.read_text())
        name = result.stem.removeprefix("success_")
        for axis, column, scale in ((axes[0], 0, 1e3), (axes[1], 1, 60.0)):
            curves = [np.array(run["curve"]) for run in runs.values()]
            end = min(curve[-1, column] for curve in curves)
            grid = np.linspace(0.0, end, 60)
            every = np.array([np.interp(grid, c[:, column], c[:, 2]) for c in curves])
            color = f"C{index}"
            axis.plot(grid / scale, every.mean(axis=0), color=color, label=f"{name} ({len(runs)})")
            for one in every:
                axis.plot(grid / scale, one, color=color, alpha=0.2, linewidth=0.8)
    axes[0].set(xlabel="env steps (thousands)", ylabel="success on validation scenes", ylim=(0, 1))
    axes[1].set(xlabel="wall time of training (min)")
    for axis in axes:
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
    axes[0].legend(loc="lower right", title="config (seeds)")
    figure.savefig(file, dpi=120)
    plt.close(figure)


def main() -> None:
    """Train, collect, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("configs", nargs="*", help="names in benchmarks/configs/, or paths")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--total-steps", type=int, default=400_000)
    parser.add_argument("--num-envs", type=int, default=20)
    parser.add_argument("--eval-episodes", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side")
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmarks"))
    options = parser.parse_args()
    files = [
        path if (path := HERE / "configs" / f"{name}.yaml").is_file() else Path(name).resolve()
        for name in options.configs
    ]
    jobs = [(file, seed) for seed in options.seeds for file in files]
    with ThreadPoolExecutor(options.jobs) as pool:
        runs = list(pool.map(lambda job: train(*job, options), jobs))
    for file in files:
        found = {
            str(seed): read(run) for (of, seed), run in zip(jobs, runs, strict=True) if of == file
        }
        (RESULTS / f"success_{file.stem}.json").write_text(json.dumps(found) + "\n")
        print(describe(file.stem, found))
    draw(RESULTS / "success.png")


if __name__ == "__main__":
    main()
