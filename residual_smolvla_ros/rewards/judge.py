"""Reward a session's steps: once the following state is known, and again for a late label."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.records import DISCARD, REWARD, SUCCESS, Record, pack
from residual_smolvla_ros.rewards.composition import Reward, Shares, make_reward
from residual_smolvla_ros.rewards.join import TransitionJoin
from residual_smolvla_ros.rewards.term import RobotDescription
from residual_smolvla_ros.rewards.transition import Transition

# Steps that a late label may go back to; between an episode's end and its label few are played.
KEPT = 256
# Terms see images at a quarter of their width and height.
REDUCE = 4


@dataclass(frozen=True)
class Judged:
    """A step and its reward; `settings` are those of its terms that were changed, as JSON."""

    transition: Transition
    shares: Shares
    terminated: bool
    settings: str = ""

    def pack(self) -> bytes:
        """Return the reward record."""
        return pack(
            REWARD,
            {"reward": self.shares.total, "terms": self.shares.values},
            stamp=self.transition.stamp,
            next_stamp=self.transition.next_stamp,
            success=self.transition.success,
            terminated=self.terminated,
            label=self.transition.label,
            names=self.shares.names,
            missing=self.shares.missing,
            settings=self.settings,
        )


class Judge:
    """Reward what a join hands out, and know whether a reward model has seen success.

    `environment` says that a simulator publishes environment/state, `executed` that the robot
    reports what it executed. Raises ConfigError for terms that need what is not there.
    """

    def __init__(
        self,
        reward: Reward,
        environment: bool,
        executed: bool,
        lockstep: bool,
        clock: Callable[[], float] = time.monotonic,
    ):
        _check_inputs(reward, environment, executed)
        needs = reward.needs | ({"environment"} if environment else set())
        self.join = TransitionJoin(needs, environment and lockstep, clock)
        self.reward = reward
        self._settings = ""
        self._changes: list[tuple[int, Reward, str]] = []
        self._judged: dict[int, tuple[Transition, Shares, Reward, str]] = {}
        self._first_stamp, self._estimated = 0, False

    def change(self, reward: Reward, settings: str, since: int = 0) -> None:
        """Reward by another one from the first episode on that begins at a stamp `since` or later.

        An episode is judged by one reward.
        """
        self._changes.append((since, reward, settings))

    def _begin(self, stamp: int) -> None:
        self._first_stamp, self._estimated = stamp, False
        while self._changes and self._changes[0][0] <= stamp:
            _, self.reward, self._settings = self._changes.pop(0)

    def take_estimate(self, record: Record) -> None:
        """Take a success/estimate."""
        if record.metadata["success"] and record.metadata["stamp"] >= self._first_stamp:
            self._estimated = True

    def answer(self, **extra) -> Iterator[Judged]:
        """Yield the steps that are known by now; `extra` fields are set in their transitions."""
        while (transition := self.join.pop(**extra)) is not None:
            if transition.tick == 0:
                self._begin(transition.stamp)
            state = transition.environment
            if self._estimated or (state is not None and state.metadata["success"]):
                transition = replace(transition, success=True)
            shares = self.reward(transition)
            self._judged[transition.stamp] = transition, shares, self.reward, self._settings
            if len(self._judged) > KEPT:
                del self._judged[next(iter(self._judged))]
            yield Judged(transition, shares, transition.success, self._settings)

    @staticmethod
    def is_verdict(record: Record) -> bool:
        """Tell whether an episode/event calls for another reward of the episode's last step."""
        return record.metadata["event"] == "label" and record.metadata["label"] != DISCARD

    def label(self, record: Record) -> Judged | None:
        """Return the last step of an episode as its label calls for; None where it is not known."""
        found = self._judged.get(record.metadata["last_stamp"])
        if found is None:
            return None
        transition, shares, reward, settings = found
        label = record.metadata["label"]
        transition = replace(transition, success=label == SUCCESS, label=label)
        return Judged(transition, reward.judge(shares, transition), True, settings)


def default_terms(environment: bool) -> dict[str, dict]:
    """Return the terms of a config without any."""
    terms = {"environment": {"weight": 1.0}} if environment else {}
    return terms | {"success": {"weight": 1.0}}


def make_terms(
    terms: dict[str, dict],
    joint_names: tuple[str, ...],
    cameras: Sequence[str],
    rate_hz: float,
    period_steps: int,
) -> Reward:
    """Return the reward of a robot whose images come every `period_steps` control steps.

    Raises ConfigError for terms that do not fit it.
    """
    reward = make_reward(terms, RobotDescription(joint_names, period_s=1.0 / rate_hz), cameras)
    if reward.cameras and period_steps > 1:
        raise ConfigError(
            f"terms with cameras {', '.join(reward.cameras)}: expected an image every "
            f"step, found one every {period_steps}; give camera_period_steps:=1 or lockstep:=false"
        )
    return reward


def _check_inputs(reward: Reward, environment: bool, executed: bool) -> None:
    there = {"environment": environment, "executed": executed}
    for need, is_there in there.items():
        if need in reward.needs and not is_there:
            names = [n for n, term in reward.terms.items() if need in term.needs]
            what = "a simulator" if need == "environment" else "a robot with executed_command"
            raise ConfigError(f"terms {', '.join(names)}: expected {what}, found none")
