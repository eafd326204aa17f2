"""TD3: its target by hand, the ensemble, and what a gradient step may change."""

import dataclasses

import numpy as np
import pytest
import torch

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.learning.critics import Critics, bellman_target
from residual_smolvla_ros.learning.td3 import TD3, TD3Config

SETTINGS = TD3Config(
    batch_size=32, critics=3, replay_size=200, learning_starts=8, actor_starts=16, policy_delay=1
)


@pytest.fixture
def make_td3(config, make_episode):
    """Return a function that makes a TD3 which has stored so many episodes of 8 decisions."""

    def make(episodes: int, settings: TD3Config = SETTINGS, **changes) -> TD3:
        td3 = settings.make(dataclasses.replace(config, squash=True, **changes), seed=0)
        td3.store([make_episode(seed, truncated=seed % 2 > 0) for seed in range(episodes)])
        return td3

    return make


def changed(td3: TD3, action) -> set[str]:
    """Which parts of a TD3 an action changes."""
    before = {name: value.clone() for name, value in parts(td3).items()}
    action()
    return {
        name.split(".")[0]
        for name, value in parts(td3).items()
        if not torch.equal(value, before[name])
    }


def parts(td3: TD3) -> dict[str, torch.Tensor]:
    modules = ("critics", "target_critics", "target_actor")
    state = {name: v for name, v in td3.state().items() if name.split(".")[0] in modules}
    return state | td3.network.state_dict()


def test_the_target_is_the_least_of_the_values_of_what_follows():
    values = torch.tensor([[1.0, 8.0], [3.0, 4.0]])
    target = bellman_target(values, torch.tensor([0.5, 0.25]), torch.tensor([0.5, 0.25]))
    assert target.tolist() == [0.5 + 0.5 * 1.0, 0.25 + 0.25 * 4.0]


def test_nothing_follows_a_termination():
    target = bellman_target(torch.full((2, 1), 1e9), torch.tensor([2.0]), torch.tensor([0.0]))
    assert target.tolist() == [2.0]


def test_a_subset_of_the_ensemble_says_what_its_members_say():
    critics = Critics(5, (8, 8), members=4)
    x, action = torch.randn(2, 6, 3), torch.randn(6, 2)
    members = torch.tensor([3, 1])
    every = critics(x[0], action)
    assert every.shape == (4, 6)
    assert len({round(value, 6) for value in every[:, 0].tolist()}) == 4
    torch.testing.assert_close(critics(x[0], action, members), every[members])


def test_a_member_learns_nothing_from_the_error_of_another():
    critics = Critics(5, (8, 8), members=3)
    critics(torch.randn(6, 3), torch.randn(6, 2))[1].square().mean().backward()
    for parameter in critics.parameters():
        assert parameter.grad[1].any()
        assert not parameter.grad[0].any()
        assert not parameter.grad[2].any()


def test_a_critic_does_not_extrapolate_far_beyond_its_data():
    """Layer normalisation bounds it (RLPD): an unbounded one lures the actor away."""
    critics = Critics(5, (64, 64), members=2)
    x, action = torch.randn(20, 3), torch.randn(20, 2)
    near, far = critics(x, action).abs().max(), critics(1e3 * x, 1e3 * action).abs().max()
    assert far < 10 * near


def test_nothing_is_learned_before_there_is_enough_to_learn_from(make_td3):
    td3 = make_td3(1, dataclasses.replace(SETTINGS, learning_starts=9))
    assert changed(td3, lambda: td3.fit([], 0, warmup=False)) == set()


def test_critics_learn_before_the_actor_does(make_td3):
    td3 = make_td3(1)
    critics = {"critics", "target_critics", "normaliser"}
    assert changed(td3, lambda: td3.fit([], 0, warmup=False)) == critics


def test_a_warm_up_trains_no_actor(make_td3):
    td3 = make_td3(3)
    assert "actor" not in changed(td3, lambda: td3.fit([], 0, warmup=True))


