"""A version that does worse than the base is rolled back: its weights are gone, its steps count."""

import copy

import pytest
import torch

from residual_smolvla_ros.learning.checkpoint import load_checkpoint
from residual_smolvla_ros.learning.guard import is_worse
from residual_smolvla_ros.learning.learner import Learner
from residual_smolvla_ros.learning.ppo import PPOConfig
from residual_smolvla_ros.learning.run import LearnerRun


@pytest.fixture
def run(tmp_path, config):
    made = LearnerRun(tmp_path, Learner(config, PPOConfig(), 1, 0), {}, resume=False)
    yield made
    made.close()


def update(run: LearnerRun, make_episode, seed: int) -> None:
    run.keep(run.learner.add_episode(make_episode(seed)))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, b[name]) for name, value in a.items())


def test_the_weights_and_the_optimiser_of_the_last_accepted_version_are_taken_again(
    run, make_episode, tmp_path
):
    update(run, make_episode, 1)
    run.judge(is_good=True)
    accepted = run.learner.weights()
    state = copy.deepcopy(run.learner.algorithm.state())
    for seed in range(2, 12):  # more than the checkpoints that are kept otherwise
        update(run, make_episode, seed)
    assert not same(accepted, run.learner.weights())
    run.judge(is_good=False)
    assert same(accepted, run.learner.weights())
    assert same(state, run.learner.algorithm.state())
    counters = run.learner.counters
    assert (counters.version, counters.episodes, counters.rollbacks) == (12, 11, 1)
    assert same(accepted, load_checkpoint(tmp_path).weights)  # a resume goes on from there


def test_without_an_accepted_version_the_untrained_one_is_taken(run, make_episode):
    untrained = run.learner.weights()
    update(run, make_episode, 1)
    run.judge(is_good=False)
    assert same(untrained, run.learner.weights())


@pytest.mark.parametrize(("successes", "worse"), [(10, True), (13, True), (17, False), (30, False)])
def test_worse_is_only_what_chance_would_hardly_give(successes, worse):
    """87 of 200 by the base; 17 of 50 may be the same residual, 13 hardly."""
    assert is_worse(successes, 50, 87, 200) is worse
