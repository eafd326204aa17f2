"""Replay: decisions of past episodes as n-step transitions, kept until newer ones need the room."""

from dataclasses import dataclass, fields

import numpy as np
import torch

from residual_smolvla_ros.learning.rollout import Episode


@dataclass(frozen=True)
class Transitions:
    """Rows of consecutive decisions; a state that only follows one has a row of its own.

    `rewards` (n,) are n-step returns without the value of the state that follows them, which is in
    the row `ahead` (n,) further on and counts `discounts` (n,): 0 where the episode terminated.
    Rows that are not `usable` (n,) are only there to be followed.
    """

    features: torch.Tensor
    residuals: torch.Tensor
    rewards: torch.Tensor
    discounts: torch.Tensor
    ahead: torch.Tensor
    usable: torch.Tensor

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True)
class Sample:
    """A batch of transitions, (n, ...) float32."""

    features: torch.Tensor
    residuals: torch.Tensor
    rewards: torch.Tensor
    discounts: torch.Tensor
    next_features: torch.Tensor


@dataclass(frozen=True)
class _Run:
    """Consecutive decisions of one driver, and the state that followed the last one."""

    features: list[np.ndarray]
    residuals: list[np.ndarray]
    rewards: list[float]
    after: np.ndarray | None
    person: bool


def policy_transitions(
    episode: Episode, gamma: float, n_step: int, residual_clip: float, time_limit_ends: bool = False
) -> list[Transitions]:
    """Return the transitions of each run of decisions that the policy made in an episode.

    Residuals are clipped, as they were executed. A run ends where a person takes over, as at a
    stop; with `time_limit_ends` nothing follows the time limit.
    """
    runs = []
    for rows, after in episode.segments(time_limit_ends):
        residuals = [np.clip(r, -residual_clip, residual_clip) for r in episode.residuals[rows]]
        run = _Run(episode.features[rows], residuals, episode.rewards[rows], after, person=False)
        runs.append(_transitions(run, gamma, n_step, residual_clip))
    return runs


def person_transitions(
    episode: Episode,
    gamma: float,
    n_step: int,
    residual_clip: float,
    hold_steps: int,
    time_limit_ends: bool = False,
) -> list[Transitions]:
    """Return the transitions of each run in which a person drove.

    A person decides at every control step: `hold_steps` of them make one decision, by their mean
    residual. One that no residual within the bound can express stays out, and so does one whose
    residual is not known, which is zero in every step.
    """
    runs = []
    for start, stop in _interventions(episode):
        blocks = [range(i, min(i + hold_steps, stop)) for i in range(start, stop, hold_steps)]
        run = _Run(
            [episode.features[block[0]] for block in blocks],
            [np.mean([episode.residuals[i] for i in block], axis=0) for block in blocks],
            [sum(episode.rewards[i] for i in block) for block in blocks],
            episode.following(stop, time_limit_ends),
            person=True,
        )
        runs.append(_transitions(run, gamma, n_step, residual_clip))
    return runs


def _interventions(episode: Episode) -> list[tuple[int, int]]:
    flags = np.array([False, *episode.interventions, False], dtype=np.int8)
    (starts,), (stops,) = (np.nonzero(np.diff(flags) == sign) for sign in (1, -1))
    return list(zip(starts.tolist(), stops.tolist(), strict=True))


def _transitions(run: _Run, gamma: float, n_step: int, residual_clip: float) -> Transitions:
    count = len(run.rewards)
    rewards, discounts = np.zeros(count), np.zeros(count)
    ahead = np.zeros(count, dtype=np.int64)
    for t in range(count):
        steps = min(n_step, count - t)
        rewards[t] = sum(gamma**i * run.rewards[t + i] for i in range(steps))
        if t + steps < count or run.after is not None:
            discounts[t], ahead[t] = gamma**steps, steps
    residuals = np.array(run.residuals)
    usable = np.ones(count, dtype=bool)
    if run.person:
        usable = (np.abs(residuals) <= residual_clip).all(axis=1) & residuals.any(axis=1)
    features = np.array(run.features)
    if run.after is not None:
        features = np.vstack([features, run.after])
        residuals = np.vstack([residuals, np.zeros(residuals.shape[1])])
        rewards, discounts = np.append(rewards, 0.0), np.append(discounts, 0.0)
        ahead, usable = np.append(ahead, 0), np.append(usable, False)

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values.astype(np.float32))

    return Transitions(
        tensor(features),
        tensor(residuals),
        tensor(rewards),
        tensor(discounts),
        torch.from_numpy(ahead),
        torch.from_numpy(usable),
    )


class Replay:
    """A ring of at most `capacity` rows; the oldest ones make room."""

    def __init__(self, capacity: int, feature_size: int, residual_size: int):
        # Memory is not touched, so not taken, before rows come.
        self._rows = Transitions(
            torch.empty(capacity, feature_size),
            torch.empty(capacity, residual_size),
            torch.empty(capacity),
            torch.empty(capacity),
            torch.zeros(capacity, dtype=torch.int64),
            torch.zeros(capacity, dtype=torch.bool),
        )
        self._capacity = capacity
        self.added = 0  # rows so far, those overwritten included
        self._usable = torch.empty(0, dtype=torch.int64)

    def __len__(self) -> int:
        """Return how many decisions can be sampled."""
        return len(self._usable)

    @property
    def features(self) -> torch.Tensor:
        """The features (n, feature_size) of all that can be sampled."""
        return self._rows.features[self._usable]

    def add(self, transitions: Transitions) -> None:
        """Append rows."""
        kept = min(len(transitions), self._capacity)
        self.added += len(transitions)
        rows = torch.arange(self.added - kept, self.added) % self._capacity
        for field in fields(transitions):
            values = getattr(transitions, field.name)
            getattr(self._rows, field.name)[rows] = values[len(values) - kept :]
        self._usable = self._rows.usable.nonzero().squeeze(1)

    def sample(self, count: int, generator: torch.Generator) -> Sample:
        """Return `count` transitions, each drawn from all with the same chance."""
        drawn = torch.randint(len(self._usable), (count,), generator=generator)
        rows = self._usable[drawn]
        # A row that follows another is newer than it: while the other is there, so is this one.
        following = (rows + self._rows.ahead[rows]) % self._capacity
        return Sample(
            self._rows.features[rows],
            self._rows.residuals[rows],
            self._rows.rewards[rows],
            self._rows.discounts[rows],
            self._rows.features[following],
        )


def joined(samples: list[Sample]) -> Sample:
    """Return samples as one."""
    names = [field.name for field in fields(Sample)]
    return Sample(**{name: torch.cat([getattr(s, name) for s in samples]) for name in names})
