"""Replay: play a bag into the graph, or check a recorded session."""

from residual_smolvla_ros.launch_description import describe_replay


def generate_launch_description():
    """Describe the node that plays a bag, or the process that checks one."""
    return describe_replay()
