"""A person takes the arm from the policy in a running episode, and gives it back."""

import json

import graph
import numpy as np
import pytest
from rclpy.qos import QoSProfile
from robot_graph import Peer, isolated
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, UInt8MultiArray
from trajectory_msgs.msg import JointTrajectory

from residual_smolvla_ros.nodes.common import CONTROL_QOS, LATCHED_QOS, RECORD_QOS, to_nanoseconds
from residual_smolvla_ros.records import STEP, unpack

pytestmark = pytest.mark.realtime

DOMAIN = 27
REACH = 0.5  # rad, how far the person's target is from the arm
# A handover of 1 s moves the command by at most 0.15 of the offset in a tick of 0.1 s, as those of
# a busy machine may be, and the policy moves too; a jump would be all of the offset.
STEP_BOUND = 0.3 * REACH


class Person(Peer):
    """A leader arm that is moved aside, and eyes on what the policy sends."""

    def __init__(self):
        super().__init__("person")
        self.target: np.ndarray | None = None
        self.commands: dict[int, np.ndarray] = {}
        self.steps: dict[int, dict] = {}
        self.active: list[bool] = []
        create = self.node.create_subscription
        create(JointTrajectory, "joint_trajectory", self._on_command, CONTROL_QOS)
        create(UInt8MultiArray, "policy/step", self._on_step, RECORD_QOS)
        create(Bool, "intervention/active", lambda m: self.active.append(m.data), LATCHED_QOS)

    def lead(self) -> None:
        """Publish the target with every state from now on."""
        self.target = np.array(self.states[-1].position)
        self.target[0] += REACH
        topic = "intervention/command"
        self._targets = self.node.create_publisher(JointState, topic, QoSProfile(depth=1))

    def _on_state(self, message: JointState) -> None:
        super()._on_state(message)
        if self.target is not None:
            target = JointState(name=message.name, position=self.target.tolist())
            target.velocity = target.effort = [0.0] * 6
            self._targets.publish(target)

    def _on_command(self, message: JointTrajectory) -> None:
        stamp = to_nanoseconds(message.header.stamp)
        self.commands[stamp] = np.array(message.points[0].positions)

    def _on_step(self, message: UInt8MultiArray) -> None:
        record = unpack(STEP, bytes(message.data))
        self.steps[record.metadata["stamp"]] = record.metadata

    def intervened(self) -> list[bool]:
        return [self.steps[stamp]["intervention"] for stamp in sorted(self.steps)]

    def is_followed(self) -> bool:
        newest = self.commands[max(self.commands)]
        return bool(np.abs(newest - self.target).max() < 1e-3)


def config(folder):
    """TD3, which learns from a person's steps too."""
    td3 = {"algorithm": "td3", "warmup_updates": 0, "episodes_per_update": 1, "actor_starts": 1}
    learner = graph.SETTINGS["/**/learner"] | td3
    return graph.write_config(folder, learner=learner, episode={"validation_every": 0})


@pytest.fixture
def session(tmp_path):
    with isolated(DOMAIN):
        process = graph.start(
            DOMAIN, "finetune", lockstep="false", episodes=1, eval_episodes=0, record="true",
            episode_time_s=600, output=tmp_path / "run", config=config(tmp_path),
        )  # fmt: skip
        person = Person()
        # Its own commands are none: a robot with two publishers would follow neither.
        person.node.destroy_publisher(person._commands)
        yield process, person
        person.close()
        graph.stop(process)


def test_the_arm_changes_hands_without_a_jump_and_the_steps_are_marked(session, tmp_path):
    process, person = session
    person.until(lambda: person.commands, "the first command", 120)
    refused = person.call("intervention/start")
    assert not refused.success
    assert "expected targets on intervention/command" in refused.message
    assert not any(person.intervened())

    person.lead()
    person.until(lambda: person.call("intervention/start").success, "a takeover")
    person.until(person.is_followed, "commands at the person's target")
    assert person.active[-1]
    assert person.intervened()[-1]
    assert person.call("intervention/stop").success
    person.until(lambda: not person.intervened()[-1], "steps of the policy's own")
    person.ticks(5)

    jumps = np.abs(np.diff([person.commands[stamp][0] for stamp in sorted(person.commands)]))
    assert jumps.max() < STEP_BOUND
    marks = person.intervened()
    assert np.count_nonzero(np.diff(marks)) == 2  # one stretch
    # Held steps may not go on from a residual that was not acted on.
    own_again = len(marks) - marks[::-1].index(True)
    assert person.steps[sorted(person.steps)[own_again]]["decision"]

    assert person.call("episode/stop").success
    # The policy hears of the episode's end by a topic, perhaps after this call.
    person.until(
        lambda: person.call("intervention/start").message == "no episode is running", "a refusal"
    )
    assert person.call("episode/start").success
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    outcome = json.loads((tmp_path / "run" / "episodes.jsonl").read_text())
    assert outcome["reason"] == "stopped"
    assert 0 < outcome["intervened_steps"] <= marks.count(True)
    assert len((tmp_path / "run" / "updates.jsonl").read_text().splitlines()) == 1
    graph.check_bag(tmp_path / "run" / "bag")
