"""Base and residual composed: what is added, when it is sampled, and what is refused."""

import dataclasses

import numpy as np
import pytest
import torch

from residual_smolvla_ros.policy.action_space import GRIPPER_UNITS
from residual_smolvla_ros.policy.actor_critic import ResidualActorCritic
from residual_smolvla_ros.policy.features import (
    PLAN_AHEAD,
    STATE_CLIP,
    TARGET_CLIP,
    TARGET_SCALE,
    TCP_SCALE,
    ResidualConfig,
)
from residual_smolvla_ros.policy.residual_policy import PolicyStep, ResidualPolicy

STATE = np.array([5.0, -60.0, 55.0, 60.0, -10.0, 20.0])
TARGET = np.array([0.2, 0.05, 0.01])
EXTRA = {"privileged": np.linspace(-1, 1, 4), "target": TARGET}


@pytest.fixture(scope="module")
def images(base) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.integers(0, 256, (96, 96, 3), dtype=np.uint8) for name in base.cameras}


@pytest.fixture(scope="module")
def everything() -> ResidualConfig:
    """All features in the documented order, in the action space of the gripper."""
    return ResidualConfig.from_names(
        ResidualConfig.FEATURE_NAMES, joints=6, privileged_size=4, hidden_sizes=(8,), hold_steps=3
    )


@pytest.fixture
def make_policy(base, kinematics):
    """Return a function that makes a policy; `head` scales the actor's last weights."""

    def make(config: ResidualConfig, head: float = 0.3) -> ResidualPolicy:
        network = ResidualActorCritic(config, seed=1)
        weight = network.actor[-1].weight
        noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(2))
        with torch.no_grad():
            weight.copy_(head * noise)
        policy = ResidualPolicy(base, "Lift the red cube", kinematics)
        policy.load_weights(config, network.state_dict(), version=5)
        return policy

    return make


def play(policy, images, steps: int, seed: int = 1, **settings) -> list[PolicyStep]:
    """Play an episode in which the state moves a little with every step."""
    policy.begin_episode(seed, max_steps=200, **settings)
    played = []
    for tick in range(steps):
        state = STATE + 0.1 * tick
        if policy.needs_plan:
            policy.plan(images, state)
        played.append(policy.step(state, EXTRA))
    return played


