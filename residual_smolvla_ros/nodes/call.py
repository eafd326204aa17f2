"""Ask a running pipeline's nodes where there is no `ros2 service call` and no `ros2 param set`."""

import contextlib
from collections.abc import Iterator

import rclpy
import yaml
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.parameter_client import AsyncParameterClient
from std_srvs.srv import Trigger

DISCOVERY_S = 5.0
ANSWER_S = 5.0


@contextlib.contextmanager
def _asking() -> Iterator[Node]:
    context = Context()
    rclpy.init(context=context)
    node = rclpy.create_node("residual_smolvla_call", context=context)
    try:
        yield node
    finally:
        node.destroy_node()
        context.try_shutdown()


def _answer(node: Node, future, whom: str):
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    executor.spin_until_future_complete(future, ANSWER_S)
    if not future.done():
        raise ValueError(f"expected an answer of {whom}, found none in {ANSWER_S} s")
    return future.result()


def call(service: str) -> tuple[bool, str]:
    """Return success and message of a service; raise ValueError if nobody answers."""
    with _asking() as node:
        client = node.create_client(Trigger, service)
        if not client.wait_for_service(DISCOVERY_S):
            found = sorted(
                name
                for name, types in node.get_service_names_and_types()
                if "std_srvs/srv/Trigger" in types and name != client.service_name
            )
            raise ValueError(
                f"call: expected a service {service}, found {', '.join(found) or 'none at all'}"
            )
        answer = _answer(node, client.call_async(Trigger.Request()), service)
        return answer.success, answer.message


def set_parameter(name: str, parameter: str, text: str) -> tuple[bool, str]:
    """Give a node's parameter the value that a text means in YAML; return success and message.

    Raises ValueError if the node is not there or does not answer.
    """
    value = yaml.safe_load(text)
    with _asking() as node:
        client = AsyncParameterClient(node, name)
        if not client.wait_for_services(DISCOVERY_S):
            found = sorted(n for n in node.get_node_names() if n != node.get_name())
            raise ValueError(f"set: expected a node {name}, found {', '.join(found) or 'none'}")
        future = client.set_parameters([Parameter(parameter, value=value)])
        result = _answer(node, future, name).results[0]
        told = result.reason or f"{parameter}: {value}"
        return result.successful, told
