"""What the pipeline tells the recorder of a session, and where its bag goes."""

import itertools
import json
from collections.abc import Iterable
from pathlib import Path


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
