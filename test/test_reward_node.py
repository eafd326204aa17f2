"""The node `reward`: a step is answered once its terms have what they need, and for its label."""

import json
import subprocess
import sys

import numpy as np
import pytest
import rclpy
from geometry_msgs.msg import PoseStamped
from robot_graph import Peer, isolated
from sensor_msgs.msg import JointState
from test_rollout_assembly import make_step

from residual_smolvla_ros import pipeline
from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.nodes import reward
from residual_smolvla_ros.nodes.common import to_stamp
from residual_smolvla_ros.records import (
    ENVIRONMENT_STATE,
    EPISODE_EVENT,
    REWARD,
    STEP,
    SUCCESS_ESTIMATE,
    pack,
    unpack,
)
from residual_smolvla_ros.robots.units import JOINT_NAMES, lerobot_to_rad

DOMAIN = 28


@pytest.fixture
def make_node(tmp_path, monkeypatch):
    """A maker of the node with terms, whose records go to its list `sent`."""
    for name, value in pipeline.environment().items():
        monkeypatch.setenv(name, value)
    made = []

    def make(terms: dict, **parameters):
        file = tmp_path / "reward.yaml"
        values = {"environment": False, "executed_commands": True, "terms": terms} | parameters
        file.write_text(json.dumps({"/**": {"ros__parameters": values}}))
        rclpy.init(args=["--ros-args", "--params-file", str(file)], domain_id=DOMAIN)
        node = reward.RewardNode()
        made.append(node)
        node.sent = []
        monkeypatch.setattr(
            node._rewards, "publish", lambda m: node.sent.append(unpack(REWARD, bytes(m.data)))
        )
        return node

    yield make
    for node in made:
        node.destroy_node()
    if rclpy.ok():
        rclpy.shutdown()


def play(node, ticks: int, episode: int = 1) -> None:
    for tick in range(ticks):
        step = make_step(episode, tick)
        tensors = step.tensors | {"command": [0.0] * 6}
        node._on_step(unpack(STEP, pack(STEP, tensors, **step.metadata)))


def state(stamp: int, offset: float = 0.0) -> JointState:
    """Joints at the command of `play`, or off it."""
    position = lerobot_to_rad(np.zeros(6)) + offset
    message = JointState(name=JOINT_NAMES, position=position.tolist(), velocity=[0.0] * 6)
    message.effort = [0.0] * 6
    message.header.stamp = to_stamp(stamp)
    return message


def label(node, text: str, last_stamp: int, reason: str = "truncated") -> None:
    blob = pack(EPISODE_EVENT, event="label", episode=1, plan="{}", reason=reason,
                success=text == "success", label=text, last_stamp=last_stamp, steps=1)  # fmt: skip
    node._on_event(unpack(EPISODE_EVENT, blob))


def test_a_step_is_answered_when_the_next_one_shows_the_state_that_followed(make_node):
    node = make_node({"success": {"weight": 1.0}, "time": {"weight": -0.5}})
    play(node, 3)
    assert [(r.metadata["stamp"], r.metadata["next_stamp"]) for r in node.sent] == [
        (1000, 1010), (1010, 1020),
    ]  # fmt: skip
    assert [r["terms"].tolist() for r in node.sent] == [[0.0, -0.5]] * 2
    assert node.sent[0].metadata["names"] == ("success", "time")
    play(node, 2, episode=2)  # the last step of the episode before has no following state
    assert [r.metadata["stamp"] for r in node.sent[2:]] == [2000]


def test_a_step_waits_for_the_state_and_the_executed_command_that_its_terms_need(make_node):
    node = make_node({"clipped": {"weight": 1.0}, "velocity": {"weight": 1.0}})
    play(node, 2)
    node._on_state(state(1010))
    assert not node.sent
    node._on_executed(state(1000, offset=0.2))
    assert node.sent[0]["reward"] == pytest.approx(0.2)


