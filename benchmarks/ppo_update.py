"""Print what one PPO update takes: ours, Stable-Baselines3's and rsl_rl's, on the same batch.

    uv pip install --target peers --no-deps stable-baselines3 rsl-rl-lib tensordict pyvers orjson
    PYTHONPATH=peers python benchmarks/ppo_update.py

Equal networks, weights, losses and Adam, 1 thread, no KL stop; repetitions take turns. Without the
peers only ours is measured.
"""

import argparse
import importlib.util
import statistics
import time
import warnings

import gymnasium
import numpy as np
import torch
from torch import nn

from residual_smolvla_ros.learning.ppo import PPOConfig
from residual_smolvla_ros.learning.ppo_update import make_optimiser, update
from residual_smolvla_ros.learning.rollout import Batch
from residual_smolvla_ros.policy.actor_critic import ResidualActorCritic
from residual_smolvla_ros.policy.features import ResidualConfig

FEATURES, RESIDUAL, HIDDEN, LOG_STD = 48, 5, (256, 256), -1.5
LEARNING_RATE = 3e-4
NO_STOP = 1e9  # a KL divergence, and a gradient norm, that no update reaches
PARTS = ("policy_loss", "value_loss", "entropy")


def make_network() -> ResidualActorCritic:
    """Return a network whose actor's head is not zero, as after some training."""
    config = ResidualConfig(
        {"privileged": FEATURES}, action_size=6, hidden_sizes=HIDDEN, log_std_init=LOG_STD
    )
    network = ResidualActorCritic(config)
    generator = torch.Generator().manual_seed(0)
    nn.init.orthogonal_(network.actor[-1].weight, 0.1, generator)
    return network


def make_batch(network: ResidualActorCritic, rows: int) -> Batch:
    """Return decisions of a policy near the network's, so that some ratios are clipped."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    features = normal(rows, FEATURES)
    with torch.no_grad():
        mean, values = network(features)
        residuals = mean + network.log_std.exp() * normal(*mean.shape)
        log_probs = network.log_prob(mean, residuals) + 0.2 * normal(rows)
    return Batch(features, residuals, log_probs, values, normal(rows), values + normal(rows))


class Ours:
    """The update of this package."""

    name = "residual_smolvla_ros"

    def __init__(self, batch: Batch, epochs: int, minibatch: int, grad_norm: float):
        self._batch = batch
        self._config = PPOConfig(
            epochs=epochs,
            minibatch_size=minibatch,
            actor_learning_rate=LEARNING_RATE,
            critic_learning_rate=LEARNING_RATE,
            target_kl=0.0,
            max_grad_norm=grad_norm,
            advantage_normalisation="minibatch",
        )
        self.network = make_network()
        self._optimiser = make_optimiser(self.network, self._config)
        self._generator = torch.Generator().manual_seed(0)

    def update(self) -> dict[str, float]:
        """Update once and return the means of the losses."""
        return update(self.network, self._optimiser, self._batch, self._config, self._generator)

    def parts(self) -> tuple[nn.Module, nn.Module]:
        """Return actor and critic, whose parameters come in the same order in all."""
        return self.network.actor, self.network.critic


class StableBaselines:
    """Stable-Baselines3's PPO.train."""

    name = "Stable-Baselines3"

    def __init__(self, batch: Batch, epochs: int, minibatch: int, grad_norm: float):
        from stable_baselines3 import PPO
        from stable_baselines3.common.logger import configure

        self._ppo = PPO(
            "MlpPolicy",
            _Spaces(),
            learning_rate=LEARNING_RATE,
            n_steps=len(batch),
            batch_size=minibatch,
            n_epochs=epochs,
            max_grad_norm=grad_norm,
            policy_kwargs={"net_arch": list(HIDDEN), "log_std_init": LOG_STD},
            device="cpu",
        )
        self._ppo.set_logger(configure(None, []))
        policy = self._ppo.policy
        policy.action_net = nn.Linear(HIDDEN[-1], RESIDUAL, bias=False)
        policy.optimizer = torch.optim.Adam(policy.parameters(), lr=LEARNING_RATE, eps=1e-5)
        extractor = policy.mlp_extractor
        self._parts = (
            nn.Sequential(extractor.policy_net, policy.action_net),
            nn.Sequential(extractor.value_net, policy.value_net),
        )
        _copy_weights(self._parts)
        buffer = self._ppo.rollout_buffer
        for name, values in (
            ("observations", batch.features),
            ("actions", batch.residuals),
            ("values", batch.values),
            ("log_probs", batch.log_probs),
            ("advantages", batch.advantages),
            ("returns", batch.returns),
        ):
            getattr(buffer, name)[:, 0] = values.numpy()
        buffer.full = True

    def update(self) -> dict[str, float]:
        """Update once and return the means of the losses."""
        self._ppo.train()
        found = self._ppo.logger.name_to_value
        return {
            "policy_loss": found["train/policy_gradient_loss"],
            "value_loss": 0.5 * found["train/value_loss"],
            "entropy": -found["train/entropy_loss"],
        }

    def parts(self) -> tuple[nn.Module, nn.Module]:
        """Return actor and critic."""
        return self._parts


