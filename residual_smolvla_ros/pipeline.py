"""What a pipeline consists of, as plain data: arguments, nodes, parameters, environment.

`launch/*.launch.py` and the starter behind `residual-smolvla` both read this module.
"""

import math
import os
import sys
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from residual_smolvla_ros.arguments import (
    ARGUMENTS,
    FINETUNE,
    RECORD,
    RESET,
    ArgumentError,
    arguments,
    check_new,
    parse_arguments,
)
from residual_smolvla_ros.config_file import flatten, read_section, split_cameras
from residual_smolvla_ros.errors import CheckpointError, ConfigError
from residual_smolvla_ros.fleet_pipeline import spread
from residual_smolvla_ros.image_period import plan_steps, vision_steps
from residual_smolvla_ros.node_choice import check_commands, choose_nodes
from residual_smolvla_ros.node_spec import PACKAGE, NodeSpec
from residual_smolvla_ros.respawning import new_run_id
from residual_smolvla_ros.session_outline import dataset_folder, free_folder, needed_topics, outline

SIM_RATE_HZ = 30.0
DATASET_CLOSE_S = 600
# A network that is away for 10 s costs no record: what was under way comes again then.
REMOTE_SILENCE_S = 20.0
RANGE = "ROS_AUTOMATIC_DISCOVERY_RANGE"


@dataclass(frozen=True)
class Pipeline:
    """Nodes that come up together, and the environment that they need."""

    mode: str
    output: Path
    nodes: tuple[NodeSpec, ...]
    environment: dict[str, str] = field(default_factory=dict)
    values: dict = field(default_factory=dict)

    @property
    def followed(self) -> Path:
        """The folder whose episodes.jsonl tells how far it is: an arm's, where it is alone here."""
        spaces = {node.namespace for node in self.nodes}
        return self.output / spaces.pop() if len(spaces) == 1 else self.output

    @property
    def training_steps(self) -> int:
        """After how many control steps training ends at the latest, for a progress bar."""
        total, episodes = self.values.get("total_steps", 0), self.values.get("episodes", 0)
        steps = _episode_steps(self.values)
        return min(total, episodes * steps) if episodes and steps else total


def build(mode: str, given: dict[str, str]) -> Pipeline:
    """Return the pipeline for launch arguments as text; they win over those in the config.

    Raises ArgumentError, ConfigError or CheckpointError with one line; nothing has been written
    then.
    """
    config = config_path(parse_arguments(mode, given))
    in_file, devices = read_section(config)
    values = parse_arguments(mode, _arguments_of(mode, config, in_file) | given)
    checkpoint = Path(values["base_checkpoint"]).expanduser().resolve()
    steps = plan_steps(checkpoint, config, values["rate_hz"])
    output = output_folder(mode, values)
    residual = values["residual_checkpoint"]
    if residual and not Path(residual).expanduser().is_dir():
        raise CheckpointError(
            f"residual checkpoint {residual}: expected a folder, found no such folder"
        )
    executed = values["executed_commands"] and not values["sim"]
    training, lockstep = mode == FINETUNE, values["sim"] and values["lockstep"]
    files = (str(config),)
    if values["sim"]:
        look_steps = math.gcd(steps, vision_steps(config, residual, training))
        period = (values["camera_period_steps"] or look_steps) if lockstep else 1
        robot_nodes, cameras = _simulator(values, lockstep, period, files), ["front", "wrist"]
    else:
        period = 1
        robot_nodes, cameras = _robot(values, devices["robot"], files)
    policy = {
        "base_checkpoint": str(checkpoint),
        "residual_checkpoint": "" if training else residual,
        "device": values["device"],
        "task": values["task"],
        "cameras": cameras,
        "rate_hz": values["rate_hz"],
        "lockstep": lockstep,
        "wait_for_weights": training,
        "command_type": values["command_type"],
    }
    reward = {
        "environment": values["sim"],
        "executed_commands": executed,
        "cameras": cameras,
        "rate_hz": values["rate_hz"],
        "lockstep": lockstep,
        "camera_period_steps": period,
    }
    run = {"base_checkpoint": str(checkpoint), "output": str(output), "seed": values["seed"]}
    run["run_id"] = new_run_id(values)
    if training:
        run["resume"] = values["resume"]
    learner = run | {
        "residual_checkpoint": residual,
        "executed_commands": executed,
        "total_steps": values.get("total_steps", 0),
        "lockstep": lockstep,
    }
    if values["nodes"]:
        learner["silence_s"] = REMOTE_SILENCE_S
    is_recorded = values["record"] != "false" or bool(values["dataset"])
    episode = run | {"recorded": is_recorded} | _episode(values, training, bool(residual))
    own_reset = values["reset_service"]
    remaps = ((RESET, own_reset),) if own_reset != RESET else ()
    nodes = [
        *robot_nodes,
        NodeSpec("policy", policy, files),
        NodeSpec("reward", reward, files),
        *([NodeSpec("learner", learner, files)] if training else []),
        *_beside(values, devices["teleop"], robot_nodes[0].name, cameras, output, files),
        NodeSpec("episode", episode, files, remaps),
    ]
    if is_recorded:
        nodes.insert(0, _recorder(mode, values, cameras, output, run, nodes))
    if values.get("robots"):
        nodes = spread(nodes, values["robots"])
    nodes = choose_nodes(nodes, values["nodes"])
    check_commands(values["command_type"], robot_nodes[0].name, nodes)
    return Pipeline(mode, output, tuple(nodes), environment(discovery=values["discovery"]), values)


