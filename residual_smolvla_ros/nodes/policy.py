"""Node `policy`: frozen SmolVLA and residual, one command for each `joint_states` message."""

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, String

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.learning.acting import check_weights, take_weights
from residual_smolvla_ros.learning.schedule import EpisodePlan
from residual_smolvla_ros.nodes.common import (
    LATCHED_QOS,
    state_qos,
    to_message,
    to_nanoseconds,
)
from residual_smolvla_ros.nodes.common import main as run
from residual_smolvla_ros.nodes.parts.command_publisher import Command, CommandPublisher
from residual_smolvla_ros.nodes.parts.image_intake import ImageIntake
from residual_smolvla_ros.nodes.parts.intervention import Intervention
from residual_smolvla_ros.nodes.parts.joint_names import JointNames
from residual_smolvla_ros.nodes.parts.managed import ManagedNode
from residual_smolvla_ros.nodes.parts.plan_worker import PlanWorker
from residual_smolvla_ros.nodes.parts.policy_setup import PolicySetup
from residual_smolvla_ros.nodes.parts.policy_views import PolicyViews
from residual_smolvla_ros.nodes.parts.vision_worker import VisionWorker
from residual_smolvla_ros.policy.features import ResidualConfig
from residual_smolvla_ros.policy.residual_policy import PolicyStep
from residual_smolvla_ros.records import (
    ENVIRONMENT_STATE,
    EPISODE_EVENT,
    STEP,
    WEIGHTS,
    Record,
    pack,
)
from residual_smolvla_ros.robots.joints import read_joints
from residual_smolvla_ros.robots.units import lerobot_to_rad, rad_to_lerobot

# Without a command for so long, what it waits for is worth a warning.
WAIT_NS = 1_000_000_000


