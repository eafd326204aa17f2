"""Success of other libraries' PPO on the same problem, network, batch and budget as ours.

    uv pip install --target peers --no-deps stable-baselines3 rsl-rl-lib tensordict pyvers orjson
    PYTHONPATH=peers python benchmarks/peers.py --seeds 0 1 2 3 4 --total-steps 400000

They learn in ResidualVectorEnv, with our learning-rate schedule and our meaning of the time limit;
features are normalised by the statistics of as many zero-residual episodes as our critic's warm-up
has. Evaluated as ours: the same scenes and flow noise, played in the same code, without
exploration. Writes results/success_<peer>.json after each seed, as success.py does; a seed whose
steps are there already is not trained again.
"""

import argparse
import itertools
import json
import time
from pathlib import Path

import numpy as np
import torch
from peer_rsl_rl import AdaptiveRslRl, RslRl
from peer_sb3 import StableBaselines

from residual_smolvla_ros.arguments import DEMO_CHECKPOINT
from residual_smolvla_ros.learning.schedule import (
    BASE,
    HELD_OUT_SEED,
    RESIDUAL,
    TRAINING_SEED,
    VALIDATION,
    VALIDATION_SEED,
    WARMUP,
    EpisodePlan,
)
from residual_smolvla_ros.robots.simulation import SimulatedSO101
from residual_smolvla_ros.training.arm import Played
from residual_smolvla_ros.training.environment import ResidualVectorEnv
from residual_smolvla_ros.training.settings import CohortMaker, learner_from, schedule_from

HERE = Path(__file__).parent
PEERS = {"sb3": StableBaselines, "rsl_rl": RslRl, "rsl_rl_adaptive": AdaptiveRslRl}


class Bench:
    """The problem of a config: arms to train on, arms to evaluate on, and our own settings."""

    def __init__(self, config: Path, options: argparse.Namespace):
        values = {"seed": 0, "episodes": 0, "eval_episodes": options.eval_episodes}
        values["total_steps"] = options.total_steps
        self.learner = learner_from(config, DEMO_CHECKPOINT, 0, options.total_steps)
        self.schedule = schedule_from(config, values, self.learner)
        self.residual = self.learner.residual
        if self.residual.critic_only or self.residual.estimate:
            raise SystemExit(f"config {config}: expected one observation for actor and critic")
        sim = SimulatedSO101()
        maker = CohortMaker(config, DEMO_CHECKPOINT, "cpu", "Lift the red cube")
        self._players = maker(options.num_envs, sim)
        self.env = ResidualVectorEnv(options.num_envs, config=config, like=sim)

    def play(self, network, first: int, count: int, phase: str) -> list[Played]:
        """Play `count` scenes from a first one on; in BASE and WARMUP without the residual."""
        self._players.load_weights(self.residual, network.state_dict(), version=0)
        plans = [
            EpisodePlan(
                episode=index,
                phase=phase,
                index=index,
                seed=first + index,
                max_steps=self.schedule.max_steps,
                use_residual=phase not in (BASE, WARMUP),
            )
            for index in range(count)
        ]
        batches = itertools.batched(plans, self._players.size)
        return [played for batch in batches for played in self._players.play(batch)]

    def success(self, network, first: int, count: int, phase: str) -> list[int]:
        """Return how each of `count` scenes went: 1 or 0."""
        return [int(played.success) for played in self.play(network, first, count, phase)]


def train(bench: Bench, kind: type, seed: int, total_steps: int) -> dict:
    """Train a peer with a seed and return what success.py keeps of a run."""
    learner, schedule = bench.learner, bench.schedule
    network = bench.learner.config.make(bench.residual, seed).network
    first_scene = TRAINING_SEED * (seed + 1)
    warmup = learner.warmup_updates * learner.episodes_per_update

    start = time.perf_counter()
    played = bench.play(network, first_scene, warmup, WARMUP)
    features = np.concatenate([one.episode.features for one in played])
    network.normaliser.fit(torch.from_numpy(features))
    steps = sum(one.steps for one in played)
    peer = kind(bench.env, network, learner.config, seed, first_scene + warmup, steps)
    spent, curve = time.perf_counter() - start, []
    for update in itertools.count():
        if update % schedule.validation_every == 0:
            peer.copy_actor(network)
            count = schedule.validation_episodes
            found = np.mean(bench.success(network, VALIDATION_SEED, count, VALIDATION))
            curve.append([steps, round(spent, 1), float(found)])
            print(f"{kind.name}, seed {seed}: {steps:,} steps: {found:.2f}", flush=True)
        if steps >= total_steps:
            break
        start = time.perf_counter()
        steps += peer.iterate()
        spent += time.perf_counter() - start
    peer.copy_actor(network)
    count = schedule.eval_episodes
    return {
        "env_steps": steps,
        "training_s": round(spent, 1),
        "curve": curve,
        "validation_episodes": schedule.validation_episodes,
        "base": bench.success(network, HELD_OUT_SEED, count, BASE),
        "residual": bench.success(network, HELD_OUT_SEED, count, RESIDUAL),
    }


def main() -> None:
    """Train each peer with each seed and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=["sb3", "rsl_rl"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--total-steps", type=int, default=400_000)
    parser.add_argument("--num-envs", type=int, default=20)
    parser.add_argument("--eval-episodes", type=int, default=200)
    parser.add_argument("--config", type=Path, default=HERE.parent / "config" / "sim.yaml")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(options.config, options)
    for seed, name in itertools.product(options.seeds, options.peers):
        file = options.results / f"success_{name}.json"
        runs = json.loads(file.read_text()) if file.is_file() else {}
        if runs.get(str(seed), {}).get("env_steps", 0) >= options.total_steps:
            continue
        runs[str(seed)] = run = train(bench, PEERS[name], seed, options.total_steps)
        written = file.with_suffix(".new")
        written.write_text(json.dumps(runs) + "\n")
        written.replace(file)
        rate = run["env_steps"] / run["training_s"]
        print(
            f"{name}, seed {seed}: base {np.mean(run['base']):.3f}, with residual "
            f"{np.mean(run['residual']):.3f}, {rate:.0f} steps/s of training"
        )


if __name__ == "__main__":
    main()
