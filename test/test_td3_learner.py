"""The learner with TD3: it solves a small problem, is resumed to the bit, and refuses bad input."""

import dataclasses

import numpy as np
import pytest
import torch

from residual_smolvla_ros.errors import CheckpointError
from residual_smolvla_ros.learning.checkpoint import load_checkpoint
from residual_smolvla_ros.learning.learner import Learner
from residual_smolvla_ros.learning.ppo import PPOConfig
from residual_smolvla_ros.learning.rollout import Episode
from residual_smolvla_ros.learning.td3 import TD3Config
from residual_smolvla_ros.learning.td3_learner import TD3Learner
from residual_smolvla_ros.policy.features import ResidualConfig

SETTINGS = TD3Config(
    batch_size=16, critics=2, replay_size=60, learning_starts=16, actor_starts=24, demo_share=0.25
)


@pytest.fixture(scope="module")
def squashed(config) -> ResidualConfig:
    return dataclasses.replace(config, squash=True)


@pytest.fixture
def make_learner(squashed):
    """Return a function that makes a learner of two episodes an update."""

    def make(**changes) -> TD3Learner:
        settings = dataclasses.replace(SETTINGS, **changes)
        return TD3Learner(squashed, settings, episodes_per_update=2)

    return make


@pytest.fixture
def train(make_episode):
    """Return a function that feeds a learner the episodes of these seeds."""

    def feed(learner: TD3Learner, seeds) -> list[dict]:
        return [learner.add_episode(make_episode(seed, truncated=seed % 3 > 0)) for seed in seeds]

    return feed


def same_bits(a: TD3Learner, b: TD3Learner) -> bool:
    """Whether two learners are the same, weights and all else."""
    states = [learner.weights() | learner.algorithm.state() for learner in (a, b)]
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())


# -- a small problem: push a point to 0, from where a zero residual leaves it ----------------


def push(learner: TD3Learner, rng: np.random.Generator, explore: bool) -> Episode:
    """Play 6 decisions, each of which moves the point by half of its residual."""
    network = learner.network
    x = rng.uniform(-1.0, 1.0)
    episode = Episode()
    for _ in range(6):
        features = np.array([x], np.float32)
        with torch.no_grad():
            residual = network(torch.from_numpy(features).unsqueeze(0))[0][0].numpy()
        noise = network.log_std.exp().detach().numpy() * rng.normal(size=1).astype(np.float32)
        residual = residual + (noise if explore else 0.0)
        x += 0.5 * float(np.clip(residual, -1.0, 1.0)[0])
        episode.add_step(-x * x, True, features, residual.astype(np.float32), 0.0, 0.0)
    episode.final_features = np.array([x], np.float32)
    return episode


def test_a_point_is_pushed_to_where_it_earns_most():
    residual = ResidualConfig(
        {"state": 1},
        action_size=1,
        action_space="joint",
        residual_clip=1.0,
        hidden_sizes=(32, 32),
        log_std_init=-1.0,
        squash=True,
    )
    settings = TD3Config(
        gamma=0.9, batch_size=64, critics=2, learning_starts=60, actor_starts=60, tau=0.02,
        actor_learning_rate=3e-3, critic_learning_rate=3e-3,
    )  # fmt: skip
    learner = TD3Learner(residual, settings)

    def mean_return() -> float:
        rng = np.random.default_rng(1)
        return np.mean([push(learner, rng, explore=False).episode_return for _ in range(20)])

    untrained = mean_return()
    rng = np.random.default_rng(0)
    for _ in range(80):
        learner.add_episode(push(learner, rng, explore=True))
    assert mean_return() > 0.3 * untrained


# -- resuming --------------------------------------------------------------------------------


def test_a_resumed_run_ends_in_the_same_bits_as_one_that_never_stopped(
    make_learner, train, tmp_path
):
    """The replay is full and has wrapped by then; two checkpoints hold a part of it each."""
    learner, resumed = make_learner(), make_learner()
    train(learner, range(6))
    learner.save(tmp_path / "checkpoints", {})
    train(learner, range(6, 10))
    learner.save(tmp_path / "checkpoints", {})
    resumed.resume(load_checkpoint(tmp_path, training=True))
    assert train(resumed, range(10, 15)) == train(learner, range(10, 15))
    assert same_bits(resumed, learner)
    assert resumed.counters == learner.counters
    assert (resumed.counters.version, resumed.counters.episodes, resumed.collected) == (7, 14, 1)


def test_an_older_checkpoint_is_resumed_with_the_replay_of_its_time(make_learner, train, tmp_path):
    learner, resumed = make_learner(), make_learner()
    train(learner, range(4))
    older = learner.save(tmp_path, {})
    train(learner, range(4, 6))
    learner.save(tmp_path, {})
    resumed.resume(load_checkpoint(older, training=True))
    train(resumed, range(4, 6))
    assert same_bits(resumed, learner)


def test_a_run_resumed_before_its_first_gradient_step_goes_on_to_the_bit(
    make_learner, train, tmp_path
):
    learner, resumed = make_learner(learning_starts=20), make_learner(learning_starts=20)
    train(learner, range(2))
    learner.save(tmp_path, {})
    resumed.resume(load_checkpoint(tmp_path, training=True))
    train(learner, range(2, 6))
    train(resumed, range(2, 6))
    assert same_bits(resumed, learner)


