"""The launch files start what `pipeline.py` describes, and refuse what it refuses."""

import importlib.util
import json
import re

import launch_helpers as helpers
import psutil
import pytest
from graph import write_config

from residual_smolvla_ros import arguments, pipeline

NEEDED = ("launch", "launch_ros", "ros2launch")
# The repository's own folder `launch` is a module without an origin.
MISSING = [n for n in NEEDED if getattr(importlib.util.find_spec(n), "origin", None) is None]
pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"{', '.join(MISSING)} not installed: part of ROS 2, not on PyPI"
)
DOMAIN = 70
MODES = (arguments.FINETUNE, arguments.EVALUATE)


@pytest.fixture
def probes(tmp_path):
    """Return an ament prefix of probes and the environment that they need."""
    folder = tmp_path / "probes"
    folder.mkdir()
    prefix = helpers.install(tmp_path / "prefix", helpers.PROBE)
    return prefix, {"PROBE_FOLDER": str(folder), "ROS_DOMAIN_ID": str(DOMAIN)}


def launch_file(mode: str) -> str:
    return f"{mode}.launch.py"


@pytest.mark.parametrize("mode", MODES)
def test_show_args_lists_the_arguments_of_the_pipeline_and_no_others(mode, tmp_path):
    code, text = helpers.ros2_launch(launch_file(mode), "--show-args", prefix=tmp_path)
    assert code == 0, text
    shown = re.findall(r"^    '(\w+)':\n +(.*)\n +\(default: '(.*)'\)$", text, re.M)
    assert shown == [(a.name, a.help, a.default) for a in arguments.arguments(mode)]


