"""TD3 of the residual, with an ensemble of critics and n-step returns from a replay.

Sources: TD3, Fujimoto et al. 2018, arXiv:1802.09477; an ensemble of layer-normalised critics and
batches half of earlier data: RLPD, Ball et al. 2023, arXiv:2302.02948; the minimum over a random
subset of it: REDQ, Chen et al. 2021, arXiv:2101.05982; for a residual on a frozen base: ResFiT,
Ankile et al. 2025, arXiv:2509.19301.
"""

import copy

import torch
from torch import nn

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.learning.critics import Critics, bellman_target
from residual_smolvla_ros.learning.estimation import Estimation
from residual_smolvla_ros.learning.exploration import bound_log_std
from residual_smolvla_ros.learning.optimiser_state import pack_optimiser, unpack_optimiser
from residual_smolvla_ros.learning.replay import (
    Replay,
    Sample,
    Transitions,
    joined,
    person_transitions,
    policy_transitions,
)
from residual_smolvla_ros.learning.rollout import Episode
from residual_smolvla_ros.learning.td3_config import TD3Config
from residual_smolvla_ros.policy.actor_critic import ResidualActorCritic
from residual_smolvla_ros.policy.features import ResidualConfig

# Smoothing noise is clipped at as many of its standard deviations (TD3).
TARGET_NOISE_CLIP = 2.5
# The replays: all decisions, and those that are worth imitating.
OWN, DEMONSTRATIONS = "own", "demonstrations"