def test_an_update_made_in_pieces_ends_in_the_same_bits(make_learner, train, make_episode):
    """As the ROS node makes them, beside the episode that follows."""
    at_once, in_pieces = make_learner(), make_learner()
    expected = train(at_once, range(6))
    found = []
    for seed in range(6):
        found.append(in_pieces.take(make_episode(seed, truncated=seed % 3 > 0)))
        found.append(in_pieces.learn(limit=3))
    assert found.count(None) == 10  # 16 steps an update: the last one is not complete
    assert in_pieces.counters.version == 2
    while (metrics := in_pieces.learn(limit=3)) is None:
        continue
    assert same_bits(in_pieces, at_once)
    assert [m for m in [*found, metrics] if m] == [m for m in expected if m]


def test_a_checkpoint_amid_an_update_is_one_of_the_whole_update(
    make_learner, train, make_episode, tmp_path
):
    at_once, learner = make_learner(), make_learner()
    expected = train(at_once, range(4))
    for seed in range(4):
        learner.take(make_episode(seed, truncated=seed % 3 > 0))
    learner.learn(limit=3)
    learner.save(tmp_path, {})
    assert learner.learn() == expected[-1]  # not lost
    assert same_bits(learner, at_once)
    assert load_checkpoint(tmp_path).counters["version"] == 2


def test_a_checkpoint_of_another_algorithm_gives_weights_but_cannot_be_resumed(
    squashed, make_learner, make_episode, tmp_path
):
    other = Learner(squashed, PPOConfig(minibatch_size=8, target_kl=1e9), 1, 0, seed=3)
    other.add_episode(make_episode(0))
    checkpoint = load_checkpoint(other.save(tmp_path, {}), training=True)
    learner = make_learner()
    with pytest.raises(CheckpointError, match="expected algorithm td3, found ppo"):
        learner.resume(checkpoint)
    assert same_bits(learner, make_learner())
    learner.load(checkpoint)
    features = torch.ones(1, squashed.feature_size)
    assert torch.equal(learner.network(features)[0], other.network(features)[0])
    assert learner.network.log_std.tolist() == [squashed.log_std_init] * 6


def test_a_checkpoint_of_other_critics_or_discount_is_refused(make_learner, train, tmp_path):
    learner = make_learner()
    train(learner, range(4))
    checkpoint = load_checkpoint(learner.save(tmp_path, {}), training=True)
    for changes, message in (
        ({"critics": 3}, r"found: critics.weights.0 of shape \(2, .*not \(3, "),
        ({"gamma": 0.9}, "expected {'gamma': '0.9', .* found {'gamma': '0.99'"),
    ):
        other = make_learner(**changes)
        with pytest.raises(CheckpointError, match=message):
            other.resume(checkpoint)
        assert same_bits(other, make_learner(**changes))


def test_a_checkpoint_whose_replay_is_gone_is_refused(make_learner, train, tmp_path):
    learner = make_learner()
    train(learner, range(4))
    checkpoint = load_checkpoint(learner.save(tmp_path, {}), training=True)
    for file in (tmp_path / "replay").iterdir():
        file.unlink()
    with pytest.raises(CheckpointError, match=r"replay .*: expected \d+ rows, found 0"):
        make_learner().resume(checkpoint)


@pytest.mark.parametrize("updates", [0, 2])
def test_a_rollback_takes_back_the_actor_and_keeps_what_was_seen(
    make_learner, train, tmp_path, updates
):
    """Also to the untrained version, from when there were no statistics of the features yet."""
    learner, accepted = make_learner(), make_learner()
    for either in (learner, accepted):
        train(either, range(2 * updates))
    checkpoint = load_checkpoint(learner.save(tmp_path, {}), training=True)
    train(learner, range(4, 8))
    before = learner.weights() | learner.algorithm.state()
    learner.roll_back(checkpoint)
    earlier = accepted.weights() | accepted.algorithm.state()
    for name, value in (learner.weights() | learner.algorithm.state()).items():
        part = name.split(".")[0]
        if part == "actor_optimiser" and not updates:
            continue
        source = earlier if part in ("actor", "target_actor", "actor_optimiser") else before
        assert torch.equal(value, source[name]), name
    counters = learner.counters
    assert (counters.version, counters.accepted, counters.rollbacks) == (
        updates + 3,
        updates + 3,
        1,
    )


# -- what is taken and what is not -----------------------------------------------------------


def test_an_episode_that_is_not_finite_is_not_taken(make_learner, train, make_episode):
    learner, spared = make_learner(), make_learner()
    train(learner, range(3))
    train(spared, range(3))
    for name in ("rewards", "features"):
        bad = make_episode(20)
        getattr(bad, name)[3] = getattr(bad, name)[3] * float("nan")
        with pytest.raises(ValueError, match=f"expected finite {name}"):
            learner.add_episode(bad)
    assert train(learner, [3]) == train(spared, [3])
    assert same_bits(learner, spared)


def test_an_earlier_run_gives_demonstrations_and_they_are_kept(make_learner, train, tmp_path):
    earlier, learner, resumed = make_learner(), make_learner(), make_learner()
    train(earlier, range(4))
    earlier.save(tmp_path / "earlier" / "checkpoints", {})
    learner.demonstrations = str(tmp_path / "earlier")
    learner.begin()
    assert len(learner.algorithm.demonstrations) >= 32
    assert len(learner.algorithm.replay) == 0
    learner.save(tmp_path / "checkpoints", {})
    resumed.resume(load_checkpoint(tmp_path, training=True))
    train(learner, range(4, 8))
    train(resumed, range(4, 8))
    assert same_bits(resumed, learner)
    other = make_learner(n_step=1)
    other.demonstrations = learner.demonstrations
    with pytest.raises(CheckpointError, match="n_step"):
        other.begin()
