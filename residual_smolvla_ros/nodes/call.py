"""Call a std_srvs/Trigger service of a running pipeline where there is no `ros2 service call`."""

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from std_srvs.srv import Trigger

DISCOVERY_S = 5.0
ANSWER_S = 5.0


def call(service: str) -> tuple[bool, str]:
    """Return success and message of a service; raise ValueError if nobody answers."""
    context = Context()
    rclpy.init(context=context)
    node = rclpy.create_node("residual_smolvla_call", context=context)
    executor = SingleThreadedExecutor(context=context)
    try:
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
        future = client.call_async(Trigger.Request())
        executor.add_node(node)
        executor.spin_until_future_complete(future, ANSWER_S)
        if not future.done():
            raise ValueError(f"call: expected an answer of {service}, found none in {ANSWER_S} s")
        return future.result().success, future.result().message
    finally:
        node.destroy_node()
        context.try_shutdown()
