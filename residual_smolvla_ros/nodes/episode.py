"""Node `episode`: starts, times, ends and labels episodes, asks for resets, keeps the results.

It follows the schedule (base evaluation, training, validation, final evaluation), writes each
outcome to `<output>/episodes.jsonl`, and ends the pipeline with the report. An episode that ended
without a judge's word waits for a person's before anything else goes on.
"""

import time
from functools import partial
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import Image
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger

from residual_smolvla_ros.arguments import UNLABELLED
from residual_smolvla_ros.learning.labelling import WAIT, Labelling
from residual_smolvla_ros.learning.schedule import Outcome, describe_progress
from residual_smolvla_ros.learning.session import Listeners, Session
from residual_smolvla_ros.nodes.common import (
    LATCHED_QOS,
    PipelineNode,
    image_qos,
    to_message,
)
from residual_smolvla_ros.nodes.common import (
    main as run,
)
from residual_smolvla_ros.nodes.parts.fleet_share import join_fleet
from residual_smolvla_ros.nodes.parts.images import from_image_message
from residual_smolvla_ros.nodes.parts.other_pipelines import OtherPipelines
from residual_smolvla_ros.nodes.parts.peers import Peers
from residual_smolvla_ros.nodes.parts.scene_reset import SceneReset
from residual_smolvla_ros.nodes.parts.schedule_parameters import make_schedule
from residual_smolvla_ros.parameters import About
from residual_smolvla_ros.records import EPISODE_EVENT, LABELS, REWARD, WEIGHTS, Record, pack
from residual_smolvla_ros.reporting.report import write_report
from residual_smolvla_ros.reporting.results import (
    append_outcome,
    last_episode,
    read_outcomes,
    read_run,
    save_frames,
    write_run,
)
from residual_smolvla_ros.reporting.table import format_table

TURN_S = 0.02
STALL_S = 30.0
# A node's publisher is there once it has loaded what it needs.
NEEDED_TOPICS = {"policy/step": "policy", "reward": "reward"}
# The recorder describes the session once it hears all that it is to record.
RECORDER_TOPICS = {"session": "recorder"}
# Nodes without which an episode cannot go on as it began.
ROBOT = "the robot's node"
PEERS = NEEDED_TOPICS | {"joint_states": ROBOT}
PEERS_S = 0.25
# A node that takes a dead one's place says, or hears, all rewards of before once more: those of
# the episode that was lost are not to be taken for the next one's.
QUIET_S = 2.0


