"""What a bag of a session holds: its topics, and the description that explains the run."""

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import yaml

from residual_smolvla_ros.config_file import parameters_of
from residual_smolvla_ros.errors import BagError, ConfigError
from residual_smolvla_ros.recording.bag_reader import SESSION, Bag

STRING, BOOL = "std_msgs/msg/String", "std_msgs/msg/Bool"
JOINTS, RECORD = "sensor_msgs/msg/JointState", "std_msgs/msg/UInt8MultiArray"
RAW_IMAGE, IMAGE = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
# What is recorded, as (topic, kind), beside the images.
RECORDED = (
    (SESSION, STRING),
    ("task", STRING),
    ("learner/weights", RECORD),
    ("episode/event", RECORD),
    ("episode/active", BOOL),
    ("episode/state", STRING),
    ("intervention/active", BOOL),
    ("environment/state", RECORD),
    ("joint_states", JOINTS),
    ("joint_trajectory", "trajectory_msgs/msg/JointTrajectory"),
    ("executed_command", JOINTS),
    ("policy/step", RECORD),
    ("reward", RECORD),
    ("success/estimate", RECORD),
    ("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray"),
    ("/rosout", "rcl_interfaces/msg/Log"),
)
PACKAGES = ("residual_smolvla_ros", "lerobot", "torch", "numpy", "rosbags", "mcap")


def image_topic(camera: str) -> str:
    """Return the topic that a camera's images stand under in a bag."""
    return f"{camera}/image_raw/compressed"


@dataclass(frozen=True)
class Session:
    """How a run was started.

    `nodes` holds name, executable, parameters and remappings of each node, `parameter_files` the
    content of their files by path, `base_checkpoint` its path and the sha256 of its weights.
    `start_checkpoint` is the residual that the run began with, "" if it began with a new one.
    """

    mode: str
    arguments: dict
    nodes: list[dict]
    parameter_files: dict[str, str]
    versions: dict[str, str]
    base_checkpoint: dict[str, str]
    resumed: bool
    start_checkpoint: str

    def to_json(self) -> str:
        """Return the session as text."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Session":
        """Return the session in a text; raise BagError if it is not one of this package."""
        try:
            values = json.loads(text)
            names = {field.name for field in fields(cls)}
            if missing := sorted(names - values.keys()):
                raise BagError(
                    f"{SESSION}: expected a session of this package, found one without "
                    f"{', '.join(missing)}"
                )
            return cls(**{name: values[name] for name in names})
        except (json.JSONDecodeError, AttributeError, RecursionError):
            raise BagError(
                f"{SESSION}: expected a session of this package, found other text"
            ) from None

    def parameters(self, executable: str) -> dict:
        """Return a node's parameters under dotted names, as its files and the pipeline set them.

        Parameters that the node was left to choose itself are not among them. Raises BagError
        where the session had no such node.
        """
        for node in self.nodes:
            if node["executable"] == executable:
                break
        else:
            found = ", ".join(node["executable"] for node in self.nodes)
            raise BagError(f"{SESSION}: expected a node {executable}, found {found}")
        values: dict = {}
        for file in node["parameter_files"]:
            content = yaml.safe_load(self.parameter_files[file]) or {}
            values |= _flatten(parameters_of(content, file, node["name"]))
        return values | node["parameters"]

    @property
    def cameras(self) -> list[str]:
        """The cameras of the robot."""
        return self.parameters("policy")["cameras"]


def describe(outline: str) -> Session:
    """Return the session of an outline as `pipeline.outline` writes it, completed from the files.

    Raises ConfigError where a file that the outline names cannot be read.
    """
    values = json.loads(outline)
    checkpoint = values.pop("base_checkpoint")
    files = {file for node in values["nodes"] for file in node["parameter_files"]}
    try:
        texts = {file: Path(file).read_text() for file in sorted(files)}
        sha256 = _sha256(Path(checkpoint) / "model.safetensors")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"session: expected files to describe it by, found {error}") from None
    return Session(
        **values,
        parameter_files=texts,
        versions=_versions(),
        base_checkpoint={"path": checkpoint, "sha256": sha256},
    )


def read_session(bag: Bag) -> Session:
    """Return the description in a bag; raise BagError where there is none."""
    if bag.topics.get(SESSION) != STRING:
        raise BagError(
            f"bag {bag.path}: expected a session of this package, found no topic {SESSION} of "
            f"{STRING}"
        )
    first = next(bag.messages([SESSION]))
    return Session.from_json(bag.decode(first).data)


def find_base(session: Session, named: str = "") -> tuple[Path, bool]:
    """Return the folder of the base, and whether it is the session's.

    Another one is taken only where it is `named`. Raises BagError where there is none.
    """
    known = session.base_checkpoint
    path = Path(named or known["path"]).expanduser()
    weights = path / "model.safetensors"
    if not weights.is_file():
        raise BagError(
            f"base_checkpoint: expected the session's base (sha256 {known['sha256'][:12]}), "
            f"found no model.safetensors in {path}"
        )
    found = _sha256(weights)
    if found != known["sha256"] and not named:
        raise BagError(
            f"base_checkpoint: expected the session's base (sha256 {known['sha256'][:12]}), found "
            f"another one (sha256 {found[:12]}) in {path}; base_checkpoint:=<folder> takes one on "
            "purpose"
        )
    return path, found == known["sha256"]


def recorded_topics(cameras: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return all topics that a session's bag may hold, as (topic, kind)."""
    return (*RECORDED, *((image_topic(camera), IMAGE) for camera in cameras))


def _flatten(values: dict, prefix: str = "") -> dict:
    flat = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a ROS 2 workspace knows it by package.xml only
            found[name] = ""
    return found
