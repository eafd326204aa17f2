"""Which nodes of a pipeline are started here: the others run on another machine."""

from residual_smolvla_ros.arguments import TRAJECTORY, ArgumentError


def choose_nodes(nodes: list, words: tuple[str, ...]) -> list:
    """Return the nodes that are named, or all but those that are named as `-name`.

    Raises ArgumentError for a name that no node has, for both kinds together, and where none is
    left.
    """
    known = [node.name for node in nodes]
    without = [word for word in words if word.startswith("-")]
    names = {word.removeprefix("-") for word in words}
    if names - set(known) or (without and len(without) < len(words)) or len(without) == len(known):
        raise ArgumentError(
            f"nodes: expected some of {', '.join(known)}, or some as -name to leave them out, "
            f"found {','.join(words)}"
        )
    return [node for node in nodes if not words or (node.name in names) != bool(without)]


def check_commands(command_type: str, robot: str, nodes: list) -> None:
    """Raise ArgumentError where the robot's node is among `nodes` and takes no such commands."""
    if command_type != TRAJECTORY and robot in [node.name for node in nodes]:
        raise ArgumentError(
            f"command_type: expected {TRAJECTORY}, as {robot} takes it, or nodes:=-{robot} and a "
            f"robot of your own, found {command_type}"
        )
