"""A session's bag checked without ROS: what was recorded is found again, what was not is named."""

import dataclasses
import json
from functools import partial

import made_session as made
import numpy as np
import pytest
from test_bag_learner import event
from test_rollout_assembly import make_step, stamp_of

from residual_smolvla_ros import cli
from residual_smolvla_ros.errors import BagError
from residual_smolvla_ros.learning.schedule import EpisodePlan
from residual_smolvla_ros.policy.actor_critic import ResidualActorCritic
from residual_smolvla_ros.policy.features import ResidualConfig
from residual_smolvla_ros.policy.residual_policy import ResidualPolicy
from residual_smolvla_ros.recording import cdr
from residual_smolvla_ros.recording.bag_reader import Bag, Message
from residual_smolvla_ros.recording.bag_writer import typestore
from residual_smolvla_ros.recording.checks.policy import check_policy, recompute
from residual_smolvla_ros.recording.checks.reward import check_reward
from residual_smolvla_ros.recording.session import (
    IMAGE,
    JOINTS,
    RECORD,
    read_session,
)
from residual_smolvla_ros.records import REWARD, STEP, WEIGHTS, pack, unpack
from residual_smolvla_ros.rewards.composition import with_values
from residual_smolvla_ros.rewards.judge import Judge, make_terms
from residual_smolvla_ros.robots.frames import decode
from residual_smolvla_ros.robots.units import JOINT_NAMES, lerobot_to_rad, rad_to_lerobot

# -- policy ---------------------------------------------------------------------------------


def header(stamp: int):
    return made._header(stamp)


def trajectory(stamp: int, positions: np.ndarray) -> bytes:
    types = typestore().types
    duration = types["builtin_interfaces/msg/Duration"](sec=0, nanosec=made.PERIOD)
    none = np.zeros(0)
    point = types["trajectory_msgs/msg/JointTrajectoryPoint"](
        positions=positions, velocities=none, accelerations=none, effort=none,
        time_from_start=duration)  # fmt: skip
    return made.serialise("trajectory_msgs/msg/JointTrajectory", header=header(stamp),
                          joint_names=list(JOINT_NAMES), points=[point])  # fmt: skip


@pytest.fixture(scope="module")
def played(base, kinematics) -> list[Message]:
    """An episode in real time: old images, a takeover and a handover, tokens that come late."""
    config = ResidualConfig.from_names(
        ["state", "base_action", "vision", "vision_age"], 6, token_shape=base.token_shape,
        action_space="joint", action_scale=0.2, hidden_sizes=(8,), vision_period_steps=3,
        log_std_init=-1.0,
    )  # fmt: skip
    policy = ResidualPolicy(base, "Lift", kinematics)
    network = ResidualActorCritic(config).state_dict()
    policy.load_weights(config, network, version=2)
    plan = EpisodePlan(1, "train", 0, 5, 8, weights_version=2, explore=True)
    policy.begin_episode(plan.seed, plan.max_steps, plan.use_residual, plan.explore)
    parameters = {"cameras": list(base.cameras), "task": "Lift", "rate_hz": 30.0}
    messages = [made.described_with("policy", parameters)]

    def add(topic: str, kind: str, data: bytes) -> None:
        messages.append(Message(topic, kind, data, stamp_of(1, 0) + 10**6 * len(messages)))

    weights = pack(WEIGHTS, {n: v.numpy() for n, v in network.items()}, version=2,
                   config=config.to_json(), progress="{}", anytime=False)  # fmt: skip
    add("learner/weights", RECORD, made.record(weights))
    add("episode/event", RECORD, made.event(plan, "prepare", "", 0, 0))
    for tick in range(9):
        stamp, stamps = made.stamp_of(1, tick), {}
        for shade, camera in enumerate(base.cameras):
            stamps[camera] = stamp - 20_000_000 * (1 + shade)
            image = made.image(stamps[camera], 20 * tick + 50 * shade)
            add(f"{camera}/image_raw/compressed", IMAGE, image)
        joints = made.position(stamp)
        add("joint_states", JOINTS, made.serialise(
            JOINTS, header=header(stamp), name=list(JOINT_NAMES), position=joints,
            velocity=0.1 * joints, effort=np.zeros(6)))  # fmt: skip
        state, extra = rad_to_lerobot(joints), {"velocity": 0.1 * joints}
        images = {name: decode(cdr.decode(IMAGE, m.data).data) for name in base.cameras
                  for m in messages if m.topic.startswith(f"{name}/")}  # fmt: skip
        led, blended = tick in (3, 4), tick == 5
        told = {"plan_age_ms": 0, "plan_images": {}, "plan": {}, "token_images": {}}
        if tick in (0, 5, 6):  # back from the person it plans anew; then for a step ahead
            request = policy.ask_for_plan()
            chunk = policy.make_plan(request, images, state)
            left = 0 if request.left_over is None else len(request.left_over)
            asked = {"stamp": stamp, "tick": tick, "lead": request.lead, "left": left}
            asked = {"plan_images": stamps, "plan": asked}
        if tick in (0, 5, 7):
            policy.take_plan(chunk, request)
            told |= asked
        if tick in (0, 4):
            policy.see(base.encode([images])[0], 1)
            told["token_images"] = stamps
        if tick == 8:
            step = policy.finish(state, extra)
        elif led:
            step = policy.follow(state + 7.0 * tick, state, extra)
        else:
            step = policy.step(state, extra)
        positions = lerobot_to_rad(step.command)
        if blended:
            positions = positions + 0.1
            step = policy.overrule(step, rad_to_lerobot(positions), state)
        if tick < 8:
            add("joint_trajectory", "trajectory_msgs/msg/JointTrajectory",
                trajectory(stamp, positions))  # fmt: skip
        names = ("features", "base", "residual", "command", "log_prob", "value")
        blob = pack(STEP, {n: getattr(step, n) for n in names}, stamp=stamp, episode=1, tick=tick,
                    weights_version=2, decision=step.decision, final=tick == 8,
                    intervention=led or blended, token_age_ms=0, **told)  # fmt: skip
        add("policy/step", RECORD, made.record(blob))
    return messages