class TD3:
    """TD3 with what it keeps: critics, targets, optimisers and the replay.

    The actor is the network's own; the network's critic takes no part. Of the episodes that
    `store` takes, each decision pays for `utd` gradient steps, which `learn` makes.
    """

    name = "td3"

    def __init__(self, residual: ResidualConfig, config: TD3Config, seed: int):
        if not residual.squash:
            raise ConfigError("squash: expected true for td3, which needs a bound, found false")
        self.network = ResidualActorCritic(residual, seed=seed)
        self.replay = Replay(config.replay_size, residual.feature_size, residual.residual_size)
        self.demonstrations = Replay(
            config.replay_size, residual.feature_size, residual.residual_size
        )
        self.decisions = 0  # stored so far
        self._config = config
        self._residual = residual
        inputs = sum(residual.input_sizes.values()) + residual.residual_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.critics = Critics(inputs, residual.hidden_sizes, config.critics)
        self._target_critics = copy.deepcopy(self.critics).requires_grad_(False)
        self._target_actor = copy.deepcopy(self.network.actor).requires_grad_(False)
        self._actor_optimiser = torch.optim.Adam(
            self.network.actor.parameters(), lr=config.actor_learning_rate, fused=True
        )
        self._critic_optimiser = torch.optim.Adam(
            self.critics.parameters(), lr=config.critic_learning_rate, fused=True
        )
        self._explore()
        self._generator = torch.Generator().manual_seed(seed)
        self._estimation = Estimation(self.network, seed) if residual.estimate else None
        self._estimated: dict[str, float] = {}
        self._owed = 0.0
        self._steps = 0
        self._sums: dict[str, list[torch.Tensor]] = {}

    def configure(self, config: TD3Config) -> None:
        """Go on with other hyperparameters."""
        self._config = config
        self._actor_optimiser.param_groups[0]["lr"] = config.actor_learning_rate
        self._critic_optimiser.param_groups[0]["lr"] = config.critic_learning_rate

    @torch.no_grad()
    def _explore(self) -> None:
        self.network.log_std.fill_(self._residual.log_std_init)
        bound_log_std(self.network.log_std, self._config)

    @property
    def actor_learns(self) -> bool:
        """Whether enough has been stored for the critics to guide the actor."""
        return self.decisions >= self._config.actor_starts

    def store(self, episodes: list[Episode]) -> list[tuple[str, Transitions]]:
        """Keep the decisions of episodes; return which rows went into which replay.

        A person's decisions, and those of the base where it succeeded, are demonstrations too.
        """
        stored = []
        config, residual = self._config, self._residual
        for episode in episodes:
            settings = (config.gamma, config.n_step, residual.residual_clip)
            ends = config.time_limit_ends
            own = policy_transitions(episode, *settings, ends)
            person = person_transitions(episode, *settings, residual.hold_steps, ends)
            shown = own + person if episode.success and not self.actor_learns else person
            stored += [(OWN, rows) for rows in own + person]
            stored += [(DEMONSTRATIONS, rows) for rows in shown]
            count = sum(int(rows.usable.sum()) for rows in own + person)
            self.decisions += count
            self._owed += config.utd * count
        if self._estimation:
            self._estimated = self._estimation.learn(episodes)
        self.keep(stored)
        return stored

    def keep(self, rows: list[tuple[str, Transitions]]) -> None:
        """Put rows into the replays that are named with them."""
        for name, added in rows:
            (self.replay if name == OWN else self.demonstrations).add(added)

    @property
    def rows(self) -> int:
        """How many rows have been put into the replays so far."""
        return self.replay.added + self.demonstrations.added

    def fit(self, episodes: list[Episode], env_steps: int, warmup: bool) -> dict[str, float]:
        """Make the gradient steps that stored episodes have left, and return the metrics."""
        self.learn(warmup)
        self._explore()
        metrics = {name: float(torch.stack(sums).mean()) for name, sums in self._sums.items()}
        self._sums = {}
        metrics |= self._estimated
        return metrics | {
            "gradient_steps": float(self._steps),
            "replay": float(len(self.replay)),
            "std": float(self.network.log_std.detach().exp().mean()),
        }

    def learn(self, warmup: bool = False, limit: int | None = None) -> bool:
        """Make the gradient steps that are owed, at most `limit`; return whether none is left."""
        if len(self.replay) < self._config.learning_starts:
            return True
        if not self.network.normaliser.is_fitted:
            # Fixed from here on, so that the meaning of the networks' input never shifts.
            self.network.normaliser.fit(self.replay.features)
        due = int(self._owed)
        steps = due if limit is None else min(due, limit)
        for _ in range(steps):
            self._step(not warmup and self.actor_learns)
        self._owed -= steps
        return steps == due

    def _step(self, train_actor: bool) -> None:
        batch = self._sample()
        with torch.no_grad():
            x = self.network.normaliser(batch.features)
            target = self._target(batch)
        limit = self._residual.residual_clip
        values = self.critics(x, batch.residuals / limit)
        loss = (values - target).square().mean()
        self._note("critic_loss", loss)
        self._note("value", values.mean())
        _descend(self._critic_optimiser, list(self.critics.parameters()), loss)
        self._steps += 1
        if train_actor and self._steps % self._config.policy_delay == 0:
            mean = self._mean(self.network.actor, x)
            penalty = mean.square().mean()
            # The mean of all critics, not the minimum: RLPD.
            gain = self.critics(x, mean / limit).mean()
            loss = self._config.residual_penalty * penalty - gain
            self._note("actor_loss", loss)
            self._note("residual_ms", penalty)
            _descend(self._actor_optimiser, list(self.network.actor.parameters()), loss)
        self._track()

    def _sample(self) -> Sample:
        shown = 0
        if len(self.demonstrations):
            shown = round(self._config.demo_share * self._config.batch_size)
        own = self.replay.sample(self._config.batch_size - shown, self._generator)
        if not shown:
            return own
        return joined([own, self.demonstrations.sample(shown, self._generator)])

    def _target(self, batch: Sample) -> torch.Tensor:
        config, limit = self._config, self._residual.residual_clip
        x = self.network.normaliser(batch.next_features)
        mean = self._mean(self._target_actor, x)
        noise = config.target_noise * torch.randn(mean.shape, generator=self._generator)
        most = TARGET_NOISE_CLIP * config.target_noise
        action = (mean + noise.clamp(-most, most)).clamp(-limit, limit)
        order = torch.randperm(config.critics, generator=self._generator)
        members = order[: config.critics_in_target]
        values = self._target_critics(x, action / limit, members)
        return bellman_target(values, batch.rewards, batch.discounts)

    def _mean(self, actor: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return self.network.bound(actor(self.network.actor_input(x)))

    def follow_network(self) -> None:
        """Begin with the actor that the network has been given; its exploration is ours."""
        self._target_actor.load_state_dict(self.network.actor.state_dict())
        self._explore()

    def state(self) -> dict[str, torch.Tensor]:
        """Return all but the network's own state and the replay's rows."""
        tensors = {
            "generator": self._generator.get_state(),
            "decisions": torch.tensor(self.decisions),
            "steps": torch.tensor(self._steps),
            "owed": torch.tensor(self._owed, dtype=torch.float64),
            "rows": torch.tensor(self.rows),
        }
        for part, module in self._modules().items():
            tensors |= {f"{part}.{name}": value for name, value in module.state_dict().items()}
        for part, optimiser in self._optimisers().items():
            tensors |= pack_optimiser(optimiser, part)
        if self._estimation:
            tensors |= self._estimation.state()
        return tensors

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Take over what `state` returned; raise ValueError, with all as it was, if it misfits."""
        parts = _split(state)
        for part, module in self._modules().items():
            for name, value in module.state_dict().items():
                found = parts.get(part, {}).get(name, torch.empty(0)).shape
                if found != value.shape:
                    raise ValueError(
                        f"{part}.{name} of shape {tuple(found)}, not {tuple(value.shape)}"
                    )
        if self._estimation:
            self._estimation.load_state(state)
        for part, module in self._modules().items():
            module.load_state_dict(parts[part])
        for part, optimiser in self._optimisers().items():
            unpack_optimiser(optimiser, state, part)
        self._generator.set_state(state["generator"])
        self.decisions, self._steps = int(state["decisions"]), int(state["steps"])
        self._owed = float(state["owed"])

    def load_actor(self, weights: dict[str, torch.Tensor], state: dict[str, torch.Tensor]) -> None:
        """Take the actor over from a network's state and what `state` returned with it.

        The critics go on, for they have seen what failed, and so do the statistics of their input.
        """
        self.network.actor.load_state_dict(_split(weights)["actor"])
        parts = _split(state)
        self._target_actor.load_state_dict(parts["target_actor"])
        unpack_optimiser(self._actor_optimiser, state, "actor_optimiser")

    def _modules(self) -> dict[str, nn.Module]:
        return {
            "critics": self.critics,
            "target_critics": self._target_critics,
            "target_actor": self._target_actor,
        }

    def _optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return {
            "actor_optimiser": self._actor_optimiser,
            "critic_optimiser": self._critic_optimiser,
        }

    @torch.no_grad()
    def _track(self) -> None:
        """Move the targets a little toward what they are targets of."""
        for target, source in (
            (self._target_critics, self.critics),
            (self._target_actor, self.network.actor),
        ):
            pairs = (list(module.parameters()) for module in (target, source))
            torch._foreach_lerp_(*pairs, self._config.tau)

    def _note(self, name: str, value: torch.Tensor) -> None:
        self._sums.setdefault(name, []).append(value.detach())


def _descend(
    optimiser: torch.optim.Optimizer, parameters: list[nn.Parameter], loss: torch.Tensor
) -> None:
    # Of these parameters only: the actor's loss goes through the critics.
    gradients = torch.autograd.grad(loss, parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimiser.step()


def _split(state: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in state.items():
        part, _, name = key.partition(".")
        parts.setdefault(part, {})[name] = value
    return parts
