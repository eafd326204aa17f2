"""The parameters of a schedule: of the node `episode`, and of `fleet` for several arms."""

from residual_smolvla_ros.learning.schedule import Schedule
from residual_smolvla_ros.nodes.common import PipelineNode

SCHEDULE = {
    "seed": (0, "seed of the training episodes"),
    "max_steps": (100, "time limit of an episode in control steps"),
    "eval_episodes": (100, "held-out episodes of the evaluations before and after"),
    "total_steps": (0, "control steps to train for"),
    "episode_limit": (0, "training episodes at most; 0 is no limit"),
    "validation_episodes": (0, "episodes of each validation while training"),
    "validation_every": (0, "updates between validations; 0 is never"),
    "evaluate_residual": (True, "evaluate base + residual, not the base alone"),
    "clip": (True, "record a clip of one held-out seed at the end"),
}


def make_schedule(node: PipelineNode, trains: bool = True) -> Schedule:
    """Declare the parameters on a node, and return the schedule of their values."""
    values = {name: node.parameter(name, *entry) for name, entry in SCHEDULE.items()}
    if not trains:
        values["total_steps"] = 0
    return Schedule(**values)
