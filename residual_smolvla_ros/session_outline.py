"""What the pipeline tells the recorder of a session, and where its bag goes."""

import itertools
import json
from collections.abc import Iterable
from pathlib import Path

from residual_smolvla_ros.arguments import FINETUNE, TRAJECTORY, ArgumentError, check_new


def outline(mode: str, values: dict, nodes: Iterable, run: dict, start_checkpoint: str) -> str:
    """Return a session as JSON: arguments, nodes as NodeSpec, and what the run goes on from.

    The recorder completes it by what stands in the files (recording/session.py).
    """
    described = [
        {
            "name": node.name,
            "executable": node.executable,
            "parameters": node.parameters,
            "parameter_files": list(node.parameter_files),
            "remappings": [list(remap) for remap in node.remappings],
        }
        for node in nodes
    ]
    return json.dumps(
        {
            "mode": mode,
            "arguments": values,
            "nodes": described,
            "base_checkpoint": run["base_checkpoint"],
            "resumed": bool(run.get("resume")),
            "start_checkpoint": start_checkpoint,
        }
    )


def free_folder(folder: Path) -> Path:
    """Return the folder, or the first of <folder>_2, ... that is not there yet.

    A run that is resumed has a bag already.
    """
    others = (folder.with_name(f"{folder.name}_{number}") for number in itertools.count(2))
    return next(place for place in itertools.chain([folder], others) if not place.exists())


def needed_topics(mode: str, values: dict) -> list[str]:
    """Return the topics that a bag of the session has to hold."""
    simulated = values["sim"]
    wanted = {
        "joint_states": True,
        "joint_trajectory": values["command_type"] == TRAJECTORY,
        "policy/step": True,
        "reward": True,
        "episode/event": True,
        "environment/state": simulated,
        "executed_command": values["executed_commands"] and not simulated,
        "learner/weights": mode == FINETUNE,
    }
    return [topic for topic, is_needed in wanted.items() if is_needed]


def dataset_folder(values: dict) -> str:
    """Return the folder of the dataset to write, "" if there is to be none.

    Raises ArgumentError for one that holds files, and where steps would lack images.
    """
    if not values["dataset"]:
        return ""
    folder = Path(values["dataset"]).expanduser().resolve()
    check_new(folder, "dataset")
    if values["sim"] and values["lockstep"] and not 1 <= values["camera_period_steps"] <= 4:
        raise ArgumentError(
            "dataset: expected lockstep:=false or camera_period_steps:=1, since each step needs "
            f"an image, found camera_period_steps:={values['camera_period_steps']}"
        )
    return str(folder)
