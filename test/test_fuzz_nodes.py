"""Hostile topics: whatever comes, no callback fails, it is counted, and what is valid is served."""

import json

import numpy as np
import psutil
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from hostile import HOSTILE, INF, MEGABYTES, NAMES, NAN, blobs, images
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool, Float32, UInt8MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from residual_smolvla_ros import pipeline
from residual_smolvla_ros.errors import CheckpointError, ConfigError
from residual_smolvla_ros.learning.schedule import EpisodePlan
from residual_smolvla_ros.nodes import episode, learner, reward, so101_sim
from residual_smolvla_ros.nodes.common import RECORD_QOS, to_message, to_stamp
from residual_smolvla_ros.records import (
    EPISODE_EVENT,
    REWARD,
    STEP,
    WEIGHTS,
    pack,
)

DOMAIN = 80
PLAN = EpisodePlan(episode=1, phase="train", index=0, seed=0, max_steps=3)
PROGRESS = {"episodes_per_update": 1, "warmup_updates": 0, "episodes": 0, "env_steps": 0,
            "rollbacks": 0, "weights_lag": 0}  # fmt: skip


@pytest.fixture(scope="module")
def nodes(tmp_path_factory, sim):
    """The nodes reward, learner, episode and so101_sim, by name."""
    folder = tmp_path_factory.mktemp("nodes")
    terms = {name: {"weight": 1.0} for name in ("success", "velocity", "clipped", "time")}
    pose = {"target_distance": {"weight": 1.0, "topic": "cube/pose"}}
    parameters = {
        "reward": {"environment": False, "executed_commands": True, "terms": terms | pose},
        "learner": {"output": str(folder / "run"), "executed_commands": True,
                    "features": ["episode_time"], "action_space": "joint"},
        "episode": {"output": str(folder / "run"), "autostart": False, "max_steps": 3},
        "so101_sim": {"camera_period_steps": 1000},
    }  # fmt: skip
    file = folder / "nodes.yaml"
    sections = {f"/**/{name}": {"ros__parameters": p} for name, p in parameters.items()}
    file.write_text(json.dumps(sections))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in pipeline.environment().items():
            patch.setenv(name, value)
        patch.setattr(so101_sim, "SimulatedSO101", lambda: sim)
        patch.setattr(so101_sim.So101SimNode, "_publish_images", lambda self, stamp: None)
        rclpy.init(args=["--ros-args", "--params-file", str(file)], domain_id=DOMAIN)
        made = [reward.RewardNode(), learner.LearnerNode(), episode.EpisodeNode(),
                so101_sim.So101SimNode()]  # fmt: skip
        yield {node.get_name(): node for node in made}
        for node in made:
            node.destroy_node()
        rclpy.shutdown()


def callback(node, topic: str):
    """Return what a node does with a message on a topic."""
    (found,) = [s for s in node.subscriptions if s.topic_name == f"/{topic}"]
    return found.callback


@pytest.mark.parametrize("name", ["reward", "learner", "episode", "so101_sim"])
def test_no_message_on_any_topic_fails_a_callback_and_each_that_is_no_record_is_counted(
    nodes, name
):
    node = nodes[name]
    for topic in ("joint_states", "executed_command"):  # once its joints have matched
        for found in [s for s in node.subscriptions if s.topic_name == f"/{topic}"]:
            found.callback(JointState(name=NAMES, position=[0.0] * 6))
    topics = {s.topic_name: s for s in node.subscriptions if s.msg_type in HOSTILE}
    assert len(topics) >= 3
    for topic, subscription in topics.items():
        refused, sent = node.refused, 0
        for message in HOSTILE[subscription.msg_type]():
            subscription.callback(message)
            sent += 1
        if subscription.msg_type is UInt8MultiArray:
            # Each kind meets all: its own, where nothing is wrong with the rest, is not among them.
            assert node.refused - refused == sent, topic
    node._report()


def test_a_robot_of_other_joints_ends_a_node_at_first_only(nodes):
    node, heard = nodes["reward"], []

    def take(message: JointState) -> None:
        if message.name != NAMES:
            raise ConfigError("expected other joints")
        heard.append(message)

    receive, stranger = node.matched("joints", take), JointState(name=["tail"])
    with pytest.raises(ConfigError):
        receive(stranger)
    receive(JointState(name=NAMES))
    refused = node.refused
    receive(stranger)
    receive(JointState(name=NAMES))
    assert (len(heard), node.refused - refused) == (2, 1)


