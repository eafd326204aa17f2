"""A whole run without ROS: base evaluation, training with validation, final evaluation, report."""

import time
from collections.abc import Callable
from pathlib import Path

from residual_smolvla_ros.learning.run import LearnerRun
from residual_smolvla_ros.learning.schedule import Schedule
from residual_smolvla_ros.reporting.results import (
    append_outcome,
    last_episode,
    read_outcomes,
    save_frames,
)
from residual_smolvla_ros.training.arm import Played
from residual_smolvla_ros.training.workers import Players


class Trainer:
    """Play a schedule's episodes in batches, and let a learner learn from them.

    Writes the files that the ROS nodes `episode` and `learner` write. `say` is told what a person
    should know.
    """

    def __init__(
        self,
        output: Path,
        schedule: Schedule,
        run: LearnerRun,
        players: Players,
        say: Callable[[str], None],
    ):
        self._output = output
        self._schedule = schedule
        self._run = run
        self._players = players
        self._say = say
        self._started = time.monotonic()

    def restore(self) -> None:
        """Go on after the outcomes of an interrupted run."""
        counters = self._run.learner.counters
        outcomes = read_outcomes(self._output, counters.episodes)
        self._schedule.restore(outcomes, last_episode(self._output))
        self._schedule.training_episodes = counters.episodes
        self._schedule.env_steps = counters.env_steps
        self._schedule.rollbacks = counters.rollbacks
        self._started -= max((o.wall_s for o in outcomes), default=0.0)

    def train(self) -> None:
        """Play until the schedule is done."""
        self._publish()
        while plans := self._schedule.upcoming(self._players.size):
            for played in self._players.play(plans):
                self._keep(played)

    def _publish(self) -> None:
        learner = self._run.learner
        self._players.load_weights(learner.residual, learner.weights(), learner.counters.version)

    def _keep(self, played: Played) -> None:
        plan = played.plan
        outcome = plan.outcome(
            steps=played.steps,
            success=played.success,
            episode_return=played.episode_return,
            reason=played.reason,
            wall_s=time.monotonic() - self._started,
            label=played.label,
            terms=played.terms,
        )
        append_outcome(self._output, outcome)
        self._schedule.record(outcome)
        if plan.spectator:
            save_frames(self._output, plan.phase, played.frames)
        if plan.is_training:
            metrics = self._run.learner.add_episode(played.episode)
            if metrics is not None:
                self._run.keep(metrics)
                self._publish()
        self._judge_version()

    def _judge_version(self) -> None:
        verdict = self._schedule.verdict
        if verdict is None:
            return
        version = self._schedule.version
        self._run.judge(verdict)
        if not verdict:
            self._schedule.roll_back()
            self._publish()
            self._say(
                f"version {version} does worse than the base alone: rolled back, the weights of "
                f"the last version that did not are version {self._schedule.version} now"
            )
