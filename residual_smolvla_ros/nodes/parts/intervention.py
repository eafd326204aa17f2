"""A person's share in the node `policy`: services, targets, and who drives the arm."""

import time
from collections.abc import Callable, Sequence

import numpy as np
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from residual_smolvla_ros.nodes.common import LATCHED_QOS, PipelineNode
from residual_smolvla_ros.parameters import About
from residual_smolvla_ros.policy.handover import PERSON, Handover

# Targets that stay away for longer are a leader arm that was lost, or a page that was closed.
GAP_S = 0.5


class Intervention:
    """Take a person's joint targets and hand the arm over, from step to step.

    `refusal` returns why nobody can take over now, or "". Declares the node's parameter
    handover_s.
    """

    def __init__(self, node: PipelineNode, joint_names: Sequence[str], refusal: Callable[[], str]):
        handover = node.parameter(
            "handover_s", 1.0, About("time in which the arm changes hands", 0)
        )
        self._handover = Handover(handover)
        self._node = node
        self._joint_names = joint_names
        self._refusal = refusal
        self._wanted = self._anew = False
        self._target: np.ndarray | None = None
        self._heard_at = 0.0
        self._last: np.ndarray | None = None  # the last command of the episode, in rad
        self._active = node.create_publisher(Bool, "intervention/active", LATCHED_QOS)
        node.create_subscription(
            JointState, "intervention/command", self._on_target, QoSProfile(depth=1)
        )
        node.create_service(Trigger, "intervention/start", self._on_start)
        node.create_service(Trigger, "intervention/stop", self._on_stop)
        self._tell()

    @property
    def drives(self) -> bool:
        """Whether a person drives, as of the last `switch`."""
        return self._handover.driver == PERSON

    def switch(self, now: float, position: np.ndarray) -> bool:
        """Change hands where that was asked for; return whether the policy just got the arm back.

        Call it first in each step: `now` is the stamp in s, `position` (joints,) the state in rad.
        """
        if self._wanted and (not self.drives or self._anew):
            last = position if self._last is None else self._last
            self._handover.take(now, last, self._target)
        back = self.drives and not self._wanted
        if back:
            self._handover.give_back(now)
        self._anew = False
        if self.drives and self._silence() > GAP_S:
            self._node.get_logger().error(
                f"intervention/command: no target since {self._silence():.1f} s: the arm stays "
                "at the last one until intervention/stop",
                throttle_duration_sec=5.0,
            )
        return back

    def command(self, now: float) -> np.ndarray:
        """Return the command (joints,) in rad while a person drives."""
        self._last = self._handover.person(now, self._target)
        return self._last

    def blend(self, now: float, command: np.ndarray) -> tuple[np.ndarray, bool]:
        """Return the policy's command (joints,) in rad, and whether a handover changed it."""
        self._last, blended = self._handover.policy(now, command)
        return self._last, blended

    def end(self) -> None:
        """Give the arm back to the policy: an episode is over, or begins."""
        self._handover.end()
        self._last = None
        if self._wanted:
            self._wanted = False
            self._tell()

    def _silence(self) -> float:
        return time.monotonic() - self._heard_at

    def _on_target(self, message: JointState) -> None:
        positions = dict(zip(message.name, message.position, strict=False))
        values = np.array([positions.get(name, np.nan) for name in self._joint_names])
        if not np.isfinite(values).all():
            names = list(self._joint_names)
            reason = f"expected finite positions of {names}, found {positions}"
            self._node.refuse("intervention/command", reason)
            return
        # After a gap the target may be anywhere: the arm is handed over once more.
        self._anew = self._anew or self._silence() > GAP_S
        self._target, self._heard_at = values, time.monotonic()

    def _on_start(self, request: Trigger.Request, response: Trigger.Response):
        reason = self._refusal()
        if not reason and self._silence() > GAP_S:
            reason = (
                "expected targets on intervention/command, from a leader arm or the console, "
                "found none"
            )
        response.success, response.message = not reason, reason or "a person drives"
        if response.success and not self._wanted:
            self._wanted = True
            self._tell()
        return response

    def _on_stop(self, request: Trigger.Request, response: Trigger.Response):
        response.success = self._wanted
        response.message = "the policy drives" if self._wanted else "no person drives"
        self._wanted = False
        self._tell()
        return response

    def _tell(self) -> None:
        self._active.publish(Bool(data=self._wanted))
