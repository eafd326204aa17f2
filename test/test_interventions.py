"""What a person drove is not the policy's: PPO learns from the steps before and after it."""

import numpy as np
import torch
from test_rollout_assembly import feed, make_end, make_reward, make_step, taken

from residual_smolvla_ros.learning.learner import Learner
from residual_smolvla_ros.learning.ppo import PPOConfig
from residual_smolvla_ros.learning.rollout import Episode, generalised_advantages, make_batch
from residual_smolvla_ros.policy.features import ResidualConfig


def make_episode(driven: str, final: bool = True) -> Episode:
    """An episode of one decision a step, p for the policy's and h for a person's."""
    steps = [make_step(1, tick, intervention=who == "h") for tick, who in enumerate(driven)]
    steps += [make_step(1, len(driven), final=True)] if final else []
    rewards = [make_reward(1, tick) for tick in range(len(driven))]
    episode, lost = taken(feed([*steps, *rewards, make_end(1, len(driven), truncated=final)]))
    assert lost == 0
    return episode


def values(features: torch.Tensor) -> torch.Tensor:
    return 100.0 + features[:, 0]


def test_only_the_policys_decisions_are_in_the_batch():
    episode = make_episode("pphhhp")
    assert episode.intervened_steps == 3
    batch = make_batch([episode], values, gamma=0.9, lam=0.8)
    assert batch.features[:, 0].tolist() == [0, 1, 5]


def test_a_takeover_cuts_the_return_with_the_value_of_the_state_it_came_in():
    batch = make_batch([make_episode("pphhp", final=False)], values, gamma=0.9, lam=0.8)
    before = generalised_advantages([1, 10], [0, 0.5], 102.0, 0.9, 0.8)
    after = generalised_advantages([10**4], [2.0], 0.0, 0.9, 0.8)
    np.testing.assert_allclose(batch.advantages, np.concatenate([before, after]), rtol=1e-6)


def test_what_a_person_earned_at_the_end_is_not_the_policys():
    batch = make_batch([make_episode("phh", final=False)], values, gamma=1.0, lam=1.0)
    assert batch.returns.tolist() == [1 + 101]


def test_without_a_takeover_there_is_one_segment():
    episode = make_episode("ppp")
    ((rows, after),) = episode.segments()
    assert (rows, after.tolist()) == (slice(0, 3), [3])


def test_an_update_of_nothing_but_a_persons_steps_changes_no_weight():
    """The schedule counts on an update after so many episodes: it must come, and not fail."""
    learner = Learner(
        ResidualConfig.from_names(["episode_time"], 1, action_space="joint"), PPOConfig(), 1, 0
    )
    before = {name: value.clone() for name, value in learner.weights().items()}
    metrics = learner.add_episode(make_episode("hhh"))
    assert metrics["intervened"] == 1.0
    assert learner.counters.version == 1
    for name, value in learner.weights().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
