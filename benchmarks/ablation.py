"""What each of PPO's settings does to success: one changed at a time, the rest as the config.

    .venv/bin/python benchmarks/ablation.py --total-steps 100000

prints a table and writes results/ablation.json; interrupted, it goes on. Training seeds differ by
more than most settings do: a row of one seed shows what does harm, not what is best.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import success
import yaml

# A setting, or several that only make sense together.
CHANGES = (
    {},
    {"gamma": 0.97},
    {"gae_lambda": 0.8},
    {"clip_range": 0.1},
    {"epochs": 4},
    {"minibatch_size": 128},
    {"actor_learning_rate": 0.0003},
    {"critic_learning_rate": 0.005},
    {"learning_rate_schedule": "constant"},
    {"learning_rate_schedule": "adaptive"},
    {"learning_rate_schedule": "adaptive", "desired_kl": 0.02},
    {"target_kl": 0.0},
    {"kl_stop": "minibatch"},
    {"entropy_coefficient": 0.01},
    {"value_clip": 0.2},
    {"max_grad_norm": 0.5},
    {"advantage_normalisation": "minibatch"},
    {"normalise_rewards": True},
    {"feature_normalisation": "running"},
    {"residual_penalty": 0.01},
    {"residual_ramp_steps": 50_000},
    {"time_limit_ends": True},
    {"warmup_updates": 0},
    {"episodes_per_update": 50},
    {"hold_steps": 1},
    {"log_std_init": -1.0},
    {"action_space": "joint", "action_scale": 0.15},
)


def name_of(change: dict) -> str:
    """Return a change as the name of its config file."""
    return "_".join(f"{name}_{value}" for name, value in change.items()) or "as_is"


def write_config(config: Path, change: dict, folder: Path) -> Path:
    """Write a config with some of the learner's parameters changed."""
    sections = yaml.safe_load(config.read_text())
    sections["/**/learner"]["ros__parameters"] |= change
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name_of(change)}.yaml"
    file.write_text(yaml.safe_dump(sections, sort_keys=False))
    return file


def main() -> None:
    """Train, evaluate and print one row after the other."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--config", type=Path, default=success.HERE.parent / "config" / "sim.yaml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--total-steps", type=int, default=100_000)
    parser.add_argument("--num-envs", type=int, default=20)
    parser.add_argument("--eval-episodes", type=int, default=200)
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmarks/ablation"))
    options = parser.parse_args()
    found: dict[str, dict] = {}
    print(f"| setting | success at {options.total_steps:,} env steps | seeds |\n|---|---|---|")
    for change in CHANGES:
        config = write_config(options.config, change, options.output / "configs")
        runs = {
            str(seed): success.read(success.train(config, seed, options)) for seed in options.seeds
        }
        found[name_of(change)] = runs
        residual = np.array([run["residual"] for run in runs.values()], dtype=float)
        low, high = success.interval(residual)
        row = ", ".join(f"`{name}: {value}`" for name, value in change.items()) or "as it is"
        print(
            f"| {row} | {residual.mean():.3f} [{low:.3f}, {high:.3f}] | {len(runs)} |", flush=True
        )
        (success.RESULTS / "ablation.json").write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
