"""The learner of a session whose other nodes run on another machine, with `nodes:=-learner`."""

from residual_smolvla_ros.arguments import FINETUNE
from residual_smolvla_ros.launch_description import describe


def generate_launch_description():
    """Describe the learner alone; of a fleet give `nodes:=learner,fleet`."""
    return describe(FINETUNE, nodes="learner", discovery="subnet")
