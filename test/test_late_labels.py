"""The learner takes an episode once its label is known, with the reward that belongs to it."""

import dataclasses

import numpy as np
import pytest
from test_rollout_assembly import feed, make_end, make_records, make_reward, taken

from residual_smolvla_ros.learning.assembly import EpisodeAssembler


def open_episode(truncated: bool = True) -> EpisodeAssembler:
    """All records of an episode of four steps but its label."""
    *records, _ = make_records(truncated=truncated)
    end = dataclasses.replace(make_end(1, 4, truncated), success=False, open=True)
    return feed([*records, end])


def test_an_unlabelled_episode_is_not_taken_however_long_it_waits():
    assembler = open_episode()
    assert assembler.waiting is None  # no record is missing
    assert assembler.pop() is None
    assert assembler.pop(late=True) is None


@pytest.mark.parametrize("reward_first", [False, True])
def test_success_at_the_time_limit_ends_the_return_with_its_reward(reward_first):
    assembler = open_episode()
    judged = make_reward(1, 3, bonus=5.0, label="success")
    if reward_first:
        assembler.add_reward(judged)
    assembler.add_label(1, "success")
    if not reward_first:
        assert assembler.pop() is None
        assembler.add_reward(judged)
    episode, lost = taken(assembler)
    assert episode.rewards == [1, 10, 100, 1005]
    assert (episode.success, episode.final_features, lost) == (True, None, 0)


@pytest.mark.parametrize("truncated", [False, True])
def test_failure_bootstraps_only_where_the_time_was_up(truncated):
    assembler = open_episode(truncated)
    assembler.add_label(1, "failure")
    assembler.add_reward(make_reward(1, 3, bonus=-5.0, label="failure"))
    episode, _ = taken(assembler)
    assert episode.rewards == [1, 10, 100, 995]
    assert (episode.final_features is not None) == truncated
    assert not episode.success


def test_a_discarded_episode_is_dropped_whole():
    assembler = open_episode()
    assembler.add_label(1, "discard")
    assert assembler.pop() is None
    assert not assembler._steps
    assert not assembler._rewards


def test_a_label_of_another_episode_changes_nothing():
    assembler = open_episode()
    assembler.add_label(2, "success")
    assert assembler.pop(late=True) is None


def test_a_reward_that_lacks_a_term_cuts_the_episode_there_without_a_wait():
    records = make_records(truncated=False)
    assembler = feed([make_reward(1, 2, missing=("load",)), *records])
    episode, lost = taken(assembler)
    assert episode.rewards == [1, 10]
    np.testing.assert_array_equal(episode.final_features, [2])
    assert lost == 2
