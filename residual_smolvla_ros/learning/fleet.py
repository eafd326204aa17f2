"""One schedule for several arms: each episode is played by one of them, whichever is free.

What an episode is (scene, weights, exploration) follows from its plan alone, and the learner takes
training episodes in the schedule's order: in lockstep it does not matter to the result which arms
played them, nor how many there were.
"""

import copy
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from residual_smolvla_ros.learning.schedule import (
    BASE,
    RESIDUAL,
    TRAINING_PHASES,
    VALIDATION,
    EpisodePlan,
    Outcome,
    Schedule,
)
from residual_smolvla_ros.records import DISCARD, RecordError

# Phases whose episodes count up from 0.
EVALUATIONS = (BASE, VALIDATION, RESIDUAL)


def identify(of: EpisodePlan | Outcome) -> tuple:
    """Return what tells an episode of the schedule from others, also where it is played again."""
    if of.phase in TRAINING_PHASES:
        return "training", of.index
    return of.phase, of.index, of.weights_version


def outcome_from_json(text: str) -> Outcome | None:
    """Read an outcome, None from ""; raise RecordError if it is not one."""
    if not text:
        return None
    try:
        outcome = Outcome(**json.loads(text))
    except (TypeError, ValueError, RecursionError) as error:
        raise RecordError(f"expected an outcome, found {text[:80]!r}: {error}") from None
    for field_ in dataclasses.fields(outcome):
        value, kind = getattr(outcome, field_.name), field_.type
        if type(value) is not (kind if isinstance(kind, type) else dict):
            raise RecordError(f"outcome: expected another {field_.name}, found {str(value)[:80]}")
    return outcome


@dataclass
class Arm:
    """What an arm of a fleet does and has done; `plan` was handed out at `since`."""

    plan: EpisodePlan | None = None
    since: float = 0.0
    is_free: bool = False
    episodes: int = 0
    steps: int = 0


@dataclass
class Fleet:
    """Hand out the episodes of a schedule.

    Episodes that need no outcome of each other are played side by side. One whose arm has left, or
    has not played it within `patience_s` while another has nothing to do, is played again
    elsewhere; what comes of it first counts.
    """

    schedule: Schedule
    robots: tuple[str, ...]
    patience_s: float = 300.0
    clock: Callable[[], float] = time.monotonic
    arms: dict[str, Arm] = field(init=False)

    def __post_init__(self):
        self.arms = {name: Arm() for name in self.robots}
        self._again: list[EpisodePlan] = []
        self._number = self.schedule.last_episode

    def restore(self, outcomes: list[Outcome], last_episode: int) -> None:
        """Go on after the outcomes of an interrupted run, up to the first that is missing."""
        counted: dict[tuple, int] = {}
        kept = []
        for outcome in sorted(outcomes, key=lambda o: o.index):
            kind = outcome.phase, outcome.weights_version
            if outcome.phase not in EVALUATIONS or counted.get(kind, 0) == outcome.index:
                counted[kind] = counted.get(kind, 0) + 1
                kept.append(outcome)
        kept.sort(key=lambda o: o.episode)
        self.schedule.restore(kept, last_episode)
        self._number = max(self._number, last_episode)

    def ask(self, name: str, number: int, outcome: Outcome | None = None) -> Outcome | None:
        """Take an arm's wish for an episode, and what came of the one before.

        `number` is the last episode's, 0 before an arm's first. Returns the outcome where it
        counts: not if that episode has been played elsewhere. Raises RecordError for a number that
        leaves none for the episodes to come.
        """
        if not 0 <= number < 2**53:
            raise RecordError(f"expected the number of an episode, found {number}")
        arm = self.arms[name]
        self._number = max(self._number, number)
        taken = self._take(name, outcome) if outcome is not None else None
        if arm.plan is not None and outcome is not None and outcome.episode != arm.plan.episode:
            return taken  # said again, or of an episode that had been taken from it
        self._take_back(arm)
        arm.is_free = True
        return taken

    def leave(self, name: str) -> bool:
        """Let others play what an arm that is gone was to; return whether it was to play."""
        arm = self.arms[name]
        arm.is_free, was_there = False, arm.is_free or arm.plan is not None
        self._take_back(arm)
        return was_there

    def hand_out(self) -> Iterator[tuple[str, EpisodePlan]]:
        """Give plans to the arms that are free, as far as there are any."""
        for name, arm in self.arms.items():
            plan = self._next() if arm.is_free else None
            if plan is not None:
                self._number += 1
                arm.plan = dataclasses.replace(plan, episode=self._number)
                arm.since, arm.is_free = self.clock(), False
                yield name, arm.plan

    @property
    def is_complete(self) -> bool:
        """Whether all has been played."""
        return not self._open() and self.schedule.next() is None

    def _take(self, name: str, outcome: Outcome) -> Outcome | None:
        key = identify(outcome)
        if outcome.label == DISCARD or key not in self._open():
            return None
        self._again = [plan for plan in self._again if identify(plan) != key]
        for arm in self.arms.values():
            if arm.plan is not None and identify(arm.plan) == key:
                arm.plan = None  # of another arm: what it still plays does not count
        outcome = dataclasses.replace(outcome, arm=name)
        self.schedule.record(outcome)
        self.arms[name].episodes += 1
        self.arms[name].steps += outcome.steps
        return outcome

    def _take_back(self, arm: Arm) -> None:
        plan, arm.plan = arm.plan, None
        if plan is not None and identify(plan) not in self._open():
            self._again.append(plan)

    def _open(self) -> dict[tuple, EpisodePlan]:
        """Return the episodes that have been handed out, and whose outcome is not known."""
        plans = [arm.plan for arm in self.arms.values() if arm.plan is not None]
        return {identify(plan): plan for plan in [*plans, *self._again]}

    def _next(self) -> EpisodePlan | None:
        if self._again:
            return self._again.pop(0)
        others = list(self._open().values())
        ahead = copy.copy(self.schedule)
        ahead.restore(list(ahead.outcomes), ahead.last_episode)
        for plan in others:
            ahead.record(plan.outcome(steps=0, success=False))
        plan = ahead.next()
        lag = self.schedule.weights_lag
        if plan is not None and lag and plan.phase in TRAINING_PHASES:
            # Off-policy: an episode needs not wait for what others have yet to play.
            oldest = max(0, self.schedule.version - lag)
            plan = dataclasses.replace(plan, weights_version=min(plan.weights_version, oldest))
            fits = all(other.phase == plan.phase for other in others)
        else:
            fits = plan is not None and all(
                (other.phase, other.weights_version) == (plan.phase, plan.weights_version)
                for other in others
            )
        return plan if fits else self._overdue()

    def _overdue(self) -> EpisodePlan | None:
        """Return the episode that others wait for too long already, if there is one."""
        newest: dict[tuple, Arm] = {}
        for arm in self.arms.values():
            if arm.plan is not None:
                key = identify(arm.plan)
                newest[key] = max(newest.get(key, arm), arm, key=lambda one: one.since)
        late = [a for a in newest.values() if self.clock() - a.since > self.patience_s]
        return min(late, key=lambda arm: arm.since).plan if late else None


