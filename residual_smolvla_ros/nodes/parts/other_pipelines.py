"""Another pipeline in the same part of the graph: found before an episode begins, and named.

Two of them would command one arm, and each would answer the states of the other's. So each says on
`pipeline/identity` who it is; the one that came later ends, and the first goes on.
"""

import json
import os
import socket
import time
from dataclasses import asdict, dataclass

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import String

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.nodes.common import LATCHED_QOS, PipelineNode

IDENTITY = "pipeline/identity"
COMMANDS = ("joint_trajectory", "joint_commands")
# A process tells newcomers of itself every second by config/fastdds.xml, and every 3 s by another
# profile. Longer than that, and shorter than a policy takes to load.
LOOK_S = 4.0
# A node that was killed counts as there until its lease ends, after 20 s.
LEAVE_S = 25.0
LOOKING = "a look for another pipeline"
# Deep enough for those of several pipelines: one place would keep the last only.
HEARD_QOS = QoSProfile(
    depth=10,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


@dataclass(frozen=True, order=True)
class Identity:
    """Who a pipeline is, in the order in which they came: `started` is ns of the wall clock."""

    started: int
    host: str
    pid: int
    run: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, run {self.run}"

    @classmethod
    def from_json(cls, text: str) -> "Identity | None":
        """Return what was said, None if it says nobody: it may come from anyone."""
        try:
            values = json.loads(text[:4000])
            return cls(
                int(values["started"]),
                _plain(values["host"]),
                int(values["pid"]),
                _plain(values["run"]),
            )
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return None


def _plain(text) -> str:
    """Return text that fits into a line of a log."""
    return "".join(c if c.isprintable() else "?" for c in str(text)[:200])


class OtherPipelines:
    """Look for other pipelines until the first episode begins, and tell of those that come later.

    `awaited` is what no episode may begin before, "" once the graph is known to hold this pipeline
    alone. The look goes on beside the loading of the other nodes, and costs no time of its own.
    """

    def __init__(self, node: PipelineNode, run: str, look_s: float = LOOK_S):
        self._node, self._look_s = node, look_s
        self._me = Identity(time.time_ns(), socket.gethostname(), os.getpid(), run)
        self._others: set[Identity] = set()
        self._is_settled = False
        self._since = time.monotonic()
        self._found_at: float | None = None
        self.awaited = LOOKING
        said = node.create_publisher(String, IDENTITY, LATCHED_QOS)
        node.create_subscription(String, IDENTITY, self._on_identity, HEARD_QOS)
        said.publish(String(data=json.dumps(asdict(self._me))))

    @property
    def is_looking(self) -> bool:
        """Whether another pipeline may be there that has not been found yet."""
        return self.awaited == LOOKING

    def settle(self) -> None:
        """Take this pipeline for the only one from now on: those that come later end."""
        self._is_settled, self.awaited = True, ""

    def look(self) -> None:
        """Look once more; raise ConfigError if another pipeline was here first, or stays."""
        if self._is_settled:
            return
        now = time.monotonic()
        pipelines = self._publishers(IDENTITY)
        if len(pipelines) < 2:
            self._others.clear()
        found = self._name_pipelines(pipelines) or self._name_commanders()
        if not found:
            self._found_at = None
            self.awaited = "" if now - self._since >= self._look_s else LOOKING
            return
        if self._found_at is None:
            self._found_at = now
        waited = now - self._found_at
        # A pipeline that does not say who it is, and since when, is taken for the first.
        silent = len(pipelines) > 1 and not self._others and waited >= self._look_s
        if silent or (self._others and min(self._others) < self._me) or waited >= LEAVE_S:
            raise ConfigError(found)
        if self.awaited != found and (self._others or waited >= self._look_s):
            self.awaited = found
            self._node.get_logger().warning(f"waiting for it to leave: {found}")
        self.awaited = self.awaited or LOOKING

    def _name_pipelines(self, publishers: list[str]) -> str:
        """Return what pipelines there are beside this one, "" for none."""
        if len(publishers) < 2:
            return ""
        names = [str(other) for other in sorted(self._others)] or publishers
        domain, space = self._node.context.get_domain_id(), self._node.get_namespace()
        return (
            f"expected no other pipeline on ROS domain {domain} in namespace {space}, found "
            f"{'; '.join(names)}: end it, or give this one another ROS_DOMAIN_ID or namespace, or "
            "discovery:=localhost if it is on another machine"
        )

    def _name_commanders(self) -> str:
        """Return who commands the arm where there are several, "" if there are not."""
        for topic in COMMANDS:
            publishers = self._publishers(topic)
            if len(publishers) > 1:
                return (
                    f"expected one publisher of {self._node.resolve_topic_name(topic)}, found "
                    f"{', '.join(publishers)}: end the others, or give this pipeline another "
                    "ROS_DOMAIN_ID or namespace"
                )
        return ""

    def _publishers(self, topic: str) -> list[str]:
        """Return the full names of the nodes that publish a topic."""
        name = self._node.resolve_topic_name(topic)
        infos = self._node.get_publishers_info_by_topic(name)
        return [f"{info.node_namespace.rstrip('/')}/{info.node_name}" for info in infos]

    def _on_identity(self, message: String) -> None:
        other = Identity.from_json(message.data)
        if other is None or other == self._me:
            return
        self._others.add(other)
        if self._is_settled:
            self._node.get_logger().warning(
                f"a second pipeline has come, and ends by itself: {other}"
            )
