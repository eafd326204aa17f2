"""Fine-tune: evaluate the base, train a residual, evaluate both, report."""

from residual_smolvla_ros.launch_description import describe
from residual_smolvla_ros.pipeline import FINETUNE


def generate_launch_description():
    """Describe the pipeline that trains a residual."""
    return describe(FINETUNE)
