"""What the node `policy` shows to those who look on: base and residual, joint by joint."""

from collections.abc import Sequence

import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import JointState

from residual_smolvla_ros.nodes.common import PipelineNode
from residual_smolvla_ros.robots.units import lerobot_to_rad


class PolicyViews:
    """Publish policy/base_action and policy/residual_action, in rad."""

    def __init__(self, node: PipelineNode, joint_names: Sequence[str]):
        self._names = joint_names
        self._base = node.create_publisher(JointState, "policy/base_action", 1)
        self._residual = node.create_publisher(JointState, "policy/residual_action", 1)

    @property
    def watched(self) -> bool:
        """Whether somebody listens."""
        return any(p.get_subscription_count() for p in (self._base, self._residual))

    def publish(self, stamp: Time, base: np.ndarray, positions: np.ndarray) -> None:
        """Show the base's action in LeRobot's units and, beside it, the command in rad."""
        base = lerobot_to_rad(base, self._names)
        self._publish(self._base, stamp, base)
        self._publish(self._residual, stamp, positions - base)

    def _publish(self, publisher, stamp: Time, position: np.ndarray) -> None:
        view = JointState(name=self._names, position=position.tolist())
        view.velocity = view.effort = [0.0] * len(position)
        view.header.stamp = stamp
        publisher.publish(view)
