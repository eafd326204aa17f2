"""How well SmolVLA's vision tokens tell where the object is: which of them, how often, how old.

    .venv/bin/python benchmarks/vision_tokens.py

plays episodes of the base with exploration, learns the estimator of `estimate: simulator` from them
as a run does, and prints what it is off by on episodes that it has not seen.
"""

import argparse
import itertools
import os
from dataclasses import dataclass, field

import numpy as np
import torch

from residual_smolvla_ros.arguments import DEMO_CHECKPOINT
from residual_smolvla_ros.learning.estimation import Estimation
from residual_smolvla_ros.learning.rollout import Episode
from residual_smolvla_ros.learning.schedule import TRAIN, TRAINING_SEED, EpisodePlan
from residual_smolvla_ros.pipeline import environment, share_directory
from residual_smolvla_ros.policy.actor_critic import ResidualActorCritic
from residual_smolvla_ros.policy.features import TCP_SCALE, ResidualConfig
from residual_smolvla_ros.policy.vision import TokenReducer, read_token_shape
from residual_smolvla_ros.robots.units import JOINT_NAMES
from residual_smolvla_ros.training.settings import MAX_STEPS, CohortMaker

# Tokens are taken at every decision; older ones are those of decisions before.
HOLD_STEPS = 5
CAMERAS = ("front", "wrist")
FEATURES = ["state", "base_action", "planned_tcp", "vision", "vision_age", "target_from_tcp"]
TOKEN_SHAPE = read_token_shape(DEMO_CHECKPOINT)
UPDATE_EPISODES = 8
NEAR_M = 0.06  # where a residual decides about the grasp


@dataclass(frozen=True)
class Variant:
    """What the estimator gets of the tokens."""

    name: str
    period: int = HOLD_STEPS
    sees: bool = True
    knows_age: bool = True
    settings: dict = field(default_factory=dict)

    @property
    def config(self) -> ResidualConfig:
        """The residual's configuration."""
        names = [name for name in FEATURES if self.knows_age or name != "vision_age"]
        return configure(
            names, critic_only=("target_from_tcp",), estimate="simulator", **self.settings
        )

    def features(self, played: np.ndarray, recorded: ResidualConfig) -> list[np.ndarray]:
        """Return the features of an episode's decisions (n, recorded size) as it would see them."""
        config = self.config
        reducer = TokenReducer(config, CAMERAS)
        every = self.period // HOLD_STEPS
        rows = []
        for index, row in enumerate(played):
            values = {name: row[recorded.columns(name)] for name in recorded.features}
            taken = played[index - index % every][recorded.columns("vision")]
            values["vision"] = reducer.reduce(taken.reshape(TOKEN_SHAPE)) * float(self.sees)
            values["vision_age"] = np.float32(index % every / every)
            rows.append(config.pack(values))
        return rows


WRIST = {"vision_cameras": ("wrist",)}
VARIANTS = (
    Variant("no tokens", sees=False, settings=WRIST),
    Variant("wrist, 9 places of 128", settings=WRIST),
    Variant("front, 9 places of 128", settings={"vision_cameras": ("front",)}),
    Variant("both, 9 places of 128"),
    Variant("wrist, averaged to 2 x 2 places", settings=WRIST | {"vision_grid": 2}),
    Variant("wrist, averaged to one place", settings=WRIST | {"vision_grid": 1}),
    Variant("wrist, 64 channels", settings=WRIST | {"vision_channels": 64}),
    Variant("wrist, 32 channels", settings=WRIST | {"vision_channels": 32}),
    Variant("wrist, 16 channels", settings=WRIST | {"vision_channels": 16}),
    Variant("wrist, every 10 steps", 10, settings=WRIST),
    Variant("wrist, every 10 steps, age unknown", 10, knows_age=False, settings=WRIST),
    Variant("wrist, every 15 steps", 15, settings=WRIST),
    Variant("wrist, every 15 steps, age unknown", 15, knows_age=False, settings=WRIST),
    Variant("wrist, every 30 steps (a plan's start)", 30, settings=WRIST),
    Variant("wrist, every 30 steps, age unknown", 30, knows_age=False, settings=WRIST),
)


def configure(names: list[str], **settings) -> ResidualConfig:
    """Return a residual's configuration for the demo's robot and base."""
    joints, shape = len(JOINT_NAMES), TOKEN_SHAPE
    return ResidualConfig.from_names(names, joints, token_shape=shape, **settings)


def play(count: int, arms: int, recorded: ResidualConfig) -> list[np.ndarray]:
    """Return the features (decisions, size) of each of `count` episodes."""
    make = CohortMaker(
        share_directory() / "config" / "sim.yaml", DEMO_CHECKPOINT, "cpu", "Lift the red cube"
    )
    cohort = make(arms)
    cohort.load_weights(recorded, ResidualActorCritic(recorded).state_dict(), version=0)
    plans = [
        EpisodePlan(
            episode=index,
            phase=TRAIN,
            index=index,
            seed=TRAINING_SEED + index,
            max_steps=MAX_STEPS,
            explore=True,
        )
        for index in range(count)
    ]
    played = [one for batch in itertools.batched(plans, arms) for one in cohort.play(batch)]
    cohort.close()
    return [np.stack(one.episode.features) for one in played]


def measure(variant: Variant, seen: list, unseen: list, recorded: ResidualConfig) -> list[float]:
    """Return the mean error in mm on all unseen decisions, and on those near the object."""
    network = ResidualActorCritic(variant.config, seed=0)
    estimation = Estimation(network, seed=0)
    for batch in itertools.batched(seen, UPDATE_EPISODES):
        estimation.learn([Episode(variant.features(one, recorded)) for one in batch])
    rows = np.concatenate([variant.features(one, recorded) for one in unseen])
    features = torch.from_numpy(rows)
    estimator = network.normaliser.projection
    with torch.no_grad():
        found = estimator.layers(estimator.inputs(features))
    wanted = features[:, variant.config.columns("target_from_tcp")]
    error = 1000.0 * (found - wanted).norm(dim=1) / TCP_SCALE
    near = wanted.norm(dim=1) / TCP_SCALE < NEAR_M
    return [float(error.mean()), float(error[near].mean())]


def main() -> None:
    """Play, learn and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=500, help="to learn from")
    parser.add_argument("--unseen", type=int, default=100)
    parser.add_argument("--num-envs", type=int, default=20)
    options = parser.parse_args()
    os.environ.update(environment())
    torch.set_num_threads(1)
    recorded = configure(FEATURES, vision_period_steps=HOLD_STEPS, hold_steps=HOLD_STEPS)
    episodes = play(options.episodes + options.unseen, options.num_envs, recorded)
    seen, unseen = episodes[: options.episodes], episodes[options.episodes :]
    print(f"learned from {len(seen)} episodes, {sum(map(len, seen))} decisions; errors in mm on")
    print(f"{len(unseen)} others, {sum(map(len, unseen))} decisions, and within 6 cm of the object")
    print("| tokens | values | all | near |\n|---|---|---|---|")
    for variant in VARIANTS:
        size = variant.config.features["vision"] if variant.sees else 0
        every, near = measure(variant, seen, unseen, recorded)
        print(f"| {variant.name} | {size} | {every:.1f} | {near:.1f} |", flush=True)


if __name__ == "__main__":
    main()
