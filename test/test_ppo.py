"""PPO: the objective against numbers computed by hand, and what an update may change."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from residual_smolvla_ros.learning.ppo import PPOConfig
from residual_smolvla_ros.learning.ppo_update import (
    clipped_objective,
    losses,
    make_optimiser,
    update,
    value_objective,
)
from residual_smolvla_ros.learning.rollout import Batch, Episode, make_batch
from residual_smolvla_ros.policy.actor_critic import ResidualActorCritic
from residual_smolvla_ros.policy.features import ResidualConfig

SETTINGS = PPOConfig(
    epochs=4,
    minibatch_size=16,
    actor_learning_rate=1e-2,
    critic_learning_rate=1e-2,
    target_kl=1e9,
)


@pytest.fixture
def network(config) -> ResidualActorCritic:
    return ResidualActorCritic(config, seed=1)


def random_batch(network: ResidualActorCritic, rows: int = 64) -> Batch:
    """A batch sampled from the network itself, with random advantages and returns."""
    generator = torch.Generator().manual_seed(2)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    features = normal(rows, network.config.feature_size)
    with torch.no_grad():
        mean, values = network(features)
        residuals = mean + network.log_std.exp() * normal(*mean.shape)
        log_probs = network.log_prob(mean, residuals)
    return Batch(features, residuals, log_probs, values, normal(rows), normal(rows))


def run(network, batch, settings=SETTINGS, seed=0, train_actor=True, updates=1):
    """Return a trained copy of the network and the last update's metrics."""
    network = copy.deepcopy(network)
    optimiser = make_optimiser(network, settings)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(updates):
        metrics = update(network, optimiser, batch, settings, generator, train_actor)
    return network, metrics


def same_bits(a: torch.nn.Module, b: torch.nn.Module, prefix: str = "") -> bool:
    other = b.state_dict()
    return all(torch.equal(v, other[k]) for k, v in a.state_dict().items() if k.startswith(prefix))


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"),
    [
        (1.5, 2.0, -1.2 * 2.0),  # clipped: no more gain beyond 1 + clip
        (1.5, -2.0, 1.5 * 2.0),  # not clipped: a mistake counts in full
        (0.5, 2.0, -0.5 * 2.0),  # not clipped
        (0.5, -2.0, 0.8 * 2.0),  # clipped: no more gain below 1 - clip
        (1.1, 2.0, -1.1 * 2.0),  # inside
        (0.9, -2.0, 0.9 * 2.0),
    ],
)
def test_clipped_objective_by_hand(ratio, advantage, loss):
    log_ratio = torch.tensor([math.log(ratio)], requires_grad=True)
    found = clipped_objective(log_ratio.exp(), torch.tensor([advantage]), clip=0.2)
    found.backward()
    assert found.item() == pytest.approx(loss)
    # d/dlogp of -r A is -r A, and 0 where the clip holds.
    clipped = loss != pytest.approx(-ratio * advantage)
    assert log_ratio.grad.item() == pytest.approx(0.0 if clipped else loss)


def test_the_objective_is_the_mean_over_the_batch():
    loss = clipped_objective(torch.tensor([1.5, 0.5]), torch.tensor([2.0, -2.0]), clip=0.2)
    assert loss.item() == pytest.approx((-2.4 + 1.6) / 2)


@pytest.mark.parametrize(
    ("value", "loss"),
    [
        (1.1, 0.5 * 0.9**2),  # within the clip
        (1.9, 0.5 * 0.8**2),  # moved by more than 0.2 toward the return: no more to gain
        (0.5, 0.5 * 1.5**2),  # moved away: counts in full
    ],
)
def test_a_clipped_value_loss_by_hand(value, loss):
    """The value was 1, and the return is 2."""
    found = value_objective(torch.tensor([value]), torch.ones(1), torch.tensor([2.0]), clip=0.2)
    assert found.item() == pytest.approx(loss)
    unclipped = value_objective(torch.tensor([value]), torch.ones(1), torch.tensor([2.0]), clip=0.0)
    assert unclipped.item() == pytest.approx(0.5 * (2.0 - value) ** 2)


@pytest.mark.parametrize("changes", [{}, {"critic_only": ("episode_time",)}, {"squash": True}])
def test_an_update_begins_with_the_policy_that_acted(config, changes):
    """Its fast layers, and which features they get, are those of the network."""
    network = ResidualActorCritic(dataclasses.replace(config, **changes), seed=1)
    nn.init.orthogonal_(network.actor[-1].weight, 1.0, torch.Generator().manual_seed(0))
    batch = random_batch(network)
    _, parts = losses(network, batch, SETTINGS)
    assert parts["minibatch_kl"] < 1e-9
    assert parts["clip_fraction"] == 0.0
    assert parts["residual_ms"] > 1e-3


def test_log_prob_and_entropy_are_those_of_a_normal_distribution(network):
    with torch.no_grad():
        network.log_std.copy_(torch.linspace(-2.0, 0.5, 6))
    mean, residual = torch.randn(2, 10, 6, generator=torch.Generator().manual_seed(0))
    normal = torch.distributions.Normal(mean, network.log_std.exp())
    log_prob = normal.log_prob(residual).sum(-1)
    torch.testing.assert_close(network.log_prob(mean, residual), log_prob)
    torch.testing.assert_close(network.entropy(), normal.entropy()[0].sum())


