"""Node `rerun_viewer`: the session in rerun, as LeRobot's own loops show theirs."""

from functools import partial

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from residual_smolvla_ros.nodes.common import PipelineNode, image_qos, to_nanoseconds
from residual_smolvla_ros.nodes.common import main as run
from residual_smolvla_ros.nodes.parts.image_intake import TRANSPORT, TRANSPORTS
from residual_smolvla_ros.nodes.parts.joint_names import JointNames
from residual_smolvla_ros.nodes.parts.rerun_log import VIEWER, Moment, RerunLog
from residual_smolvla_ros.parameters import About
from residual_smolvla_ros.records import REWARD, Record
from residual_smolvla_ros.robots.units import JOINT_NAMES, rad_to_lerobot

# Who looks on is to hold nobody up.
WATCH_QOS = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)


class RerunViewerNode(PipelineNode):
    """Log images, joints, base, residual, reward and metrics, the newest of each."""

    def __init__(self):
        super().__init__("rerun_viewer")
        sink = self.parameter("sink", VIEWER, "viewer, host:port of one elsewhere, or a new *.rrd")
        rate = self.parameter("rate_hz", 30.0, About("how often what is new is logged", above=0))
        cameras = self.parameter("cameras", ["front", "wrist"], "cameras to show, by topic name")
        transport = self.parameter("image_transport", "raw", TRANSPORT)
        names = self.parameter("joint_names", list(JOINT_NAMES), "joints of the robot")
        self._names = JointNames(self, names)
        self._type, topic, self._decode = TRANSPORTS[transport]
        self._images: dict[str, bytes] = {}
        self._moment = Moment()
        self._skipped = 0
        self._log = RerunLog(sink)
        for name in cameras:
            receive = partial(self._images.__setitem__, name)
            qos = image_qos(lockstep=False)
            self.create_subscription(self._type, f"{name}/{topic}", receive, qos, raw=True)
        self.create_subscription(JointState, "joint_states", self._on_state, WATCH_QOS)
        self.create_subscription(JointState, "policy/base_action", self._on_base, WATCH_QOS)
        self.create_subscription(JointState, "policy/residual_action", self._on_residual, WATCH_QOS)
        self.create_subscription(JointTrajectory, "joint_trajectory", self._on_command, WATCH_QOS)
        self.record_subscription(REWARD, "reward", self._on_reward, WATCH_QOS)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self.create_timer(1 / rate, self._show)

    def _joints(self, names, positions) -> dict[str, float]:
        """Return positions by LeRobot's keys, in its units."""
        names = self._names.translate(names)
        values = rad_to_lerobot(positions, tuple(names)).tolist() if len(positions) else []
        return {f"{name}.pos": value for name, value in zip(names, values, strict=False)}

    def _on_state(self, message: JointState) -> None:
        self._moment.stamp = to_nanoseconds(message.header.stamp)
        self._moment.observation |= self._joints(message.name, message.position)

    def _on_command(self, message: JointTrajectory) -> None:
        if message.points:
            positions = message.points[0].positions
            self._moment.action |= self._joints(message.joint_names, positions)

    def _on_base(self, message: JointState) -> None:
        self._moment.plots["base"] = self._joints(message.name, message.position)

    def _on_residual(self, message: JointState) -> None:
        # A difference: the zero of LeRobot's gripper is not that of the joint.
        zero = self._joints(message.name, [0.0] * len(message.name))
        found = self._joints(message.name, message.position)
        self._moment.plots["residual"] = {key: found[key] - zero[key] for key in found}

    def _on_reward(self, record: Record) -> None:
        names = record.metadata["names"]
        terms = {f"terms.{n}": v for n, v in zip(names, record["terms"].tolist(), strict=False)}
        self._moment.plots["reward"] = {"value": float(record["reward"]), **terms}

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name.rpartition("/")[2] == "learner":
                self._moment.plots["metrics"] = _numbers(status)

    def _show(self) -> None:
        """Hand over what is new; while rerun takes nothing, it is dropped for what is newer."""
        for name in list(self._images):
            data = self._images.pop(name)
            try:
                message = deserialize_message(data, self._type)
                self._moment.observation[name] = self._decode(message)
            except Exception as error:  # rclpy has an error of its own here
                self.refuse(name, error)
        if self._moment and self._log.add(self._moment):
            self.tally("moments")
            self._moment = Moment()

    def status(self):
        """Report whether rerun takes what is logged."""
        skipped, self._skipped = self._log.skipped - self._skipped, self._log.skipped
        values = {"skipped": str(self._skipped)}
        if skipped:
            return DiagnosticStatus.WARN, "rerun takes less than there is: is it open?", values
        return DiagnosticStatus.OK, "logging", values

    def close(self) -> None:
        """Log the rest."""
        self._log.close()


def _numbers(status: DiagnosticStatus) -> dict[str, float]:
    """Return the values of a status that are numbers."""
    found = {}
    for value in status.values:
        try:
            found[value.key] = float(value.value)
        except ValueError:
            continue
    return found


def main(args=None) -> None:
    """Entry point of the executable."""
    run(RerunViewerNode, args)


if __name__ == "__main__":
    main()
