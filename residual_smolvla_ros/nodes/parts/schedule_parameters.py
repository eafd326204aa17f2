"""The parameters of a schedule: of the node `episode`, and of `fleet` for several arms."""

from residual_smolvla_ros.learning.schedule import Schedule
from residual_smolvla_ros.nodes.common import PipelineNode
from residual_smolvla_ros.parameters import About

SCHEDULE = {
    "seed": (0, "seed of the training episodes"),
    "max_steps": (100, About("time limit of an episode in control steps", 1)),
    "eval_episodes": (100, About("held-out episodes of the evaluations before and after", 0)),
    "total_steps": (0, About("control steps to train for", 0)),
    "episode_limit": (0, About("training episodes at most; 0 is no limit", 0)),
    "validation_episodes": (0, About("episodes of each validation while training", 0)),
    "validation_every": (0, About("updates between validations; 0 is never", 0)),
    "evaluate_residual": (True, "evaluate base + residual, not the base alone"),
    "clip": (True, "record a clip of one held-out seed at the end"),
}


def make_schedule(node: PipelineNode, trains: bool = True) -> Schedule:
    """Declare the parameters on a node, and return the schedule of their values."""
    values = {name: node.parameter(name, *entry) for name, entry in SCHEDULE.items()}
    if not trains:
        values["total_steps"] = 0
    return Schedule(**values)