class EpisodeNode(PipelineNode):
    """Play the episodes of a schedule, one after the other."""

    def __init__(self):
        super().__init__("episode")
        output = self.parameter("output", "", "folder of the run")
        if not output:
            raise ValueError("output: expected the folder of the run, found none")
        self._output = Path(output)
        self._others = OtherPipelines(self, output)
        self._resume = self.parameter("resume", False, "go on with the run in output")
        run_id = self.parameter("run_id", "", "a run in output that has it is gone on with")
        begun = read_run(self._output)
        self._takes_over = bool(run_id) and begun.get("run_id") == run_id
        self._trains = self.parameter("train", True, "train between the evaluations")
        base = self.parameter("base_checkpoint", "", "the base, for the report")
        judged = self.parameter(
            "judged", True, "whether a simulator knows failure too: no label is waited for"
        )
        unlabelled = self.parameter(
            "unlabelled",
            WAIT,
            About("what becomes of an episode without label", choices=UNLABELLED),
        )
        label_time = self.parameter(
            "label_time_s", 5.0, About("how long for a label, where `unlabelled` is not wait", 0)
        )
        recorded = self.parameter("recorded", False, "wait for the node recorder")
        self._fleet = self.parameter("fleet", False, "play what the node fleet says, and no report")
        autostart = self.parameter("autostart", True, "begin without episode/start")
        self._session = Session(
            join_fleet(self, self._go_on) if self._fleet else make_schedule(self, self._trains),
            Labelling(unlabelled, label_time),
            Listeners(self._publish_event, self._publish_active, self._keep),
            judged=judged,
            trains=self._trains,
            paused=not autostart,
        )
        seed = self._session.schedule.seed
        begun = begun if self._takes_over else {"trained": 0, "episode": 0}
        self._begun = begun | {"seed": seed, "base_checkpoint": base, "run_id": run_id}
        write_run(self._output, self._begun)
        self._needed = NEEDED_TOPICS | (RECORDER_TOPICS if recorded else {})
        self._frames: list = []
        self._state = ""
        self._hears_policy = False
        self._peers = Peers(self, PEERS)
        self._hears_again, self._rewarded_at = self._takes_over, time.monotonic()

        self._events = self.record_publisher("episode/event")
        self._active = self.create_publisher(Bool, "episode/active", LATCHED_QOS)
        self._reset = SceneReset(self, self._on_scene_set, self._on_scene_awaited)
        self.record_subscription(REWARD, "reward", self._on_reward)
        self.record_subscription(WEIGHTS, "learner/weights", self._on_weights, LATCHED_QOS)
        self.create_subscription(Image, "spectator/image_raw", self._on_frame, image_qos(True))
        self.create_subscription(Bool, "intervention/active", self._on_intervention, LATCHED_QOS)
        self._states = self.create_publisher(String, "episode/state", LATCHED_QOS)
        requests = {"start": self._session.start, "stop": self._session.stop}
        requests |= {label: partial(self._session.label, label) for label in LABELS}
        for name, request in requests.items():
            self.create_service(Trigger, f"episode/{name}", partial(self._on_request, request))
        self.create_timer(TURN_S, self._go_on)
        self.create_timer(1.0, self._watch)
        self.create_timer(PEERS_S, self._look_at_peers)
        if self._takes_over:
            self._others.settle()
            if not self._trains:
                self._take_over()

    # -- the life of an episode -------------------------------------------------------------

    def _on_weights(self, record: Record) -> None:
        first = self._session.take_weights(record.metadata["version"], record.metadata["progress"])
        if first and self._takes_over:
            self._take_over()
        elif first and self._resume:
            # Training episodes after the checkpoint are played again.
            trained = self._session.schedule.training_episodes
            outcomes, last = read_outcomes(self._output, trained), last_episode(self._output)
            self._session.restore(outcomes, last)
            self._begun |= {"trained": trained, "episode": last}
            write_run(self._output, self._begun)

    def _take_over(self) -> None:
        """Go on where a node died that had this one's place: all others are as they were."""
        begun = self._begun
        outcomes = read_outcomes(self._output, begun["trained"], begun["episode"])
        self._session.take_over(outcomes, last_episode(self._output))

    def _look_at_peers(self) -> None:
        """Discard the episode that runs where a node that it needs was started anew."""
        for name in self._peers.renewed():
            discarded = self._session.interrupt(scene=name == ROBOT)
            if name == ROBOT:
                self._reset.forget()
            elif name == "reward":  # what it knew of the last step is gone
                discarded |= self._session.give_up_label()
                self._hears_again, self._rewarded_at = True, time.monotonic()
            self.get_logger().warning(
                f"{name} was started anew"
                + ("; the episode that ran is discarded, and played again" if discarded else "")
            )

    def _go_on(self) -> None:
        """Prepare the next episode as soon as all that it needs is there."""
        self._others.look()
        if not self._missing():
            self._hears_again = False
            self._others.settle()
            try:
                if self._session.prepare():
                    self._reset.ask()
            except StopIteration:
                self._finish()
        self._publish_state()

    def _missing(self) -> str:
        """Return what an episode cannot start without and is not there yet."""
        if self._session.version is None:
            return "weights from the learner (learner/weights)"
        for topic, node in self._needed.items():
            if not self.count_publishers(topic):
                return f"the node {node} ({topic})"
        if not self._hears_policy:
            # Else a takeover in the first moments goes unnoticed: discovery takes up to seconds.
            return "the node policy (intervention/active)"
        if self._hears_again and time.monotonic() - self._rewarded_at < QUIET_S:
            return "the end of the rewards of before"
        if self._fleet and not self._others.awaited:
            return self._session.schedule.awaited
        return self._others.awaited

    def _on_scene_set(self) -> None:
        self._frames = []
        self._session.begin()
        self._publish_state()

    def _on_scene_awaited(self, message: str) -> None:
        # A warning, so that the person who is waited for sees it.
        self.get_logger().warning(f"reset: {message}", throttle_duration_sec=5.0)
        self._session.progress_at = time.monotonic()

    def _on_reward(self, record: Record) -> None:
        self.tally("rewards")
        self._rewarded_at = time.monotonic()
        self._session.take_reward(record)
        if not self._session.running:
            self._go_on()

    def _on_request(self, request, _, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = request()
        self._publish_state()  # the timer goes on: the end of the run must not eat this answer
        return response

    def _on_intervention(self, message: Bool) -> None:
        self._session.person_drives = message.data
        self._hears_policy = True

    def _on_frame(self, message: Image) -> None:
        if self._session.running and self._session.plan.spectator:
            try:
                self._frames.append(from_image_message(message))
            except ValueError as error:  # the clip lacks this one
                self.refuse("spectator/image_raw", error)

    # -- what the session says --------------------------------------------------------------

    def _publish_event(self, fields: dict) -> None:
        waits = fields["event"] == "end" and not fields["label"]
        if waits and fields["reason"] != "labelled":
            self.get_logger().warning(
                f"episode {fields['episode']}: {fields['reason']}: label it by episode/success, "
                "failure or discard"
            )
        self._events.publish(to_message(pack(EPISODE_EVENT, **fields)))

    def _publish_active(self, active: bool) -> None:
        self._active.publish(Bool(data=active))

    def _keep(self, outcome: Outcome) -> None:
        append_outcome(self._output, outcome)
        if self._session.plan.spectator:
            save_frames(self._output, outcome.phase, self._frames)
        self.tally("episodes")

    def _publish_state(self) -> None:
        state = self._describe_state()
        # Nothing is said into the graph of another pipeline.
        if state != self._state and not self._others.is_looking:
            self._state = state
            self._states.publish(String(data=state))

    def _describe_state(self) -> str:
        """Return what a person who looks on wants to know."""
        session = self._session
        if session.running:
            return "running"
        if session.labelling.is_open:
            return "unlabelled"
        if session.paused:
            return "paused"
        if self._missing():
            return "starting"
        return "updating" if session.is_updating else "resetting"

    # -- supervision ------------------------------------------------------------------------

    def _waiting_for(self) -> str:
        if self._missing():
            return self._missing()
        session = self._session
        if session.labelling.awaits_label:
            return "a label: episode/success, failure or discard"
        if session.labelling.is_open:
            return "the label's reward: is the node reward running?"
        if session.paused:
            return "episode/start"
        if not session.running:
            if not self._reset.is_there:
                return "the service reset_environment"
            return "weights from the learner (an update), or a reset"
        return "rewards: is every node of policy, reward and the robot running?"

    def _watch(self) -> None:
        # Where nobody draws a progress bar (ros2 launch), this line is what a person sees.
        progress = describe_progress(self._session.schedule)
        if progress:
            self.get_logger().info(
                f"{progress}, update {self._session.version}", throttle_duration_sec=10.0
            )
        stalled = time.monotonic() - self._session.progress_at
        if stalled > STALL_S:
            self.get_logger().warning(
                f"waiting for {self._waiting_for()} since {stalled:.0f} s",
                throttle_duration_sec=STALL_S,
            )

    def status(self):
        """Report the phase and the episode."""
        plan, schedule = self._session.plan, self._session.schedule
        values = {
            "phase": plan.phase if plan else "",
            "training_episodes": str(schedule.training_episodes),
            "env_steps": str(schedule.env_steps),
        }
        return DiagnosticStatus.OK, self._describe_state(), values

    def _finish(self) -> None:
        self._states.publish(String(data="done"))
        self._events.wait_for_all_acked()
        if not self._fleet:
            self.get_logger().info(format_table(write_report(self._output)))
        raise SystemExit(0)


def main(args=None) -> None:
    """Entry point of the executable."""
    run(EpisodeNode, args)


if __name__ == "__main__":
    main()
