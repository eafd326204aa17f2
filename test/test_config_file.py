"""One file describes the robot and the run; what it says wrongly is named."""

import json

import pytest

from residual_smolvla_ros import pipeline
from residual_smolvla_ros.arguments import DEMO_CHECKPOINT, EVALUATE, FINETUNE, ArgumentError
from residual_smolvla_ros.errors import CheckpointError, ConfigError

SO101 = pipeline.share_directory() / "config" / "so101.yaml"


def build(tmp_path, mode=FINETUNE, **given):
    given = {"base_checkpoint": str(DEMO_CHECKPOINT), "output": str(tmp_path / "run")} | given
    return pipeline.build(mode, {name: str(value) for name, value in given.items()})


def parameters(described: pipeline.Pipeline) -> dict[str, dict]:
    return {spec.name: spec.parameters for spec in described.nodes}


def write(tmp_path, section):
    file = tmp_path / "robot.yaml"
    file.write_text(json.dumps({"/**/pipeline": {"ros__parameters": section}}))
    return file


def test_the_example_is_the_whole_robot(tmp_path):
    nodes = parameters(build(tmp_path, config=SO101))
    assert list(nodes) == ["so101_bridge", "camera_camera1", "camera_camera2", "camera_camera3",
                           "policy", "reward", "learner", "console", "episode"]  # fmt: skip
    assert nodes["so101_bridge"]["robot.type"] == "so101_follower"
    assert nodes["so101_bridge"]["robot.port"] == "/dev/ttyACM0"
    assert nodes["so101_bridge"]["reset_time_s"] == 10.0
    assert nodes["camera_camera1"]["camera.fourcc"] == "MJPG"
    assert nodes["policy"]["task"] == "Grab the cube"
    assert nodes["policy"]["cameras"] == ["camera1", "camera2", "camera3"]
    assert not nodes["policy"]["lockstep"]
    assert not nodes["reward"]["environment"]
    assert nodes["reward"]["executed_commands"]
    assert nodes["learner"]["executed_commands"]
    assert not nodes["episode"]["judged"]
    assert nodes["episode"]["unlabelled"] == "wait"
    assert nodes["console"]["robot"] == "so101_bridge"
    assert nodes["episode"]["max_steps"] == 30 * 30
    assert nodes["episode"]["episode_limit"] == 5


def test_sim_false_alone_takes_the_example(tmp_path):
    assert "so101_bridge" in parameters(build(tmp_path, sim="false"))


def test_the_command_line_wins_over_the_file_and_the_file_over_the_defaults(tmp_path):
    described = build(tmp_path, config=SO101, episodes=3, rate_hz=50)
    nodes = parameters(described)
    assert nodes["episode"]["episode_limit"] == 3
    assert nodes["episode"]["max_steps"] == 30 * 50
    assert nodes["so101_bridge"]["rate_hz"] == 50.0
    assert described.values["device"] == "cuda"
    assert described.training_steps == 3 * 30 * 50


def test_the_same_file_serves_an_evaluation(tmp_path):
    nodes = parameters(build(tmp_path, EVALUATE, config=SO101, eval_episodes=4))
    assert "learner" not in nodes
    assert nodes["episode"]["eval_episodes"] == 4


def test_a_reset_of_ones_own_takes_the_robots_place(tmp_path):
    described = build(tmp_path, config=SO101, reset_service="/cell/reset")
    remaps = {spec.name: spec.remappings for spec in described.nodes}
    assert remaps.pop("episode") == (("reset_environment", "/cell/reset"),)
    assert not any(remaps.values())


@pytest.mark.parametrize(
    ("section", "error", "said"),
    [
        ({"sim": False}, ConfigError, "expected a section robot with a type"),
        ({"sim": False, "robot": "so101"}, ConfigError, "expected mappings"),
        ({"speed": 3}, ArgumentError, "found speed"),
        ({"config": "other.yaml"}, ArgumentError, "found config"),
        ({"sim": "perhaps"}, ArgumentError, "sim: expected true or false"),
        ({"rate_hz": "fast"}, ArgumentError, "rate_hz: expected a number"),
        ({"rate_hz": 50}, ArgumentError, "rate_hz: expected 30 of the simulator"),
        ({"sim": False, "robot": {"type": "so101_follower", "cameras": ["a"]}}, ConfigError,
         "robot.cameras: expected a mapping"),
        ({"sim": False, "robot": {"type": "so101_follower", "cameras": {"a": 0}}}, ConfigError,
         "robot.cameras.a: expected its fields"),
        ({"sim": False, "robot": {"type": "so101_follower", "cameras": {"a b": {}}}}, ConfigError,
         "expected names of letters"),
    ],
)  # fmt: skip
def test_a_wrong_section_is_refused_in_one_line(tmp_path, section, error, said):
    with pytest.raises(error, match=said) as refused:
        build(tmp_path, config=write(tmp_path, section))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    ["a: [1", "\tb", "- 1\n- 2", "3", "/**/pipeline: [1]", "/**/pipeline: {ros__parameters: 3}"],
)
def test_a_file_that_is_no_parameter_file_is_refused(tmp_path, text):
    file = tmp_path / "robot.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match="expected"):
        build(tmp_path, config=file)


def test_a_leader_arm_a_reward_model_and_the_page_are_nodes_of_the_session(tmp_path):
    section = {"sim": False, "robot": {"type": "so101_follower", "cameras": {"top": {}}},
               "teleop": {"type": "so101_leader", "port": "/dev/leader"}}  # fmt: skip
    given = {"success_classifier": tmp_path, "collect_frames": tmp_path / "frames"}
    described = build(tmp_path, config=write(tmp_path, section), console="true", **given)
    nodes = parameters(described)
    assert nodes["teleop"] == {"teleop.type": "so101_leader", "teleop.port": "/dev/leader"}
    assert nodes["success_classifier"]["checkpoint"] == str(tmp_path)
    assert nodes["frame_collector"]["output"] == str(tmp_path / "frames")
    assert nodes["console"]["output"] == str(described.output)
    for name in ("success_classifier", "frame_collector", "console", "reward"):
        assert nodes[name]["cameras"] == ["top"]


def test_a_leader_arm_without_a_type_is_named(tmp_path):
    file = write(tmp_path, {"teleop": {"port": "/dev/leader"}})
    with pytest.raises(ConfigError, match="expected a section teleop with a type"):
        build(tmp_path, config=file)


@pytest.mark.parametrize("name", ["success_classifier", "collect_frames"])
def test_what_needs_more_than_an_image_a_plan_is_refused_in_lockstep(tmp_path, name):
    with pytest.raises(ArgumentError, match=f"{name}: expected lockstep:=false"):
        build(tmp_path, **{name: str(tmp_path)})
    build(tmp_path, lockstep="false", **{name: str(tmp_path)})
    build(tmp_path, collect_frames=str(tmp_path), camera_period_steps="3")


def test_a_reward_model_that_is_not_there_and_frames_that_are_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="success_classifier: expected a folder, found no"):
        build(tmp_path, lockstep="false", success_classifier=tmp_path / "none")
    (tmp_path / "frame").touch()
    with pytest.raises(ArgumentError, match="collect_frames: expected a new or empty folder"):
        build(tmp_path, lockstep="false", collect_frames=tmp_path)


def test_an_unknown_fate_of_unlabelled_episodes_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match="unlabelled: expected one of wait, failure, discard"):
        build(tmp_path, unlabelled="sucess")
