"""Successes of a run as the console shows them: from the run's file, and from what comes in."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

from residual_smolvla_ros.learning.schedule import (
    BASE,
    RESIDUAL,
    TRAINING_PHASES,
    VALIDATION,
    EpisodePlan,
    Outcome,
)
from residual_smolvla_ros.records import DISCARD, SUCCESS

# Training episodes that a point of the curve stands for: at least so many, in a long run more.
RECENT, RECENT_SHARE = 10, 20
MAX_POINTS = 200
COUNTED = (BASE, *TRAINING_PHASES, VALIDATION, RESIDUAL)


@dataclass(frozen=True)
class Curve:
    """Success over control steps of training: (steps, success, episodes) each.

    `training` is a running mean. `base` and `residual` are (success, episodes) of the evaluations,
    None before their first.
    """

    training: tuple[tuple[int, float, int], ...] = ()
    validation: tuple[tuple[int, float, int], ...] = ()
    base: tuple[float, int] | None = None
    residual: tuple[float, int] | None = None


class RunResults:
    """Outcomes by episode, the last where one was played twice; `revision` counts changes."""

    def __init__(self, outcomes: Iterable[Outcome] = ()):
        self._outcomes = {_key(outcome): outcome for outcome in outcomes}
        self._open: dict[int, Outcome] = {}  # ended without a label
        self.revision = 0

    def add_end(
        self, plan: EpisodePlan, reason: str, success: bool, label: str, steps: int
    ) -> None:
        """Take an episode that ended; one without a label waits for it."""
        outcome = plan.outcome(steps, success, reason=reason)
        if label:
            self._close(outcome, label)
        else:
            self._open[plan.episode] = outcome

    def add_label(self, episode: int, label: str) -> None:
        """Take the label of an episode that has ended."""
        outcome = self._open.pop(episode, None) or next(
            (o for o in self._outcomes.values() if o.episode == episode), None
        )
        if outcome is not None:
            self._close(outcome, label)

    def _close(self, outcome: Outcome, label: str) -> None:
        self.revision += 1
        if label == DISCARD:  # it is played again
            self._outcomes.pop(_key(outcome), None)
        else:
            self._outcomes[_key(outcome)] = replace(outcome, label=label, success=label == SUCCESS)

    def counts(self) -> list[tuple[str, int, int]]:
        """Return phase, successes and episodes of each phase that has begun, in order."""
        found = []
        for phase in COUNTED:
            successes = [o.success for o in self._outcomes.values() if o.phase == phase]
            if successes:
                found.append((phase, sum(successes), len(successes)))
        return found

    def training_steps(self) -> int:
        """Return the control steps of training so far."""
        return sum(o.steps for o in self._outcomes.values() if o.phase in TRAINING_PHASES)

    def curve(self) -> Curve:
        """Return the learning curve."""
        outcomes = sorted(self._outcomes.values(), key=lambda outcome: outcome.episode)
        trained = sum(outcome.phase in TRAINING_PHASES for outcome in outcomes)
        steps, recent, training = 0, deque(maxlen=max(RECENT, trained // RECENT_SHARE)), []
        validation: dict[tuple[int, int], list[bool]] = {}
        for outcome in outcomes:
            if outcome.phase in TRAINING_PHASES:
                steps += outcome.steps
                recent.append(outcome.success)
                training.append((steps, sum(recent) / len(recent), len(recent)))
            elif outcome.phase == VALIDATION:
                validation.setdefault((outcome.weights_version, steps), []).append(outcome.success)
        points = [(at, sum(s) / len(s), len(s)) for (_, at), s in sorted(validation.items())]
        if len(points) > 1 and points[-1][2] < points[-2][2]:
            points.pop()  # still under way: one success would count as 100 %
        return Curve(
            # Seen from the newest back, which is always shown.
            tuple(training[:: -max(1, -(-trained // MAX_POINTS))][::-1]),
            tuple(points),
            self._rate(BASE),
            self._rate(RESIDUAL),
        )

    def _rate(self, phase: str) -> tuple[float, int] | None:
        outcomes = [o for o in self._outcomes.values() if o.phase == phase]
        newest = max((o.weights_version for o in outcomes), default=-1)
        successes = [o.success for o in outcomes if o.weights_version == newest]
        return (sum(successes) / len(successes), len(successes)) if successes else None


def _key(outcome: Outcome) -> tuple:
    training = outcome.phase in TRAINING_PHASES
    return training or outcome.phase, outcome.index, outcome.weights_version
