"""Who may find the nodes, and what each may do: the discovery argument and the SROS 2 policy."""

from fnmatch import fnmatchcase
from pathlib import Path
from xml.etree import ElementTree

import pytest

from residual_smolvla_ros import pipeline, starter
from residual_smolvla_ros.arguments import ArgumentError
from residual_smolvla_ros.pipeline import NodeSpec
from residual_smolvla_ros.security import enclave

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "config" / "sros2_policy.xml"
POLICY = ElementTree.parse(FILE).getroot()


@pytest.fixture(scope="module")
def tool(reference_tool):
    """The module that writes the policy file."""
    return reference_tool("sros2")


def allowed(node: str, may: str) -> set[str]:
    """Return what an enclave's node may publish, subscribe, reply or request."""
    found = POLICY.findall(f".//enclave[@path='{enclave(node)}']//*[@{may}='ALLOW']/*")
    return {one.text for one in found}


def who_may(may: str, name: str) -> set[str]:
    """Return the nodes whose enclave allows a topic or a service."""
    paths = [of.get("path").rpartition("/")[2] for of in POLICY.iter("enclave")]
    return {node for node in paths if any(fnmatchcase(name, one) for one in allowed(node, may))}


# -- the policy file ------------------------------------------------------------------------


def test_the_policy_is_what_the_nodes_do_no_less_and_no_more(tool):
    """A topic that a node gained would be refused; one that it lost would stay open."""
    told = f"expected {FILE}, found another: run .venv/bin/python tools/reference/sros2.py"
    assert FILE.read_text() == tool.generate(), told


def test_a_topic_that_a_node_gains_or_loses_changes_the_policy(tool, monkeypatch):
    nodes = tool.read_nodes()
    reward = next(node for node in nodes if node.name == "reward")
    reward.publishes["joint_trajectory"] = "trajectory_msgs/JointTrajectory"
    monkeypatch.setattr(tool, "read_nodes", lambda: nodes)
    assert tool.generate() != FILE.read_text()
    del reward.publishes["joint_trajectory"]
    assert tool.generate() == FILE.read_text()
    del reward.publishes["reward/value"]
    assert tool.generate() != FILE.read_text()


def test_only_the_policy_may_command_the_arm():
    assert who_may("publish", "joint_trajectory") == {"policy"}
    assert who_may("publish", "joint_commands") == {"policy"}
    assert who_may("publish", "learner/weights") == {"learner"}
    assert who_may("publish", "episode/active") == {"episode"}
    assert who_may("publish", "joint_states") == {"so101_bridge", "so101_sim"}


def test_parameters_of_a_node_are_set_by_nobody():
    """The services are there, as in each node of ROS 2; no enclave may call them."""
    assert who_may("reply", "~/set_parameters") >= {"policy", "so101_bridge", "console"}
    assert who_may("request", "so101_bridge/set_parameters") == set()


@pytest.mark.parametrize("node", ["camera", "console", "rerun_viewer", "recorder", "keyboard"])
def test_who_looks_on_can_publish_nothing_that_moves_the_arm(node):
    moving = ("joint_trajectory", "joint_commands", "episode/active", "policy/step", "reward")
    assert [n for n in moving if any(fnmatchcase(n, one) for one in allowed(node, "publish"))] == []


def test_a_name_that_stands_for_several_is_told_or_is_an_error(tool):
    with pytest.raises(LookupError, match="add them to SEVERAL"):
        tool.expand(["<unknown>/x"])


def test_every_node_of_a_pipeline_is_started_in_an_enclave_of_the_policy(tmp_path):
    paths = {of.get("path") for of in POLICY.iter("enclave")}
    given = {"output": str(tmp_path / "run"), "console": "true", "record": "true"}
    for spec in pipeline.build("finetune", given).nodes:
        words = starter.command(spec, tmp_path)
        assert words[words.index("--enclave") + 1] in paths
        assert words.index("--enclave") > words.index("--ros-args")


def test_cameras_share_an_enclave_whatever_their_names(tmp_path):
    words = starter.command(NodeSpec("camera", {}, node_name="camera_left"), tmp_path)
    assert words[words.index("--enclave") + 1] == enclave("camera")
    profile = POLICY.find(f".//enclave[@path='{enclave('camera')}']//profile")
    assert fnmatchcase("camera_left", profile.get("node"))


# -- who finds the nodes --------------------------------------------------------------------


def discovery(monkeypatch, folder: Path, in_environment: str, **given: str) -> str:
    monkeypatch.delenv(pipeline.RANGE, raising=False)
    if in_environment:
        monkeypatch.setenv(pipeline.RANGE, in_environment)
    return pipeline.build("evaluate", given | {"output": str(folder)}).environment[pipeline.RANGE]


@pytest.mark.parametrize(
    ("in_environment", "given", "expected"),
    [
        ("", {}, "LOCALHOST"),
        ("SUBNET", {}, "SUBNET"),
        ("", {"discovery": "subnet"}, "SUBNET"),
        ("", {"discovery": "system_default"}, "SYSTEM_DEFAULT"),
        ("SUBNET", {"discovery": "localhost"}, "LOCALHOST"),
    ],
)
def test_nodes_are_found_on_this_machine_only_until_someone_says_otherwise(
    in_environment, given, expected, monkeypatch, tmp_path
):
    assert discovery(monkeypatch, tmp_path / "run", in_environment, **given) == expected


def test_a_range_that_ros_does_not_know_is_refused(monkeypatch, tmp_path):
    with pytest.raises(ArgumentError, match="discovery: expected one of localhost, subnet"):
        discovery(monkeypatch, tmp_path / "run", "", discovery="local")
