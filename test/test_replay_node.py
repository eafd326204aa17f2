"""The node `replay`: what a bag holds arrives as it was, and a state waits for its answer."""

import json
import time

import made_session as made
import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from robot_graph import isolated
from sensor_msgs.msg import JointState
from std_msgs.msg import UInt8MultiArray
from trajectory_msgs.msg import JointTrajectory

from residual_smolvla_ros.nodes import replay
from residual_smolvla_ros.nodes.common import RECORD_QOS
from residual_smolvla_ros.recording.bag_reader import Bag
from residual_smolvla_ros.recording.checks import command

DOMAIN = 31


class Listener(Node):
    """Hears states and steps as they are serialised, and answers each state."""

    def __init__(self):
        super().__init__("listener")
        self.heard: dict[str, list[bytes]] = {"joint_states": [], "policy/step": []}
        self.ahead = 0
        self._answered = 0
        self._answers = self.create_publisher(JointTrajectory, "joint_trajectory", 5)
        for name, kind in (("joint_states", JointState), ("policy/step", UInt8MultiArray)):
            take = self.heard[name].append
            self.create_subscription(kind, name, take, RECORD_QOS.depth, raw=True)
        self.create_timer(0.01, self._answer)

    def _answer(self) -> None:
        states = self.heard["joint_states"]
        self.ahead = max(self.ahead, len(states) - self._answered)
        if len(states) > self._answered:
            state = rclpy.serialization.deserialize_message(states[self._answered], JointState)
            self._answers.publish(JointTrajectory(header=state.header))
            self._answered += 1


def spin(executor: SingleThreadedExecutor, is_done) -> None:
    end = time.monotonic() + 60
    while not is_done():
        assert time.monotonic() < end, "not done in time"
        executor.spin_once(timeout_sec=0.1)


@pytest.fixture
def bag(tmp_path):
    return made.write(tmp_path / "bag", made.described(made.episode(1, 6, "success")))


def test_all_arrives_as_it_was_serialised_and_no_state_overtakes_the_answer_before(bag):
    given = {"bag": str(bag), "rate": "0", "wait_for": "joint_states,policy/step",
             "answers": "joint_trajectory"}  # fmt: skip
    with isolated(DOMAIN):
        rclpy.init(args=replay.ros_arguments(command.parse(given)))
        listener, node = Listener(), replay.ReplayNode()
        executor = SingleThreadedExecutor()
        executor.add_node(listener)
        executor.add_node(node)
        try:
            with pytest.raises(SystemExit) as ended:
                spin(executor, lambda: False)
            spin(executor, lambda: len(listener.heard["policy/step"]) == 6)
        finally:
            node.close()
            node.destroy_node()
            listener.destroy_node()
            rclpy.shutdown()
    assert ended.value.code == 0
    with Bag(bag) as opened:
        for topic, heard in listener.heard.items():
            assert heard == [message.data for message in opened.messages([topic])]
    assert listener.ahead == 1


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"topics": ["lidar"]}, "expected the topics lidar, found"),
        ({"joint_names": ["a"]}, "joint_states: expected joints ['a'], found ['shoulder_pan'"),
        ({"remap": ["reward=policy/step"]}, "expected a name each, found policy/step"),
        ({"wait_for": ["lidar"]}, "wait_for: expected topics that are played"),
    ],
)
def test_what_cannot_be_played_is_refused_in_one_line(parameters, expected, bag):
    words = [w for n, v in parameters.items() for w in ("-p", f"{n}:={json.dumps(v)}")]
    with isolated(DOMAIN):
        rclpy.init(args=["--ros-args", "-p", f"bag:={bag}", *words])
        try:
            with pytest.raises(ValueError, match=r"^[^\n]*$") as refused:
                replay.ReplayNode()
        finally:
            rclpy.shutdown()
    assert expected in str(refused.value)
