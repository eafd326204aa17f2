"""Node `episode`: starts, times and ends episodes, asks for resets, keeps the run's results.

It follows the schedule (base evaluation, training, validation, final evaluation), writes each
outcome to `<output>/episodes.jsonl`, and ends the pipeline with the report.
"""

import json
import time
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import Image
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from residual_smolvla_ros.learning.schedule import EpisodePlan, Outcome, Schedule
from residual_smolvla_ros.nodes.common import (
    LATCHED_QOS,
    PipelineNode,
    image_qos,
    to_message,
)
from residual_smolvla_ros.nodes.common import (
    main as run,
)
from residual_smolvla_ros.nodes.images import from_image_message
from residual_smolvla_ros.records import EPISODE_EVENT, REWARD, WEIGHTS, Record, pack
from residual_smolvla_ros.reporting.report import format_table, write_report
from residual_smolvla_ros.reporting.results import (
    append_outcome,
    read_outcomes,
    save_frames,
    write_run,
)

RESET_RETRY_S = 0.02
# A reset that a person takes part in is asked about less and less often.
RESET_RETRY_MAX_S = 0.5
STALL_S = 30.0
# A node's publisher is there once it has loaded what it needs.
NEEDED_TOPICS = {"joint_trajectory": "policy", "reward": "reward"}


