"""PPO of the residual: hyperparameters, and what it keeps from one update to the next."""

import copy
import dataclasses
from dataclasses import dataclass

import torch

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.learning.estimation import Estimation
from residual_smolvla_ros.learning.exploration import (
    UPDATE,
    bound_log_std,
    check_log_std,
    log_std_setting,
)
from residual_smolvla_ros.learning.moments import Moments
from residual_smolvla_ros.learning.optimiser_state import pack_optimiser, unpack_optimiser
from residual_smolvla_ros.learning.ppo_update import make_optimiser, update
from residual_smolvla_ros.learning.rollout import Batch, Episode, discounted_sums, make_batch
from residual_smolvla_ros.parameters import check_settings, setting
from residual_smolvla_ros.policy.actor_critic import ResidualActorCritic
from residual_smolvla_ros.policy.features import ResidualConfig


@dataclass(frozen=True)
class PPOConfig:
    """Hyperparameters, named as in the papers; discounting is per decision, not per step.

    docs/ppo.md says what each does and where it comes from. Raises ConfigError for a value that
    has no meaning.
    """

    gamma: float = setting(0.99, "discount of a decision", least=0, most=1)
    gae_lambda: float = setting(0.95, "lambda of the advantages", least=0, most=1)
    clip_range: float = setting(
        0.2, "the ratio of densities is clipped to 1 +- this", above=0, live=UPDATE
    )
    epochs: int = setting(8, "passes over a batch", above=0, live=UPDATE)
    minibatch_size: int = setting(512, "decisions of a gradient step", above=0, live=UPDATE)
    actor_learning_rate: float = setting(
        7e-4, "Adam's, of the actor and its deviation", above=0, most=1, live=UPDATE
    )
    critic_learning_rate: float = setting(
        1e-3, "Adam's, of the critic", above=0, most=1, live=UPDATE
    )
    learning_rate_schedule: str = setting(
        "constant", "what becomes of both rates", choices=("constant", "linear", "adaptive")
    )
    total_steps: int = setting(0, "control steps after which `linear` has come down to 0", least=0)
    desired_kl: float = setting(
        0.01, "what `adaptive` steers an update's divergence to", above=0, live=UPDATE
    )
    target_kl: float = setting(  # a robot's batches are small: stop before they are overfitted
        0.05, "an update stops once its policy is further than this; 0: never", least=0, live=UPDATE
    )
    kl_stop: str = setting("epoch", "where that is looked at", choices=("epoch", "minibatch"))
    entropy_coefficient: float = setting(
        0.0, "weight of the entropy in the loss", least=-1, most=1, live=UPDATE
    )
    value_clip: float = setting(
        0.0, "how far a value may move in an update; 0: off", least=0, live=UPDATE
    )
    max_grad_norm: float = setting(
        1.0, "bound of the gradient's norm, of actor and critic apart", above=0, live=UPDATE
    )
    advantage_normalisation: str = setting(
        "batch", "where advantages get mean 0 and deviation 1", choices=("batch", "minibatch")
    )
    normalise_rewards: bool = setting(
        False, "rewards are divided by the deviation of their discounted sums so far"
    )
    feature_normalisation: str = setting(
        "warmup", "which batches' statistics normalise features", choices=("warmup", "running")
    )
    residual_penalty: float = setting(
        0.0, "weight of the mean squared residual in the loss", least=0, live=UPDATE
    )
    residual_ramp_steps: int = setting(
        0, "control steps over which the residual's gain grows from 0 to 1; 0: none", least=0
    )
    time_limit_ends: bool = setting(False, "the return ends at the time limit")
    log_std_min: float = log_std_setting(-20.0, "least")
    log_std_max: float = log_std_setting(2.0, "largest")

    def __post_init__(self):
        check_settings(self)
        check_log_std(self)
        if self.learning_rate_schedule == "linear" and not self.total_steps > 0:
            raise ConfigError(
                f"total_steps: expected > 0 with a linear schedule, found {self.total_steps}"
            )

    def changed(self, values: dict) -> "PPOConfig":
        """Return it with other values; raise ConfigError for one that cannot be changed."""
        if "actor_learning_rate" in values and self.learning_rate_schedule == "adaptive":
            raise ConfigError(
                "actor_learning_rate: expected no change, since learning_rate_schedule adaptive "
                "sets it, found one; change desired_kl"
            )
        return dataclasses.replace(self, **values)

    def make(self, residual: ResidualConfig, seed: int) -> "PPO":
        """Return PPO with an untrained network."""
        return PPO(residual, self, seed)


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

    def configure(self, config: PPOConfig) -> None:
        """Go on with other hyperparameters."""
        self._config = config

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
        bound_log_std(self.network.log_std, self._config)
        metrics["std"] = float(self.network.log_std.detach().exp().mean())
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
