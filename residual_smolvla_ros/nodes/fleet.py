"""Node `fleet`: hands out the episodes of one schedule to several arms, and keeps the results.

Each arm's `episode` asks for one on `<arm>/episode/request`, and tells there what came of the one
before. The outcomes of all go into one `<output>/episodes.jsonl` and one report.
"""

import dataclasses
import time
from functools import partial
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticStatus

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.learning.fleet import Fleet, outcome_from_json
from residual_smolvla_ros.learning.schedule import Outcome, describe_progress
from residual_smolvla_ros.learning.session import PROGRESS, read_progress
from residual_smolvla_ros.nodes.common import LATCHED_QOS, PipelineNode, to_message
from residual_smolvla_ros.nodes.common import main as run
from residual_smolvla_ros.nodes.parts.other_pipelines import OtherPipelines
from residual_smolvla_ros.nodes.parts.schedule_parameters import make_schedule
from residual_smolvla_ros.parameters import About
from residual_smolvla_ros.records import (
    EPISODE_EVENT,
    EPISODE_PLAN,
    EPISODE_REQUEST,
    WEIGHTS,
    Record,
    pack,
)
from residual_smolvla_ros.reporting.report import write_report
from residual_smolvla_ros.reporting.results import (
    append_outcome,
    last_episode,
    read_outcomes,
    write_run,
)
from residual_smolvla_ros.reporting.table import format_table

TURN_S, WATCH_S, STALL_S = 0.1, 1.0, 30.0
# An arm without one of these has left: when it is killed, Fast DDS says so after 20 s.
NEEDED = ("episode/request", "policy/step", "reward")


class FleetNode(PipelineNode):
    """Let several arms play one schedule."""

    def __init__(self):
        super().__init__("fleet")
        output = self.parameter("output", "", "folder of the run")
        robots = tuple(filter(None, self.parameter("robots", [""], "the arms, by namespace")))
        if not output or not robots:
            raise ConfigError("output, robots: expected a folder and arms, found none")
        self._output = Path(output)
        self._others = OtherPipelines(self, output)
        self._resume = self.parameter("resume", False, "go on with the run in output")
        base = self.parameter("base_checkpoint", "", "the base, for the report")
        patience = self.parameter(
            "patience_s",
            300.0,
            About("after how long an episode that all wait for is played elsewhere", 0),
        )
        self._fleet = Fleet(make_schedule(self), robots, patience)
        write_run(self._output, {"seed": self._fleet.schedule.seed, "base_checkpoint": base})
        self._version: int | None = None
        self._is_over = False
        self._started = self._progress_at = time.monotonic()

        self._events = self.record_publisher("episode/event")
        self._plans = {
            arm: self.record_publisher(f"{arm}/episode/plan", LATCHED_QOS) for arm in robots
        }
        for arm in robots:
            self.record_subscription(
                EPISODE_REQUEST, f"{arm}/episode/request", partial(self._on_request, arm),
                LATCHED_QOS,
            )  # fmt: skip
        self.record_subscription(WEIGHTS, "learner/weights", self._on_weights, LATCHED_QOS)
        self.create_timer(TURN_S, self._go_on)
        self.create_timer(WATCH_S, self._watch)

    def _on_weights(self, record: Record) -> None:
        if self._version is None:
            schedule = self._fleet.schedule
            for name, value in read_progress(record.metadata["progress"]).items():
                setattr(schedule, PROGRESS[name], value)
            if self._resume:
                # Training episodes after the checkpoint are played again.
                outcomes = read_outcomes(self._output, schedule.training_episodes)
                self._fleet.restore(outcomes, last_episode(self._output))
                self._started -= max((o.wall_s for o in outcomes), default=0.0)
        self._version = record.metadata["version"]

    def _on_request(self, arm: str, record: Record) -> None:
        outcome = outcome_from_json(record.metadata["outcome"])
        taken = self._fleet.ask(arm, record.metadata["episode"], outcome)
        if taken is not None:
            self._keep(taken)
        self._go_on()

    def _keep(self, outcome: Outcome) -> None:
        outcome = dataclasses.replace(outcome, wall_s=time.monotonic() - self._started)
        append_outcome(self._output, outcome)
        self.tally("episodes")
        self._progress_at = time.monotonic()
        self._tell("played", outcome)
        verdict = self._fleet.schedule.verdict
        if verdict is not None:
            if not verdict:
                self._fleet.schedule.roll_back()
            self._tell("validated", outcome, verdict)

    def _tell(self, event: str, outcome: Outcome, success: bool = False) -> None:
        """Tell the learner."""
        plan = outcome.plan(self._fleet.schedule.max_steps)
        blob = pack(EPISODE_EVENT, event=event, episode=plan.episode, plan=plan.to_json(),
                    reason=outcome.reason, success=success, label=outcome.label, last_stamp=0,
                    steps=outcome.steps)  # fmt: skip
        self._events.publish(to_message(blob))

    def _go_on(self) -> None:
        """Hand out what can be played."""
        self._others.look()
        if self._is_over or self._version is None or self._others.awaited:
            return
        self._others.settle()
        for arm, plan in self._fleet.hand_out():
            self._plans[arm].publish(to_message(pack(EPISODE_PLAN, plan=plan.to_json())))
        if self._fleet.is_complete:
            self._is_over = True
            self._finish()

    def _watch(self) -> None:
        for name in self._plans:
            is_there = all(self.count_publishers(f"{name}/{topic}") for topic in NEEDED)
            if not is_there and self._fleet.leave(name):
                self.get_logger().warning(f"{name} has left: the others play what it was to")
        progress = describe_progress(self._fleet.schedule)
        if progress:
            self.get_logger().info(
                f"{progress}, update {self._version}", throttle_duration_sec=10.0
            )
        stalled = time.monotonic() - self._progress_at
        if stalled > STALL_S:
            self.get_logger().warning(
                f"no episode since {stalled:.0f} s: {self._describe()}",
                throttle_duration_sec=STALL_S,
            )

    def _describe(self) -> str:
        if self._version is None:
            return "waiting for weights from the learner (learner/weights)"
        if self._others.awaited:
            return f"waiting for {self._others.awaited}"
        arms = [f"{name} {text}" for name, text in self._doing().items()]
        return ", ".join(arms)

    def _doing(self) -> dict[str, str]:
        """Return what each arm does."""
        texts = {}
        for name, arm in self._fleet.arms.items():
            if arm.plan is not None:
                texts[name] = f"plays {arm.plan.phase} {arm.plan.index}"
            else:
                texts[name] = "waits for the others" if arm.is_free else "is not there"
        return texts

    def status(self):
        """Report what each arm does and has done."""
        schedule = self._fleet.schedule
        values = {
            "training_episodes": str(schedule.training_episodes),
            "env_steps": str(schedule.env_steps),
        }
        for name, text in self._doing().items():
            arm = self._fleet.arms[name]
            values[name] = f"{text}; {arm.episodes} episodes, {arm.steps} steps"
        away = sum(text == "is not there" for text in self._doing().values())
        level = DiagnosticStatus.WARN if away else DiagnosticStatus.OK
        return level, f"{len(self._plans) - away} of {len(self._plans)} arms are there", values

    def _finish(self) -> None:
        self.get_logger().info(format_table(write_report(self._output)))
        for publisher in self._plans.values():
            publisher.publish(to_message(pack(EPISODE_PLAN, plan="")))
            publisher.wait_for_all_acked()
        raise SystemExit(0)


def main(args=None) -> None:
    """Entry point of the executable."""
    run(FleetNode, args)


if __name__ == "__main__":
    main()
