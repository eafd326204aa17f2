"""Node `reward`: the reward, success and termination of every control step, term by term."""

from functools import partial

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Float32

from residual_smolvla_ros.nodes.common import (
    RECORD_QOS,
    PipelineNode,
    to_message,
    to_nanoseconds,
)
from residual_smolvla_ros.nodes.common import main as run
from residual_smolvla_ros.nodes.parts.image_intake import ImageIntake
from residual_smolvla_ros.nodes.parts.joint_names import JointNames
from residual_smolvla_ros.nodes.parts.reward_terms import RewardTerms
from residual_smolvla_ros.parameters import About
from residual_smolvla_ros.records import (
    ENVIRONMENT_STATE,
    EPISODE_EVENT,
    STEP,
    SUCCESS_ESTIMATE,
    Record,
    RecordError,
)
from residual_smolvla_ros.rewards.judge import REDUCE, Judge, Judged, make_terms
from residual_smolvla_ros.rewards.transition import Frame, NotReady, Pose
from residual_smolvla_ros.robots.joints import in_order, told
from residual_smolvla_ros.robots.units import JOINT_NAMES, lerobot_to_rad


class RewardNode(PipelineNode):
    """Answer each step with its reward once the following state is known."""

    def __init__(self):
        super().__init__("reward", automatically_declare_parameters_from_overrides=True)
        environment = self.parameter(
            "environment", True, "whether a simulator publishes environment/state"
        )
        executed = self.parameter(
            "executed_commands", False, "whether the robot reports what it executed"
        )
        self._joint_names = tuple(
            self.parameter("joint_names", list(JOINT_NAMES), "joints of the robot")
        )
        self._topic_names = JointNames(self, self._joint_names).on_topics
        cameras = self.parameter("cameras", ["front", "wrist"], "cameras that the robot has")
        rate = self.parameter("rate_hz", 30.0, About("control rate of the robot", 1, 100))
        lockstep = self.parameter("lockstep", True, "whether the simulator waits for commands")
        period = self.parameter(
            "camera_period_steps", 1, About("control steps between two images of a camera", 1)
        )
        self._terms = RewardTerms(
            self,
            environment,
            lambda terms: make_terms(terms, self._joint_names, cameras, rate, period),
        )
        # Its names and inputs stay as they are; `_judge.reward` is the one in force.
        self._reward = self._terms.reward
        self._judge = Judge(self._reward, environment, executed, lockstep)
        self._poses: dict[str, Pose] = {}

        self._rewards = self.record_publisher("reward")
        self._values = self.create_publisher(Float32, "reward/value", 1)
        self._shares = [
            self.create_publisher(Float32, f"reward/terms/{name}", 1) for name in self._reward.names
        ]
        self._subscribe(environment, environment and lockstep)
        # Declared in any case, so that a parameter file may hold them.
        self._images = ImageIntake(self, self._reward.cameras, lockstep)
        self._frames = {name: partial(self._frame, name) for name in self._reward.cameras}
        self.create_timer(0.25, self._answer)

    def _subscribe(self, environment: bool, lockstep: bool) -> None:
        needs = self._reward.needs
        if environment:
            self.record_subscription(ENVIRONMENT_STATE, "environment/state", self._on_environment)
        if "step" in needs or not lockstep:
            self.record_subscription(STEP, "policy/step", self._on_step)
        if "joints" in needs:
            # Deep: in lockstep the simulator does not wait for rewards.
            qos = QoSProfile(depth=RECORD_QOS.depth)
            self.create_subscription(
                JointState, "joint_states", self.matched("joint_states", self._on_state), qos
            )
        if "executed" in needs:
            take = self.matched("executed_command", self._on_executed)
            self.create_subscription(JointState, "executed_command", take, RECORD_QOS)
        for topic in self._reward.pose_topics:
            self.create_subscription(PoseStamped, topic, partial(self._on_pose, topic), 1)
        self.record_subscription(SUCCESS_ESTIMATE, "success/estimate", self._judge.take_estimate)
        self.record_subscription(EPISODE_EVENT, "episode/event", self._on_event)

    def change(self, values: dict) -> None:
        """Reward by other weights and settings from the next episode on."""
        self._judge.change(*self._terms.change(values))

    # -- what comes in ----------------------------------------------------------------------

    def _on_environment(self, record: Record) -> None:
        self._judge.join.add_environment(record)
        self._answer()

    def _on_step(self, record: Record) -> None:
        expected, found = len(self._joint_names), record["command"].shape[0]
        if found != expected:
            raise RecordError(
                f"step record: expected a command of {expected} joints, found {found}"
            )
        self._judge.join.add_step(record, lerobot_to_rad(record["command"], self._joint_names))
        self._answer()

    def _on_state(self, message: JointState) -> None:
        fields = (message.position, message.velocity, message.effort)
        values = [told(message.name, field, self._topic_names) for field in fields]
        self._judge.join.add_state(to_nanoseconds(message.header.stamp), *values)
        self._answer()

    def _on_executed(self, message: JointState) -> None:
        names, found = self._topic_names, message.name
        position = in_order(found, message.position, names, "executed_command")
        self._judge.join.add_executed(to_nanoseconds(message.header.stamp), position)
        self._answer()

    def _on_pose(self, topic: str, message: PoseStamped) -> None:
        at, header = message.pose.position, message.header
        self._poses[topic] = Pose(
            header.frame_id, to_nanoseconds(header.stamp), np.array([at.x, at.y, at.z])
        )

    def _frame(self, camera: str) -> Frame:
        stamp = self._images.stamp(camera)
        if stamp is None:
            raise NotReady(f"camera {camera}: expected an image, found none yet")
        return Frame(stamp, self._images.reduced(camera, REDUCE))

    # -- what goes out ----------------------------------------------------------------------

    def _answer(self) -> None:
        """Publish the reward of every step that is known by now."""
        for judged in self._judge.answer(frames=self._frames, poses=self._poses):
            for name in judged.shares.missing:
                self.tally(f"missing_{name}")
                self.get_logger().warning(
                    f"term {self._judge.reward.problems[name]}: the step is not learned from",
                    throttle_duration_sec=5.0,
                )
            self._publish(judged)
            self.tally("rewards")

    def _on_event(self, record: Record) -> None:
        """Give the last step of an episode the reward that its label calls for."""
        if not Judge.is_verdict(record):
            return
        judged = self._judge.label(record)
        if judged is None:
            self.get_logger().error(
                f"episode {record.metadata['episode']}: expected its last step, found none: "
                f"the label {record.metadata['label']} cannot be rewarded"
            )
            return
        self._publish(judged)

    def _publish(self, judged: Judged) -> None:
        self._rewards.publish(to_message(judged.pack()))
        shares = judged.shares
        if self._values.get_subscription_count():
            self._values.publish(Float32(data=float(shares.total)))
        for publisher, value in zip(self._shares, shares.values, strict=True):
            if publisher.get_subscription_count():
                publisher.publish(Float32(data=float(value)))

    def status(self):
        """Report steps whose inputs did not come, and what terms lack."""
        values = {"steps_incomplete": str(self._judge.join.incomplete)}
        values |= {f"weight/{n}": f"{w:.6g}" for n, w in self._judge.reward.weights.items()}
        problems = self._judge.reward.problems
        if problems:
            return DiagnosticStatus.WARN, "; ".join(problems.values()), values
        return DiagnosticStatus.OK, f"terms {', '.join(self._reward.names)}", values


def main(args=None) -> None:
    """Entry point of the executable."""
    run(RewardNode, args)


if __name__ == "__main__":
    main()
