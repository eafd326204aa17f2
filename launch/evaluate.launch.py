"""Evaluate: the base alone against base + residual, on held-out seeds."""

from residual_smolvla_ros.arguments import EVALUATE
from residual_smolvla_ros.launch_description import describe


def generate_launch_description():
    """Describe the pipeline that only evaluates."""
    return describe(EVALUATE)
