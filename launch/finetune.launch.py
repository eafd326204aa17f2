"""Fine-tune: evaluate the base, train a residual, evaluate both, report."""

from residual_smolvla_ros.arguments import FINETUNE
from residual_smolvla_ros.launch_description import describe


def generate_launch_description():
    """Describe the pipeline that trains a residual."""
    return describe(FINETUNE)
