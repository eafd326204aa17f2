"""The section `/**/pipeline` of a parameter file: launch arguments, and the devices to start."""

import re
from pathlib import Path

import yaml

from residual_smolvla_ros.errors import ConfigError

SECTION = "/**/pipeline"
# Written as a LeRobot user writes them: --robot.type=..., --teleop.type=...
DEVICES = ("robot", "teleop")
_CAMERA_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def read_section(file: Path) -> tuple[dict[str, str], dict[str, dict]]:
    """Return launch arguments as text, and the fields of each of DEVICES, empty where not there.

    Raises ConfigError where the file cannot be read or the section is not a mapping.
    """
    place = _read(file)
    for name in (SECTION, "ros__parameters"):
        place = {} if place is None else place
        if isinstance(place, dict):
            place = place.get(name, {})
    is_mapping = isinstance(place, dict)
    devices = {name: place.pop(name, {}) if is_mapping else None for name in DEVICES}
    if not all(isinstance(device, dict) for device in devices.values()):
        raise ConfigError(f"config {file}: expected mappings in {SECTION}, found something else")
    return {name: _text(value) for name, value in place.items()}, devices


def _read(file: Path):
    try:
        content = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        text = " ".join(str(error).split())
        raise ConfigError(f"config {file}: expected a YAML parameter file, found: {text}") from None
    return {} if content is None else content


def split_cameras(robot: dict) -> tuple[dict, dict[str, dict]]:
    """Return the robot without its cameras, and its cameras by name.

    Raises ConfigError for a camera that is no mapping or whose name cannot be a topic's.
    """
    cameras = robot.get("cameras") or {}
    if not isinstance(cameras, dict):
        raise ConfigError(f"robot.cameras: expected a mapping of names, found {cameras!r}")
    for name, camera in cameras.items():
        if not isinstance(camera, dict):
            raise ConfigError(f"robot.cameras.{name}: expected its fields, found {camera!r}")
        if not _CAMERA_NAME.fullmatch(str(name)):
            raise ConfigError(
                f"robot.cameras: expected names of letters, digits and _, found {name!r}"
            )
    return {key: value for key, value in robot.items() if key != "cameras"}, cameras


def flatten(values: dict, prefix: str) -> dict:
    """Return nested values under dotted names, as ROS 2 parameters; what is null is left out."""
    flat = {}
    for name, value in values.items():
        full = f"{prefix}.{name}"
        if isinstance(value, dict):
            flat |= flatten(value, full)
        elif value is not None:
            flat[full] = value
    return flat


def _text(value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def read_parameters(file: Path, node: str) -> dict:
    """Return a node's parameters: those of the sections `/**`, `/**/<node>` and `<node>`.

    Raises ConfigError where the file cannot be read, or a section is not a mapping.
    """
    return parameters_of(_read(file), file, node)


def parameters_of(content, file: Path | str, node: str) -> dict:
    """Return what `read_parameters` does, from the content of a file."""
    values: dict = {}
    if not isinstance(content, dict):
        raise ConfigError(f"config {file}: expected sections of nodes, found {content!r}")
    for section in ("/**", f"/**/{node}", f"/{node}", node):
        parameters = content.get(section, {})
        if isinstance(parameters, dict):
            parameters = parameters.get("ros__parameters", {})
        if not isinstance(parameters, dict):
            raise ConfigError(
                f"config {file}: expected ros__parameters in {section}, found {parameters!r}"
            )
        values |= parameters
    return values
