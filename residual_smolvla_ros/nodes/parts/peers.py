"""Nodes that have been started anew, known by their publishers."""

from residual_smolvla_ros.nodes.common import PipelineNode


class Peers:
    """Look at who publishes some topics; `topics` are node names by topic.

    A node that was killed counts as a publisher until its lease ends, after 20 s: only another
    one beside it tells that it is back.
    """

    def __init__(self, node: PipelineNode, topics: dict[str, str]):
        self._node = node
        self._topics = topics
        self._known: dict[str, set[tuple]] = {topic: set() for topic in topics}

    def renewed(self) -> list[str]:
        """Return the nodes that another process has taken the place of since the last call."""
        found = []
        for topic, name in self._topics.items():
            infos = self._node.get_publishers_info_by_topic(self._node.resolve_topic_name(topic))
            known, new = self._known[topic], {tuple(info.endpoint_gid) for info in infos}
            if known and new - known:
                found.append(name)
            known |= new
        return found
