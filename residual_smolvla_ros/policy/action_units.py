"""LeRobot's normalisation of a checkpoint as the affine map that it is."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from lerobot.processor import PolicyProcessorPipeline
from lerobot.processor.converters import policy_action_to_transition, transition_to_policy_action
from lerobot.utils.constants import POLICY_POSTPROCESSOR_DEFAULT_NAME
from safetensors import SafetensorError

from residual_smolvla_ros.errors import CheckpointError


def affine(function: Callable, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return scale and offset (size,), float32, of a normalisation or of its inverse.

    Each of LeRobot's normalisations is affine: two points give it, whatever its mode.
    """
    offset = function(torch.zeros(1, size)).cpu().double().squeeze(0)
    scale = function(torch.ones(1, size)).cpu().double().squeeze(0) - offset
    return scale.float().numpy(), offset.float().numpy()


class ActionUnits:
    """Turn a checkpoint's normalised actions into LeRobot's units, without loading its network.

    Raises CheckpointError where the folder does not hold the postprocessor of a policy.
    """

    def __init__(self, checkpoint: Path, size: int):
        file = f"{POLICY_POSTPROCESSOR_DEFAULT_NAME}.json"
        if not (checkpoint / file).is_file():  # LeRobot would look for it on the hub
            raise CheckpointError(
                f"base checkpoint {checkpoint}: expected a folder with {file}, found none"
            )
        try:
            postprocess = PolicyProcessorPipeline.from_pretrained(
                checkpoint,
                config_filename=file,
                overrides={"device_processor": {"device": "cpu"}},
                to_transition=policy_action_to_transition,
                to_output=transition_to_policy_action,
            )
            self._scale, self._offset = affine(postprocess, size)
        except (OSError, RuntimeError, KeyError, ValueError, SafetensorError) as error:
            found = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise CheckpointError(
                f"base checkpoint {checkpoint}: expected a postprocessor for {size} joints, "
                f"found: {found}"
            ) from None

    def unnormalise(self, action: np.ndarray) -> np.ndarray:
        """Turn normalised actions (..., joints) into LeRobot's units, float32."""
        return np.asarray(action, dtype=np.float32) * self._scale + self._offset
