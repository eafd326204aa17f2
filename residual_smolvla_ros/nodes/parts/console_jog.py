"""The console as the source of a person's targets, while there is no leader arm."""

import asyncio
import time

from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState

from residual_smolvla_ros.console.jog import Jog
from residual_smolvla_ros.console.state import ConsoleState
from residual_smolvla_ros.nodes.common import PipelineNode, to_stamp

TOPIC = "intervention/command"
RATE_HZ = 30.0
# So many targets that somebody could hear come before a takeover is asked for.
HEARD = 6
HEARD_S = 3.0


class JogPublisher:
    """Publish targets on intervention/command from `begin` to `end`.

    Both are for the ROS thread, the rest for any.
    """

    def __init__(self, node: PipelineNode, state: ConsoleState, speed: float):
        self._node = node
        self._state = state
        self._jog = Jog(speed)
        self._publisher = self._timer = None
        self._heard = 0

    @property
    def active(self) -> bool:
        """Whether the console publishes targets."""
        return self._publisher is not None

    def other_sources(self) -> bool:
        """Tell whether a leader arm, or another console, publishes targets."""
        return self._node.count_publishers(TOPIC) > self.active

    def begin(self) -> None:
        """Publish from now on, at first the positions that the joints have."""
        if self._publisher is not None:
            return
        self._heard = 0
        self._jog.clear()
        self._publisher = self._node.create_publisher(JointState, TOPIC, QoSProfile(depth=1))
        self._timer = self._node.create_timer(1.0 / RATE_HZ, self._publish)

    def end(self) -> None:
        """Publish no longer."""
        if self._publisher is None:
            return
        publisher, timer = self._publisher, self._timer
        self._publisher = self._timer = None
        self._node.destroy_timer(timer)
        self._node.destroy_publisher(publisher)

    async def until_heard(self) -> str:
        """Wait until somebody can have heard the targets; return why nobody has, or nothing."""
        end = time.monotonic() + HEARD_S
        while self._heard < HEARD:
            if time.monotonic() > end:
                lacks = "a node policy that hears it" if self._state.positions() else "joint_states"
                return f"{TOPIC}: expected {lacks}, found none"
            await asyncio.sleep(0.02)
        return ""

    def press(self, joint: str, direction: int) -> None:
        """Move a joint for a moment; raise ValueError where the console does not drive."""
        if not self.active:
            raise ValueError("expected the console to drive, found that it does not: take over")
        self._jog.press(joint, direction, time.monotonic())

    def rest(self) -> None:
        """Stay where the joints are."""
        self._jog.rest(self._state.positions())

    def _publish(self) -> None:
        targets = self._jog.targets(self._state.positions(), time.monotonic())
        if not targets:
            return
        message = JointState(name=list(targets), position=list(targets.values()))
        message.velocity = message.effort = [0.0] * len(targets)
        message.header.stamp = to_stamp(self._node.now_ns())
        self._publisher.publish(message)
        self._heard += self._publisher.get_subscription_count() > 0
