"""View: the arm in robot_state_publisher, and on request rviz, Foxglove and diagnostics."""

from residual_smolvla_ros.launch_description import describe_view


def generate_launch_description():
    """Describe the nodes that a running session is looked at with."""
    return describe_view()