class EpisodeNode(PipelineNode):
    """Play the episodes of a schedule, one after the other."""

    def __init__(self):
        super().__init__("episode")
        output = self.parameter("output", "", "folder of the run")
        if not output:
            raise ValueError("output: expected the folder of the run, found none")
        self._output = Path(output)
        self._resume = self.parameter("resume", False, "go on with the run in output")
        self._trains = self.parameter("train", True, "train between the evaluations")
        base = self.parameter("base_checkpoint", "", "the base, for the report")
        self._schedule = self._make_schedule()
        write_run(self._output, {"seed": self._schedule.seed, "base_checkpoint": base})
        self._plan: EpisodePlan | None = None
        self._active_now = False
        self._resetting = False
        self._retry_at, self._retry_pause = 0.0, RESET_RETRY_S
        self._version: int | None = None if self._trains else -1
        self._progress_at = time.monotonic()
        self._start_wall = time.monotonic()
        self._frames: list = []
        self._following_stamp = 0
        self._reset_count = self._ended_reset_count = 0

        self._events = self.record_publisher("episode/event")
        self._active = self.create_publisher(Bool, "episode/active", LATCHED_QOS)
        self._reset = self.create_client(Trigger, "reset_environment")
        self.record_subscription(REWARD, "reward", self._on_reward)
        self.record_subscription(WEIGHTS, "learner/weights", self._on_weights, LATCHED_QOS)
        self.create_subscription(Image, "spectator/image_raw", self._on_frame, image_qos(True))
        self.create_service(Trigger, "episode/stop", self._on_stop)
        self._retry = self.create_timer(RESET_RETRY_S, self._on_retry)
        self.create_timer(1.0, self._watch)

    def _make_schedule(self) -> Schedule:
        defaults = {
            "seed": (0, "seed of the training episodes"),
            "max_steps": (100, "time limit of an episode in control steps"),
            "eval_episodes": (100, "held-out episodes of the evaluations before and after"),
            "total_steps": (0, "control steps to train for"),
            "episode_limit": (0, "training episodes at most; 0 is no limit"),
            "validation_episodes": (0, "episodes of each validation while training"),
            "validation_every": (0, "updates between validations; 0 is never"),
            "evaluate_residual": (True, "evaluate base + residual, not the base alone"),
            "clip": (True, "record a clip of one held-out seed at the end"),
        }
        values = {name: self.parameter(name, *entry) for name, entry in defaults.items()}
        if not self._trains:
            values["total_steps"] = 0
        return Schedule(**values)

    # -- the life of an episode -------------------------------------------------------------

    def _on_weights(self, record: Record) -> None:
        first = self._version is None
        self._version = record.metadata["version"]
        if first:
            progress = json.loads(record.metadata["progress"])
            self._schedule.episodes_per_update = progress["episodes_per_update"]
            self._schedule.warmup_updates = progress["warmup_updates"]
            self._schedule.training_episodes = progress["episodes"]
            self._schedule.env_steps = progress["env_steps"]
            if self._resume:
                self._restore(progress["episodes"])

    def _restore(self, training_episodes: int) -> None:
        """Take the outcomes of the run so far; training episodes after the checkpoint replay."""
        self._schedule.outcomes = read_outcomes(self._output, training_episodes)
        self._start_wall -= max((o.wall_s for o in self._schedule.outcomes), default=0.0)

    def _on_retry(self) -> None:
        """Prepare the next episode as soon as the weights for it are there."""
        too_early = time.monotonic() < self._retry_at
        if self._active_now or self._resetting or too_early or self._missing():
            return
        if self._plan is None:
            plan = self._schedule.next()
            if plan is None:
                self._finish()
            if self._trains and plan.weights_version > self._version:
                return  # the learner is updating
            self._plan = plan
            self._publish_event("prepare")
        if self._reset.service_is_ready():
            self._resetting = True
            self._reset.call_async(Trigger.Request()).add_done_callback(self._on_reset)

    def _missing(self) -> str:
        """Return what an episode cannot start without and is not there yet."""
        if self._version is None:
            return "weights from the learner (learner/weights)"
        for topic, node in NEEDED_TOPICS.items():
            if not self.count_publishers(topic):
                return f"the node {node} ({topic})"
        return ""

    def _on_reset(self, future) -> None:
        self._resetting = False
        response = future.result()
        if not response.success:
            # The timer asks again: a robot's reset goes on for as long as it says no.
            self._retry_at = time.monotonic() + self._retry_pause
            if self._retry_pause == RESET_RETRY_MAX_S:
                # A warning, so that the person who is waited for sees it.
                self.get_logger().warning(f"reset: {response.message}", throttle_duration_sec=5.0)
                self._progress_at = time.monotonic()
            self._retry_pause = min(2 * self._retry_pause, RESET_RETRY_MAX_S)
            return
        self._retry_pause = RESET_RETRY_S
        self._steps = 0
        self._return = 0.0
        self._frames = []
        self._active_now = True
        self._progress_at = time.monotonic()
        self._active.publish(Bool(data=True))

    def _on_reward(self, record: Record) -> None:
        # Each reward follows on the one before, up to a reset. Those that were still under way
        # when an episode ended go on from it, and are not the next one's.
        if record.metadata["stamp"] != self._following_stamp:
            self._reset_count += 1
        self._following_stamp = record.metadata["next_stamp"]
        if not self._active_now or self._reset_count == self._ended_reset_count:
            return
        self._steps += 1
        self._return += float(record["reward"])
        self._last_stamp = record.metadata["stamp"]
        self._progress_at = time.monotonic()
        self.tally("steps")
        if record.metadata["terminated"]:
            self._end("terminated", record.metadata["success"])
        elif self._steps >= self._plan.max_steps:
            self._end("truncated", record.metadata["success"])

    def _end(self, reason: str, success: bool) -> None:
        self._active_now = False
        self._ended_reset_count = self._reset_count
        self._active.publish(Bool(data=False))
        self._publish_event("end", reason, success, self._last_stamp, self._steps)
        outcome = Outcome(
            episode=self._plan.episode,
            phase=self._plan.phase,
            index=self._plan.index,
            seed=self._plan.seed,
            weights_version=self._plan.weights_version,
            steps=self._steps,
            success=success,
            episode_return=self._return,
            reason=reason,
            wall_s=time.monotonic() - self._start_wall,
        )
        append_outcome(self._output, outcome)
        if self._plan.spectator:
            save_frames(self._output, self._plan.phase, self._frames)
        self._schedule.record(outcome)
        self._plan = None
        self.tally("episodes")
        self._on_retry()

    def _on_stop(self, request: Trigger.Request, response: Trigger.Response):
        response.success = self._active_now and self._steps > 0
        response.message = "stopped" if response.success else "no episode is running"
        if response.success:
            self._end("stopped", False)
        return response

    def _on_frame(self, message: Image) -> None:
        if self._active_now and self._plan.spectator:
            self._frames.append(from_image_message(message))

    def _publish_event(
        self, event: str, reason="", success=False, last_stamp: int = 0, steps: int = 0
    ) -> None:
        blob = pack(
            EPISODE_EVENT,
            event=event,
            episode=self._plan.episode,
            plan=self._plan.to_json(),
            reason=reason,
            success=success,
            last_stamp=last_stamp,
            steps=steps,
        )
        self._events.publish(to_message(blob))

    # -- supervision ------------------------------------------------------------------------

    def _waiting_for(self) -> str:
        if self._missing():
            return self._missing()
        if not self._active_now:
            if not self._reset.service_is_ready():
                return "the service reset_environment"
            return "weights from the learner (an update), or a reset"
        return "rewards: is every node of policy, reward and the robot running?"

    def _watch(self) -> None:
        # Where nobody draws a progress bar (ros2 launch), this line is what a person sees.
        schedule = self._schedule
        recent = schedule.outcomes[-20:]
        if recent:
            self.get_logger().info(
                f"{recent[-1].phase}: episode {recent[-1].episode}, {schedule.env_steps} of "
                f"{schedule.total_steps} training steps, success of the last {len(recent)}: "
                f"{sum(o.success for o in recent) / len(recent):.2f}, update {self._version}",
                throttle_duration_sec=10.0,
            )
        stalled = time.monotonic() - self._progress_at
        if stalled > STALL_S:
            self.get_logger().warning(
                f"waiting for {self._waiting_for()} since {stalled:.0f} s",
                throttle_duration_sec=STALL_S,
            )

    def status(self):
        """Report the phase and the episode."""
        values = {
            "phase": self._plan.phase if self._plan else "",
            "training_episodes": str(self._schedule.training_episodes),
            "env_steps": str(self._schedule.env_steps),
        }
        return DiagnosticStatus.OK, self._plan.phase if self._plan else "waiting", values

    def _finish(self) -> None:
        self._events.wait_for_all_acked()
        self.get_logger().info(format_table(write_report(self._output)))
        raise SystemExit(0)


def main(args=None) -> None:
    """Entry point of the executable."""
    run(EpisodeNode, args)


if __name__ == "__main__":
    main()