class Share:
    """What one arm of a fleet plays: a Schedule's place taken, one plan at a time from elsewhere.

    `ask` is told the number of the last episode and what came of it, None before the first.
    """

    verdict = None  # of validations: known where all outcomes are
    total_steps = 0

    def __init__(self, ask: Callable[[int, Outcome | None], None]):
        self._ask = ask
        self._plan: EpisodePlan | None = None
        self._is_over = self._has_asked = False
        self.seed = 0
        self.outcomes: list[Outcome] = []
        self.last_episode = self.training_episodes = self.env_steps = 0

    @property
    def awaited(self) -> str:
        """What no episode can begin before, "" if one can; the first look asks for it."""
        if not self._has_asked:
            self._has_asked = True
            self._ask(self.last_episode, None)
        there = self._is_over or self._plan is not None
        return "" if there else "an episode from the node fleet (episode/plan)"

    def restore(self, outcomes: list[Outcome], last_episode: int) -> None:
        """Go on after the outcomes of an interrupted run."""
        self.outcomes, self.last_episode = outcomes, last_episode

    def offer(self, plan: EpisodePlan | None) -> None:
        """Take the next plan; None is the end of the run."""
        if plan is None:
            self._is_over = True
        elif plan.episode > self.last_episode:
            self._plan = plan

    def next(self) -> EpisodePlan | None:
        """Return the plan to play, or None at the end of the run."""
        return None if self._is_over else self._plan

    def record(self, outcome: Outcome) -> None:
        """Take note of a finished episode, and ask for the next."""
        self.last_episode = max(self.last_episode, outcome.episode)
        if self._plan is not None and self._plan.episode <= outcome.episode:
            self._plan = None
        if outcome.label != DISCARD:
            self.outcomes.append(outcome)
            if outcome.phase in TRAINING_PHASES:
                self.training_episodes += 1
                self.env_steps += outcome.steps
        self._ask(self.last_episode, outcome)