# -- what is a record and means nothing to its receiver --------------------------------------


def step(stamp: int, tick: int = 0, episode: int = 1, features: int = 1, joints: int = 6) -> bytes:
    names = {"features": features, "base": joints, "residual": joints, "command": joints}
    tensors = {name: np.zeros(size) for name, size in names.items()}
    return pack(
        STEP, tensors | {"log_prob": 0.0, "value": 0.0}, stamp=stamp, episode=episode, tick=tick,
        weights_version=0, decision=True, final=False, intervention=False, token_age_ms=-1,
        token_images={}, plan_age_ms=-1, plan_images={}, plan={},
    )  # fmt: skip


def rewarded(stamp: int, **changes) -> bytes:
    values = {"stamp": stamp, "next_stamp": stamp + 10, "success": False, "terminated": False,
              "label": "", "names": (), "missing": ()} | changes  # fmt: skip
    return pack(REWARD, {"reward": 1.0, "terms": []}, **values)


def event(kind: str, plan: str, **changes) -> bytes:
    values = {"event": kind, "episode": 1, "plan": plan, "reason": "terminated", "success": False,
              "label": "failure", "last_stamp": 20, "steps": 2} | changes  # fmt: skip
    return pack(EPISODE_EVENT, **values)


def test_a_step_of_another_size_and_a_plan_that_is_none_are_refused_and_an_episode_is_learned(
    nodes,
):
    """The learner ended with the episode that such a step was in, the simulator with the plan."""
    node = nodes["learner"]
    steps, events = callback(node, "policy/step"), callback(node, "episode/event")
    rewards, executed = callback(node, "reward"), callback(node, "executed_command")
    refused, before = node.refused, node._intake.episodes
    for wrong in (step(10, features=2), step(10, joints=5), step(10, features=0)):
        steps(to_message(wrong))
    for plan in ("", "[]", "{}", "[" * 9000, PLAN.to_json().replace('"seed": 0', '"seed": -1')):
        events(to_message(event("end", plan)))
    assert node.refused - refused == 8
    for tick, stamp in enumerate((10, 20)):
        for _ in range(3):  # each comes again
            steps(to_message(step(stamp, tick)))
            rewards(to_message(rewarded(stamp)))
            message = JointState(name=NAMES, position=[0.0] * 6)
            message.header.stamp = to_stamp(stamp)
            executed(message)
    events(to_message(event("end", PLAN.to_json())))
    assert node._intake.episodes - before == 1
    assert not node._intake.waits


def test_an_episode_that_begins_with_a_held_step_is_cut_and_does_not_end_the_learner(nodes):
    node = nodes["learner"]
    before, further = node._intake.episodes, {"episode": 2, "index": node._learner.taken}
    plan = EpisodePlan(**vars(PLAN) | further).to_json()
    blob = step(1010, episode=2)
    callback(node, "policy/step")(to_message(blob.replace(b'"decision":"1"', b'"decision":"0"')))
    callback(node, "reward")(to_message(rewarded(1010)))
    message = JointState(name=NAMES, position=[0.0] * 6)
    message.header.stamp = to_stamp(1010)
    callback(node, "executed_command")(message)
    callback(node, "episode/event")(to_message(event("end", plan, last_stamp=1010, steps=1)))
    assert node._intake.episodes - before == 1


def test_rewards_that_come_again_are_not_counted_as_further_steps_of_an_episode(nodes):
    node = nodes["episode"]
    weights, rewards = callback(node, "learner/weights"), callback(node, "reward")
    refused = node.refused
    for progress in ("", "[]", "{}", "null", json.dumps(PROGRESS | {"episodes_per_update": 0})):
        blob = pack(WEIGHTS, {}, version=9, config="", progress=progress, anytime=False)
        weights(to_message(blob))
    assert (node.refused - refused, node._session.version) == (5, None)
    blob = pack(WEIGHTS, {}, version=0, config="", progress=json.dumps(PROGRESS), anytime=False)
    weights(to_message(blob))
    session = node._session
    session.plan, session.running = PLAN, True
    for stamp in (1000, 1010, 1000, 1010, 1010, 1000):
        rewards(to_message(rewarded(stamp)))
    assert (session._tally.steps, session.running) == (2, True)
    callback(node, "spectator/image_raw")(Image())  # of no episode that is shown
    session.plan = EpisodePlan(**vars(PLAN) | {"spectator": True})
    for image in images():
        callback(node, "spectator/image_raw")(image)
    assert len(node._frames) < len(list(images()))
    session.running, session.plan = False, None


