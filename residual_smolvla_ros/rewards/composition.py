"""The reward of a step: the weighted sum of its terms."""

import copy
import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import draccus
import numpy as np

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.rewards.registry import find_term
from residual_smolvla_ros.rewards.term import NEEDS, RewardTerm, RobotDescription
from residual_smolvla_ros.rewards.transition import NotReady, Transition

# What may stand in the topic reward/terms/<name>.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Shares:
    """What each term gave to the reward of a step."""

    names: tuple[str, ...]
    values: np.ndarray  # (names,) float32, weighted
    missing: tuple[str, ...]  # those that lacked an input; their share is 0

    @property
    def total(self) -> float:
        """The reward: the sum of the shares, as far as a float32 goes."""
        return float(np.clip(self.values.sum(dtype=np.float64), -_LARGEST, _LARGEST))


class Reward:
    """Compute the shares of weighted terms.

    A term that raises NotReady, or whose share is not finite, gives 0 and is reported as missing;
    `problems` holds what it said last, until it works again. Any other error is a fault of the
    term's own and goes through.
    """

    def __init__(self, terms: Mapping[str, tuple[float, RewardTerm]]):
        self.weights = {name: weight for name, (weight, _) in terms.items()}
        self.terms = {name: term for name, (_, term) in terms.items()}
        self.names = tuple(terms)
        self.needs = frozenset().union(*(term.needs for term in self.terms.values()))
        self.cameras = _union(term.cameras for term in self.terms.values())
        self.pose_topics = _union(term.pose_topics for term in self.terms.values())
        self.problems: dict[str, str] = {}

    def __call__(self, transition: Transition) -> Shares:
        """Return the shares of a step."""
        return self._compute(self.names, transition, {})

    def judge(self, shares: Shares, transition: Transition) -> Shares:
        """Return the shares with those computed anew that depend on success and label only."""
        anew = tuple(name for name, term in self.terms.items() if term.of_outcome)
        known = zip(shares.names, shares.values, strict=True)
        kept = {n: v for n, v in known if n not in anew and n not in shares.missing}
        return self._compute(anew, transition, kept)

    def _compute(self, names: Sequence[str], transition: Transition, kept: dict) -> Shares:
        shares = dict(kept)
        for name in names:
            try:
                shares[name] = self._share(name, transition)
            except NotReady as error:
                self.problems[name] = f"{name}: {error}"
            else:
                self.problems.pop(name, None)
        values = np.array([shares.get(name, 0.0) for name in self.names], dtype=np.float32)
        return Shares(self.names, values, tuple(n for n in self.names if n not in shares))

    def _share(self, name: str, transition: Transition) -> float:
        share = self.weights[name] * float(self.terms[name](transition))
        if not abs(share) <= _LARGEST:
            raise NotReady(f"expected a finite value, found {share}")
        return share


def make_reward(terms: dict[str, dict], robot: RobotDescription, cameras: Sequence[str]) -> Reward:
    """Return the reward of terms by name: `weight`, `type` (default: the name) and settings.

    Raises ConfigError, one line, for anything in them that does not fit.
    """
    if not terms:
        raise ConfigError("terms: expected at least one reward term, found none")
    made = {}
    for name, values in terms.items():
        if not _NAME.fullmatch(name):
            raise ConfigError(f"terms: expected names of letters, digits and _, found {name!r}")
        if not isinstance(values, dict):
            raise ConfigError(
                f"terms.{name}: expected its weight, type and settings, found {values!r}"
            )
        try:
            made[name] = _make_term(name, values, robot, cameras)
        except ValueError as error:
            raise ConfigError(f"terms.{name}: {error}") from None
    return Reward(made)


def with_values(terms: dict[str, dict], values: dict[str, object]) -> dict[str, dict]:
    """Return terms with other values, by the name of the parameter: `terms.<name>.<setting>`."""
    changed = copy.deepcopy(terms)
    for parameter, value in values.items():
        _, name, *folders, last = parameter.split(".")
        place = changed[name]
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = value
    return changed


def check_same_inputs(before: Reward, after: Reward) -> None:
    """Raise ConfigError where a reward needs other topics than the one that it replaces."""
    for what in ("needs", "cameras", "pose_topics"):
        old, new = (sorted(getattr(reward, what)) for reward in (before, after))
        if old != new:
            raise ConfigError(
                f"terms: expected the {what} of the start, {old}, found {new}: topics are "
                "subscribed to at the start"
            )


def _make_term(
    name: str, values: dict, robot: RobotDescription, cameras: Sequence[str]
) -> tuple[float, RewardTerm]:
    settings = dict(values)
    kind = settings.pop("type", name)
    if not isinstance(kind, str):
        raise ConfigError(f"type: expected a name, found {kind!r}")
    weight = settings.pop("weight", None)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not np.isfinite(weight):
        found = "none" if weight is None else repr(weight)
        raise ConfigError(f"weight: expected a finite number, found {found}")
    term = _decode(find_term(kind), settings)
    if unknown := term.needs - NEEDS:
        raise ConfigError(f"needs: expected some of {sorted(NEEDS)}, found {sorted(unknown)}")
    for camera in term.cameras:
        if camera not in cameras:
            known = ", ".join(cameras) or "none"
            raise ConfigError(f"camera: expected one of the robot's ({known}), found {camera!r}")
    term.begin(robot)
    return float(weight), term


def _decode(kind: type[RewardTerm], settings: dict) -> RewardTerm:
    if not dataclasses.is_dataclass(kind):
        raise ConfigError(f"type: expected a dataclass, found {kind.__name__}, which is none")
    known = [field.name for field in dataclasses.fields(kind)]
    if unknown := [name for name in settings if name not in known]:
        raise ConfigError(
            f"expected settings out of {', '.join(known) or 'none'}, found {', '.join(unknown)}"
        )
    try:
        term = draccus.decode(kind, settings)
    except draccus.utils.DraccusException as error:
        if isinstance(error.__cause__, ConfigError):
            raise error.__cause__ from None
        # draccus says what is wrong by itself, or in the error behind it.
        lines = [" ".join(str(e).split()) for e in (error, error.__cause__) if e is not None]
        raise ConfigError(
            f"expected the settings of {kind.__name__}, found {settings}: {'; '.join(lines)}"
        ) from None
    for name in known:
        if any(value != value for value in np.ravel(getattr(term, name))):
            raise ConfigError(f"{name}: expected no NaN, found one")
    return term


def _union(groups) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for group in groups for name in group))
