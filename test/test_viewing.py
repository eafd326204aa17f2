"""Files that other tools are given: they parse, and name what exists."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from residual_smolvla_ros import viewing
from residual_smolvla_ros.arguments import ArgumentError, parse_values
from residual_smolvla_ros.robots.units import JOINT_NAMES
from residual_smolvla_ros.robots.urdf import so101_urdf

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "config"
LAYOUT = json.loads((CONFIG / "foxglove_layout.json").read_text())
RVIZ = yaml.safe_load((CONFIG / "pipeline.rviz").read_text())
# Of robot_state_publisher, and of ROS itself.
NOT_OURS = {"robot_description", "rosout"}
# Names that stand for several in docs/reference.md.
GROUPS = {
    r"(front|wrist)/": "<camera>/",
    r"reward/terms/(success|environment)$": "reward/terms/<name>",
}


def published() -> dict[str, list[str]]:
    """Return what each node publishes, from docs/reference.md: a test compares it with the code."""
    _, *sections = (ROOT / "docs" / "reference.md").read_text().split("\n## Node `")
    lists = {part.partition("`")[0]: re.search("Publishes: (.+)", part) for part in sections}
    return {name: re.findall("`(.+?)`", line[1]) if line else [] for name, line in lists.items()}


def strings(values):
    """Return all texts in nested values."""
    if isinstance(values, dict):
        values = list(values.values())
    if isinstance(values, list):
        return [text for value in values for text in strings(value)]
    return [values] if isinstance(values, str) else []


def topics_in(values) -> set[str]:
    """Return the topics of a file by relative names, those of groups by the group's name."""
    found = {text.split(".")[0].removeprefix("/") for text in strings(values) if text[:1] == "/"}
    for group, name in GROUPS.items():
        found = {re.sub(group, name, topic) for topic in found}
    return found - NOT_OURS


@pytest.mark.parametrize(
    ("values", "some"),
    [
        (RVIZ["Visualization Manager"], {"<camera>/image_raw"}),
        (
            LAYOUT["configById"],
            {"<camera>/image_raw", "joint_states", "policy/base_action", "policy/residual_action",
             "reward/value", "reward/terms/<name>", "diagnostics", "episode/state"},
        ),
    ],
    ids=["pipeline.rviz", "foxglove_layout.json"],
)  # fmt: skip
def test_each_topic_is_one_that_a_node_publishes(values, some):
    found = {name.removeprefix("/") for names in published().values() for name in names}
    topics = topics_in(values)
    assert some <= topics
    assert topics - found - {"diagnostics"} == set()


def test_the_layout_places_each_panel_once_and_no_other():
    def panels(place):
        if isinstance(place, str):
            return [place]
        return panels(place["first"]) + panels(place["second"])

    assert sorted(panels(LAYOUT["layout"])) == sorted(LAYOUT["configById"])


def test_the_layouts_metrics_are_values_of_the_learner():
    found = set(re.findall(r'key==\\?"(\w+)', json.dumps(LAYOUT)))
    source = "".join(f.read_text() for f in (ROOT / "residual_smolvla_ros/learning").glob("*.py"))
    assert found
    assert {name for name in found if f'"{name}"' not in source} == set()


def test_the_layouts_joints_are_those_of_the_arm_in_their_order():
    for panel in ("Plot!joints", "Plot!base", "Plot!residual"):
        paths = LAYOUT["configById"][panel]["paths"]
        assert [path["label"] for path in paths] == list(JOINT_NAMES)
        assert [re.search(r"\[(\d)\]", p["value"])[1] for p in paths] == list("012345")


def test_each_node_falls_into_one_group_of_the_aggregator_in_any_namespace():
    """A status that no analyzer takes stands apart, under Other."""
    file = yaml.safe_load((CONFIG / "diagnostic_aggregator.yaml").read_text())
    groups = [v for v in file["analyzers"]["ros__parameters"].values() if isinstance(v, dict)]
    names = [*published(), "camera_front"]
    for name in [f"/{name}" for name in names] + [f"/arm1/{name}" for name in names]:
        # diagnostic_aggregator/src/generic_analyzer.cpp, match: std::regex_match, of the whole.
        taken = [g["path"] for g in groups if any(re.fullmatch(r, name) for r in g["regex"])]
        assert len(taken) == 1, (name, taken)


def test_the_description_names_meshes_that_a_viewer_finds_and_the_joints_of_joint_states():
    root = ElementTree.fromstring(viewing.robot_description(so101_urdf()))
    meshes = {mesh.get("filename") for mesh in root.iter("mesh")}
    assert meshes
    for mesh in meshes:
        assert re.fullmatch(viewing.MESH_FILES, mesh)
        assert Path(mesh.removeprefix("file://")).is_file()
    moving = {j.get("name") for j in root.findall("joint") if j.get("type") == "revolute"}
    assert moving == set(JOINT_NAMES)
    frame = RVIZ["Visualization Manager"]["Global Options"]["Fixed Frame"]
    assert frame in {link.get("name") for link in root.iter("link")}


@pytest.mark.parametrize("text", ["no XML", "<sdf/>", None])
def test_a_file_that_is_no_urdf_is_refused_with_one_line(tmp_path, text):
    file = tmp_path / "arm.urdf"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ArgumentError, match="urdf: expected") as caught:
        viewing.robot_description(file)
    assert "\n" not in str(caught.value)


def test_packages_that_are_missing_are_named_with_what_brings_them(monkeypatch):
    monkeypatch.setenv("ROS_DISTRO", "kilted")
    values = parse_values(viewing.ARGUMENTS, {"rviz": "true", "monitor": "true"})
    wanted = viewing.wanted_packages(values)
    viewing.check_packages(wanted, wanted)
    with pytest.raises(ArgumentError) as caught:
        viewing.check_packages(wanted, ["robot_state_publisher", "rviz2"])
    assert str(caught.value) == (
        "expected the packages diagnostic_aggregator, rqt_robot_monitor, found none: apt install "
        "ros-kilted-diagnostic-aggregator ros-kilted-rqt-robot-monitor"
    )