def _beside(values: dict, teleop: dict, robot: str, cameras, output: Path, files) -> list[NodeSpec]:
    """Return the nodes that a person or a reward model takes part through."""
    nodes = []
    if teleop:
        if not teleop.get("type"):
            raise ConfigError(
                f"config {files[0]}: expected a section teleop with a type, as LeRobot names it, "
                f"found {teleop}"
            )
        nodes.append(NodeSpec("teleop", flatten(teleop, "teleop"), files))
    if values["success_classifier"]:
        checkpoint = Path(values["success_classifier"]).expanduser().resolve()
        if not checkpoint.is_dir():
            raise CheckpointError(
                f"success_classifier: expected a folder, found no such folder: {checkpoint}"
            )
        parameters = {
            "checkpoint": str(checkpoint),
            "cameras": cameras,
            "device": values["device"],
            "task": values["task"],
        }
        nodes.append(NodeSpec("success_classifier", parameters, files))
    if values["collect_frames"]:
        folder = Path(values["collect_frames"]).expanduser().resolve()
        check_new(folder, "collect_frames")
        parameters = {"output": str(folder), "cameras": cameras, "task": values["task"]}
        nodes.append(NodeSpec("frame_collector", parameters, files))
    if values["sim"] and values["lockstep"]:
        if values["success_classifier"]:
            raise ArgumentError(
                "success_classifier: expected lockstep:=false, since it looks at images in real "
                "time, found lockstep:=true"
            )
        if values["collect_frames"] and not values["camera_period_steps"]:
            raise ArgumentError(
                "collect_frames: expected lockstep:=false or camera_period_steps:=3, found an "
                "image a plan only"
            )
    if values["console"]:
        parameters = {
            "robot": robot,
            "cameras": cameras,
            "output": str(output),
            "rate_hz": values["rate_hz"],
        }
        nodes.append(NodeSpec("console", parameters, files))
    if values["rerun"]:
        nodes.append(NodeSpec("rerun_viewer", {"sink": values["rerun"], "cameras": cameras}, files))
    return nodes


def _recorder(mode: str, values: dict, cameras, output: Path, run: dict, nodes) -> NodeSpec:
    """Return the node that writes a bag or a dataset of the session, or only describes it."""
    start = values["residual_checkpoint"] if mode == FINETUNE else ""
    parameters = {
        "session": outline(mode, values, nodes, run, start),
        "bag": str(free_folder(output / "bag")) if values["record"] == RECORD else "",
        "cameras": cameras,
        # A camera passes its own JPEG on; the simulator has none.
        "image_transport": "raw" if values["sim"] else "compressed",
        "needed": needed_topics(mode, values),
        "dataset": dataset_folder(values),
        "dataset_close_s": DATASET_CLOSE_S,
        "run_id": run["run_id"],
    }
    files = nodes[0].parameter_files
    if not values["dataset"]:
        return NodeSpec("recorder", parameters, files)
    return NodeSpec("recorder", parameters, files, end_s=DATASET_CLOSE_S + NodeSpec.end_s)