def test_a_late_label_replaces_the_reward_of_the_last_step_only(make_node):
    terms = {"success": {"weight": 2.0}, "failure": {"weight": -3.0}, "time": {"weight": -0.5}}
    node = make_node(terms)
    play(node, 4)
    label(node, "success", last_stamp=1010)
    assert node.sent[-1].metadata["stamp"] == 1010
    assert node.sent[-1].metadata["label"] == "success"
    assert node.sent[-1]["terms"].tolist() == [2.0, 0.0, -0.5]
    label(node, "failure", last_stamp=1010)
    assert node.sent[-1]["terms"].tolist() == [0.0, -3.0, -0.5]
    count = len(node.sent)
    label(node, "discard", last_stamp=1010)
    label(node, "success", last_stamp=77)  # a step that it never rewarded
    assert len(node.sent) == count


def test_a_simulators_success_and_a_reward_models_end_the_step_they_come_in(make_node):
    node = make_node({"success": {"weight": 1.0}}, environment=True, executed_commands=False)
    for stamp, previous, success in ((10, 0, False), (20, 10, False), (30, 20, True)):
        tensors = {"privileged": [0.0], "target": [0.0] * 3, "reward": 0.0}
        blob = pack(ENVIRONMENT_STATE, tensors, stamp=stamp, previous_stamp=previous,
                    success=success)  # fmt: skip
        node._on_environment(unpack(ENVIRONMENT_STATE, blob))
    assert [(r["reward"], r.metadata["terminated"]) for r in node.sent] == [(0, False), (1, True)]


def test_an_estimate_from_before_the_episode_does_not_count(make_node):
    node = make_node({"success": {"weight": 1.0}})
    play(node, 2)
    for stamp, expected in ((990, False), (1005, True)):
        blob = pack(SUCCESS_ESTIMATE, {"probability": 1.0}, stamp=stamp, success=True)
        node._judge.take_estimate(unpack(SUCCESS_ESTIMATE, blob))
        assert node._judge._estimated == expected


def test_a_pose_that_is_missing_is_named_and_the_step_marked(make_node):
    distance = {"weight": -1.0, "topic": "cube/pose", "max_age_s": 1.0}
    node = make_node({"target_distance": distance, "time": {"weight": 1.0}})
    node._on_state(state(1010))
    play(node, 2)
    assert node.sent[0].metadata["missing"] == ("target_distance",)
    assert node.sent[0]["terms"].tolist() == [0.0, 1.0]
    assert "cube/pose: expected a pose, found none yet" in node.status()[1]
    pose = PoseStamped()
    pose.header.frame_id, pose.header.stamp = "base_link", to_stamp(1000)
    node._on_pose("cube/pose", pose)
    node._on_state(state(2010))
    play(node, 2, episode=2)
    assert node.sent[-1].metadata["missing"] == ()
    assert node.sent[-1]["terms"][0] < 0


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"sucess": {"weight": 1.0}}, "terms.sucess: type: expected one of .*'sucess'"),
        ({"success": {"weight": "much"}}, "terms.success: weight: expected a finite number"),
        ({"image_distance": {"weight": 1.0, "camera": "side", "hsv_lower": [0, 0, 0],
                             "hsv_upper": [9, 9, 9]}}, "found 'side'"),
        ({"environment": {"weight": 1.0}}, "terms environment: expected a simulator, found none"),
    ],
)  # fmt: skip
def test_terms_that_cannot_be_are_refused_at_the_start(make_node, terms, message):
    with pytest.raises(ConfigError, match=message):
        make_node(terms)


def test_a_robot_of_other_joints_ends_the_node_with_one_line(tmp_path):
    """Only its first state shows it, to a node that has run until then."""
    terms, names = {"velocity": {"weight": 1.0}}, ["pan", "lift", "elbow", "flex", "roll", "jaw"]
    values = {"environment": False, "executed_commands": True, "terms": terms, "joint_names": names}
    file = tmp_path / "reward.yaml"
    file.write_text(json.dumps({"/**": {"ros__parameters": values}}))
    command = [sys.executable, "-m", reward.__name__, "--ros-args", "--params-file", str(file)]
    with isolated(DOMAIN):
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        robot = Peer("robot")
        states = robot.node.create_publisher(JointState, "joint_states", 1)
        robot.until(lambda: states.publish(state(1000)) or process.poll() is not None, "its end")
        robot.close()
    (line,) = process.communicate()[0].splitlines()
    assert process.returncode == 1
    assert (
        line == f"reward: error: joint_states: expected joints {names}, found {list(JOINT_NAMES)}"
    )
