"""PPO of the residual: hyperparameters, and what it keeps from one update to the next."""

import copy
from dataclasses import dataclass

import torch

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.learning.estimation import Estimation
from residual_smolvla_ros.learning.moments import Moments
from residual_smolvla_ros.learning.optimiser_state import pack_optimiser, unpack_optimiser
from residual_smolvla_ros.learning.ppo_update import make_optimiser, update
from residual_smolvla_ros.learning.rollout import Batch, Episode, discounted_sums, make_batch
from residual_smolvla_ros.policy.actor_critic import ResidualActorCritic
from residual_smolvla_ros.policy.features import ResidualConfig

CHOICES = {
    "learning_rate_schedule": ("constant", "linear", "adaptive"),
    "kl_stop": ("epoch", "minibatch"),
    "advantage_normalisation": ("batch", "minibatch"),
    "feature_normalisation": ("warmup", "running"),
}
POSITIVE = ("epochs", "minibatch_size", "actor_learning_rate", "critic_learning_rate",
            "clip_range", "desired_kl", "max_grad_norm")  # fmt: skip
NOT_NEGATIVE = ("target_kl", "value_clip", "total_steps", "residual_ramp_steps")


@dataclass(frozen=True)
class PPOConfig:
    """Hyperparameters, named as in the papers; discounting is per decision, not per step.

    docs/ppo.md says what each does and where it comes from. Raises ConfigError for a value that
    has no meaning.
    """

    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    epochs: int = 8
    minibatch_size: int = 512
    actor_learning_rate: float = 7e-4
    critic_learning_rate: float = 1e-3
    learning_rate_schedule: str = "constant"
    total_steps: int = 0  # control steps after which `linear` has come down to 0
    desired_kl: float = 0.01  # what `adaptive` steers an update's divergence to
    target_kl: float = 0.05  # a robot's batches are small: stop before they are overfitted
    kl_stop: str = "epoch"
    entropy_coefficient: float = 0.0
    value_clip: float = 0.0
    max_grad_norm: float = 1.0
    advantage_normalisation: str = "batch"
    normalise_rewards: bool = False
    feature_normalisation: str = "warmup"
    residual_penalty: float = 0.0  # on the mean squared residual
    residual_ramp_steps: int = 0  # control steps over which the residual's gain grows from 0 to 1
    time_limit_ends: bool = False  # the return; else the critic's value follows

    def __post_init__(self):
        for name, choices in CHOICES.items():
            _expect(self, name, getattr(self, name) in choices, " or ".join(choices))
        for name in ("gamma", "gae_lambda"):
            _expect(self, name, 0.0 <= getattr(self, name) <= 1.0, "a number from 0 to 1")
        for name in POSITIVE:
            _expect(self, name, getattr(self, name) > 0, "> 0")
        for name in NOT_NEGATIVE:
            _expect(self, name, getattr(self, name) >= 0, ">= 0")
        if self.learning_rate_schedule == "linear":
            _expect(self, "total_steps", self.total_steps > 0, "> 0 with a linear schedule")

    def make(self, residual: ResidualConfig, seed: int) -> "PPO":
        """Return PPO with an untrained network."""
        return PPO(residual, self, seed)


def _expect(config: PPOConfig, name: str, holds: bool, expected: str) -> None:
    if not holds:
        raise ConfigError(f"{name}: expected {expected}, found {getattr(config, name)}")