def test_a_gradient_step_changes_all_but_what_stays_fixed(make_td3):
    """The network's own critic takes no part, and exploration is as it was set."""
    td3 = make_td3(3)
    td3.learn(limit=1)
    parts = {"critics", "target_critics", "actor", "target_actor"}
    assert changed(td3, lambda: td3.fit([], 0, warmup=False)) == parts


def test_targets_follow_slowly(make_td3):
    td3 = make_td3(1)
    before = {name: value.clone() for name, value in parts(td3).items()}
    td3.learn(limit=1)
    after = parts(td3)
    name = "weights.0"
    start = before[f"target_critics.{name}"]
    expected = start + SETTINGS.tau * (after[f"critics.{name}"] - start)
    torch.testing.assert_close(after[f"target_critics.{name}"], expected)


def test_each_decision_pays_for_its_gradient_steps(make_td3, make_episode):
    td3 = make_td3(1, dataclasses.replace(SETTINGS, utd=0.3))
    assert td3.fit([], 0, warmup=False)["gradient_steps"] == 2  # of 2.4
    td3.store([make_episode(9)])
    assert td3.fit([], 0, warmup=False)["gradient_steps"] == 4  # of 4.8


def test_the_actor_learns_nothing_of_what_only_critics_see(make_td3):
    td3 = make_td3(4, critic_only=("state",))
    td3.fit([], 0, warmup=False)
    features = torch.randn(5, td3.network.config.feature_size)
    other = features.clone()
    other[:, :6] += 1.0  # the state
    mean, _ = td3.network(features)
    assert mean.any()
    assert torch.equal(td3.network(other)[0], mean)


def test_the_mean_cannot_leave_the_residuals_bound(make_td3):
    td3 = make_td3(1, residual_clip=0.5)
    with torch.no_grad():
        td3.network.actor[-1].weight.fill_(100.0)
    mean, _ = td3.network(torch.randn(20, td3.network.config.feature_size))
    assert 0.45 < mean.abs().max() <= 0.5


def test_what_the_base_did_well_is_a_demonstration(make_td3, make_episode):
    td3 = make_td3(0)
    td3.store([make_episode(0, truncated=False), make_episode(1, truncated=True)])
    assert (len(td3.replay), len(td3.demonstrations)) == (16, 8)
    td3.store([make_episode(2, truncated=False)])  # by an actor that learns
    assert (len(td3.replay), len(td3.demonstrations)) == (24, 8)


def test_a_batch_holds_the_share_of_demonstrations_that_was_asked_for(make_td3):
    """Demonstrations with rewards of 100 raise the values that critics learn."""
    values = {}
    for share in (0.0, 0.5):
        td3 = make_td3(3, dataclasses.replace(SETTINGS, demo_share=share, utd=10.0, tau=0.0))
        shown = td3.demonstrations._rows
        shown.rewards.fill_(100.0)
        values[share] = td3.fit([], 0, warmup=True)["critic_loss"]
    assert values[0.5] > 100 * values[0.0]


def test_a_residual_without_a_bound_is_refused(config):
    with pytest.raises(ConfigError, match="squash: expected true for td3"):
        SETTINGS.make(config, seed=0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"n_step": 0}, "n_step: expected 1 or more, found 0"),
        ({"demo_share": 1.5}, "demo_share: expected 0 to 1, found 1.5"),
        ({"gamma": float("nan")}, "gamma: expected 0 to 1, found nan"),
        ({"critics": 1}, "critics: expected at least the 2 of critics_in_target, found 1"),
        ({"replay_size": 10}, "replay_size: expected at least the .* of learning_starts, found 10"),
    ],
)
def test_a_setting_that_nothing_can_be_learned_with_is_refused(setting, message):
    with pytest.raises(ConfigError, match=message):
        TD3Config(**setting)


def test_losses_are_finite_and_told(make_td3):
    metrics = make_td3(4).fit([], 0, warmup=False)
    assert {"critic_loss", "value", "actor_loss", "residual_ms"} < metrics.keys()
    assert np.isfinite(list(metrics.values())).all()
