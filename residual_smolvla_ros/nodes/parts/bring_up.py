"""Configure and activate the managed nodes of a launch file, one after the other."""

import asyncio
import os
from collections.abc import Sequence

from launch import LaunchContext
from launch_ros.actions import Node
from launch_ros.ros_adapters import get_ros_node
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState

POLL_S = 0.05


def is_secured() -> bool:
    """Tell whether SROS 2 is on: `launch` has no enclave then, and nodes configure themselves."""
    return os.environ.get("ROS_SECURITY_ENABLE", "").lower() == "true"


async def bring_up(context: LaunchContext, nodes: Sequence[Node]) -> None:
    """Configure and activate nodes in their order; shut down the first that cannot be.

    Its process ends with exit code 1 then, after a line that says why.
    """
    for node in nodes:
        for transition in ("configure", "activate"):
            if not await _change(context, node, transition):
                if not context.is_shutdown:
                    await _change(context, node, "shutdown")
                return


async def _change(context: LaunchContext, node: Node, transition: str) -> bool:
    """Return whether a node made a transition; False where launch ends before."""
    ros = get_ros_node(context)
    client = ros.create_client(ChangeState, f"{node.node_name}/change_state")
    try:
        while not client.service_is_ready():
            if context.is_shutdown:
                return False
            await asyncio.sleep(POLL_S)
        request = ChangeState.Request(transition=Transition(label=transition))
        answer = client.call_async(request)
        while not answer.done():
            if context.is_shutdown:
                return False
            await asyncio.sleep(POLL_S)
        return answer.result().success
    finally:
        ros.destroy_client(client)
