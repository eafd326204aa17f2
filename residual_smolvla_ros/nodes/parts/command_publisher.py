"""How the node `policy` tells a robot where its joints are to be."""

from collections.abc import Sequence

import numpy as np
from builtin_interfaces.msg import Duration, Time
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from residual_smolvla_ros.arguments import ARRAY, TRAJECTORY
from residual_smolvla_ros.nodes.common import CONTROL_QOS, PipelineNode, to_nanoseconds
from residual_smolvla_ros.parameters import About

NS = 1_000_000_000
# A state that seems older is of another clock.
MAX_AGE_NS = 10 * NS

Command = JointTrajectory | Float64MultiArray


class CommandPublisher:
    """Publish joint positions in rad, in the type that the node's parameter command_type names.

    `trajectory`: a trajectory of one point on joint_trajectory, as the bridge, the simulator and a
    joint_trajectory_controller take it: stamped as the state that it answers, to be reached
    command_time_s later. In real time, one that goes out later than that counts as late_commands:
    such a controller drops it. `float64_multi_array`: the bare positions on joint_commands, in the
    order of `names`, as a forward_command_controller takes them. Raises ConfigError for another
    type, or a time below 0 or above 1 s.
    """

    def __init__(
        self, node: PipelineNode, names: Sequence[str], period_ns: int, real_time: bool = False
    ):
        kind = node.parameter(
            "command_type",
            TRAJECTORY,
            About(f"{ARRAY}: for a forward_command_controller", choices=(TRAJECTORY, ARRAY)),
        )
        wanted = node.parameter(
            "command_time_s",
            0.0,
            About("when after its state a trajectory ends; 0: a control period", 0, 1),
        )
        self._time_ns = round(wanted * NS) or period_ns
        self._node, self._real_time = node, real_time
        self._names = list(names)
        self._duration = Duration(sec=self._time_ns // NS, nanosec=self._time_ns % NS)
        self._make = self._trajectory if kind == TRAJECTORY else self._array
        # Only what is published: the bridge follows nobody while it sees two publishers.
        if kind == TRAJECTORY:
            self._publisher = node.create_publisher(
                JointTrajectory, "joint_trajectory", CONTROL_QOS
            )
        else:
            self._publisher = node.create_publisher(
                Float64MultiArray, "joint_commands", CONTROL_QOS
            )

    def publish(self, stamp: Time, positions: np.ndarray) -> Command:
        """Publish positions (joints,) in answer to the state of that stamp; return the message."""
        command = self._make(stamp, positions.tolist())
        self._publisher.publish(command)
        if self._real_time:
            age = self._node.now_ns() - to_nanoseconds(stamp)
            if self._time_ns < age < MAX_AGE_NS:
                self._node.tally("late_commands")
        return command

    def repeat(self, command: Command) -> None:
        """Publish a message once more, as it was."""
        self._publisher.publish(command)

    def _trajectory(self, stamp: Time, positions: list[float]) -> JointTrajectory:
        point = JointTrajectoryPoint(positions=positions, time_from_start=self._duration)
        command = JointTrajectory(joint_names=self._names, points=[point])
        command.header.stamp = stamp
        return command

    @staticmethod
    def _array(stamp: Time, positions: list[float]) -> Float64MultiArray:
        return Float64MultiArray(data=positions)