class PolicyNode(ManagedNode):
    """Answer states with commands while an episode is active; inactive, with none."""

    def __init__(self):
        super().__init__("policy")

    def configure(self) -> None:
        """Load SmolVLA, and hear what a step needs."""
        setup = PolicySetup(self)
        base, self._policy, self._joint_names = setup.policy.base, setup.policy, setup.joint_names
        self._lockstep, self._period_ns = setup.lockstep, setup.period_ns
        self._planner = PlanWorker(self._policy, self._lockstep, self._period_ns, setup.planning)
        self._vision = VisionWorker(self._policy, self._lockstep, self._period_ns)
        self._plan: EpisodePlan | None = None  # of the episode being played
        self._next_plan: EpisodePlan | None = None  # prepared, begins with its first state
        self._active = False
        self._new_weights: tuple[Record, ResidualConfig] | None = None
        self._environment: Record | None = None
        self._pending: JointState | None = None
        self._answered = 0
        self._waiting_for, self._told = "an episode", -1
        self._answer: Command | None = None

        self._topic_names = names = JointNames(self, self._joint_names).on_topics
        self._commands = CommandPublisher(self, names, self._period_ns, not self._lockstep)
        self._views = PolicyViews(self, names)
        self._person = Intervention(self, names, self._why_no_takeover)
        # In this order: an executor serves what is ready at the same time in order of creation.
        self.record_subscription(WEIGHTS, "learner/weights", self._on_weights, LATCHED_QOS)
        self.record_subscription(EPISODE_EVENT, "episode/event", self._on_event, LATCHED_QOS)
        self.create_subscription(String, "task", self._on_task, LATCHED_QOS)
        self.create_subscription(Bool, "episode/active", self._on_active, LATCHED_QOS)
        self.record_subscription(ENVIRONMENT_STATE, "environment/state", self._on_environment)
        self._images = ImageIntake(
            self, base.cameras, self._lockstep, lambda camera: self._try_tick()
        )
        self.create_subscription(
            JointState, "joint_states", self._on_joint_states, state_qos(self._lockstep)
        )

    def activate(self) -> None:
        """Let the next episode be played: `episode` waits for this topic."""
        self._steps = self.record_publisher("policy/step")

    def deactivate(self) -> None:
        """Leave the episode, whose step was not answered, to whoever labels it."""
        self.destroy_publisher(self._steps)
        self._plan = self._pending = self._answer = None
        self._person.end()

    def release(self) -> None:
        """Forget the weights."""
        self._policy = self._planner = self._vision = None

    def _on_weights(self, record: Record) -> None:
        self._new_weights = record, check_weights(record)
        self._try_tick()

    def _on_event(self, record: Record) -> None:
        if record.metadata["event"] == "prepare":
            self._next_plan = EpisodePlan.from_json(record.metadata["plan"])

    def _on_task(self, message: String) -> None:
        self._policy.task = message.data

    def _on_active(self, message: Bool) -> None:
        self._active = message.data
        if not message.data:
            self._person.end()

    def _why_no_takeover(self) -> str:
        return "" if self._active and self._plan is not None else "no episode is running"

    def _on_environment(self, record: Record) -> None:
        self._environment = record
        self._try_tick()

    def _on_joint_states(self, message: JointState) -> None:
        if not self.active:
            return
        stamp = to_nanoseconds(message.header.stamp)
        if stamp == self._answered:
            # A repeated state: its command was lost, or is still on its way.
            if self._answer is not None:
                self._commands.repeat(self._answer)
            return
        # Topics overtake each other: what tells the state that an episode ended in from the
        # first one of the next is that a reset takes longer than a control period.
        goes_on = 0 < stamp - self._answered < 2 * self._period_ns
        if not goes_on and (self._lockstep or self._next_plan is not None):
            if self._active and self._next_plan is not None:
                self._pending, self._plan = message, None
        elif self._plan is not None and (
            # The state at the time limit counts even if the episode's end overtook it.
            self._active or (goes_on and self._policy.tick >= self._plan.max_steps)
        ):
            if self._pending is not None and self._policy.tick and not self._lockstep:
                self.tally("missed_ticks")
            self._pending = message
        self._try_tick()

    def _try_tick(self) -> None:
        """Answer the pending state once all that it needs has arrived."""
        message = self._pending
        if message is None or not self.active or not self._begin():
            return
        stamp = to_nanoseconds(message.header.stamp)
        joints = self._read_joints(message)
        if joints is None:
            self._pending = None
            return
        state, extra = rad_to_lerobot(joints.pop("position"), self._joint_names), joints
        if self._policy.config.needs_environment:
            if self._environment is None or self._environment.metadata["stamp"] != stamp:
                self._waiting_for = "environment/state of the joint_states"
                return
            extra |= self._environment.tensors
        if self._policy.tick >= self._plan.max_steps:
            self._finish(stamp, state, extra)
            return
        if self._person.switch(stamp / 1e9, lerobot_to_rad(state, self._joint_names)):
            self._policy.replan()
        if not self._look(stamp, state):
            return
        step, positions, intervention = self._step(stamp / 1e9, state, extra)
        self._publish_command(message, stamp, positions)
        self._publish_step(stamp, step, intervention=intervention)
        self._look_ahead(stamp, state)
        if self._views.watched and not intervention:
            base = self._policy.base.unnormalise_action(step.base)
            self._views.publish(message.header.stamp, base, positions)

    def _swap(self) -> None:
        """Take new weights, if there are any."""
        if self._new_weights is not None:
            (record, config), self._new_weights = self._new_weights, None
            take_weights(self._policy, record, config)

    def _begin(self) -> bool:
        """Begin the prepared episode with the weights that it asks for; False until then."""
        if self._plan is not None:
            new = self._new_weights
            if new is not None and new[0].metadata["anytime"] and self._plan.is_training:
                self._swap()
            return True
        plan = self._next_plan
        self._swap()
        if self._policy.network is None or plan.weights_version > self._policy.version:
            self._waiting_for = f"weights of version {plan.weights_version}"
            return False
        self._person.end()
        self._planner.begin()
        self._vision.begin()
        self._policy.begin_episode(plan.seed, plan.max_steps, plan.use_residual, plan.explore)
        self._plan, self._next_plan = plan, None
        return True

    def _read_joints(self, message: JointState) -> dict[str, np.ndarray] | None:
        try:
            joints = read_joints(message, self._topic_names)
        except ConfigError as error:
            if not self._answered:  # the robot has other joints; later it is a stranger's message
                raise
            return self.refuse("joint_states", error)
        for name, values in joints.items():
            if not np.isfinite(values).all():
                return self.refuse("joint_states", f"expected finite {name}, found {values}")
        return joints

    def _look(self, stamp: int, state: np.ndarray) -> bool:
        """Take what has been planned and seen; False where the step has to wait for more."""
        try:
            self._planner.collect()
            self._vision.collect(stamp)
            # A person needs neither images nor a plan; features do, and those of before will do.
            begun = not self._policy.player.is_empty and self._policy.has_tokens
            led = self._person.drives and begun
            due = self._policy.plan_due if self._lockstep else self._policy.needs_plan
            plan = due and not led
            tokens = self._vision.due and (not led or self._images.fit(stamp, True))
            if not led and not self._images.fit(stamp, plan or tokens):
                self._tell_images(stamp)
                return False
            if plan and self._planner.idle:
                self._start_plan(stamp, state)
            if tokens:
                seen = self._images.snapshot()
                self._vision.see(seen.pixels(), seen.stamps, stamp)
                self.tally("tokens")
        except ValueError as error:  # a broken image: the next will do
            self.refuse("images", error)
            return False
        if not led and self._policy.needs_plan:
            self._waiting_for = "a plan"
            return False
        return True

    def _look_ahead(self, stamp: int, state: np.ndarray) -> None:
        """In real time: have what is due planned and encoded beside the next steps."""
        if self._lockstep or not self._images.fit(stamp, True):
            return
        if self._policy.plan_due and self._planner.idle and not self._person.drives:
            self._start_plan(stamp, state)
        if self._vision.idle:
            seen = self._images.snapshot()
            self._vision.start(seen.pixels, seen.stamps)
            self.tally("tokens")

    def _start_plan(self, stamp: int, state: np.ndarray) -> None:
        seen = self._images.snapshot()
        self._planner.start(seen.pixels, seen.stamps, state, stamp)
        self.tally("plans")

    def _tell_images(self, stamp: int) -> None:
        self._waiting_for = self._images.describe(stamp)
        if not self._lockstep and stamp - self._answered > WAIT_NS:
            self.get_logger().warning(
                f"no command: waiting for {self._waiting_for}", throttle_duration_sec=5.0
            )

    def _step(
        self, now: float, state: np.ndarray, extra: dict[str, np.ndarray]
    ) -> tuple[PolicyStep, np.ndarray, bool]:
        """Return the step, the positions to command in rad, and whether a person has a hand in."""
        if self._person.drives:
            positions = self._person.command(now)
            command = rad_to_lerobot(positions, self._joint_names)
            return self._policy.follow(command, state, extra), positions, True
        step = self._policy.step(state, extra)
        positions, blended = self._person.blend(
            now, lerobot_to_rad(step.command, self._joint_names)
        )
        if blended:
            command = rad_to_lerobot(positions, self._joint_names)
            step = self._policy.overrule(step, command, state)
        return step, positions, blended

    def _publish_command(self, message: JointState, stamp: int, positions: np.ndarray) -> None:
        command = self._commands.publish(message.header.stamp, positions)
        self._answered, self._answer, self._pending = stamp, command, None
        self._waiting_for = "joint_states"
        self.tally("commands")

    def _publish_step(
        self, stamp: int, step: PolicyStep, final: bool = False, intervention: bool = False
    ) -> None:
        names = ("features", "base", "residual", "command", "log_prob", "value")
        blob = pack(
            STEP,
            {name: getattr(step, name) for name in names},
            stamp=stamp,
            episode=self._plan.episode,
            tick=step.tick,
            weights_version=self._policy.version,
            decision=step.decision,
            final=final,
            intervention=intervention,
            token_age_ms=self._vision.age_ms(stamp),
            token_images=self._vision.used(),
            **self._planner.describe(step.plan, stamp),
        )
        self._steps.publish(to_message(blob))

    def _finish(self, stamp: int, state: np.ndarray, extra: dict[str, np.ndarray]) -> None:
        """At the time limit: publish the state that the critic bootstraps from; no command."""
        self._publish_step(stamp, self._policy.finish(state, extra), final=True)
        # A robot goes on publishing states: without a plan they are no longer this episode's.
        self._answered, self._answer, self._pending, self._plan = stamp, None, None, None

    def status(self):
        """Report what the next command waits for, and how old the images are."""
        values = {"weights_version": str(self._policy.version), "active": str(self._active)}
        values["driver"] = "person" if self._person.drives else "policy"
        values |= self._planner.status()
        oldest = self._images.oldest_stamp()
        if oldest is not None and not self._lockstep:
            age = self.now_ns() - oldest
            values["image_age_ms"] = f"{age / 1e6:.0f}"
        # Once a second: an episode that runs has had commands since.
        commands = self.counts.get("commands", 0) if self._active and not self._lockstep else -1
        stuck, self._told = 0 <= commands == self._told, commands
        level = DiagnosticStatus.WARN if stuck else DiagnosticStatus.OK
        return level, f"waiting for {self._waiting_for}", values


def main(args=None) -> None:
    """Entry point of the executable."""
    run(PolicyNode, args)


if __name__ == "__main__":
    main()
