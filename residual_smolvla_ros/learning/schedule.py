"""Which episode comes next: base evaluation, training with validation between, final evaluation.

Seeds never overlap: demonstrations use 0 to 9,999, held-out evaluation starts at HELD_OUT_SEED,
validation at VALIDATION_SEED, and training at TRAINING_SEED times (seed + 1).
"""

import copy
import dataclasses
import json
from collections import Counter
from dataclasses import dataclass, field

from residual_smolvla_ros.learning.guard import is_worse
from residual_smolvla_ros.records import DISCARD, RecordError

HELD_OUT_SEED = 1_000_000
VALIDATION_SEED = 2_000_000
TRAINING_SEED = 10_000_000

BASE, RESIDUAL, VALIDATION, WARMUP, TRAIN = "base", "residual", "validation", "warmup", "train"
CLIP_BASE, CLIP_RESIDUAL = "clip_base", "clip_residual"
TRAINING_PHASES = (WARMUP, TRAIN)
RECENT = 20  # episodes whose success tells how it goes


@dataclass(frozen=True)
class EpisodePlan:
    """How one episode is to be played. `weights_version` -1 takes whatever is loaded."""

    episode: int
    phase: str
    index: int
    seed: int
    max_steps: int
    weights_version: int = -1
    use_residual: bool = True
    explore: bool = False
    spectator: bool = False

    @property
    def is_training(self) -> bool:
        """Whether the learner takes this episode."""
        return self.phase in TRAINING_PHASES

    def outcome(
        self,
        steps: int,
        success: bool,
        episode_return: float = 0.0,
        reason: str = "",
        wall_s: float = 0.0,
        **more,
    ) -> "Outcome":
        """Return the outcome of the episode; `more` are further fields of it."""
        return Outcome(
            episode=self.episode,
            phase=self.phase,
            index=self.index,
            seed=self.seed,
            weights_version=self.weights_version,
            steps=steps,
            success=success,
            episode_return=episode_return,
            reason=reason,
            wall_s=wall_s,
            **more,
        )

    def to_json(self) -> str:
        """Return the plan as JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "EpisodePlan":
        """Read a plan from JSON; raise RecordError if it is not one that can be played."""
        try:
            plan = cls(**json.loads(text))
        except (TypeError, ValueError, RecursionError) as error:
            raise RecordError(f"expected an episode plan, found {text[:80]!r}: {error}") from None
        for field_ in dataclasses.fields(plan):
            value = getattr(plan, field_.name)
            # A bool is an int to isinstance, and seeds of other sizes are none to numpy.
            if type(value) is not field_.type or (field_.type is int and abs(value) >= 2**63):
                raise RecordError(
                    f"episode plan: expected {field_.name} as {field_.type.__name__}, "
                    f"found {str(value)[:80]}"
                )
        if plan.seed < 0 or plan.max_steps < 1:
            raise RecordError(
                "episode plan: expected a seed of 0 or more and max_steps of 1 or more, found "
                f"{plan.seed} and {plan.max_steps}"
            )
        return plan


@dataclass(frozen=True)
class Outcome:
    """How an episode went: a line of `episodes.jsonl`.

    `label` says what it counts as, `reason` why it ended; `terms` holds the summed share of each
    reward term, `arm` who of a fleet played it, and `last_stamp` is that of its last step. One that
    was discarded is played again.
    """

    episode: int
    phase: str
    index: int
    seed: int
    weights_version: int
    steps: int
    success: bool
    episode_return: float
    reason: str
    wall_s: float
    label: str = ""
    intervened_steps: int = 0
    terms: dict[str, float] = field(default_factory=dict)
    arm: str = ""
    last_stamp: int = 0

    def plan(self, max_steps: int) -> EpisodePlan:
        """Return a plan of the same episode, without what only the one that was played had."""
        names = [field_.name for field_ in dataclasses.fields(EpisodePlan)]
        known = {name: value for name, value in vars(self).items() if name in names}
        return EpisodePlan(**known, max_steps=max_steps)


@dataclass
class Schedule:
    """Yields the plan of the next episode from the outcomes so far.

    With `total_steps` 0 nothing is trained: base and residual are evaluated. Training episodes are
    played by weights that are `weights_lag` versions old at most.
    """

    seed: int
    max_steps: int
    eval_episodes: int
    total_steps: int = 0
    episode_limit: int = 0
    episodes_per_update: int = 1
    warmup_updates: int = 0
    validation_episodes: int = 0
    validation_every: int = 0
    evaluate_residual: bool = True
    clip: bool = True
    training_episodes: int = 0
    env_steps: int = 0
    rollbacks: int = 0
    weights_lag: int = 0
    outcomes: list[Outcome] = field(default_factory=list)
    last_episode: int = 0

    def __post_init__(self):
        self._rolled_back_at = -1
        self.restore(self.outcomes, self.last_episode)

    def restore(self, outcomes: list[Outcome], last_episode: int) -> None:
        """Go on after the outcomes of an interrupted run."""
        self.outcomes, self.last_episode = outcomes, last_episode
        self._counts = Counter((o.phase, o.weights_version) for o in outcomes)

    def record(self, outcome: Outcome) -> None:
        """Take note of a finished episode."""
        self.last_episode = max(self.last_episode, outcome.episode)
        if outcome.label == DISCARD:
            return
        self.outcomes.append(outcome)
        self._counts[outcome.phase, outcome.weights_version] += 1
        if outcome.phase in TRAINING_PHASES:
            self.training_episodes += 1
            self.env_steps += outcome.steps

    def count(self, phase: str, version: int | None = None) -> int:
        """Return how many episodes of a phase (and weights version) have been played."""
        if version is not None:
            return self._counts[phase, version]
        return sum(n for (of, _), n in self._counts.items() if of == phase)

    @property
    def version(self) -> int:
        """Weights version that the episodes so far have led to; -1 where nothing is trained.

        It counts updates, and each time that one was rolled back.
        """
        return self.updates + self.rollbacks if self.total_steps else -1

    @property
    def updates(self) -> int:
        """Updates that the episodes so far have led to."""
        return self.training_episodes // self.episodes_per_update

    @property
    def verdict(self) -> bool | None:
        """Whether the present version may stay, right after its validation is complete, else None.

        It may not if it does worse than the base alone with 95 % confidence: `roll_back` then.
        """
        last = self.outcomes[-1] if self.outcomes else None
        if last is None or last.phase != VALIDATION or last.weights_version != self.version:
            return None
        if self.count(VALIDATION, self.version) != self.validation_episodes:
            return None
        base = [o.success for o in self.outcomes if o.phase == BASE]
        played = [
            o.success
            for o in self.outcomes
            if o.phase == VALIDATION and o.weights_version == self.version
        ]
        return not is_worse(sum(played), len(played), sum(base), len(base))

    def roll_back(self) -> None:
        """Take note that the weights of an earlier version are the present ones again."""
        self.rollbacks += 1
        self._rolled_back_at = self.updates

    @property
    def trained(self) -> bool:
        """Whether the training budget is spent; it ends with a whole update only."""
        if self.training_episodes % self.episodes_per_update:
            return False
        limit = self.episode_limit
        return self.env_steps >= self.total_steps or 0 < limit <= self.training_episodes

    def next(self) -> EpisodePlan | None:
        """Return the next episode's plan, or None when all is done."""
        done = self.count(BASE)
        if done < self.eval_episodes:
            return self._plan(BASE, done, HELD_OUT_SEED + done, use_residual=False)
        if not self.trained:
            return self._training_plan()
        if not self.evaluate_residual:
            return None
        done = self.count(RESIDUAL, self.version)
        if done < self.eval_episodes:
            return self._plan(RESIDUAL, done, HELD_OUT_SEED + done, weights_version=self.version)
        return self._clip_plan()

    def upcoming(self, limit: int) -> list[EpisodePlan]:
        """Return the next plans that need no outcome of each other, `limit` at most."""
        ahead = copy.copy(self)
        ahead.restore(list(self.outcomes), self.last_episode)
        plans: list[EpisodePlan] = []
        while len(plans) < limit and (plan := ahead.next()) is not None:
            first = plans[0] if plans else plan
            if (plan.phase, plan.weights_version) != (first.phase, first.weights_version):
                break
            plans.append(plan)
            ahead.record(plan.outcome(steps=0, success=False))
        return plans

    def _training_plan(self) -> EpisodePlan:
        version = self.version
        if self._validation_is_due():
            done = self.count(VALIDATION, version)
            if done < self.validation_episodes:
                return self._plan(VALIDATION, done, VALIDATION_SEED + done, weights_version=version)
        if self._rolled_back_at != self.updates:  # then the version of before must not act
            version = max(0, version - self.weights_lag)
        warmup = self.updates < self.warmup_updates
        index = self.training_episodes
        return self._plan(
            WARMUP if warmup else TRAIN,
            index,
            TRAINING_SEED * (self.seed + 1) + index,
            weights_version=version,
            use_residual=not warmup,
            explore=not warmup,
        )

    def _validation_is_due(self) -> bool:
        trained = self.updates - self.warmup_updates
        if not self.validation_every or trained < 0 or trained % self.validation_every:
            return False
        # After a rollback the weights are those of a version that has been validated.
        return self._rolled_back_at != self.updates

    def _clip_plan(self) -> EpisodePlan | None:
        if not self.clip or not self.eval_episodes:
            return None
        index = self.clip_index()
        for phase in (CLIP_BASE, CLIP_RESIDUAL):
            if not self.count(phase, self.version):
                return self._plan(
                    phase,
                    index,
                    HELD_OUT_SEED + index,
                    weights_version=self.version,
                    use_residual=phase == CLIP_RESIDUAL,
                    spectator=True,
                )
        return None

    def clip_index(self) -> int:
        """Return the first held-out seed that only the residual solved, else the first."""
        success = {
            (o.phase, o.index): o.success
            for o in self.outcomes
            if o.phase == BASE or o.weights_version == self.version
        }
        for index in range(self.eval_episodes):
            if success.get((RESIDUAL, index)) and not success.get((BASE, index)):
                return index
        return 0

    def _plan(self, phase: str, index: int, seed: int, **settings) -> EpisodePlan:
        return EpisodePlan(
            episode=self.last_episode + 1,
            phase=phase,
            index=index,
            seed=seed,
            max_steps=self.max_steps,
            **settings,
        )


def describe_progress(schedule: Schedule) -> str:
    """Return a line that says how far a schedule has been played, "" before its first episode."""
    recent = schedule.outcomes[-RECENT:]
    if not recent:
        return ""
    last, successes = recent[-1], sum(outcome.success for outcome in recent)
    return (
        f"{last.phase}: episode {last.episode}, {schedule.env_steps} of {schedule.total_steps} "
        f"training steps, success of the last {len(recent)}: {successes / len(recent):.2f}"
    )
