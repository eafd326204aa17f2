"""The learner: what it refuses leaves it as it was, and a resumed run is the same to the bit."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from residual_smolvla_ros.errors import CheckpointError
from residual_smolvla_ros.learning.checkpoint import load_checkpoint
from residual_smolvla_ros.learning.learner import Learner
from residual_smolvla_ros.learning.ppo import PPOConfig
from residual_smolvla_ros.learning.rollout import Episode

PLAIN = PPOConfig(epochs=2, minibatch_size=8, target_kl=0.0)
# All that keeps something from one update to the next.
KEEPING = dataclasses.replace(
    PLAIN,
    learning_rate_schedule="adaptive",
    normalise_rewards=True,
    feature_normalisation="running",
    residual_ramp_steps=100,
)
LINEAR = dataclasses.replace(PLAIN, learning_rate_schedule="linear", total_steps=100)


@pytest.fixture
def make_learner(config):
    """Return a function that makes a learner of two episodes an update, the first a warm-up."""

    def make(settings: PPOConfig = PLAIN, **changes) -> Learner:
        return Learner(dataclasses.replace(config, **changes), settings, 2, 1)

    return make


@pytest.fixture
def train(make_episode):
    """Return a function that feeds a learner the episodes of these seeds."""

    def feed(learner: Learner, seeds) -> list[dict]:
        return [learner.add_episode(make_episode(seed, truncated=seed % 3 > 0)) for seed in seeds]

    return feed


def state_of(learner: Learner) -> dict:
    """All that a learner keeps, copied."""
    network, training = learner.weights(), learner.algorithm.state()
    return copy.deepcopy(network | training | vars(learner.counters))


def assert_same(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(b[name])), name


# -- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize("name", ["features", "residuals", "log_probs", "values", "rewards"])
def test_an_episode_with_a_broken_number_is_not_taken_and_nothing_is_lost(
    make_learner, make_episode, train, name, value
):
    learner, unharmed = make_learner(KEEPING), make_learner(KEEPING)
    train(learner, range(3))
    train(unharmed, range(3))
    bad = make_episode(20)
    broken = np.array(getattr(bad, name)[3])
    broken[...] = value
    getattr(bad, name)[3] = broken
    with pytest.raises(ValueError, match=f"episode: expected finite {name}, found NaN or infinity"):
        learner.add_episode(bad)
    assert learner.collected == 1
    # The next good one completes the update as if there had been no bad one.
    assert train(learner, [3]) == train(unharmed, [3])
    assert_same(state_of(learner), state_of(unharmed))


def test_a_broken_state_at_the_time_limit_is_refused(make_learner, make_episode):
    bad = make_episode(0)
    bad.final_features = np.full_like(bad.final_features, np.nan)
    with pytest.raises(ValueError, match="episode: expected finite final_features"):
        make_learner().add_episode(bad)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": {"state": 6}}, r"expected features of shape \(6,\), found \(14,\)"),
        ({"action_space": "gripper"}, r"expected residuals of shape \(5,\), found \(6,\)"),
    ],
)
def test_an_episode_of_another_policy_is_refused(make_learner, make_episode, changes, message):
    learner = make_learner(**changes)
    with pytest.raises(ValueError, match=message):
        learner.add_episode(make_episode(0))
    assert learner.collected == 0


def test_an_empty_rollout_is_refused(make_learner):
    with pytest.raises(ValueError, match="rollout: expected at least one decision, found none"):
        make_learner().algorithm.fit([Episode()], env_steps=0, warmup=False)


@pytest.mark.parametrize("settings", [PLAIN, KEEPING], ids=["plain", "keeping"])
@pytest.mark.parametrize("before", [0, 4], ids=["first update", "third update"])
def test_an_update_that_diverges_is_undone(make_learner, make_episode, train, settings, before):
    """The rewards are finite; their squared errors are not."""
    settings = dataclasses.replace(settings, normalise_rewards=False)
    learner, unharmed = make_learner(settings), make_learner(settings)
    for each in (learner, unharmed):
        train(each, range(before))
    huge = make_episode(20)
    huge.rewards[-1] = 1e30
    learner.add_episode(huge)
    with pytest.raises(ValueError, match="update: expected finite losses and weights, found NaN"):
        learner.add_episode(make_episode(21))
    assert learner.collected == 0
    assert_same(state_of(learner), state_of(unharmed))
    assert train(learner, range(4, 6)) == train(unharmed, range(4, 6))
    assert_same(state_of(learner), state_of(unharmed))


def test_a_hyperparameter_without_a_meaning_is_refused_by_its_name():
    for name, value in (
        ("learning_rate_schedule", "cosine"),
        ("feature_normalisation", "off"),
        ("gamma", 1.5),
        ("epochs", 0),
        ("actor_learning_rate", float("nan")),
        ("value_clip", -1.0),
    ):
        with pytest.raises(ValueError, match=f"{name}: expected .*, found '?{value}"):
            PPOConfig(**{name: value})
    with pytest.raises(ValueError, match="total_steps: expected > 0 with a linear schedule"):
        PPOConfig(learning_rate_schedule="linear")


# -- saved and resumed ----------------------------------------------------------------------


@pytest.mark.parametrize("updates", [1, 3])
@pytest.mark.parametrize("settings", [PLAIN, KEEPING, LINEAR], ids=["plain", "keeping", "linear"])
def test_a_resumed_run_goes_on_to_the_bit(make_learner, train, tmp_path, settings, updates):
    learner, resumed = make_learner(settings), make_learner(settings)
    train(learner, range(2 * updates))
    learner.save(tmp_path, {})
    resumed.resume(load_checkpoint(tmp_path, training=True))
    assert_same(state_of(resumed), state_of(learner))
    assert train(resumed, range(10, 15)) == train(learner, range(10, 15))
    assert_same(state_of(resumed), state_of(learner))


def change_run(checkpoint, **values) -> None:
    file = checkpoint / "state.json"
    state = json.loads(file.read_text())
    state["run"] |= values
    state["run"] = {name: value for name, value in state["run"].items() if value is not None}
    del state["sha256"]  # as of before it was there
    file.write_text(json.dumps(state))


def test_a_run_of_another_algorithm_is_not_resumed(make_learner, train, tmp_path):
    learner, other = make_learner(), make_learner()
    train(learner, range(4))
    change_run(learner.save(tmp_path, {}), algorithm="td3")
    before = state_of(other)
    with pytest.raises(CheckpointError, match="expected algorithm ppo, found td3"):
        other.resume(load_checkpoint(tmp_path, training=True))
    assert_same(state_of(other), before)
    # Its weights alone are a start for any algorithm.
    other.load(load_checkpoint(tmp_path))


def test_a_checkpoint_from_before_these_settings_is_resumed(make_learner, train, tmp_path):
    """It names no algorithm, and holds no gain."""
    learner, resumed = make_learner(), make_learner()
    train(learner, range(4))
    path = learner.save(tmp_path, {})
    change_run(path, algorithm=None)
    file = path / "residual.safetensors"
    save_file({name: value for name, value in load_file(file).items() if name != "gain"}, file)
    resumed.resume(load_checkpoint(tmp_path, training=True))
    assert_same(state_of(resumed), state_of(learner))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("residual.safetensors", "expected finite weights, found NaN or infinity in"),
        ("training.safetensors", "expected the training state of ppo, found: 'generator'"),
    ],
)
def test_a_checkpoint_that_cannot_be_resumed_changes_nothing(
    make_learner, train, tmp_path, file, message
):
    learner, resumed = make_learner(), make_learner()
    train(learner, range(4))
    folder = learner.save(tmp_path, {})
    change_run(folder)
    path = folder / file
    tensors = {k: torch.full_like(v, torch.nan) for k, v in load_file(path).items() if "." in k}
    save_file(load_file(path) | tensors if file.startswith("residual") else tensors, path)
    before = state_of(resumed)
    with pytest.raises(CheckpointError, match=message):
        resumed.resume(load_checkpoint(tmp_path, training=True))
    assert_same(state_of(resumed), before)


# -- what is kept between updates -----------------------------------------------------------


def test_the_gain_grows_with_the_control_steps_and_is_published(make_learner, train):
    learner = make_learner(dataclasses.replace(PLAIN, residual_ramp_steps=40))
    gains = [learner.weights()["gain"].item()]
    for update in range(3):
        train(learner, range(2 * update, 2 * update + 2))  # 16 control steps
        gains.append(learner.weights()["gain"].item())
    assert gains == pytest.approx([0.0, 0.4, 0.8, 1.0])
    assert make_learner().weights()["gain"] == 1.0


def test_running_feature_statistics_are_those_of_all_that_was_seen(make_learner, make_episode):
    learner = make_learner(dataclasses.replace(PLAIN, feature_normalisation="running"))
    episodes = [make_episode(seed) for seed in range(6)]
    for shift, episode in enumerate(episodes):
        episode.features = [features + shift for features in episode.features]
        learner.add_episode(episode)
    seen = np.concatenate([episode.features for episode in episodes])
    normaliser = learner.network.normaliser
    np.testing.assert_allclose(normaliser.mean, seen.mean(0), rtol=1e-5)
    np.testing.assert_allclose(normaliser.std, seen.std(0), rtol=1e-5)


def test_warm_up_statistics_stay_as_they_are(make_learner, train):
    learner = make_learner()
    train(learner, range(2))
    before = learner.network.normaliser.mean.clone()
    train(learner, range(2, 6))
    assert torch.equal(learner.network.normaliser.mean, before)


def test_the_scale_of_the_reward_does_not_matter_where_it_is_normalised(make_learner, make_episode):
    """Values were predicted at the normalised scale, so only the rewards differ."""
    learners = [make_learner(KEEPING), make_learner(KEEPING)]
    for seed in range(6):
        for learner, scale in zip(learners, (1.0, 100.0), strict=True):
            episode = make_episode(seed)
            episode.rewards = [scale * reward for reward in episode.rewards]
            metrics = learner.add_episode(episode)
    assert 0.0 < metrics["reward_scale"] < 0.1
    small, large = (learner.weights() for learner in learners)
    for name, value in small.items():
        torch.testing.assert_close(value, large[name], rtol=1e-3, atol=1e-4, msg=name)


def test_a_linear_schedule_comes_down_to_0(make_learner, train):
    learner = make_learner(dataclasses.replace(LINEAR, total_steps=32))
    rates = [m["critic_learning_rate"] for m in train(learner, range(8)) if m]
    full = LINEAR.critic_learning_rate
    assert rates == pytest.approx([full, 0.5 * full, 0.0, 0.0])