class RslRl:
    """rsl_rl's PPO.update."""

    name = "rsl_rl"

    def __init__(self, batch: Batch, epochs: int, minibatch: int, grad_norm: float):
        from rsl_rl.algorithms import PPO
        from rsl_rl.models import MLPModel
        from rsl_rl.storage import RolloutStorage
        from tensordict import TensorDict

        rows = len(batch)
        observations = TensorDict({"policy": batch.features}, batch_size=[rows])
        groups = {"actor": ["policy"], "critic": ["policy"]}
        gaussian = {
            "class_name": "GaussianDistribution",
            "std_type": "log",
            "init_std": float(np.exp(LOG_STD)),
        }
        actor = MLPModel(observations, groups, "actor", RESIDUAL, HIDDEN, "tanh", False, gaussian)
        actor.mlp[-1] = nn.Linear(HIDDEN[-1], RESIDUAL, bias=False)
        critic = MLPModel(observations, groups, "critic", 1, HIDDEN, "tanh")
        self._parts = actor.mlp, critic.mlp
        _copy_weights(self._parts)
        storage = RolloutStorage("rl", rows, 1, observations, (RESIDUAL,))
        self._ppo = PPO(
            actor,
            critic,
            storage,
            num_learning_epochs=epochs,
            num_mini_batches=rows // minibatch,
            value_loss_coef=0.5,
            entropy_coef=0.0,
            learning_rate=LEARNING_RATE,
            max_grad_norm=grad_norm,
            use_clipped_value_loss=False,
            schedule="fixed",
            normalize_advantage_per_mini_batch=True,
        )
        self._ppo.optimizer.param_groups[0]["eps"] = 1e-5
        with torch.no_grad():
            actor(observations, stochastic_output=True)
        # One step of as many environments as there are decisions.
        storage.observations[0] = observations
        storage.actions[0] = batch.residuals
        storage.values[0] = batch.values.unsqueeze(1)
        storage.actions_log_prob[0] = batch.log_probs.unsqueeze(1)
        storage.advantages[0] = batch.advantages.unsqueeze(1)
        storage.returns[0] = batch.returns.unsqueeze(1)
        storage.distribution_params = tuple(
            value.detach().expand(rows, RESIDUAL).unsqueeze(0).clone()
            for value in actor.output_distribution_params
        )

    def update(self) -> dict[str, float]:
        """Update once and return the means of the losses."""
        found = self._ppo.update()
        return {
            "policy_loss": found["surrogate"],
            "value_loss": 0.5 * found["value"],
            "entropy": found["entropy"],
        }

    def parts(self) -> tuple[nn.Module, nn.Module]:
        """Return actor and critic."""
        return self._parts


class _Spaces(gymnasium.Env):
    """What Stable-Baselines3 wants to know of an environment; it is never stepped."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (FEATURES,))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (RESIDUAL,))


def _copy_weights(parts: tuple[nn.Module, nn.Module]) -> None:
    network = make_network()
    ours = [*network.actor.parameters(), *network.critic.parameters()]
    theirs = [*parts[0].parameters(), *parts[1].parameters()]
    with torch.no_grad():
        for own, other in zip(ours, theirs, strict=True):
            other.copy_(own)


def agreement(kinds: list[type], batch: Batch) -> tuple[float, float]:
    """Return how far apart the losses of the whole batch, and the weights after a step, are.

    The weights' mean distance is in learning rates, which is how far Adam's first step moves each.
    """
    losses, weights = [], []
    for kind in kinds:
        side = kind(batch, 1, len(batch), NO_STOP)
        found = side.update()
        losses.append([found[name] for name in PARTS])
        parameters = [p.detach().flatten() for part in side.parts() for p in part.parameters()]
        weights.append(torch.cat(parameters).double().numpy())
    step = np.ptp(np.stack(weights), axis=0)
    return float(np.ptp(losses, axis=0).max()), float(np.mean(step) / LEARNING_RATE)


def measure(kinds: list[type], batch: Batch, minibatch: int, repetitions: int) -> dict[str, list]:
    """Return the CPU seconds of updates of 8 epochs by name, which take turns."""
    seconds: dict[str, list] = {kind.name: [] for kind in kinds}
    for repetition in range(repetitions + 1):
        for kind in kinds:
            side = kind(batch, 8, minibatch, 1.0)
            start = time.process_time()
            side.update()
            if repetition:  # the first ones of a process warm up
                seconds[kind.name].append(time.process_time() - start)
    return seconds


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=20)
    repetitions = parser.parse_args().repetitions
    warnings.filterwarnings("ignore", category=UserWarning)
    torch.set_num_threads(1)
    peers = [("stable_baselines3", StableBaselines), ("rsl_rl", RslRl)]
    found = [kind for module, kind in peers if importlib.util.find_spec(module)]
    if len(found) < len(peers):
        print(f"peers missing; how to install them: {__doc__.splitlines()[2].strip()}")
    kinds = [Ours, *found]

    batch = make_batch(make_network(), 2048)
    seconds = measure(kinds, batch, 512, repetitions)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    title = "2048 decisions, 8 epochs, minibatch 512"
    print(f"{title:<42}{'median':>8}{'fastest':>9}   ms of CPU, 1 thread")
    for name, values in seconds.items():
        print(f"{name:<42}{1e3 * medians[name]:>8.0f}{1e3 * min(values):>9.0f}")
    if found:
        best = min(medians[kind.name] for kind in found)
        print(f"{'the faster peer over ours':<42}{best / medians[Ours.name]:>8.2f}")
        losses, weights = agreement(kinds, batch)
        print(f"{'losses of one batch differ by at most':<42}{losses:>8.1e}")
        print(f"{'weights after one step differ by (mean)':<42}{weights:>8.1e}   learning rates")
    small = measure([Ours], make_batch(make_network(), 400), 512, repetitions)[Ours.name]
    print(f"{'ours, 400 decisions, 8 epochs':<42}{1e3 * statistics.median(small):>8.0f}")


if __name__ == "__main__":
    main()
