"""Episodes of control steps, turned into the batch that PPO learns from."""

from dataclasses import dataclass, field

import numpy as np
import torch


@dataclass
class Episode:
    """The control steps of one episode, in order.

    A decision spans the steps for which its residual was held; it earns their summed reward.
    `final_features` are those of the state after the last step, set when the episode was
    truncated: the return there is the critic's value, not zero. `timed_out` says that the time
    limit truncated it: to the task that may be an end. `commands` and `executed` hold,
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
    timed_out: bool = False
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

    def following(self, index: int, time_limit_ends: bool = False) -> np.ndarray | None:
        """Return the features before decision `index`, or after the last one, if any follow.

        With `time_limit_ends` none follow the time limit.
        """
        if index < len(self.features):
            return self.features[index]
        return None if self.timed_out and time_limit_ends else self.final_features

    def segments(self, time_limit_ends: bool = False) -> list[tuple[slice, np.ndarray | None]]:
        """Return the runs of decisions that the policy made, and the features that follow each.

        The state in which a person took over cuts a run as a stop does: what the person earned
        from there is not the policy's.
        """
        runs, start = [], None
        for index, intervened in enumerate([*self.interventions, True]):
            if not intervened and start is None:
                start = index
            elif intervened and start is not None:
                runs.append((slice(start, index), self.following(index, time_limit_ends)))
                start = None
        return runs

    @property
    def episode_return(self) -> float:
        """Undiscounted sum of rewards."""
        return float(sum(self.rewards))


def check_episode(episode: Episode, feature_size: int, residual_size: int) -> None:
    """Raise ValueError unless all numbers of an episode are finite and of the expected sizes."""
    final = [] if episode.final_features is None else [episode.final_features]
    for name, values, size in (
        ("features", episode.features + final, feature_size),
        ("residuals", episode.residuals, residual_size),
    ):
        wrong = [np.shape(value) for value in values if np.shape(value) != (size,)]
        if wrong:
            raise ValueError(f"episode: expected {name} of shape ({size},), found {wrong[0]}")
    for name, values in (
        ("features", episode.features),
        ("residuals", episode.residuals),
        ("log_probs", episode.log_probs),
        ("values", episode.values),
        ("rewards", episode.rewards),
        ("final_features", final),
    ):
        if not np.isfinite(values).all():
            raise ValueError(f"episode: expected finite {name}, found NaN or infinity")


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

    def __getitem__(self, rows: torch.Tensor | slice) -> "Batch":
        return Batch(*(values[rows] for values in vars(self).values()))


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
    # As plain numbers: numpy's are slow one by one.
    steps = zip(np.asarray(rewards).tolist(), np.asarray(values).tolist(), strict=True)
    for t, (reward, value) in reversed(list(enumerate(steps))):
        delta = reward + gamma * following_value - value
        running = delta + gamma * lam * running
        advantages[t] = running
        following_value = value
    return advantages


def discounted_sums(episodes: list[Episode], gamma: float) -> torch.Tensor:
    """Return for each decision the discounted sum (n,) of the rewards up to it.

    Its deviation is the scale of rewards, as in Gymnasium's NormalizeReward.
    """
    sums = []
    for episode in episodes:
        for rows, _ in episode.segments():
            running = 0.0
            for reward in episode.rewards[rows]:
                running = gamma * running + reward
                sums.append(running)
    return torch.tensor(sums, dtype=torch.float64)


def make_batch(
    episodes: list[Episode],
    value_function,
    gamma: float,
    lam: float,
    reward_scale: float = 1.0,
    time_limit_ends: bool = False,
) -> Batch:
    """Join episodes into a batch with advantages and returns, of rewards times `reward_scale`.

    `value_function` maps features (n, size) to values (n,): it bootstraps truncated episodes, with
    `time_limit_ends` not those that reached the time limit.
    Raises ValueError if there is no decision, or a number that is not finite.
    """
    segments = [(e, rows, after) for e in episodes for rows, after in e.segments(time_limit_ends)]
    if not segments:
        raise ValueError("rollout: expected at least one decision, found none")
    last_values = _last_values([after for _, _, after in segments], value_function)
    advantages, returns = [], []
    for (episode, rows, _), last_value in zip(segments, last_values, strict=True):
        rewards = reward_scale * np.asarray(episode.rewards[rows])
        values = np.asarray(episode.values[rows])
        advantage = generalised_advantages(rewards, values, last_value, gamma, lam)
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


def _last_values(following: list[np.ndarray | None], value_function) -> list[float]:
    """Return the values of the states that follow; 0 where None does."""
    values = np.zeros(len(following))
    truncated = [index for index, after in enumerate(following) if after is not None]
    if truncated:
        final = np.stack([np.asarray(following[index], np.float32) for index in truncated])
        values[truncated] = value_function(torch.from_numpy(final)).numpy()
    return values.tolist()
