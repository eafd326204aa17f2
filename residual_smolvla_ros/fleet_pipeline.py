"""The nodes of a fleet: those of one arm in the namespace of each, and one learner for all."""

from dataclasses import replace
from pathlib import Path

from residual_smolvla_ros.arguments import ArgumentError
from residual_smolvla_ros.config_file import read_parameters
from residual_smolvla_ros.node_spec import NodeSpec

LEARNER, EPISODE, FLEET, CONSOLE = "learner", "episode", "fleet", "console"
# What the node fleet takes over from the node episode of one arm.
OF_SCHEDULE = (
    "seed",
    "max_steps",
    "eval_episodes",
    "total_steps",
    "episode_limit",
    "validation_episodes",
    "validation_every",
    "evaluate_residual",
    "clip",
)
OF_RUN = ("output", "base_checkpoint", "resume")
# Each arm has a folder of its own in these.
FOLDERS = ("output", "bag", "dataset")
# The simulated arms' times are not the same.
OWN_CLOCK = (("/clock", "clock"),)
CONSOLE_PORT = 8080


def spread(nodes: list[NodeSpec], arms: tuple[str, ...]) -> list[NodeSpec]:
    """Return the nodes of a fleet, from those of a pipeline of one arm.

    Names stay relative: a namespace around the fleet moves all of it.
    """
    specs = {node.executable: node for node in nodes}
    taken = set(arms) & {node.name for node in nodes}
    if taken:
        raise ArgumentError(f"robots: expected other names than those of nodes, found {taken}")
    learner, episode = specs[LEARNER], specs[EPISODE]
    file = Path(episode.parameter_files[0])
    shared = {"robots": list(arms)}
    settings = read_parameters(file, EPISODE) | episode.parameters
    known = {name: settings[name] for name in (*OF_RUN, *OF_SCHEDULE) if name in settings}
    found = [
        replace(learner, parameters=learner.parameters | shared),
        replace(episode, executable=FLEET, parameters=known | shared, remappings=()),
    ]
    for number, arm in enumerate(arms):
        of_arm = [node for node in nodes if node is not learner]
        found += [_of_arm(node, arm, number, file) for node in of_arm]
    return found


def _of_arm(node: NodeSpec, arm: str, number: int, file: Path) -> NodeSpec:
    """Return a node in the namespace of an arm."""
    parameters = dict(node.parameters)
    for name in FOLDERS:
        if parameters.get(name):
            parameters[name] = str(Path(parameters[name]) / arm)
    if node.executable == EPISODE:
        kept = {n: value for n, value in parameters.items() if n not in OF_SCHEDULE}
        parameters = kept | {"fleet": True}
    if node.executable == CONSOLE:
        port = read_parameters(file, CONSOLE).get("port", CONSOLE_PORT)
        parameters["port"] = port + number if port else port
    remappings = (*node.remappings, *OWN_CLOCK)
    return replace(node, namespace=arm, parameters=parameters, remappings=remappings)
