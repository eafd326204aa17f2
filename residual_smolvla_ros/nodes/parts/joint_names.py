"""What joints are called on topics, where a ROS 2 stack has other names than LeRobot."""

from collections.abc import Iterable, Sequence

from rclpy.parameter import Parameter

from residual_smolvla_ros.nodes.common import PipelineNode
from residual_smolvla_ros.robots.joints import names_on_topics


class JointNames:
    """The joints in one order: `lerobot` as the checkpoint knows them, `on_topics` as messages do.

    Declares the node's parameter ros_joint_names. Raises ConfigError where it is no name each.
    """

    def __init__(self, node: PipelineNode, lerobot: Sequence[str]):
        given = node.parameter(
            "ros_joint_names",
            Parameter.Type.STRING_ARRAY,
            "the joints' names on topics, in the same order; default: LeRobot's",
        )
        self.lerobot = tuple(lerobot)
        self.on_topics = names_on_topics(given or (), self.lerobot)
        self._known = dict(zip(self.on_topics, self.lerobot, strict=True))

    def translate(self, found: Iterable[str]) -> list[str]:
        """Return a message's names as LeRobot's; what is no joint's stays as it is."""
        return [self._known.get(name, name) for name in found]
