"""LeRobot's own configurations of robots, teleoperators and cameras, from plain values."""

import contextlib
import importlib
import pkgutil
from typing import TYPE_CHECKING

import draccus
from lerobot.utils.import_utils import register_third_party_plugins

from residual_smolvla_ros.errors import ConfigError

# Each is imported where it is asked for: a node of a camera does without robots, whose motors
# bring pandas.
if TYPE_CHECKING:
    from lerobot.cameras import CameraConfig
    from lerobot.robots import RobotConfig
    from lerobot.teleoperators import TeleoperatorConfig

# The ones most used first: a type registers where its module is imported, which takes time.
_COMMON = ("so_follower", "so_leader", "opencv")


def camera_config(values: dict) -> "CameraConfig":
    """Return the configuration of a camera: `type` and its fields, as a LeRobot user writes them.

    Raises ConfigError for an unknown type, a missing or an unknown field, or a wrong value.
    """
    return _decode("camera", "lerobot.cameras", "CameraConfig", values)


def robot_config(values: dict) -> "RobotConfig":
    """Return the configuration of a robot: `type` and its fields, as a LeRobot user writes them.

    Raises ConfigError for an unknown type, a missing or an unknown field, or a wrong value.
    """
    return _decode("robot", "lerobot.robots", "RobotConfig", values)


def teleop_config(values: dict) -> "TeleoperatorConfig":
    """Return the configuration of a teleoperator: `type` and its fields, as for LeRobot.

    Raises ConfigError for an unknown type, a missing or an unknown field, or a wrong value.
    """
    return _decode("teleop", "lerobot.teleoperators", "TeleoperatorConfig", values)


def register_robot(name: str) -> None:
    """Let LeRobot's own parser know a type of robot; raise ConfigError for an unknown one."""
    _find("robot", "lerobot.robots", "RobotConfig", name)


def register_camera(name: str) -> None:
    """Let LeRobot's own parser know a type of camera; raise ConfigError for an unknown one."""
    _find("camera", "lerobot.cameras", "CameraConfig", name)


def _find(what: str, package_name: str, kind_name: str, name: str):
    """Return LeRobot's class of configurations, where a type has been registered."""
    package = importlib.import_module(package_name)
    kind = getattr(package, kind_name)
    _register(kind, package, name)
    known = kind.get_known_choices()
    if name not in known:
        raise ConfigError(f"{what}: expected a type out of {', '.join(known)}, found {name!r}")
    return kind


def _decode(what: str, package_name: str, kind_name: str, values: dict):
    name = values.get("type")
    if not name:
        raise ConfigError(f"{what}: expected a type, as LeRobot names it, found {values}")
    kind = _find(what, package_name, kind_name, name)
    try:
        return draccus.decode(kind, values)
    except (draccus.utils.DraccusException, ValueError, TypeError) as error:
        # draccus says what is wrong in the first line, or in that of the error behind it.
        lines = [str(e).strip() for e in (error, error.__cause__) if e is not None]
        raise ConfigError(
            f"{what}: expected the fields of LeRobot's {name}, found {values}: "
            + "; ".join(" ".join(line.split()) for line in lines if line)
        ) from None


def _register(kind, package, name: str) -> None:
    modules = sorted(
        (module.name for module in pkgutil.iter_modules(package.__path__)),
        key=lambda module: (module not in _COMMON, module),
    )
    for module in modules:
        if name in kind.get_known_choices():
            return
        # A driver whose own packages are missing is not the one that is asked for.
        with contextlib.suppress(ImportError):
            importlib.import_module(f"{package.__name__}.{module}")
    if name not in kind.get_known_choices():
        register_third_party_plugins()