def test_every_action_is_computed_anew_to_the_bit_with_and_without_a_person(played, base, tmp_path):
    with Bag(made.write(tmp_path / "bag", played)) as bag:
        report = recompute(bag, read_session(bag), base)
    assert report.agrees, str(report)
    compared = made.rows(report)
    assert compared["features"] == ["9", "0", "100.00%"]
    assert compared["command"] == ["5", "0", "100.00%"]
    assert "2 steps of a person, 1 of a handover" in str(report)
    # Log times are 1 ms apart: the trajectory comes right after the state.
    assert compared["policy/step"][:4] == ["9", "2", "2", "2"]


def test_another_state_and_a_missing_image_do_not_pass(played, base, tmp_path):
    messages = list(played)
    at = [i for i, m in enumerate(messages) if m.topic == "joint_states"][1]
    messages[at] = dataclasses.replace(
        messages[at], data=made.serialise(
            JOINTS, header=header(made.stamp_of(1, 1)), name=list(JOINT_NAMES),
            position=np.zeros(6), velocity=np.zeros(6), effort=np.zeros(6)))  # fmt: skip
    messages = made.without(messages, f"{base.cameras[0]}/image_raw/compressed", 5)
    with Bag(made.write(tmp_path / "bag", messages)) as bag:
        report = recompute(bag, read_session(bag), base)
    assert not report.agrees
    assert made.rows(report)["features"][0] == "5"  # up to the plan that cannot be made
    assert f"4 steps, images are missing: {base.cameras[0]} of stamp" in str(report)


def test_another_base_than_the_sessions_is_refused_but_on_purpose(played, tmp_path):
    other = {"path": str(tmp_path), "sha256": "0" * 64}
    (tmp_path / "model.safetensors").write_bytes(b"another")
    messages = [made.described_with("policy", {}, base_checkpoint=other), *played[1:]]
    with (
        Bag(made.write(tmp_path / "bag", messages)) as bag,
        pytest.raises(BagError, match=r"sha256 000000000000.*found another one"),
    ):
        check_policy(bag)


# -- reward ---------------------------------------------------------------------------------


def test_rewards_by_weights_that_were_changed_meanwhile_are_found_again(tmp_path):
    """Each reward tells what had been changed; the parameter file does not know."""
    terms = {"time": {"weight": -0.5}}
    parameters = {"environment": False, "lockstep": False, "terms.time.weight": -0.5}
    make = partial(make_terms, joint_names=JOINT_NAMES, cameras=[], rate_hz=30.0, period_steps=1)
    judge, messages = (
        Judge(make(terms), False, False, False),
        [made.described_with("reward", parameters)],
    )

    def add(topic: str, blob: bytes) -> None:
        messages.append(Message(topic, RECORD, made.record(blob), len(messages)))

    for episode in range(1, 4):
        for tick in range(3):
            step = make_step(episode, tick)
            tensors = step.tensors | {"command": [0.0] * 6}
            add("policy/step", pack(STEP, tensors, **step.metadata))
            judge.join.add_step(step, np.zeros(6))
            for judged in judge.answer():
                add("reward", judged.pack())
        weight = -0.5 * (episode + 1)
        settings = {"terms.time.weight": weight}
        judge.change(make(with_values(terms, settings)), json.dumps(settings))
        add("episode/event", event("end", episode, 3))
    rewards = [unpack(REWARD, cdr.decode(RECORD, m.data).data.tobytes())["reward"].item()
               for m in messages if m.topic == "reward"]  # fmt: skip
    assert rewards == [-0.5, -0.5, -1.0, -1.0, -1.5, -1.5]
    with Bag(made.write(tmp_path / "bag", messages)) as bag:
        report = check_reward(bag)
    assert report.agrees, str(report)


def test_new_terms_are_summed_beside_the_recorded_rewards(tmp_path):
    terms = '{"/**/reward": {"ros__parameters": {"terms": {"time": {"weight": -0.5}}}}}'
    (tmp_path / "new.yaml").write_text(terms)
    reward = {"environment": False, "executed_commands": False, "cameras": ["front"],
              "lockstep": False}  # fmt: skip
    messages = [made.described_with("reward", reward), *made.episode(1, 4, "success", late=True)]
    with Bag(made.write(tmp_path / "bag", messages)) as bag:
        old, new = check_reward(bag), check_reward(bag, str(tmp_path / "new.yaml"))
    assert not old.agrees  # rewards that nobody judged so
    # The last step has no following state here, and so no new reward.
    assert made.rows(new)["1"] == ["train", "4", "success", "2.5", "-1.5"]


# -- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["check:=polcy"], "expected one of policy, reward, learner, found 'polcy'"),
        (["check:=reward", "rate:=2"], "rate: expected none of them, found check:=reward"),
        (["check:=learner"], "expected the topics"),
        (["remap:=a"], "expected old=new"),
    ],
)
def test_what_cannot_be_checked_is_refused_in_one_line(words, expected, tmp_path, capsys):
    bag = made.write(tmp_path / "bag", made.described(made.episode(1, 2, "success")))
    with pytest.raises(SystemExit) as ended:
        cli.main(["replay", f"bag:={bag}", *words])
    assert ended.value.code == 2
    error = capsys.readouterr().err.strip()
    assert expected in error
    assert len(error.splitlines()) == 1
