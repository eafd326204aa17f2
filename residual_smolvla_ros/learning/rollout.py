"""Episodes of control steps, turned into the batch that PPO learns from."""

from dataclasses import dataclass, field

import numpy as np
import torch


@dataclass
class Episode:
    """The control steps of one episode, in order.

    A decision spans the steps for which its residual was held; it earns their summed reward.
    `final_features` are those of the state after the last step, set when the episode was
    truncated: the return there is the critic's value, not zero. `commands` and `executed` hold,
    for each control step of a robot that reports it, what the policy sent and what the robot's
    safety filter made of it, in LeRobot's units. `interventions` marks the decisions in which a
    person drove: PPO does not learn from them.
    """

    features: list[np.ndarray] = field(default_factory=list)
    residuals: list[np.ndarray] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    interventions: list[bool] = field(default_factory=list)
    commands: list[np.ndarray] = field(default_factory=list)
    executed: list[np.ndarray] = field(default_factory=list)
    steps: int = 0
    intervened_steps: int = 0
    final_features: np.ndarray | None = None
    weights_version: int = 0
    success: bool = False

    def add_step(
        self,
        reward: float,
        decision: bool,
        features,
        residual,
        log_prob: float,
        value: float,
        intervention: bool = False,
    ) -> None:
        """Append one control step."""
        if decision:
            self.features.append(features)
            self.residuals.append(residual)
            self.log_probs.append(log_prob)
            self.values.append(value)
            self.rewards.append(0.0)
            self.interventions.append(intervention)
        elif not self.features:
            raise ValueError("expected an episode to begin with a decision, found a held step")
        self.rewards[-1] += reward
        self.steps += 1
        self.intervened_steps += intervention

    def segments(self) -> list[tuple[slice, np.ndarray | None]]:
        """Return the runs of decisions that the policy made, and the features that follow each.

        The state in which a person took over cuts a run as a time limit does: what the person
        earned from there is not the policy's. After a run that ended with the episode come
        `final_features`.
        """
        runs, start = [], None
        for index, intervened in enumerate([*self.interventions, True]):
            if not intervened and start is None:
                start = index
            elif intervened and start is not None:
                ended = index == len(self.features)
                after = self.final_features if ended else self.features[index]
                runs.append((slice(start, index), after))
                start = None
        return runs

    @property
    def episode_return(self) -> float:
        """Undiscounted sum of rewards."""
        return float(sum(self.rewards))


@dataclass(frozen=True)
class Batch:
    """Decisions of several episodes: (n, ...) float32 tensors."""

    features: torch.Tensor
    residuals: torch.Tensor
    log_probs: torch.Tensor
    values: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor

    def __len__(self) -> int:
        return len(self.features)


def generalised_advantages(
    rewards: np.ndarray, values: np.ndarray, last_value: float, gamma: float, lam: float
) -> np.ndarray:
    """Return GAE(gamma, lambda) advantages (n,) of one episode.

    `last_value` is the value of the state after the last decision: 0 where the episode
    terminated, the critic's estimate where it was truncated.
    Source: Schulman et al. 2016, arXiv:1506.02438, equation 16.
    """
    advantages = np.zeros(len(rewards), dtype=np.float64)
    following_value, running = last_value, 0.0
    for t in reversed(range(len(rewards))):
        delta = rewards[t] + gamma * following_value - values[t]
        running = delta + gamma * lam * running
        advantages[t] = running
        following_value = values[t]
    return advantages


def make_batch(episodes: list[Episode], value_function, gamma: float, lam: float) -> Batch:
    """Join episodes into a batch with advantages and returns.

    `value_function` maps features (n, size) to values (n,): it bootstraps truncated episodes.
    Raises ValueError if there is no decision, or a number that is not finite.
    """
    segments = [(e, rows, after) for e in episodes for rows, after in e.segments()]
    if not segments:
        raise ValueError("expected a rollout of at least one decision, found none")
    advantages, returns = [], []
    for episode, rows, after in segments:
        last_value = 0.0
        if after is not None:
            final = torch.from_numpy(np.asarray(after)).unsqueeze(0)
            last_value = float(value_function(final)[0])
        values = np.asarray(episode.values[rows])
        advantage = generalised_advantages(
            np.asarray(episode.rewards[rows]), values, last_value, gamma, lam
        )
        advantages.append(advantage)
        returns.append(advantage + values)

    def tensor(values) -> torch.Tensor:
        return torch.from_numpy(np.asarray(values, dtype=np.float32))

    def joined(name: str) -> torch.Tensor:
        return tensor(np.concatenate([getattr(e, name)[rows] for e, rows, _ in segments]))

    batch = Batch(
        features=joined("features"),
        residuals=joined("residuals"),
        log_probs=joined("log_probs"),
        values=joined("values"),
        advantages=tensor(np.concatenate(advantages)),
        returns=tensor(np.concatenate(returns)),
    )
    for name, value in vars(batch).items():
        if not torch.isfinite(value).all():
            raise ValueError(f"rollout: expected finite {name}, found NaN or infinity")
    return batch