def test_warm_up_leaves_the_actor_alone_to_the_bit(network):
    trained, metrics = run(network, random_batch(network), train_actor=False)
    assert same_bits(network, trained, "actor")
    assert same_bits(network, trained, "log_std")
    assert not same_bits(network, trained, "critic")
    assert metrics["kl"] == 0.0


def test_an_update_trains_actor_deviation_and_critic(network):
    trained, metrics = run(network, random_batch(network))
    for part in ("actor", "log_std", "critic"):
        assert not same_bits(network, trained, part), part
    assert same_bits(network, trained, "normaliser")
    assert all(math.isfinite(value) for value in metrics.values())


def test_an_update_stops_after_the_epoch_that_passes_the_kl_target(network):
    batch = random_batch(network)
    _, all_epochs = run(network, batch)
    _, stopped = run(network, batch, dataclasses.replace(SETTINGS, target_kl=1e-6))
    assert all_epochs["epochs"] == SETTINGS.epochs
    assert stopped["epochs"] == 1
    assert stopped["kl"] > 1e-6


def test_an_update_stops_before_the_minibatch_that_passes_the_kl_target(network):
    batch = random_batch(network)
    target = 0.01
    _, found = run(network, batch, dataclasses.replace(SETTINGS, target_kl=target, epochs=100))
    settings = dataclasses.replace(SETTINGS, target_kl=target, epochs=100, kl_stop="minibatch")
    _, stopped = run(network, batch, settings)
    assert stopped["epochs"] <= found["epochs"] < 100
    assert stopped["minibatch_kl"] < target < found["kl"]


def test_without_a_target_no_divergence_stops_an_update(network):
    settings = dataclasses.replace(SETTINGS, target_kl=0.0, actor_learning_rate=0.1)
    _, metrics = run(network, random_batch(network), settings)
    assert metrics["epochs"] == SETTINGS.epochs
    assert metrics["kl"] > 0.05
    assert metrics["clip_fraction"] > 0.0


@pytest.mark.parametrize(("desired", "grows"), [(1e-9, False), (1e9, True)])
def test_an_adaptive_learning_rate_steers_to_the_desired_divergence(network, desired, grows):
    settings = dataclasses.replace(
        SETTINGS, learning_rate_schedule="adaptive", desired_kl=desired, actor_learning_rate=1e-3
    )
    _, metrics = run(network, random_batch(network), settings)
    bound = 1e-2 if grows else 1e-5
    assert metrics["actor_learning_rate"] == pytest.approx(bound)
    assert metrics["critic_learning_rate"] == SETTINGS.critic_learning_rate


def test_the_critic_learns_the_returns(network):
    batch = random_batch(network)
    _, first = run(network, batch)
    _, last = run(network, batch, updates=30)
    assert last["value_loss"] < 0.3 * first["value_loss"]


def test_a_huge_value_error_does_not_shrink_the_actors_step(network):
    batch = random_batch(network)
    far = dataclasses.replace(batch, returns=1e6 * batch.returns)
    near_network, _ = run(network, batch)
    far_network, _ = run(network, far)
    assert same_bits(near_network, far_network, "actor")


def test_the_scale_of_the_reward_does_not_change_the_actors_step(network):
    batch = random_batch(network)
    scaled = dataclasses.replace(batch, advantages=10.0 * batch.advantages + 3.0)
    (a, _), (b, _) = run(network, batch), run(network, scaled)
    torch.testing.assert_close(a.actor[-1].weight, b.actor[-1].weight, rtol=1e-3, atol=1e-4)


def test_same_seed_same_bits_other_seed_other_minibatches(network):
    batch = random_batch(network)
    first, _ = run(network, batch, seed=7)
    torch.randn(5)  # the global generator plays no part
    again, _ = run(network, batch, seed=7)
    other, _ = run(network, batch, seed=8)
    assert same_bits(first, again)
    assert not same_bits(first, other)


def test_a_single_decision_does_not_turn_the_weights_into_nan(network):
    """An episode that succeeds within one hold is a batch of one: it has no deviation."""
    trained, _ = run(network, random_batch(network, rows=1))
    assert all(value.isfinite().all() for value in trained.state_dict().values())


def test_a_bandit_moves_the_mean_toward_the_reward():
    """One step an episode, rewarded for a residual near (0.5, -0.5): both signs are learned."""
    target = np.array([0.5, -0.5])
    config = ResidualConfig(
        {"state": 1}, action_size=2, action_space="joint", hidden_sizes=(8,), log_std_init=-1.0
    )
    network = ResidualActorCritic(config)
    optimiser = make_optimiser(network, SETTINGS)
    generator = torch.Generator().manual_seed(3)
    features = torch.ones(1, 1)
    for _ in range(15):
        episodes = []
        for _ in range(64):
            with torch.no_grad():
                mean, value = network(features)
                noise = torch.randn(1, 2, generator=generator)
                residual = mean + network.log_std.exp() * noise
                log_prob = network.log_prob(mean, residual).item()
            reward = -np.square(residual[0].numpy() - target).sum()
            episode = Episode()
            episode.add_step(
                reward, True, features[0].numpy(), residual[0].numpy(), log_prob, value.item()
            )
            episodes.append(episode)
        batch = make_batch(episodes, network.value, gamma=0.99, lam=0.95)
        update(network, optimiser, batch, SETTINGS, generator)
    with torch.no_grad():
        mean = network(features)[0][0].numpy()
    assert np.abs(mean - target).max() < 0.2, mean