def test_the_simulator_takes_no_plan_of_a_stranger_and_no_state_that_is_none(nodes, sim):
    node = nodes["so101_sim"]
    events, commands = callback(node, "episode/event"), callback(node, "joint_trajectory")
    refused = node.refused
    for plan in ("[]", PLAN.to_json().replace('"seed": 0', '"seed": 1e999')):
        events(to_message(event("prepare", plan)))
    assert (node.refused - refused, node._prepared) == (2, False)
    events(to_message(event("prepare", PLAN.to_json())))
    reset = so101_sim.Trigger
    assert node._on_reset(reset.Request(), reset.Response()).success
    callback(node, "episode/active")(Bool(data=True))
    limits = sim.model.actuator_ctrlrange
    for value in (NAN, INF, 1e308, -1e308, 1e30, 1e5, -1e5, 0.0):
        before, point = node._step, JointTrajectoryPoint(positions=[value] * 6)
        message = JointTrajectory(joint_names=NAMES, points=[point])
        message.header.stamp = node._awaiting.header.stamp
        commands(message)
        commands(message)  # a second time: its step has been made
        assert node._step - before == np.isfinite(value)
        assert np.isfinite(sim.joint_positions()).all()
        assert (sim.data.ctrl >= limits[:, 0] - 1e-6).all()
        assert (sim.data.ctrl <= limits[:, 1] + 1e-6).all()


def test_a_checkpoint_that_finds_no_room_is_an_answer_and_not_the_end_of_the_learner(
    nodes, monkeypatch
):
    def refuse():
        raise CheckpointError("no space left")

    node, service = nodes["learner"], learner.Trigger
    monkeypatch.setattr(node._run, "save", refuse)
    answer = node._on_save(service.Request(), service.Response())
    assert (answer.success, answer.message) == (False, "no space left")


# -- a flood, over DDS -----------------------------------------------------------------------


def test_a_flood_is_counted_grows_nothing_and_does_not_keep_a_valid_step_from_its_reward(nodes):
    node, count = nodes["reward"], 4000
    stranger = rclpy.create_node("stranger")
    executor = SingleThreadedExecutor()
    for each in (node, stranger):
        executor.add_node(each)
    sender = stranger.create_publisher(UInt8MultiArray, "policy/step", RECORD_QOS)
    states = stranger.create_publisher(JointState, "joint_states", 10)
    answers, reports = [], []
    stranger.create_subscription(UInt8MultiArray, "reward", answers.append, RECORD_QOS)
    stranger.create_subscription(Float32, "reward/value", lambda m: None, 1)
    stranger.create_subscription(DiagnosticArray, "/diagnostics", reports.append, 10)

    def until(condition) -> None:
        for _ in range(3 * count):
            if condition():
                return
            executor.spin_once(timeout_sec=0.1)
        raise AssertionError("not in time")

    until(lambda: sender.get_subscription_count() and states.get_subscription_count())
    for size in (5, 44):  # bytes that are no message at all
        states.publish((b"\x00\x01\x00\x00" + b"\xff" * MEGABYTES)[:size])
    refused, wrong = node.refused, [to_message(blob) for blob in blobs() if len(blob) < 10_000]
    process = psutil.Process()

    def flood() -> int:
        for index in range(count // 2):
            sender.publish(wrong[index % len(wrong)])
            executor.spin_once(timeout_sec=0)
        until(lambda: node.refused - refused >= count // 2)
        return process.memory_info().rss

    before = flood()
    refused += count // 2
    assert flood() - before < 20e6
    node._judge.join._needs = frozenset({"step"})
    answers.clear()
    for stamp in (5000, 5010):
        sender.publish(to_message(step(stamp, tick=(stamp - 5000) // 10)))
    until(lambda: answers)
    node._report()

    def told() -> list[str]:
        return [v.value for r in reports for s in r.status if s.name == "/reward"
                for v in s.values if v.key == "records_refused"]  # fmt: skip

    until(lambda: str(node.refused) in told())
    executor.shutdown()
    stranger.destroy_node()
