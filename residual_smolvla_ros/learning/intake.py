"""What a learner hears of a session: records in, updates and weights out."""

import json
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from residual_smolvla_ros.learning.assembly import EpisodeAssembler, EpisodeEnd
from residual_smolvla_ros.learning.rollout import Episode
from residual_smolvla_ros.learning.run import LearnerRun
from residual_smolvla_ros.learning.schedule import EpisodePlan
from residual_smolvla_ros.records import DISCARD, WEIGHTS, Record, RecordError, pack

# Records of an episode come on three topics; what is missing when all are silent is lost. Fast DDS
# tells every 3 s what it has sent: a last record that was dropped on the way comes again then.
SILENCE_S = 8.0


class Intake:
    """Join what comes of episodes, and let a run's learner learn from them in their order.

    With `executed` each step waits for what the robot executed. With `beside` an update is made in
    pieces, by `learn_on`; else at once. `publish` is called with the learner/weights record of
    each new version, `warn` with a line for what was lost or rolled back. `clock` is in s. With
    `learn`, that is called with each episode in place of the learner, and how it ended. What
    has not come after `silence_s` without a record is lost.
    """

    def __init__(
        self,
        run: LearnerRun,
        publish: Callable[[bytes], None],
        warn: Callable[[str], None],
        executed: bool = False,
        beside: bool = False,
        clock: Callable[[], float] = time.monotonic,
        learn: Callable[[EpisodeEnd, Episode], None] | None = None,
        silence_s: float = SILENCE_S,
    ):
        self._run = run
        self._learner = run.learner
        self._publish = publish
        self._warn = warn
        self._beside = beside
        self._clock, self._silence_s = clock, silence_s
        self._take = learn or (lambda end, episode: self.learn(episode))
        self._assembler = EpisodeAssembler(with_executed=executed)
        self._heard_at = clock()
        self._is_of_fleet = learn is not None  # which keeps the order itself
        self._verdicts: dict[int, bool] = {}  # of versions that are still to come
        self.episodes = self.steps = self.lost = 0
        self.metrics: dict[str, float] = {}

    @property
    def waits(self) -> bool:
        """Whether an episode has ended that lacks records."""
        return self._assembler.waiting is not None

    def take_event(self, record: Record) -> None:
        """Take an episode/event."""
        event = record.metadata["event"]
        if event == "label":
            self._assembler.add_label(record.metadata["episode"], record.metadata["label"])
            self._take_episodes()
        elif event == "validated":
            self._take_verdict(_plan_of(record).weights_version, record.metadata["success"])
        elif event == "end":
            end = _end_of(record)
            # One that is told again, to a process that went on from a checkpoint.
            known = end.index < self._learner.counters.episodes and not self._is_of_fleet
            self._assembler.add_end(replace(end, wanted=end.wanted and not known))
            self._take_episodes()

    def take_step(self, record: Record) -> None:
        """Take a policy/step; raise RecordError for one of another residual than is trained."""
        residual = self._learner.residual
        for name, size in (
            ("features", residual.feature_size),
            ("residual", residual.residual_size),
            ("command", residual.action_size),
        ):
            if record[name].shape != (size,):
                raise RecordError(
                    f"step record: expected {name} of {size} values, found {len(record[name])}"
                )
        self._assembler.add_step(record)
        self._take_episodes()

    def take_reward(self, record: Record) -> None:
        """Take a reward."""
        self._assembler.add_reward(record)
        waiting = self._assembler.waiting
        if waiting is None or record.metadata["stamp"] <= waiting.last_stamp:
            self._heard_at = self._clock()
        self._pop_episodes()

    def take_executed(self, stamp: int, command: np.ndarray) -> None:
        """Take what the robot executed in answer to a state, in LeRobot's units."""
        self._assembler.add_executed(stamp, command)
        # A robot reports between episodes too: this alone is no sign that records still come.
        self._pop_episodes()

    def watch(self) -> None:
        """Take an episode as it is where its last records do not come; to be called regularly."""
        # Not the time since the episode's end: on a busy machine the queue may be long.
        if self._clock() - self._heard_at > self._silence_s and self.waits:
            self._pop_episodes(late=True)

    def learn_on(self, limit: int | None = None) -> None:
        """Go on with an update beside the episodes, by `limit` gradient steps at most."""
        metrics = self._learner.learn(limit)
        if metrics is not None:
            self._after_update(metrics)

    def weights(self) -> bytes:
        """Return the learner/weights record of the present version."""
        return pack(
            WEIGHTS,
            {name: value.numpy() for name, value in self._learner.weights().items()},
            version=self._learner.counters.version,
            config=self._learner.residual.to_json(),
            progress=json.dumps(self._learner.progress() | {"weights_lag": int(self._beside)}),
            anytime=self._beside,
        )

    def _take_verdict(self, version: int, good: bool) -> None:
        """Judge the version that a validation was of, once it is there; not one of before."""
        self._verdicts[version] = good
        present = self._learner.counters.version
        if present in self._verdicts:
            self._judge(self._verdicts.pop(present))
        self._verdicts = {v: good for v, good in self._verdicts.items() if v > present}

    def _judge(self, good: bool) -> None:
        version = self._learner.counters.version
        self._run.judge(good)
        if not good:
            self._warn(
                f"version {version} does worse than the base alone: rolled back, the weights of "
                f"the last version that did not are version {self._learner.counters.version} now"
            )
            self._publish(self.weights())

    def _take_episodes(self) -> None:
        self._heard_at = self._clock()
        self._pop_episodes()

    def _pop_episodes(self, late: bool = False) -> None:
        while self.waits:
            taken = self._assembler.pop(late)
            if taken is None:
                return
            end, episode, lost = taken
            if end.index < self._learner.taken and not self._is_of_fleet:
                continue  # the same episode of the schedule, by a number that was never kept
            if lost:
                self._warn(f"episode {end.episode}: {lost} of {end.steps} steps were lost")
            self.episodes += 1
            self.steps += end.steps
            self.lost += lost
            self._take(end, episode)

    def learn(self, episode: Episode) -> None:
        """Let the learner have an episode."""
        take = self._learner.take if self._beside else self._learner.add_episode
        metrics = take(episode)
        if metrics is not None:
            self._after_update(metrics)

    def _after_update(self, metrics: dict[str, float]) -> None:
        self.metrics = metrics
        self._run.keep(metrics)
        self._publish(self.weights())
        version = self._learner.counters.version
        if version in self._verdicts:
            self._judge(self._verdicts.pop(version))


def _plan_of(record: Record) -> EpisodePlan:
    return EpisodePlan.from_json(record.metadata["plan"])


def _end_of(record: Record) -> EpisodeEnd:
    plan, label = _plan_of(record), record.metadata["label"]
    return EpisodeEnd(
        episode=plan.episode,
        last_stamp=record.metadata["last_stamp"],
        steps=record.metadata["steps"],
        truncated=record.metadata["reason"] in ("truncated", "stopped"),
        success=record.metadata["success"],
        wanted=plan.is_training and label != DISCARD,
        open=not label,
        timed_out=record.metadata["reason"] == "truncated",
        index=plan.index,
    )
