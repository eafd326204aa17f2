"""The node `learner` on a robot that reports what it executes, also between episodes."""

import json

import pytest
import rclpy
from sensor_msgs.msg import JointState
from test_rollout_assembly import make_reward, make_step, stamp_of

from residual_smolvla_ros import pipeline
from residual_smolvla_ros.learning.schedule import EpisodePlan
from residual_smolvla_ros.nodes import learner
from residual_smolvla_ros.nodes.common import to_stamp
from residual_smolvla_ros.records import EPISODE_EVENT, pack, unpack
from residual_smolvla_ros.robots.units import JOINT_NAMES


@pytest.fixture
def node(tmp_path, monkeypatch):
    for name, value in pipeline.environment().items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "learner.yaml"
    values = {"output": str(tmp_path / "run"), "executed_commands": True, "silence_s": 0.0}
    values |= {
        "features": ["episode_time"],
        "action_space": "joint",
        "joint_names": [JOINT_NAMES[0]],
    }
    file.write_text(json.dumps({"/**": {"ros__parameters": values}}))
    rclpy.init(args=["--ros-args", "--params-file", str(file)], domain_id=26)
    made = learner.LearnerNode()
    yield made
    made.close()
    made.destroy_node()
    rclpy.shutdown()


def executed(stamp: int) -> JointState:
    message = JointState(name=JOINT_NAMES, position=[0.0] * 6)
    message.header.stamp = to_stamp(stamp)
    return message


def test_a_lost_record_cuts_the_episode_though_the_robot_goes_on_reporting(node):
    """Else training would wait for it for ever: reports come at the rate of the control loop."""
    for tick in range(4):
        node._intake.take_step(make_step(1, tick))
        node._on_executed(node._intake, executed(stamp_of(1, tick)))
        if tick != 2:
            node._intake.take_reward(make_reward(1, tick))
    plan = EpisodePlan(episode=1, phase="train", index=0, seed=0, max_steps=4)
    blob = pack(EPISODE_EVENT, event="end", episode=1, plan=plan.to_json(), reason="terminated",
                success=False, label="failure", last_stamp=stamp_of(1, 3), steps=4)  # fmt: skip
    node._intake.take_event(unpack(EPISODE_EVENT, blob))
    assert node._intake.waits
    heard = node._intake._heard_at
    node._on_executed(node._intake, executed(stamp_of(1, 50)))
    assert node._intake._heard_at == heard
    node._intake.watch()
    assert not node._intake.waits
    assert node._learner.collected == 1
