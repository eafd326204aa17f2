"""The launch arguments of a pipeline, and how their text becomes values."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

DEMO_CHECKPOINT = Path(__file__).parent / "assets" / "pick_lift_base"
FINETUNE, EVALUATE = "finetune", "evaluate"
RESET = "reset_environment"
TRAJECTORY, ARRAY = "trajectory", "float64_multi_array"
UNLABELLED = ("wait", "failure", "discard")
RECORD, DESCRIBE = "true", "session"


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


def boolean(text: str) -> bool:
    """Return true or false from text; raise ValueError for anything else."""
    if text.lower() not in ("true", "false"):
        raise ValueError("true or false")
    return text.lower() == "true"


def whole_number(text: str) -> int:
    """Return a whole number from text; raise ValueError for anything else."""
    if not text.isdecimal():
        raise ValueError("a whole number, 0 or more")
    return int(text)


def count(text: str) -> int:
    """Return a whole number, 1 or more, from text; raise ValueError for anything else."""
    if not whole_number(text):
        raise ValueError("a whole number, 1 or more")
    return int(text)


def number(text: str) -> float:
    """Return a finite number from text; raise ValueError for anything else."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError("a number")
    return value


def check_new(folder: Path, name: str) -> None:
    """Raise ArgumentError if the folder that an argument names holds files."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArgumentError(f"{name}: expected a new or empty folder, found files in {folder}")


def names(text: str) -> tuple[str, ...]:
    """Return names from text that commas divide; none from an empty one."""
    return tuple(text.split(",")) if text else ()


def robots(text: str) -> tuple[str, ...]:
    """Return the namespaces of a fleet's arms; raise ValueError for what cannot be one."""
    found = tuple(text.split(",")) if text else ()
    fit = all(re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) for name in found)
    if not fit or len(set(found)) < len(found):
        raise ValueError("names of letters, digits and _, each once, as arm1,arm2")
    return found


def choice(*words: str) -> Callable[[str], str]:
    """Return what parses one of the words; it raises ValueError for anything else."""

    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"one of {', '.join(filter(None, words))}")
        return text

    return parse


def rerun_sink(text: str) -> str:
    """Return where a session is shown in rerun, "" if it is not; raise ValueError for others."""
    if text.lower() in ("true", "false"):
        return "viewer" if boolean(text) else ""
    if not re.fullmatch(r".+\.rrd|[^\s:/]+:\d+", text):
        raise ValueError("true, false, host:port or a file.rrd")
    return text


ARGUMENTS = (
    Argument("sim", "true", "the simulated SO101; false: the robot of the config", boolean),
    Argument("lockstep", "true", "simulate step by step; false: in real time", boolean),
    Argument(
        "camera_period_steps", "0", "lockstep: images every n steps; 0: when needed", whole_number
    ),
    Argument("config", "", "parameter file; default: config/sim.yaml or so101.yaml of the package"),
    Argument("base_checkpoint", str(DEMO_CHECKPOINT), "folder of the frozen SmolVLA checkpoint"),
    Argument("residual_checkpoint", "", "checkpoint or run folder whose residual to start from"),
    Argument("task", "Lift the red cube", "language instruction"),
    Argument("episodes", "0", "training episodes at most; 0: no limit", whole_number, (FINETUNE,)),
    Argument("total_steps", "150000", "control steps to train for", whole_number, (FINETUNE,)),
    Argument("rate_hz", "30", "control rate of the robot, 1 to 100", number),
    Argument("episode_time_s", "0", "length of an episode; 0: max_steps of the config", number),
    Argument(
        "command_type",
        TRAJECTORY,
        "trajectory, or float64_multi_array for a robot of your own",
        choice(TRAJECTORY, ARRAY),
    ),
    Argument(
        "executed_commands",
        "true",
        "whether a real robot publishes executed_command, as so101_bridge does",
        boolean,
    ),
    Argument("reset_time_s", "10", "time to set the robot's scene; < 0: until done", number),
    Argument("reset_service", RESET, "service that sets the scene; default: the robot's own"),
    Argument(
        "unlabelled", "wait", "episode without label: wait, failure or discard", choice(*UNLABELLED)
    ),
    Argument("console", "false", "serve a web page to run the session from", boolean),
    Argument(
        "rerun", "false", "show it in rerun: true, host:port of a viewer, or file.rrd", rerun_sink
    ),
    Argument("success_classifier", "", "LeRobot reward model that sees success; not in lockstep"),
    Argument("collect_frames", "", "dataset of labelled frames to write"),
    Argument(
        "record",
        "false",
        "true: write a bag; session: for a ros2 bag record of one",
        choice(RECORD, DESCRIBE, "false"),
    ),
    Argument("dataset", "", "LeRobotDataset to write; in lockstep with camera_period_steps:=1"),
    Argument("seed", "0", "seed of everything that is random in training", whole_number),
    Argument("eval_episodes", "200", "held-out episodes of an evaluation", whole_number),
    Argument("output", "", "folder of the run; default: outputs/<mode>-<date>-<time>"),
    Argument("device", "cpu", "torch device of SmolVLA"),
    Argument(
        "discovery",
        "",
        "who finds the nodes: localhost, subnet, system_default; default: this machine only",
        choice("", "localhost", "subnet", "system_default"),
    ),
    Argument("nodes", "", "nodes to start here, as a,b or all but -a,-b; default: all", names),
    Argument(
        "robots", "", "arms of a fleet, as arm1,arm2: one learner for all", robots, (FINETUNE,)
    ),
    Argument("respawn", "false", "start a node again that has died", boolean),
    Argument("resume", "false", "go on with the run in output", boolean, (FINETUNE,)),
)


def arguments(mode: str) -> tuple[Argument, ...]:
    """Return the arguments of finetune or evaluate."""
    return tuple(argument for argument in ARGUMENTS if mode in argument.modes)


def parse_arguments(mode: str, given: dict[str, str]) -> dict:
    """Return a value for every argument of finetune or evaluate, as `parse_values` does."""
    return parse_values(arguments(mode), given)


def parse_values(wanted: tuple[Argument, ...], given: dict[str, str]) -> dict:
    """Return a value for every wanted argument.

    Raises ArgumentError for an unknown name or a value that cannot be read.
    """
    known = {argument.name: argument for argument in wanted}
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