class PPO:
    """PPO with what it keeps from one update to the next."""

    name = "ppo"

    def __init__(self, residual: ResidualConfig, config: PPOConfig, seed: int):
        self.network = ResidualActorCritic(residual, seed=seed)
        self._config = config
        self._optimiser = make_optimiser(self.network, config)
        self._generator = torch.Generator().manual_seed(seed)
        self._returns = Moments()  # of discounted sums of rewards
        self._inputs = Moments()  # of features, as the normaliser projects them
        self._estimation = Estimation(self.network, seed) if residual.estimate else None

    def fit(self, episodes: list[Episode], env_steps: int, warmup: bool) -> dict[str, float]:
        """Learn from episodes, `env_steps` into the run, and return metrics.

        In `warmup` only the critic learns. Raises ValueError, with all as it was, for a rollout
        that is empty or not finite, or that leads to losses or weights that are not.
        """
        returns, scale = self._returns, 1.0
        if self._config.normalise_rewards:
            # One scale for the whole update: returns of an update are of one kind.
            returns = returns.merged(discounted_sums(episodes, self._config.gamma))
            scale = float(1.0 / (returns.variance + 1e-8).sqrt())
        config = self._config
        batch = make_batch(
            episodes, self._value, config.gamma, config.gae_lambda, scale, config.time_limit_ends
        )
        before = copy.deepcopy((self.network.state_dict(), self.state()))
        first = not self.network.normaliser.is_fitted
        estimated = {}
        if self._estimation and first:
            estimated = self._estimation.learn(episodes)
        if first:
            # Fixed at least within an update: the meaning of the network's input must not shift.
            self.network.normaliser.fit(batch.features)
        self._set_learning_rates(env_steps)
        metrics = update(
            self.network, self._optimiser, batch, self._config, self._generator, not warmup
        )
        if broken := _not_finite(metrics | self.network.state_dict()):
            self.network.load_state_dict(before[0])
            self.load_state(before[1])
            raise ValueError(f"update: expected finite losses and weights, found {broken}")
        if self._estimation and not first:
            # Only now: within an update the meaning of the network's input must not shift.
            estimated = self._estimation.learn(episodes)
        metrics |= estimated
        if self._config.normalise_rewards:
            self._returns = returns
            metrics["reward_scale"] = scale
        if self._config.feature_normalisation == "running":
            self._renormalise(batch, first)
        return metrics

    @torch.no_grad()
    def _value(self, features: torch.Tensor) -> torch.Tensor:
        return self.network.value(features)

    def _set_learning_rates(self, env_steps: int) -> None:
        config, (actor, critic) = self._config, self._optimiser.param_groups
        left = 1.0
        if config.learning_rate_schedule == "linear":
            left = max(0.0, 1.0 - env_steps / config.total_steps)
        if config.learning_rate_schedule != "adaptive":
            actor["lr"] = left * config.actor_learning_rate
        critic["lr"] = left * config.critic_learning_rate

    def _renormalise(self, batch: Batch, first: bool) -> None:
        normaliser, moments = self.network.normaliser, self._inputs
        if not first and not moments.count:
            # Of loaded weights: their statistics count as much as this batch.
            count = torch.tensor(float(len(batch)), dtype=torch.float64)
            moments = Moments(count, normaliser.mean.double(), normaliser.std.double().square())
        self._inputs = moments.merged(normaliser.project(batch.features))
        if not first:
            normaliser.take(self._inputs.mean, self._inputs.variance.sqrt())

    def state(self) -> dict[str, torch.Tensor]:
        """Return all that a resume needs beside the network."""
        tensors = {"generator": self._generator.get_state()}
        if self._config.learning_rate_schedule == "adaptive":
            rate = self._optimiser.param_groups[0]["lr"]
            tensors["actor_learning_rate"] = torch.tensor(rate, dtype=torch.float64)
        tensors |= pack_optimiser(self._optimiser, "optimiser")
        if self._estimation:
            tensors |= self._estimation.state()
        return tensors | self._returns.state("returns") | self._inputs.state("inputs")

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Take over what `state` returned, now or in an earlier version of the package."""
        self._generator.set_state(state["generator"])
        unpack_optimiser(self._optimiser, state, "optimiser")
        if self._config.learning_rate_schedule == "adaptive" and "actor_learning_rate" in state:
            self._optimiser.param_groups[0]["lr"] = float(state["actor_learning_rate"])
        if self._estimation:
            self._estimation.load_state(state)
        self._returns = Moments.from_state(state, "returns")
        self._inputs = Moments.from_state(state, "inputs")


def _not_finite(values: dict) -> str | None:
    for name, value in values.items():
        if not torch.as_tensor(value).isfinite().all():
            return f"NaN or infinity in {name}"
    return None