def _episode(values: dict, training: bool, has_residual: bool) -> dict:
    """Return what the node `episode` is to play."""
    parameters = {
        "train": training,
        "eval_episodes": values["eval_episodes"],
        "evaluate_residual": training or has_residual,
        "judged": values["sim"],
        "unlabelled": values["unlabelled"],
    }
    if training:
        parameters["total_steps"] = values["total_steps"]
        parameters["episode_limit"] = values["episodes"]
    if not values["sim"]:
        parameters["clip"] = False  # nobody films it
    if _episode_steps(values):
        parameters["max_steps"] = _episode_steps(values)
    return parameters


def _arguments_of(mode: str, config: Path, in_file: dict[str, str]) -> dict[str, str]:
    """Return the arguments of the mode that a config holds; it may hold those of all modes."""
    known = [argument.name for argument in ARGUMENTS if argument.name != "config"]
    unknown = [name for name in in_file if name not in known]
    if unknown:
        raise ArgumentError(
            f"config {config}: expected robot, teleop and arguments out of {', '.join(known)}, "
            f"found {', '.join(unknown)}"
        )
    names = {argument.name for argument in arguments(mode)}
    return {name: value for name, value in in_file.items() if name in names}


def _simulator(values: dict, lockstep: bool, period: int, files) -> list[NodeSpec]:
    if values["rate_hz"] != SIM_RATE_HZ:
        raise ArgumentError(
            f"rate_hz: expected {SIM_RATE_HZ:g} of the simulator, found {values['rate_hz']:g}"
        )
    parameters = {
        "lockstep": lockstep,
        "camera_period_steps": period,
        "seed": values["seed"],
    }
    return [NodeSpec("so101_sim", parameters, files)]


def _robot(values: dict, robot: dict, files) -> tuple[list[NodeSpec], list[str]]:
    """Return the nodes of the real robot and the names of its cameras."""
    if not robot.get("type"):
        raise ConfigError(
            f"config {files[0]}: expected a section robot with a type, as LeRobot names it, "
            f"found {robot or 'none'}"
        )
    arm, cameras = split_cameras(robot)
    bridge = {"rate_hz": values["rate_hz"], "reset_time_s": values["reset_time_s"]}
    nodes = [NodeSpec("so101_bridge", bridge | flatten(arm, "robot"), files)]
    for name, camera in cameras.items():
        parameters = {"name": name} | flatten(camera, "camera")
        nodes.append(NodeSpec("camera", parameters, files, node_name=f"camera_{name}"))
    return nodes, list(cameras)


def _episode_steps(values: dict) -> int:
    return round(values["episode_time_s"] * values["rate_hz"])


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


def config_path(values: dict) -> Path:
    """Return the parameter file of a run; raise ArgumentError if there is none."""
    text = values["config"]
    if not text:
        return share_directory() / "config" / ("sim.yaml" if values["sim"] else "so101.yaml")
    path = Path(text).expanduser().resolve()
    if not path.is_file():
        raise ArgumentError(f"config: expected a parameter file, found no such file: {text}")
    return path


def output_folder(mode: str, values: dict) -> Path:
    """Return a run's folder; raise ArgumentError if it holds files, or no run to resume."""
    text = values["output"] or f"outputs/{mode}-{datetime.now():%Y%m%d-%H%M%S}"
    output = Path(text).expanduser().resolve()
    resume = values.get("resume", False)
    if resume and not (output / "checkpoints").is_dir():
        raise ArgumentError(f"resume: expected a run in output, found none in {output}")
    if not resume and output.exists() and (not output.is_dir() or any(output.iterdir())):
        hint = "; give resume:=true to go on with it" if "resume" in values else ""
        raise ArgumentError(
            f"output: expected a new or empty folder, found files in {output}{hint}"
        )
    return output


def replay_environment() -> dict[str, str]:
    """Return what the node `replay` needs: a DDS that hears soon of what was taken."""
    return environment("fastdds_replay.xml")


def environment(profile_file: str = "", discovery: str = "") -> dict[str, str]:
    """Return what the nodes need in their environment; `discovery` alone wins over a user's."""
    local = discovery in ("", "localhost")
    profile_file = profile_file or ("fastdds.xml" if local else "fastdds_network.xml")
    profile = share_directory() / "config" / profile_file
    defaults = {
        "FASTRTPS_DEFAULT_PROFILES_FILE": str(profile),
        # Stays on this machine unless its user opens it.
        RANGE: "LOCALHOST",
        "MUJOCO_GL": "osmesa",
        # The nodes run side by side: more threads each only get into each other's way.
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }
    given = os.environ | ({RANGE: discovery.upper()} if discovery else {})
    return {name: given.get(name, value) for name, value in defaults.items()}