def test_the_learner_of_another_machine_comes_alone_and_is_found_on_the_network(probes, tmp_path):
    prefix, environment = probes
    environment |= {"PROBE_NODES": "", "PROBE_DIES": "learner"}
    helpers.ros2_launch(
        "remote_learner.launch.py",
        f"output:={tmp_path / 'run'}",
        prefix=prefix,
        environment=environment,
    )
    (learner,) = helpers.read_probes(tmp_path / "probes").values()
    assert learner["node"] == "/learner"
    assert learner["environment"]["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "SUBNET"


@pytest.mark.parametrize(
    ("mode", "word", "expected", "found"),
    [
        ("finetune", "speed:=3", "base_checkpoint", "speed"),
        ("evaluate", "total_steps:=5", "eval_episodes", "total_steps"),
        ("finetune", "seed:=three", "whole number", "three"),
        ("finetune", "config:=none.yaml", "parameter file", "none.yaml"),
        ("evaluate", "base_checkpoint:=/nowhere", "config.json", "no such folder"),
        ("evaluate", "residual_checkpoint:=/nowhere", "a folder", "no such folder"),
    ],
)
def test_a_wrong_argument_is_refused_in_one_line_before_any_node_starts(
    mode, word, expected, found, tmp_path
):
    output = tmp_path / "run"
    code, text = helpers.ros2_launch(launch_file(mode), word, f"output:={output}", prefix=tmp_path)
    errors = [line for line in text.splitlines() if line.startswith("[ERROR]")]
    assert code != 0
    assert len(errors) == 1
    assert expected in errors[0]
    assert found in errors[0]
    assert "process started" not in text
    assert not output.exists()


@pytest.mark.parametrize(
    ("mode", "robot"), [*((mode, {}) for mode in MODES), (MODES[0], helpers.ROBOT)]
)
def test_each_node_gets_what_the_pipeline_describes(mode, robot, probes, tmp_path):
    prefix, environment = probes
    # Texts that YAML reads as something else, and a file that sets what the arguments set.
    given = robot | {"task": "1", "seed": "7", "output": str(tmp_path / "20260101")}
    arm = {"type": "so101_follower", "port": "1", "cameras": {"left": {"type": "opencv"}}}
    settings = {
        "/**": {"ros__parameters": {"task": "of all", "seed": 1}},
        "/**/episode": {"ros__parameters": {"max_steps": 12, "seed": 2}},
        "/**/pipeline": {"ros__parameters": {"task": "of the file", "robot": arm}},
    }
    given["config"] = str(tmp_path / "settings.yaml")
    (tmp_path / "settings.yaml").write_text(json.dumps(settings))
    described = pipeline.build(mode, given)
    environment["PROBE_NODES"] = " ".join(spec.name for spec in described.nodes)
    code, text = helpers.ros2_launch(
        launch_file(mode),
        *(f"{name}:={value}" for name, value in given.items()),
        prefix=prefix,
        environment=environment,
    )
    assert code == 0, text
    seen = helpers.read_probes(tmp_path / "probes")
    assert set(seen) == {spec.name for spec in described.nodes}
    for spec in described.nodes:
        probe = seen[spec.name]
        assert probe["node"] == f"/{spec.name}"
        assert spec.parameters.items() <= probe["parameters"].items()
        assert described.environment.items() <= probe["environment"].items()
    assert seen["episode"]["parameters"]["max_steps"] == 12


def test_a_launch_file_around_it_moves_the_pipeline_into_its_namespace(probes, tmp_path):
    prefix, environment = probes
    outer = tmp_path / "outer.launch.py"
    outer.write_text(OUTER.format(file=str(helpers.LAUNCH_FILES / "evaluate.launch.py"),
                                  output=str(tmp_path / "run")))  # fmt: skip
    environment["PROBE_NODES"] = "so101_sim policy reward episode"
    code, text = helpers.ros2_launch(outer, "robot:=b", prefix=prefix, environment=environment)
    assert code == 0, text
    seen = helpers.read_probes(tmp_path / "probes")
    assert {probe["node"] for probe in seen.values()} == {
        f"/left/{name}" for name in environment["PROBE_NODES"].split()
    }
    assert seen["episode"]["parameters"]["output"] == str(tmp_path / "run")


OUTER = """
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, GroupAction, IncludeLaunchDescription
from launch_ros.actions import PushRosNamespace

def generate_launch_description():
    included = IncludeLaunchDescription({file!r}, launch_arguments={{"output": {output!r}}}.items())
    return LaunchDescription([
        DeclareLaunchArgument("robot", default_value="a"),
        GroupAction([PushRosNamespace("left"), included], forwarding=False),
    ])
"""


def test_a_node_that_dies_brings_the_rest_down_and_is_named(probes, tmp_path):
    prefix, environment = probes
    environment |= {"PROBE_NODES": "", "PROBE_DIES": "policy"}
    output = f"output:={tmp_path / 'run'}"
    code, text = helpers.ros2_launch(
        "finetune.launch.py", output, prefix=prefix, environment=environment
    )
    assert code != 0
    assert re.findall(r"node \w+ ended with exit code -?\d+", text) == [
        "node policy ended with exit code 3"
    ]
    pids = [int(pid) for pid in re.findall(r"process started with pid \[(\d+)\]", text)]
    assert len(pids) == 5
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_evaluate_runs_the_real_nodes_and_ends_by_itself(tmp_path):
    prefix = helpers.install(tmp_path / "prefix", helpers.NODE)
    output = tmp_path / "run"
    code, text = helpers.ros2_launch(
        "evaluate.launch.py",
        f"config:={write_config(tmp_path)}",
        f"output:={output}",
        "eval_episodes:=1",
        prefix=prefix,
        environment={"ROS_DOMAIN_ID": str(DOMAIN + 1)},
    )
    assert code == 0, text
    summary = json.loads((output / "summary.json").read_text())
    assert summary["eval_episodes"] == 1
    assert summary["success_base"] in (0.0, 1.0)


def test_a_check_of_a_bag_runs_in_the_python_that_the_package_was_built_for(tmp_path):
    """Not in that of `ros2`: on a machine with ROS 2 from apt LeRobot is in another."""
    prefix = helpers.install(tmp_path / "prefix", helpers.PROBE)
    program = prefix / "lib" / pipeline.PACKAGE / "residual-smolvla"
    program.write_text('#!/bin/sh\necho "started with $*"\n')
    program.chmod(0o755)
    code, text = helpers.ros2_launch(
        "replay.launch.py", "bag:=session", "check:=reward", prefix=prefix
    )
    assert code == 0, text
    assert "started with replay bag:=session check:=reward" in text