def base_commands(base, images, steps: int, seed: int = 1) -> np.ndarray:
    """What the base alone does in that episode, straight from its plans."""
    commands = []
    for number in range(-(-steps // base.chunk_size)):
        state = STATE + 0.1 * number * base.chunk_size
        noise = base.make_noise(seed, number)
        plan = base.plan(images, state, "Lift the red cube", noise)
        commands += [base.unnormalise_action(action) for action in plan]
    return np.array(commands[:steps])


def stack(played: list[PolicyStep], name: str) -> np.ndarray:
    return np.array([getattr(step, name) for step in played])


@pytest.fixture(params=["joint", "gripper"])
def any_space(request, everything) -> ResidualConfig:
    return dataclasses.replace(everything, action_space=request.param)


# -- the command ----------------------------------------------------------------------------


def test_residual_0_is_exactly_the_base_for_whole_chunks(make_policy, any_space, base, images):
    steps = base.chunk_size + 7
    untrained = play(make_policy(any_space, head=0.0), images, steps, explore=False)
    switched_off = play(make_policy(any_space), images, steps, use_residual=False)
    expected = base_commands(base, images, steps)
    np.testing.assert_array_equal(stack(untrained, "command"), expected)
    np.testing.assert_array_equal(stack(switched_off, "command"), expected)


def test_a_residual_in_joint_space_shifts_the_joints(make_policy, config, base, images):
    played = play(make_policy(config), images, 9, explore=False)
    shift = config.action_scale * stack(played, "residual") * base.action_std
    assert np.abs(shift).min() > 0
    expected = base_commands(base, images, 9) + shift
    np.testing.assert_allclose(stack(played, "command"), expected, rtol=1e-5, atol=1e-5)


def test_a_residual_in_gripper_space_moves_the_tool(make_policy, everything, kinematics, images):
    step = play(make_policy(everything), images, 1, explore=False)[0]
    expected = everything.action_scale * step.residual * GRIPPER_UNITS
    start = kinematics.forward(kinematics.to_radians(STATE))
    end = kinematics.forward(kinematics.to_radians(STATE + step.correction))
    moved = kinematics.heading(start).T @ (end - start)
    # To first order, and with the tool's other rotations held.
    np.testing.assert_allclose(moved, expected[:3], atol=0.3 * np.abs(expected[:3]).max())
    opened = kinematics.to_radians(step.correction)[5] - kinematics.to_radians(np.zeros(6))[5]
    assert opened == pytest.approx(expected[4], rel=1e-4)


def test_a_persons_command_is_told_as_the_residual_that_would_have_given_it(
    make_policy, any_space, images
):
    """Off-policy, a person's steps are demonstrations: but only where their residual is known."""
    step = play(make_policy(any_space), images, 1, explore=False)[0]
    person = make_policy(any_space)
    person.begin_episode(seed=1, max_steps=60)
    person.plan(images, STATE)
    led = person.follow(step.command, STATE, EXTRA)
    assert np.abs(step.residual).min() > 0
    np.testing.assert_allclose(led.residual, step.residual, rtol=1e-3, atol=1e-5)


def test_a_huge_residual_is_clipped_in_the_command_and_kept_as_sampled(
    make_policy, config, base, images
):
    played = play(make_policy(config, head=1e3), images, 6)
    assert np.abs(stack(played, "residual")).min() > config.residual_clip
    bound = config.residual_clip * config.action_scale * base.action_std
    np.testing.assert_allclose(
        np.abs(stack(played, "correction")), np.tile(bound, (6, 1)), rtol=1e-5
    )


def test_a_gain_scales_what_is_carried_out_and_not_what_is_recorded(make_policy, config, images):
    """PPO's density is that of the sampled residual."""
    policy = make_policy(config)
    full = play(policy, images, 3, explore=False)
    policy.network.gain.fill_(0.25)
    quarter = play(policy, images, 3, explore=False)
    np.testing.assert_array_equal(stack(quarter, "residual"), stack(full, "residual"))
    expected = 0.25 * stack(full, "correction")
    np.testing.assert_allclose(stack(quarter, "correction"), expected, rtol=1e-6)


def test_a_residual_is_held_until_the_next_decision(make_policy, config, images):
    played = play(make_policy(config), images, 8)
    assert [step.decision for step in played] == [True, False, False] * 2 + [True, False]
    assert [step.tick for step in played] == list(range(8))
    for name in ("residual", "correction", "log_prob", "value"):
        values = stack(played, name)
        np.testing.assert_array_equal(values[1:3], values[[0, 0]])
        assert not np.array_equal(values[3], values[0])


# -- sampling -------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_actions_after_any_other_episode(make_policy, config, images):
    policy = make_policy(config)
    first = stack(play(policy, images, 12, seed=1), "command")
    play(policy, images, 7, seed=2)
    torch.randn(3)  # the global generator plays no part
    np.testing.assert_array_equal(stack(play(policy, images, 12, seed=1), "command"), first)


def test_another_seed_explores_otherwise(make_policy, config, images):
    # A mean of zero: what is left of the residual is the noise alone.
    policy = make_policy(config, head=0.0)
    noises = [stack(play(policy, images, 1, seed=seed), "residual") for seed in (1, 2)]
    assert not np.array_equal(*noises)


def test_without_exploration_the_residual_is_the_mean(make_policy, config, images):
    policy = make_policy(config)
    for step in play(policy, images, 7, explore=False)[::3]:
        mean, value = policy.network(torch.from_numpy(step.features)[None])
        np.testing.assert_array_equal(step.residual, mean[0].numpy())
        assert step.value == value.item()


def test_what_ppo_gets_is_the_density_of_the_sampled_residual(make_policy, config, images):
    policy = make_policy(config)
    deviations = []
    for step in play(policy, images, 150)[::3]:
        mean, value = policy.network(torch.from_numpy(step.features)[None])
        normal = torch.distributions.Normal(mean[0], policy.network.log_std.exp())
        log_prob = normal.log_prob(torch.from_numpy(step.residual)).sum()
        assert step.log_prob == pytest.approx(log_prob.item(), rel=1e-4, abs=1e-4)
        assert step.value == value.item()
        deviations.append(step.residual - mean[0].numpy())
    # 300 samples of standard deviation e^-1.
    assert np.std(deviations) == pytest.approx(np.exp(-1), rel=0.15)


# -- plans ----------------------------------------------------------------------------------


def test_a_plan_is_needed_exactly_every_chunk(make_policy, config, base, images):
    policy = make_policy(config)
    policy.begin_episode(1, max_steps=200)
    needed = []
    for tick in range(2 * base.chunk_size + 1):
        if policy.needs_plan:
            needed.append(tick)
            policy.plan(images, STATE)
        policy.step(STATE)
        assert policy.tick == tick + 1
    assert needed == [0, base.chunk_size, 2 * base.chunk_size]


def test_a_new_episode_does_not_play_the_rest_of_the_last_plan(make_policy, config, images):
    policy = make_policy(config)
    play(policy, images, 4)
    policy.begin_episode(2, max_steps=200)
    assert policy.needs_plan
    assert policy.tick == 0


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
