"""Which nodes of a pipeline are started here: the others run on another machine."""

from residual_smolvla_ros.arguments import TRAJECTORY, ArgumentError


def choose_nodes(nodes: list, words: tuple[str, ...]) -> list:
    """Return the nodes that are named, or all but those that are named as `-name`.

    A name is a node's, with its namespace, or the namespace of an arm of a fleet.
    Raises ArgumentError for a name that no node has, for both kinds together, and where none is
    left.
    """
    known = [node.full_name for node in nodes]
    spaces = {node.namespace for node in nodes if node.namespace}
    without = [word for word in words if word.startswith("-")]
    names = {word.removeprefix("-") for word in words}
    found = [
        node
        for node in nodes
        if not words or bool({node.full_name, node.namespace} & names) != bool(without)
    ]
    if names - {*known, *spaces} or (without and len(without) < len(words)) or not found:
        raise ArgumentError(
            f"nodes: expected some of {', '.join(known)}, or some as -name to leave them out, "
            f"found {','.join(words)}"
        )
    return found


def check_commands(command_type: str, robot: str, nodes: list) -> None:
    """Raise ArgumentError where the robot's node is among `nodes` and takes no such commands."""
    if command_type != TRAJECTORY and robot in [node.name for node in nodes]:
        raise ArgumentError(
            f"command_type: expected {TRAJECTORY}, as {robot} takes it, or nodes:=-{robot} and a "
            f"robot of your own, found {command_type}"
        )
