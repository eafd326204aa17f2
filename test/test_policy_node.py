"""The node `policy` in the process of the tests, which has LeRobot loaded."""

import json

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool

from residual_smolvla_ros import pipeline
from residual_smolvla_ros.arguments import DEMO_CHECKPOINT
from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.learning.acting import check_weights
from residual_smolvla_ros.learning.schedule import EpisodePlan
from residual_smolvla_ros.nodes import policy
from residual_smolvla_ros.nodes.common import to_stamp
from residual_smolvla_ros.policy.actor_critic import ResidualActorCritic
from residual_smolvla_ros.policy.features import ResidualConfig
from residual_smolvla_ros.records import EPISODE_EVENT, WEIGHTS, RecordError, pack, unpack
from residual_smolvla_ros.robots.units import JOINT_NAMES

DOMAIN = 29


@pytest.fixture
def make_node(tmp_path, monkeypatch):
    """Return a function that makes the node, without a learner, with further parameters."""
    for name, value in pipeline.environment().items():
        monkeypatch.setenv(name, value)
    made = []

    def make(**parameters):
        file = tmp_path / "policy.yaml"
        values = {"base_checkpoint": str(DEMO_CHECKPOINT), "wait_for_weights": False} | parameters
        file.write_text(json.dumps({"/**": {"ros__parameters": values}}))
        rclpy.init(args=["--ros-args", "--params-file", str(file)], domain_id=DOMAIN)
        made.append(policy.PolicyNode())
        return made[-1]

    yield make
    for node in made:
        node.close()
        node.destroy_node()
    rclpy.try_shutdown()


def test_joint_names_that_the_robot_lacks_are_refused_beside_those_that_it_has(make_node):
    names = ["pan", "lift", "elbow", "flex", "roll", "jaw"]
    node = make_node(joint_names=names)
    plan = EpisodePlan(episode=1, phase="base", index=0, seed=0, max_steps=4)
    blob = pack(EPISODE_EVENT, event="prepare", episode=1, plan=plan.to_json(), reason="",
                success=False, label="", last_stamp=0, steps=0)  # fmt: skip
    node._on_event(unpack(EPISODE_EVENT, blob))
    node._on_active(Bool(data=True))
    state = JointState(name=JOINT_NAMES, position=[0.0] * 6)
    state.header.stamp = to_stamp(1_000_000_000)
    with pytest.raises(ConfigError) as caught:
        node._on_joint_states(state)
    assert f"expected joints {names}, found {list(JOINT_NAMES)}" in str(caught.value)


def test_an_episode_without_commands_is_a_warning_from_its_second_report_on(make_node):
    """In real time; a monitor showed a node that had stopped to answer as OK."""
    node = make_node(lockstep=False)
    assert node.status()[0] == DiagnosticStatus.OK
    node._on_active(Bool(data=True))
    assert [node.status()[0] for _ in range(2)] == [DiagnosticStatus.OK, DiagnosticStatus.WARN]
    node.tally("commands")
    assert node.status()[0] == DiagnosticStatus.OK


def test_refused_messages_are_a_warning_in_the_report_that_follows_them(make_node, monkeypatch):
    node, reports = make_node(), []
    monkeypatch.setattr(node._diagnostics, "publish", lambda array: reports.extend(array.status))
    for refused in (2, 2, 3):
        node.refused = refused
        node._report()
    assert [report.level for report in reports] == [
        DiagnosticStatus.WARN,
        DiagnosticStatus.OK,
        DiagnosticStatus.WARN,
    ]
    assert reports[0].message.endswith("2 messages refused")
    assert reports[0].hardware_id == "residual_smolvla_ros"


def state_of(names, stamp: int) -> JointState:
    state = JointState(name=names, position=[0.0] * len(names))
    state.header.stamp = to_stamp(stamp)
    return state


def test_a_strangers_joints_are_refused_once_the_robot_has_been_answered(make_node):
    """They ended the node in the middle of an episode."""
    node = make_node()
    node._answered = 1
    assert node._read_joints(state_of(["a", "b"], 5)) is None
    assert node.refused == 1
    assert node._read_joints(state_of(list(JOINT_NAMES), 6))["position"].shape == (6,)


@pytest.mark.parametrize("change", [{}, {"hidden_sizes": [20_000, 20_000]}, {"hidden_sizes": "x"}])
def test_weights_that_are_none_are_refused_where_they_come_in(change):
    """They ended the node at the next episode, or had it build a network of gigabytes."""
    config = ResidualConfig.from_names(["state"], 6, hidden_sizes=(8,))
    weights = {n: v.numpy() for n, v in ResidualActorCritic(config).state_dict().items()}
    text = json.dumps(json.loads(config.to_json()) | change)
    tensors = weights if change else dict(list(weights.items())[1:])
    told = {"version": 1, "progress": "{}", "anytime": False}
    with pytest.raises(RecordError, match="expected a residual's configuration and its weights"):
        check_weights(unpack(WEIGHTS, pack(WEIGHTS, tensors, config=text, **told)))
    whole = unpack(WEIGHTS, pack(WEIGHTS, weights, config=config.to_json(), **told))
    assert check_weights(whole) == config
