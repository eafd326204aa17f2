"""Vision tokens: what SmolVLA's encoder gives, how it is reduced, and when it is refreshed."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from residual_smolvla_ros.arguments import DEMO_CHECKPOINT
from residual_smolvla_ros.errors import CheckpointError
from residual_smolvla_ros.policy.actor_critic import ResidualActorCritic
from residual_smolvla_ros.policy.features import ResidualConfig
from residual_smolvla_ros.policy.residual_policy import ResidualPolicy
from residual_smolvla_ros.policy.vision import TokenReducer, read_token_shape

STATE = np.array([5.0, -60.0, 55.0, 60.0, -10.0, 20.0])
SHAPE = (2, 9, 128)
PERIOD = 4


def make_images(base, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.integers(0, 256, (96, 96, 3), dtype=np.uint8) for name in base.cameras}


def make_config(names=("state", "vision", "vision_age"), **settings) -> ResidualConfig:
    settings = {"vision_period_steps": PERIOD, "hidden_sizes": (8,), "hold_steps": 3} | settings
    return ResidualConfig.from_names(names, 6, 4, SHAPE, **settings)


# -- the tokens -----------------------------------------------------------------------------


def test_tokens_of_a_batch_are_those_of_each_of_its_images(base):
    images = [make_images(base, seed) for seed in range(3)]
    tokens = base.encode(images)
    assert tokens.shape == (3, *base.token_shape)
    assert tokens.dtype == np.float32
    assert np.abs(tokens[0] - tokens[1]).max() > 0.1
    for row, image in zip(tokens, images, strict=True):
        np.testing.assert_allclose(base.encode([image])[0], row, atol=1e-5)


def test_the_same_images_give_the_same_tokens_to_the_bit(base):
    images = [make_images(base, 0)]
    np.testing.assert_array_equal(base.encode(images), base.encode(images))


def test_plans_of_a_batch_are_those_of_each_of_its_robots(base):
    images = [make_images(base, seed) for seed in range(2)]
    states = np.stack([STATE, STATE + 5])
    noises = [base.make_noise(seed, 0) for seed in range(2)]
    chunks = base.plan_batch(images, states, "Lift the red cube", torch.cat(noises))
    for chunk, *row in zip(chunks, images, states, noises, strict=True):
        image, state, noise = row
        plan = base.plan(image, state, "Lift the red cube", noise)
        np.testing.assert_allclose(chunk, plan, atol=1e-5)


def test_tokens_keep_their_camera_and_their_place(base):
    dark = {name: np.zeros((96, 96, 3), dtype=np.uint8) for name in base.cameras}
    lit = {name: image.copy() for name, image in dark.items()}
    lit["wrist"][64:, :32] = 255  # of three rows and columns of places, the last row's first
    changes = np.abs(base.encode([lit]) - base.encode([dark]))[0].mean(axis=-1)
    wrist = base.cameras.index("wrist")
    assert not np.delete(changes, wrist, axis=0).any()
    assert changes[wrist].argmax() == 6


def test_tokens_encoded_beside_a_plan_change_neither(base):
    images, noise = make_images(base, 0), base.make_noise(1, 0)
    tokens = base.encode([images])
    plan = base.plan(images, STATE, "Lift the red cube", noise)
    with ThreadPoolExecutor(1) as thread:
        beside = [thread.submit(base.encode, [images]) for _ in range(20)]
        for _ in range(5):
            found = base.plan(images, STATE, "Lift the red cube", noise)
            np.testing.assert_array_equal(found, plan)
        for future in beside:
            np.testing.assert_array_equal(future.result(), tokens)


def test_the_shape_of_the_tokens_is_read_without_the_model(base, tmp_path):
    assert read_token_shape(DEMO_CHECKPOINT) == base.encode([make_images(base, 0)]).shape[1:]
    with pytest.raises(CheckpointError, match="expected a complete SmolVLA checkpoint, found"):
        read_token_shape(tmp_path)


# -- the configuration ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({}, 2 * 9 * 128),
        ({"vision_cameras": ("wrist",)}, 9 * 128),
        ({"vision_grid": 1, "vision_channels": 16}, 2 * 16),
        ({"vision_components": 32}, 2 * 9 * 128),
    ],
)
def test_the_size_of_the_feature_is_what_the_reducer_gives(settings, size):
    config = make_config(**settings)
    assert config.features["vision"] == size
    assert TokenReducer(config, ("front", "wrist")).reduce(np.ones(SHAPE)).shape == (size,)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"names": ["vision_age"]}, "expected vision beside vision_age, found none"),
        ({"vision_period_steps": 0}, "vision_period_steps: expected > 0, found 0"),
        ({"vision_grid": 4}, "vision_grid: expected at most 3 of the tokens, found 4"),
        ({"vision_channels": 129}, "vision_channels: expected at most 128 of the tokens"),
        ({"vision_components": 2305}, "vision_components: expected at most 2304, the size of"),
        ({"vision_components": -1}, "vision_components: expected 0 or more, found -1"),
        ({"vision_cameras": ("front", "front")}, "expected each camera once"),
        ({"critic_only": ("privileged",)}, "critic_only: expected some of the features state, "),
        ({"names": ["vision"], "critic_only": ("vision",)}, "one left for the actor, found vis"),
        ({"label_only": ("state",)}, r"label_only: expected some of critic_only \(\), found state"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(settings, message):
    with pytest.raises(ValueError, match=message):
        make_config(**settings)


def test_tokens_of_a_base_of_unknown_shape_are_refused():
    with pytest.raises(ValueError, match=r"expected a size of at least 1, found 0: \['vision'\]"):
        ResidualConfig.from_names(["vision"], 6)


def test_the_configuration_survives_json_and_one_from_before_there_were_tokens_loads():
    config = make_config(vision_cameras=("wrist",), critic_only=("state",), vision_grid=2)
    assert ResidualConfig.from_json(config.to_json()) == config
    today = ResidualConfig.from_names(["state"], 6)
    content = json.loads(today.to_json())
    before = {k: v for k, v in content.items() if not k.startswith(("vision", "critic_only"))}
    assert len(before) < len(content)
    assert ResidualConfig.from_json(json.dumps(before)) == today


# -- reducing -------------------------------------------------------------------------------


def test_a_camera_that_the_base_lacks_is_refused_by_its_name():
    with pytest.raises(ValueError, match="expected cameras out of front, wrist, found top"):
        TokenReducer(make_config(vision_cameras=("top",)), ("front", "wrist"))


def test_the_wanted_camera_is_kept():
    tokens = np.stack([np.zeros(SHAPE[1:]), np.ones(SHAPE[1:])])
    reducer = TokenReducer(make_config(vision_cameras=("wrist",)), ("front", "wrist"))
    assert (reducer.reduce(tokens) == 1).all()


def test_a_grid_averages_the_places_that_lie_together():
    tokens = np.zeros((1, 16, 2), dtype=np.float32)
    tokens[0, :, 0] = np.arange(16)  # four rows of four
    config = ResidualConfig.from_names(["vision"], 6, token_shape=(1, 16, 2), vision_grid=2)
    pooled = TokenReducer(config, ("front",)).reduce(tokens).reshape(4, 2)
    assert pooled[:, 0].tolist() == [2.5, 4.5, 10.5, 12.5]
    assert not pooled[:, 1].any()


def test_a_projection_of_channels_is_one_for_all_places_and_keeps_their_distances():
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=SHAPE).astype(np.float32)
    tokens[1] = tokens[0]
    reduced = [
        TokenReducer(make_config(vision_channels=64), ("front", "wrist"))
        .reduce(tokens)
        .reshape(2, 9, 64)
        for _ in range(2)
    ]
    np.testing.assert_array_equal(*reduced)
    np.testing.assert_array_equal(reduced[0][0], reduced[0][1])
    lengths = np.linalg.norm(reduced[0], axis=-1) / np.linalg.norm(tokens, axis=-1)
    np.testing.assert_allclose(lengths, 1.0, atol=0.2)


# -- in an episode --------------------------------------------------------------------------


@pytest.fixture
def policy(base, kinematics) -> ResidualPolicy:
    policy = ResidualPolicy(base, kinematics=kinematics)
    config = make_config()
    policy.load_weights(config, ResidualActorCritic(config).state_dict(), version=1)
    policy.begin_episode(1, max_steps=50)
    policy.take_plan(np.zeros((base.chunk_size, base.action_size), dtype=np.float32))
    return policy


def vision_of(features: np.ndarray) -> tuple[np.ndarray, float]:
    return features[6:-1], float(features[-1])


def test_tokens_are_due_every_period_and_their_age_is_a_feature(policy):
    seen, ages = [], []
    for tick in range(10):
        if policy.needs_tokens:
            seen.append(tick)
            policy.see(np.full(SHAPE, tick))
        step = policy.step(STATE)
        tokens, age = vision_of(step.features)
        assert (tokens == seen[-1]).all()
        assert age == pytest.approx((tick - seen[-1]) / PERIOD)
        ages.append(step.token_age)
    assert seen == [0, 4, 8]
    assert ages == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]


def test_tokens_of_an_old_image_are_due_the_sooner(policy):
    policy.see(np.zeros(SHAPE), age_steps=3)
    assert not policy.needs_tokens
    assert policy.step(STATE).token_age == 3
    assert policy.needs_tokens


def test_while_a_person_drives_the_tokens_at_hand_serve_and_grow_older(policy):
    policy.see(np.ones(SHAPE))
    steps = [policy.follow(STATE, STATE) for _ in range(6)] + [policy.finish(STATE)]
    assert [step.token_age for step in steps] == list(range(7))
    assert all((vision_of(step.features)[0] == 1).all() for step in steps)


def test_a_step_without_tokens_is_refused_also_after_an_episode_that_had_some(policy, base):
    policy.see(np.ones(SHAPE))
    policy.begin_episode(2, max_steps=50)
    assert policy.needs_tokens
    policy.take_plan(np.zeros((base.chunk_size, base.action_size), dtype=np.float32))
    with pytest.raises(ValueError, match="feature vision: expected 2304 values, found none"):
        policy.step(STATE)


def test_a_residual_without_vision_needs_no_tokens(policy):
    config = ResidualConfig.from_names(["state"], 6)
    policy.load_weights(config, ResidualActorCritic(config).state_dict(), version=2)
    assert not policy.needs_tokens
    assert policy.step(STATE).token_age == -1
