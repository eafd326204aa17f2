"""What `launch/view.launch.py` shows a session with: arguments, packages, the arm's description."""

import os
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

from residual_smolvla_ros.arguments import Argument, ArgumentError, boolean

VIEW = "view"
ARGUMENTS = (
    Argument("urdf", "", "URDF of the arm; default: the SO101's in the package so101-nexus"),
    Argument("rviz", "false", "start rviz2", boolean),
    Argument("foxglove", "false", "start foxglove_bridge, for Foxglove on port 8765", boolean),
    Argument("monitor", "false", "group diagnostics and show them in rqt_robot_monitor", boolean),
    Argument("use_sim_time", "false", "true for a simulation in lockstep", boolean),
)
# Packages of ROS 2, none on PyPI, by the argument that asks for them.
PACKAGES = {
    "rviz": ("rviz2",),
    "foxglove": ("foxglove_bridge",),
    "monitor": ("diagnostic_aggregator", "rqt_robot_monitor"),
}
# What foxglove_bridge lets a browser fetch by itself, and the arm's meshes.
PACKAGE_FILES = r"^package://(?:[-\w%]+/)*[-\w%.]+\.(?:dae|obj|png|stl|urdf)$"
MESH_FILES = r"^file://(?:/[-\w%.+]+)*\.stl$"


def wanted_packages(values: dict) -> list[str]:
    """Return the packages that the launch file needs for its arguments."""
    further = [name for argument, names in PACKAGES.items() if values[argument] for name in names]
    return ["robot_state_publisher", *further]


def check_packages(wanted: Iterable[str], installed: Iterable[str]) -> None:
    """Raise ArgumentError, in one line, that names the packages which are not there."""
    if missing := [name for name in wanted if name not in set(installed)]:
        distribution = os.environ.get("ROS_DISTRO", "<distribution>")
        debs = " ".join(f"ros-{distribution}-{name.replace('_', '-')}" for name in missing)
        raise ArgumentError(
            f"expected the package{'s' * (len(missing) > 1)} {', '.join(missing)}, found none: "
            f"apt install {debs}"
        )


def robot_description(urdf: Path) -> str:
    """Return a URDF with meshes by absolute file:// names: a viewer does not know its folder.

    Raises ArgumentError for a file that is no URDF.
    """
    try:
        root = ElementTree.parse(urdf).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise ArgumentError(f"urdf: expected a URDF file, found {error}: {urdf}") from None
    if root.tag != "robot":
        raise ArgumentError(f"urdf: expected an element robot, found {root.tag}: {urdf}")
    for mesh in root.iter("mesh"):
        name = mesh.get("filename", "")
        if "://" not in name:
            mesh.set("filename", (urdf.resolve().parent / name).as_uri())
    return ElementTree.tostring(root, encoding="unicode")
