"""Processors of the policy `residual_smolvla`: names, batch and device only."""

from lerobot.processor import (
    AddBatchDimensionProcessorStep,
    DeviceProcessorStep,
    RenameObservationsProcessorStep,
    make_policy_processor_pipelines,
)

from residual_smolvla_ros.lerobot_plugin.configuration_residual import BaseAndResidualConfig


def make_residual_smolvla_pre_post_processors(
    config: BaseAndResidualConfig, dataset_stats: dict | None = None
):
    """Return LeRobot's preprocessor and postprocessor; statistics are the base's own."""
    before = [
        RenameObservationsProcessorStep(rename_map={}),
        AddBatchDimensionProcessorStep(),
        DeviceProcessorStep(device=config.device),
    ]
    after = [DeviceProcessorStep(device="cpu")]
    return make_policy_processor_pipelines(input_steps=before, output_steps=after)
