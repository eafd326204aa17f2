"""PPO against CleanRL's ppo_continuous_action.py, whose formulas are written out here.

Its names and order are kept; `args` are its arguments, and its Agent is our network.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions.normal import Normal

from residual_smolvla_ros.learning.ppo import PPOConfig
from residual_smolvla_ros.learning.ppo_update import losses, normalised
from residual_smolvla_ros.learning.rollout import Batch, Episode, make_batch
from residual_smolvla_ros.policy.actor_critic import ResidualActorCritic
from residual_smolvla_ros.policy.features import ResidualConfig


def cleanrl_loss(network: ResidualActorCritic, b: Batch, args: SimpleNamespace) -> torch.Tensor:
    action_mean = network.actor(b.features)
    action_logstd = network.log_std.expand_as(action_mean)
    action_std = torch.exp(action_logstd)
    probs = Normal(action_mean, action_std)
    newlogprob = probs.log_prob(b.residuals).sum(1)
    entropy = probs.entropy().sum(1)
    newvalue = network.critic(b.features)

    logratio = newlogprob - b.log_probs
    ratio = logratio.exp()
    mb_advantages = b.advantages
    if args.norm_adv:
        mb_advantages = (mb_advantages - mb_advantages.mean()) / (mb_advantages.std() + 1e-8)

    # Policy loss
    pg_loss1 = -mb_advantages * ratio
    pg_loss2 = -mb_advantages * torch.clamp(ratio, 1 - args.clip_coef, 1 + args.clip_coef)
    pg_loss = torch.max(pg_loss1, pg_loss2).mean()

    # Value loss
    newvalue = newvalue.view(-1)
    if args.clip_vloss:
        v_loss_unclipped = (newvalue - b.returns) ** 2
        v_clipped = b.values + torch.clamp(newvalue - b.values, -args.clip_coef, args.clip_coef)
        v_loss_clipped = (v_clipped - b.returns) ** 2
        v_loss_max = torch.max(v_loss_unclipped, v_loss_clipped)
        v_loss = 0.5 * v_loss_max.mean()
    else:
        v_loss = 0.5 * ((newvalue - b.returns) ** 2).mean()

    entropy_loss = entropy.mean()
    return pg_loss - args.ent_coef * entropy_loss + v_loss * args.vf_coef


def random_batch(network: ResidualActorCritic, rows: int) -> Batch:
    """Decisions of a policy and a critic other than the network's, so that both clips hold."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    features = normal(rows, network.config.feature_size)
    with torch.no_grad():
        mean, values = network(features)
        residuals = mean + network.log_std.exp() * normal(*mean.shape)
        log_probs = network.log_prob(mean, residuals) + 0.3 * normal(rows)
    values += 0.5 * normal(rows)
    return Batch(features, residuals, log_probs, values, 2.0 * normal(rows) + 1.0, normal(rows))


@pytest.mark.parametrize("value_clip", [False, True])
@pytest.mark.parametrize("norm_adv", [False, True])
@pytest.mark.parametrize("ent_coef", [0.0, 0.01])
def test_loss_and_gradients_are_cleanrls(value_clip, norm_adv, ent_coef):
    residual = ResidualConfig({"privileged": 40}, action_size=6, hidden_sizes=(64, 64))
    network = ResidualActorCritic(residual)
    torch.nn.init.orthogonal_(network.actor[-1].weight, 0.3, torch.Generator().manual_seed(0))
    batch = random_batch(network, rows=200)
    config = PPOConfig(
        value_clip=0.2 if value_clip else 0.0,
        # Those of the whole batch are normalised once, before the minibatches.
        advantage_normalisation="minibatch" if norm_adv else "batch",
        entropy_coefficient=ent_coef,
    )
    args = SimpleNamespace(
        norm_adv=norm_adv, clip_coef=0.2, clip_vloss=value_clip, ent_coef=ent_coef, vf_coef=1.0
    )
    parameters = list(network.parameters())
    ours, parts = losses(network, batch, config)
    found = torch.autograd.grad(ours, parameters)
    theirs = cleanrl_loss(network, batch, args)
    expected = torch.autograd.grad(theirs, parameters)
    assert 0.1 < parts["clip_fraction"] < 0.9
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_advantages_of_a_batch_are_normalised_as_cleanrl_does():
    b_advantages = 3.0 * torch.randn(50, generator=torch.Generator().manual_seed(0)) + 1.0
    expected = (b_advantages - b_advantages.mean()) / (b_advantages.std() + 1e-8)
    torch.testing.assert_close(normalised(b_advantages), expected)


def cleanrl_advantages(rewards, values, dones, next_value, next_done, args) -> torch.Tensor:
    advantages = torch.zeros_like(rewards)
    lastgaelam = 0
    for t in reversed(range(args.num_steps)):
        if t == args.num_steps - 1:
            nextnonterminal = 1.0 - next_done
            nextvalues = next_value
        else:
            nextnonterminal = 1.0 - dones[t + 1]
            nextvalues = values[t + 1]
        delta = rewards[t] + args.gamma * nextvalues * nextnonterminal - values[t]
        advantages[t] = lastgaelam = (
            delta + args.gamma * args.gae_lambda * nextnonterminal * lastgaelam
        )
    return advantages


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    goes_on=st.booleans(),
    gamma=st.floats(0.5, 1.0),
    lam=st.floats(0.0, 1.0),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_advantages_are_cleanrls(lengths, goes_on, gamma, lam, seed):
    """Episodes that end one after the other; the last one may go on beyond the rollout."""
    rng = np.random.default_rng(seed)
    rewards, values = rng.normal(size=(2, sum(lengths)))
    starts = np.cumsum([0, *lengths])
    dones = torch.zeros(len(rewards), dtype=torch.float64)
    dones[starts[1:-1]] = 1.0
    expected = cleanrl_advantages(
        torch.from_numpy(rewards),
        torch.from_numpy(values),
        dones,
        next_value=7.0,
        next_done=0.0 if goes_on else 1.0,
        args=SimpleNamespace(num_steps=len(rewards), gamma=gamma, gae_lambda=lam),
    )
    episodes = []
    for start, length in zip(starts, lengths, strict=False):
        episode = Episode()
        for t in range(start, start + length):
            episode.add_step(rewards[t], True, np.zeros(1, np.float32), np.zeros(1), 0.0, values[t])
        episodes.append(episode)
    if goes_on:
        episodes[-1].final_features = np.array([7.0], np.float32)
    batch = make_batch(episodes, lambda features: features.sum(-1), gamma, lam)
    torch.testing.assert_close(batch.advantages, expected.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        batch.returns, (expected + torch.from_numpy(values)).float(), rtol=1e-5, atol=1e-5
    )
