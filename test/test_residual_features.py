"""What the residual sees, and what it refuses: sizes, weights and settings that do not fit."""

import dataclasses

import numpy as np
import pytest
from played_policy import (
    EXTRA,
    STATE,
    TARGET,
    base_commands,
    play,
)

from residual_smolvla_ros.policy.actor_critic import ResidualActorCritic
from residual_smolvla_ros.policy.features import (
    PLAN_AHEAD,
    STATE_CLIP,
    TARGET_CLIP,
    TARGET_SCALE,
    TCP_SCALE,
    ResidualConfig,
)
from residual_smolvla_ros.policy.residual_policy import ResidualPolicy

pytest_plugins = ["played_policy"]  # for its fixtures


# -- features -------------------------------------------------------------------------------


def split(config: ResidualConfig, features: np.ndarray) -> dict[str, np.ndarray]:
    edges = np.cumsum(list(config.features.values()))[:-1]
    return dict(zip(config.features, np.split(features, edges), strict=True))


def test_features_come_in_the_documented_order(make_policy, everything, base, images):
    tick = base.chunk_size + 4
    step = play(make_policy(everything), images, tick + 1)[-1]
    state = STATE + 0.1 * tick
    assert step.features.dtype == np.float32
    assert step.features.shape == (everything.feature_size,)
    found = split(everything, step.features)
    normalised = np.clip(base.normalise_state(state), -STATE_CLIP, STATE_CLIP)
    np.testing.assert_array_equal(found["state"], normalised)
    np.testing.assert_array_equal(found["base_action"], step.base)
    np.testing.assert_allclose(found["chunk_position"], [4 / base.chunk_size])
    np.testing.assert_allclose(found["episode_time"], [tick / 200])
    np.testing.assert_allclose(found["privileged"], EXTRA["privileged"])


def test_features_of_the_plan_look_ahead_in_the_heading_of_the_tool(
    make_policy, everything, base, kinematics, images
):
    found = split(everything, play(make_policy(everything), images, 1)[0].features)
    commands = base_commands(base, images, base.chunk_size)
    tcp = kinematics.forward(kinematics.to_radians(STATE))
    planned = [kinematics.forward(kinematics.to_radians(commands[ahead])) for ahead in PLAN_AHEAD]
    inverse = kinematics.heading(tcp).T
    ahead = np.ravel([TCP_SCALE * inverse @ (point - tcp) for point in planned])
    np.testing.assert_allclose(found["planned_tcp"], ahead, rtol=1e-4, atol=1e-4)
    miss = np.ravel([TARGET_SCALE * inverse @ (TARGET - point) for point in planned])
    assert np.abs(miss).max() > TARGET_CLIP, "expected a pose that reaches the clip"
    miss = np.clip(miss, -TARGET_CLIP, TARGET_CLIP)
    np.testing.assert_allclose(found["target_from_plan"], miss, rtol=1e-4, atol=1e-4)


def test_a_state_far_out_is_clipped_before_the_network_sees_it(make_policy, config, images):
    policy = make_policy(config)
    policy.begin_episode(1, max_steps=10)
    policy.plan(images, STATE)
    step = policy.step(np.full(6, 1e6))
    assert np.abs(split(config, step.features)["state"]).tolist() == [STATE_CLIP] * 6


def test_final_features_are_those_of_the_state_after_the_last_step(
    make_policy, config, base, images
):
    policy = make_policy(config)
    play(policy, images, base.chunk_size)
    found = split(config, policy.features(STATE))
    np.testing.assert_array_equal(found["chunk_position"], [1.0])
    np.testing.assert_allclose(found["episode_time"], [base.chunk_size / 200])


# -- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"privileged": np.zeros(3)}, "feature privileged: expected 4 values, found 3"),
        ({}, "feature privileged: expected 4 values, found none"),
    ],
)
def test_a_feature_of_another_size_is_refused_by_its_name(make_policy, images, extra, message):
    config = ResidualConfig.from_names(["state", "privileged"], 6, 4, hidden_sizes=(8,))
    policy = make_policy(config)
    policy.begin_episode(1, max_steps=10)
    policy.plan(images, STATE)
    with pytest.raises(ValueError, match=message):
        policy.step(STATE, extra)


def test_weights_of_another_size_are_refused_and_the_old_ones_stay(make_policy, config):
    policy = make_policy(config)
    before = policy.network
    narrow = dataclasses.replace(config, features={"state": 6})
    weights = ResidualActorCritic(narrow).state_dict()
    with pytest.raises(ValueError, match=r"expected 14 features \(state, base_action, .*found"):
        policy.load_weights(config, weights, version=6)
    assert policy.network is before
    assert policy.version == 5


def test_weights_for_another_robot_are_refused(make_policy, config):
    other = dataclasses.replace(config, action_size=7)
    with pytest.raises(ValueError, match="expected an action of 6, found 7"):
        make_policy(other)


def test_gripper_space_without_kinematics_is_refused(base, everything):
    policy = ResidualPolicy(base)
    weights = ResidualActorCritic(everything).state_dict()
    with pytest.raises(ValueError, match="expected kinematics of the robot, found none"):
        policy.load_weights(everything, weights, version=0)


def test_a_step_without_weights_is_refused(base, images):
    policy = ResidualPolicy(base)
    policy.begin_episode(1, max_steps=10)
    policy.plan(images, STATE)
    with pytest.raises(RuntimeError, match="expected residual weights before the first step"):
        policy.step(STATE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": {"state": 6, "speed": 1}}, "features: expected names out of .* found speed"),
        ({"features": {}}, "features: expected names out of .* found none"),
        ({"action_space": "cartesian"}, "expected joint or gripper, found cartesian"),
        ({"action_scale": 0.0}, "action_scale: expected > 0, found 0.0"),
        ({"residual_clip": float("nan")}, "residual_clip: expected > 0, found nan"),
        ({"hold_steps": 0}, "hold_steps: expected > 0, found 0"),
    ],
)
def test_a_wrong_configuration_is_refused_by_its_setting(config, changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(config, **changes)


def test_the_configuration_survives_json(config, everything):
    for each in (config, everything):
        assert ResidualConfig.from_json(each.to_json()) == each
        assert list(ResidualConfig.from_json(each.to_json()).features) == list(each.features)
