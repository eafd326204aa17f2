"""Managed nodes: what each transition does, and what it says where it fails."""

import os
from pathlib import Path

import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.lifecycle import TransitionCallbackReturn
from robot_graph import HOME, Bridge, Emulator, Peer, isolated
from sensor_msgs.msg import JointState
from test_learner_node import node as learner
from test_policy_node import make_node as make_policy
from test_rollout_assembly import make_reward, make_step, stamp_of

from residual_smolvla_ros.learning.schedule import EpisodePlan
from residual_smolvla_ros.nodes.common import to_message, to_stamp
from residual_smolvla_ros.records import EPISODE_EVENT, REWARD, STEP, pack
from residual_smolvla_ros.robots.units import JOINT_NAMES

__all__ = ["learner", "make_policy"]  # fixtures
pytestmark = pytest.mark.realtime

DOMAIN = 106
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
CONFIGURE, ACTIVATE = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE
DEACTIVATE, CLEANUP = Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP
SHUTDOWN = Transition.TRANSITION_UNCONFIGURED_SHUTDOWN


# -- the bridge, in a process of its own ----------------------------------------------------


class Manager(Peer):
    """A peer that asks for transitions."""

    def change(self, transition: int) -> bool:
        client = self.node.create_client(ChangeState, "so101_bridge/change_state")
        self.until(client.service_is_ready)
        future = client.call_async(ChangeState.Request(transition=Transition(id=transition)))
        self.until(future.done)
        return future.result().success

    def state(self) -> str:
        client = self.node.create_client(GetState, "so101_bridge/get_state")
        self.until(client.service_is_ready)
        future = client.call_async(GetState.Request())
        self.until(future.done)
        return future.result().current_state.label


def opens(pid: int, port: Path) -> bool:
    """Tell whether a process has a device open."""
    for file in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if os.path.samefile(file, port):
                return True
        except OSError:
            continue
    return False


@pytest.fixture
def servos(tmp_path):
    with isolated(DOMAIN), Emulator(tmp_path) as emulator:
        emulator.calibrate(tmp_path, "arm")
        yield emulator


@pytest.fixture
def manager(servos):
    peer = Manager()
    yield peer
    peer.close()


def test_the_bridge_opens_its_port_holds_and_lets_go_as_it_is_told(servos, manager, tmp_path):
    port = tmp_path / "plugged_in"
    bridge = Bridge(tmp_path, port, managed=True)
    try:
        assert manager.state() == "unconfigured"
        assert not manager.change(CONFIGURE)
        errors = [line for line in bridge.log.splitlines() if "[ERROR]" in line]
        assert len(errors) == 1
        assert "expected a robot, found none" in errors[0]
        port.symlink_to(servos.port)
        assert manager.change(CONFIGURE), bridge.log
        assert opens(bridge.process.pid, port)
        manager.until(lambda: manager.status.startswith("inactive; "), "a report")
        assert not manager.states
        assert not manager.call("reset_environment").success

        assert manager.change(ACTIVATE)
        manager.until(lambda: manager.states, "the first state")
        manager.move(HOME)

        assert manager.change(DEACTIVATE)
        manager.until(lambda: manager.values.get("mode") == "latched hold", "a hold")
        manager.states.clear()
        before = servos.positions()
        manager.send([p + 0.2 for p in HOME])
        manager.until(lambda: "refused_inactive" in manager.values, "the command is refused")
        assert servos.positions() == pytest.approx(before, abs=0.02)
        assert not manager.states
        assert not manager.call("so101_bridge/release").success

        assert manager.change(ACTIVATE)
        manager.until(lambda: manager.states, "a state again")
        manager.move([p + 0.1 for p in HOME])

        assert manager.change(DEACTIVATE)
        assert manager.change(CLEANUP)
        assert not opens(bridge.process.pid, port)
        assert manager.change(CONFIGURE), bridge.log
        assert manager.change(CLEANUP)
        assert manager.change(SHUTDOWN)
        assert bridge.wait() == 0
    finally:
        bridge.stop()


# -- policy and learner, in this process ----------------------------------------------------


def test_an_inactive_policy_answers_no_state_and_is_missed_by_the_next_episode(make_policy):
    node = make_policy(lockstep=False)
    assert node.count_publishers("policy/step") == 1
    assert node.trigger_deactivate() is SUCCESS
    assert node.count_publishers("policy/step") == 0
    state = JointState(name=JOINT_NAMES, position=[0.0] * 6)
    state.header.stamp = to_stamp(1_000_000_000)
    node._on_joint_states(state)
    assert node._pending is None
    assert node.told_status()[1].startswith("inactive; ")
    assert node.trigger_activate() is SUCCESS
    assert node.count_publishers("policy/step") == 1
    for trigger in (node.trigger_deactivate, node.trigger_cleanup, node.trigger_configure):
        assert trigger() is SUCCESS
    assert node.told_status()[1].startswith("inactive; ")


def test_an_episode_that_comes_while_the_learner_is_inactive_is_learned_from_later(learner):
    """A schedule counts on an update: were the episode lost, the session would wait for ever."""
    assert learner.trigger_deactivate() is SUCCESS
    take = {s.topic_name: s.callback for s in learner.subscriptions}
    plan = EpisodePlan(episode=1, phase="train", index=0, seed=0, max_steps=4)
    for tick in range(4):
        step, reward = make_step(1, tick), make_reward(1, tick)
        take["/policy/step"](to_message(pack(STEP, step.tensors, **step.metadata)))
        take["/reward"](to_message(pack(REWARD, reward.tensors, **reward.metadata)))
        state = JointState(name=JOINT_NAMES, position=[0.0] * 6)
        state.header.stamp = to_stamp(stamp_of(1, tick))
        take["/executed_command"](state)
    blob = pack(EPISODE_EVENT, event="end", episode=1, plan=plan.to_json(), reason="terminated",
                success=False, label="failure", last_stamp=stamp_of(1, 3), steps=4)  # fmt: skip
    take["/episode/event"](to_message(blob))
    assert learner._intake.episodes == 0
    assert learner.trigger_activate() is SUCCESS
    assert learner._intake.episodes == 1
    assert learner._learner.collected == 1


def test_a_learner_that_is_configured_again_goes_on_with_its_run(learner):
    for trigger in (
        learner.trigger_deactivate,
        learner.trigger_cleanup,
        learner.trigger_configure,
        learner.trigger_activate,
    ):
        assert trigger() is SUCCESS
    assert learner.status()[1] == "training"
