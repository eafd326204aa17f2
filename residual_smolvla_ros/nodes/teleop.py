"""Node `teleop`: a LeRobot leader arm -> the joint targets of a person who takes over.

`teleop.type` and the other `teleop.*` parameters are the fields of LeRobot's teleoperator. Targets
are published for as long as the leader can be read; `policy` takes them while a person drives.
"""

import contextlib

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool

from residual_smolvla_ros.nodes.common import LATCHED_QOS, PipelineNode, to_stamp
from residual_smolvla_ros.nodes.common import main as run
from residual_smolvla_ros.nodes.parts.joint_names import JointNames
from residual_smolvla_ros.parameters import About
from residual_smolvla_ros.robots.leader import RECONNECT_S, Leader
from residual_smolvla_ros.robots.servo_bus import DeviceLost

# `policy` takes targets that stay away for half a second for a leader that is lost.
MIN_RATE_HZ, MAX_RATE_HZ = 5.0, 200.0


class TeleopNode(PipelineNode):
    """Publish where a person holds the leader arm."""

    def __init__(self):
        super().__init__("teleop", automatically_declare_parameters_from_overrides=True)
        rate = self.parameter(
            "rate_hz", 60.0, About("how often the leader is read", MIN_RATE_HZ, MAX_RATE_HZ)
        )
        self._rate = rate
        self._leader = Leader(self.group("teleop", "the leader arm, as LeRobot's `--teleop.`"))
        self._names = JointNames(self, self._leader.joint_names).on_topics
        self._told: str | None = None  # the trouble that was logged last
        self._active = False
        self._targets = self.create_publisher(
            JointState, "intervention/command", QoSProfile(depth=1)
        )
        self.create_subscription(Bool, "intervention/active", self._on_active, LATCHED_QOS)
        # One that is not there may be plugged in later; a wrong calibration ends the node.
        with contextlib.suppress(DeviceLost):
            self._leader.connect()
        self.create_timer(1 / rate, self._tick)

    def _on_active(self, message: Bool) -> None:
        self._active = message.data

    def _tick(self) -> None:
        # Before the read: a target is never older than its stamp says.
        now = self.now_ns()
        target = self._leader.poll()
        self._tell()
        if target is None:
            return
        message = JointState(name=self._names, position=target.tolist())
        message.header.stamp = to_stamp(now)
        # Never empty: rclpy serialises empty arrays in a way that not every reader takes.
        message.velocity = message.effort = [0.0] * len(target)
        self._targets.publish(message)
        self.tally("targets")

    def _tell(self) -> None:
        """Log that the leader is there, or why not, when that changes."""
        trouble, told = self._leader.trouble, self._told
        self._told = trouble
        if trouble == told:
            return
        if trouble:
            held = "; the arm stays at the last target" if self._active else ""
            self.get_logger().error(
                f"leader lost: {trouble}{held}; trying every {RECONNECT_S:.0f} s"
            )
        else:
            names = ", ".join(self._leader.joint_names)
            self.get_logger().info(f"connected: {names} at {self._rate:g} Hz")

    def status(self):
        """Report whether the leader can be read, and whether a person drives with it."""
        leader = self._leader
        values = {"active": str(self._active), "errors_bus": str(leader.errors)}
        if leader.trouble:
            return DiagnosticStatus.ERROR, f"leader lost: {leader.trouble}", values
        return DiagnosticStatus.OK, "a person drives" if self._active else "targets come", values

    def close(self) -> None:
        """Close the port."""
        self._leader.close()


def main(args=None) -> None:
    """Entry point of the executable."""
    run(TeleopNode, args)


if __name__ == "__main__":
    main()
