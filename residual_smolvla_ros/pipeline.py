"""What a pipeline consists of, as plain data: arguments, nodes, parameters, environment.

`launch/*.launch.py` and the starter behind `residual-smolvla` both read this module.
"""

import json
import os
import sys
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from residual_smolvla_ros.errors import CheckpointError

PACKAGE = "residual_smolvla_ros"
DEMO_CHECKPOINT = Path(__file__).parent / "assets" / "pick_lift_base"
FINETUNE, EVALUATE = "finetune", "evaluate"


class ArgumentError(ValueError):
    """A launch argument is unknown, or its value is not what it must be."""


@dataclass(frozen=True)
class Argument:
    """A launch argument: `parse` turns its text into a value."""

    name: str
    default: str
    help: str
    parse: type = str
    modes: tuple[str, ...] = (FINETUNE, EVALUATE)


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError("true or false")
    return text.lower() == "true"


def _count(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("a whole number, 0 or more")
    return int(text)


ARGUMENTS = (
    Argument("sim", "true", "the simulated SO101", _boolean),
    Argument("lockstep", "true", "simulate step by step; false: in real time", _boolean),
    Argument("config", "", "parameter file; default: config/sim.yaml of the package"),
    Argument("base_checkpoint", str(DEMO_CHECKPOINT), "folder of the frozen SmolVLA checkpoint"),
    Argument("residual_checkpoint", "", "checkpoint or run folder whose residual to start from"),
    Argument("task", "Lift the red cube", "language instruction"),
    Argument("episodes", "0", "training episodes at most; 0: no limit", _count, (FINETUNE,)),
    Argument("total_steps", "150000", "control steps to train for", _count, (FINETUNE,)),
    Argument("seed", "0", "seed of everything that is random in training", _count),
    Argument("eval_episodes", "200", "held-out episodes of an evaluation", _count),
    Argument("output", "", "folder of the run; default: outputs/<mode>-<date>-<time>"),
    Argument("device", "cpu", "torch device of SmolVLA"),
    Argument("resume", "false", "go on with the run in output", _boolean, (FINETUNE,)),
)


@dataclass(frozen=True)
class NodeSpec:
    """A node to start: executable, parameter files, parameters that win over the files."""

    executable: str
    parameters: dict
    parameter_files: tuple[str, ...] = ()
    remappings: tuple[tuple[str, str], ...] = ()

    @property
    def module(self) -> str:
        """Python module of the executable."""
        return f"{PACKAGE}.nodes.{self.executable}"


@dataclass(frozen=True)
class Pipeline:
    """Nodes that come up together, and the environment that they need."""

    mode: str
    output: Path
    nodes: tuple[NodeSpec, ...]
    environment: dict[str, str] = field(default_factory=dict)


def arguments(mode: str) -> tuple[Argument, ...]:
    """Return the arguments of finetune or evaluate."""
    return tuple(argument for argument in ARGUMENTS if mode in argument.modes)


def parse_arguments(mode: str, given: dict[str, str]) -> dict:
    """Return a value for every argument of the mode.

    Raises ArgumentError for an unknown name or a value that cannot be read.
    """
    known = {argument.name: argument for argument in arguments(mode)}
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ArgumentError(
            f"expected arguments out of {', '.join(known)}, found {', '.join(unknown)}"
        )
    values = {}
    for name, argument in known.items():
        text = given.get(name, argument.default)
        try:
            values[name] = argument.parse(text)
        except ValueError as error:
            raise ArgumentError(f"{name}: expected {error}, found {text!r}") from None
    return values


def build(mode: str, given: dict[str, str]) -> Pipeline:
    """Return the pipeline for launch arguments as text.

    Raises ArgumentError or CheckpointError with one line; nothing has been written then.
    """
    values = parse_arguments(mode, given)
    if not values["sim"]:
        raise ArgumentError("sim: expected true (no node of the real arm yet), found false")
    config = _config_file(values["config"])
    checkpoint = Path(values["base_checkpoint"]).expanduser().resolve()
    chunk_steps = _chunk_steps(checkpoint)
    output = _output_folder(mode, values)
    residual = values["residual_checkpoint"]
    if residual and not Path(residual).expanduser().is_dir():
        raise CheckpointError(
            f"residual checkpoint {residual}: expected a folder, found no such folder"
        )
    training, lockstep = mode == FINETUNE, values["lockstep"]
    files = (str(config),)

    def node(executable: str, **parameters) -> NodeSpec:
        return NodeSpec(executable, parameters, files)

    run = {"base_checkpoint": str(checkpoint), "output": str(output), "seed": values["seed"]}
    nodes = [
        node(
            "so101_sim",
            lockstep=lockstep,
            camera_period_steps=chunk_steps if lockstep else 1,
            seed=values["seed"],
        ),
        node(
            "policy",
            base_checkpoint=str(checkpoint),
            residual_checkpoint="" if training else residual,
            device=values["device"],
            task=values["task"],
            cameras=["front", "wrist"],
            lockstep=lockstep,
            wait_for_weights=training,
        ),
        node("reward"),
    ]
    episode = run | {"eval_episodes": values["eval_episodes"], "train": training}
    episode["evaluate_residual"] = training or bool(residual)
    if training:
        resume = {"resume": values["resume"]}
        nodes.append(node("learner", residual_checkpoint=residual, **run, **resume))
        episode |= resume | {
            "total_steps": values["total_steps"],
            "episode_limit": values["episodes"],
        }
    nodes.append(node("episode", **episode))
    return Pipeline(mode, output, tuple(nodes), _environment())


def share_directory() -> Path:
    """Return the folder that holds the package's `config`.

    It is the share folder of a ROS 2 workspace or of a Python environment, or the repository.
    """
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    places = [Path(p) / "share" / PACKAGE for p in [*prefixes, sys.prefix]]
    # An editable install has no share folder: its files are in the repository.
    places.append(Path(__file__).resolve().parents[1])
    for place in places:
        if (place / "config" / "fastdds.xml").is_file():
            return place
    raise ArgumentError(f"expected the package's config folder, found none in {places}")


def _config_file(text: str) -> Path:
    if not text:
        return share_directory() / "config" / "sim.yaml"
    path = Path(text).expanduser().resolve()
    if not path.is_file():
        raise ArgumentError(f"config: expected a parameter file, found no such file: {text}")
    return path


def _chunk_steps(checkpoint: Path) -> int:
    """Return after how many control steps the base plans anew: the simulator renders then."""
    file = checkpoint / "config.json"
    if not file.is_file():
        found = "no config.json in it" if checkpoint.is_dir() else "no such folder"
        raise CheckpointError(
            f"base checkpoint {checkpoint}: expected a folder with config.json, found {found}"
        )
    try:
        return int(json.loads(file.read_text())["n_action_steps"])
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(
            f"base checkpoint {checkpoint}: expected n_action_steps in config.json, found none"
        ) from None


def _output_folder(mode: str, values: dict) -> Path:
    text = values["output"] or f"outputs/{mode}-{datetime.now():%Y%m%d-%H%M%S}"
    output = Path(text).expanduser().resolve()
    resume = values.get("resume", False)
    if resume and not (output / "checkpoints").is_dir():
        raise ArgumentError(f"resume: expected a run in output, found none in {output}")
    if not resume and output.is_dir() and any(output.iterdir()):
        hint = "; give resume:=true to go on with it" if mode == FINETUNE else ""
        raise ArgumentError(
            f"output: expected a new or empty folder, found files in {output}{hint}"
        )
    return output


def _environment() -> dict[str, str]:
    profile = share_directory() / "config" / "fastdds.xml"
    defaults = {
        "FASTRTPS_DEFAULT_PROFILES_FILE": str(profile),
        # Stays on this machine unless its user opens it.
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "MUJOCO_GL": "osmesa",
        # The nodes run side by side: more threads each only get into each other's way.
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }
    return {name: os.environ.get(name, value) for name, value in defaults.items()}
