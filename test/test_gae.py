"""Advantages against numbers computed by hand: gamma and lambda are 1/2 throughout.

TD errors of rewards 1, 2, 3 and values 0.5, 1, 1.5, where the episode terminates:
    1 + 1/2 * 1 - 0.5 = 1,    2 + 1/2 * 1.5 - 1 = 1.75,    3 + 0 - 1.5 = 1.5
"""

import numpy as np
import pytest

from residual_smolvla_ros.learning.rollout import Episode, generalised_advantages, make_batch

REWARDS, VALUES = [1.0, 2.0, 3.0], [0.5, 1.0, 1.5]
TERMINATED = [1 + 2.125 / 4, 1.75 + 1.5 / 4, 1.5]
# A value of 2 after the last step makes the last TD error 3 + 1/2 * 2 - 1.5 = 2.5.
TRUNCATED = [1 + 2.375 / 4, 1.75 + 2.5 / 4, 2.5]


def make_episode(rewards=REWARDS, values=VALUES, final=None) -> Episode:
    episode = Episode()
    for reward, value in zip(rewards, values, strict=True):
        episode.add_step(reward, True, np.ones(2, np.float32), np.zeros(1, np.float32), 0.0, value)
    episode.final_features = None if final is None else np.asarray(final, np.float32)
    return episode


def batch_of(*episodes: Episode):
    return make_batch(list(episodes), lambda features: features.sum(-1), gamma=0.5, lam=0.5)


def test_termination_cuts_the_return():
    assert generalised_advantages(REWARDS, VALUES, 0.0, 0.5, 0.5) == pytest.approx(TERMINATED)
    batch = batch_of(make_episode())
    assert batch.advantages.tolist() == pytest.approx(TERMINATED)
    assert batch.returns.tolist() == pytest.approx(np.add(TERMINATED, VALUES))


@pytest.mark.parametrize(("timed_out", "advantages"), [(True, TERMINATED), (False, TRUNCATED)])
def test_a_time_limit_that_is_part_of_the_task_cuts_the_return_and_a_stop_does_not(
    timed_out, advantages
):
    episode = make_episode(final=[0.5, 1.5])
    episode.timed_out = timed_out
    batch = make_batch([episode], lambda x: x.sum(-1), 0.5, 0.5, time_limit_ends=True)
    assert batch.advantages.tolist() == pytest.approx(advantages)


def test_truncation_is_bootstrapped_by_the_value_of_the_final_features():
    batch = batch_of(make_episode(final=[0.5, 1.5]))
    assert batch.advantages.tolist() == pytest.approx(TRUNCATED)
    assert batch.returns.tolist() == pytest.approx(np.add(TRUNCATED, VALUES))


def test_lambda_0_is_the_td_error_and_lambda_1_the_discounted_return():
    one_step = generalised_advantages(REWARDS, VALUES, 2.0, 0.5, 0.0)
    assert one_step == pytest.approx([1.0, 1.75, 2.5])
    monte_carlo = generalised_advantages(REWARDS, VALUES, 2.0, 0.5, 1.0)
    returns = [1 + 2 / 2 + 3 / 4 + 2 / 8, 2 + 3 / 2 + 2 / 4, 3 + 2 / 2]
    assert monte_carlo == pytest.approx(np.subtract(returns, VALUES))


def test_an_episode_does_not_leak_into_the_one_before_it():
    huge = make_episode(rewards=[1e6] * 3, values=[1e6] * 3, final=[1e6, 1e6])
    batch = batch_of(make_episode(), huge, make_episode(final=[0.5, 1.5]))
    assert batch.advantages[:3].tolist() == pytest.approx(TERMINATED)
    assert batch.advantages[6:].tolist() == pytest.approx(TRUNCATED)


def test_an_episode_without_a_decision_adds_nothing():
    assert len(batch_of(Episode(), make_episode())) == 3


@pytest.mark.parametrize("episodes", [[], [Episode()]])
def test_an_empty_rollout_is_refused(episodes):
    with pytest.raises(ValueError, match="rollout: expected at least one decision, found none"):
        batch_of(*episodes)


@pytest.mark.filterwarnings("ignore:invalid value encountered")
@pytest.mark.parametrize("name", ["features", "residuals", "log_probs", "values"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_number_that_is_not_finite_is_refused_by_its_name(name, value):
    episode = make_episode()
    getattr(episode, name)[1] = getattr(episode, name)[1] * 0 + value
    with pytest.raises(ValueError, match=f"expected finite {name}, found NaN or infinity"):
        batch_of(episode)


def test_a_nan_that_only_the_advantages_show_is_refused():
    for episode in (make_episode([1.0, np.nan, 1.0]), make_episode(final=[np.nan, 0.0])):
        with pytest.raises(ValueError, match="expected finite advantages"):
            batch_of(make_episode(), episode)
