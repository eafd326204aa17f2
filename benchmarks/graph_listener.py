"""What a listener on the pipeline's topics sees of its control loop; for control_loop.py."""

import time

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import UInt8MultiArray
from trajectory_msgs.msg import JointTrajectory

from residual_smolvla_ros.nodes.common import CONTROL_QOS, RECORD_QOS, to_nanoseconds
from residual_smolvla_ros.records import STEP, unpack


class Listener:
    """Note when each command arrives, and what each step tells of its plan."""

    def __init__(self):
        rclpy.init()
        self._node = Node("control_loop_listener")
        self._arrived: dict[int, int] = {}  # by the stamp of the state that it answers, ns
        self._steps: dict[int, dict[int, float]] = {}  # age of the plan in ms by episode and stamp
        self._states: set[int] = set()  # stamps
        self._node.create_subscription(JointState, "joint_states", self._on_state, CONTROL_QOS)
        self._node.create_subscription(
            JointTrajectory, "joint_trajectory", self._on_command, CONTROL_QOS
        )
        self._node.create_subscription(UInt8MultiArray, "policy/step", self._on_step, RECORD_QOS)

    def _on_state(self, message: JointState) -> None:
        self._states.add(to_nanoseconds(message.header.stamp))

    def _on_command(self, message: JointTrajectory) -> None:
        self._arrived.setdefault(to_nanoseconds(message.header.stamp), time.time_ns())

    def _on_step(self, message: UInt8MultiArray) -> None:
        told = unpack(STEP, message.data).metadata
        if not told["final"]:
            self._steps.setdefault(told["episode"], {})[told["stamp"]] = told["plan_age_ms"]

    def spin(self, seconds: float) -> None:
        """Listen for a time."""
        end = time.monotonic() + seconds
        try:
            while (left := end - time.monotonic()) > 0:
                rclpy.spin_once(self._node, timeout_sec=left)
        except ExternalShutdownException:
            raise KeyboardInterrupt from None

    def accounts(self, success: dict[int, bool]) -> list[dict]:
        """Return accounts as those of the arm of LeRobot's loops, of the episodes named."""
        accounts = []
        for episode, solved in success.items():
            ages = self._steps[episode]
            stamps = sorted(ages)
            ticks = sum(stamps[0] <= stamp <= stamps[-1] for stamp in self._states | set(stamps))
            accounts.append(
                {
                    "ticks": ticks,
                    "missed": ticks - len(stamps),
                    "seconds": 1e-9 * (stamps[-1] - stamps[0]) * ticks / max(ticks - 1, 1),
                    "latency_s": [
                        1e-9 * (self._arrived[stamp] - stamp)
                        for stamp in stamps
                        if stamp in self._arrived
                    ],
                    # As old as when the command is at the arm.
                    "plan_age_s": [1e-3 * age for age in ages.values()],
                    "success": solved,
                }
            )
        return accounts

    def close(self) -> None:
        """Leave the graph."""
        self._node.destroy_node()
        rclpy.try_shutdown()
