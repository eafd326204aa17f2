"""Base and residual composed: what is added, when it is sampled, when a plan is made."""

import dataclasses

import numpy as np
import pytest
import torch
from played_policy import (
    EXTRA,
    STATE,
    base_commands,
    play,
    stack,
)

from residual_smolvla_ros.policy.action_space import GRIPPER_UNITS
from residual_smolvla_ros.policy.features import (
    ResidualConfig,
)

pytest_plugins = ["played_policy"]  # for its fixtures


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
