"""What is changed while a node runs counts from the moment it says, and else is refused."""

import dataclasses

import pytest

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.learning.checkpoint import load_checkpoint
from residual_smolvla_ros.learning.learner import Learner
from residual_smolvla_ros.learning.ppo import PPOConfig
from residual_smolvla_ros.learning.run import LearnerRun
from residual_smolvla_ros.learning.td3 import TD3Config
from residual_smolvla_ros.learning.td3_learner import TD3Learner

DOMAIN = 105
TD3 = TD3Config(batch_size=8, critics=2, replay_size=60, learning_starts=8, actor_starts=8)


# -- learner --------------------------------------------------------------------------------


def test_a_change_counts_from_the_next_update_on(config, make_episode):
    """Not from within a batch: its episodes were all played by one policy."""
    learner = Learner(config, PPOConfig(), episodes_per_update=2, warmup_updates=0)
    learner.add_episode(make_episode(1))
    learner.change({"log_std_max": -2.0, "action_scale": 0.1, "epochs": 1})
    assert learner.residual.action_scale == 0.2
    assert learner.progress() == Learner(config, PPOConfig(), 2, 0).progress()
    metrics = learner.add_episode(make_episode(2))
    assert (learner.residual.action_scale, metrics["epochs"]) == (0.1, 1.0)
    assert (learner.weights()["log_std"] == -2.0).all()
    told = {"action_scale": 0.1, "epochs": 1, "log_std_max": -2.0}
    assert learner.progress()["settings"] == told
    assert {n: metrics[f"setting/{n}"] for n in told} == told


def test_without_a_change_no_weight_and_no_word_differs(config, make_episode):
    learners = [Learner(config, PPOConfig(), 1, 0) for _ in range(2)]
    learners[1].change({})
    found = [learner.add_episode(make_episode(1)) for learner in learners]
    assert found[0] == found[1]
    assert "settings" not in learners[1].progress()


@pytest.mark.parametrize(
    ("settings", "values", "message"),
    [
        ({}, {"clip_range": 0.0}, "clip_range: expected > 0, found 0.0"),
        ({}, {"log_std_min": 1.0, "log_std_max": 0.0}, "log_std_min: expected at most log_std_max"),
        (
            {"learning_rate_schedule": "adaptive"},
            {"actor_learning_rate": 1e-3},
            "actor_learning_rate: expected no change, since learning_rate_schedule adaptive",
        ),
    ],
)
def test_a_change_that_is_refused_changes_nothing(config, settings, values, message):
    learner = Learner(config, PPOConfig(**settings), 1, 0)
    with pytest.raises(ConfigError, match=message):
        learner.change({"epochs": 1} | values)
    learner._take_changes()
    assert learner.config == PPOConfig(**settings)


def test_td3_takes_rates_and_exploration_but_keeps_the_scale_of_its_replay(config, make_episode):
    squashed = dataclasses.replace(config, squash=True)
    learner = TD3Learner(squashed, TD3)
    with pytest.raises(ConfigError, match=r"action_scale: expected 0\.2, .*replay"):
        learner.change({"action_scale": 0.1})
    learner.change({"log_std_max": -3.0, "actor_learning_rate": 0.01})
    learner.add_episode(make_episode(1))
    assert (learner.weights()["log_std"] == -3.0).all()
    assert learner.algorithm._actor_optimiser.param_groups[0]["lr"] == 0.01
    learner.change({"log_std_max": 2.0})
    learner.add_episode(make_episode(2))
    assert (learner.weights()["log_std"] == config.log_std_init).all()


def test_a_rollback_brings_back_the_scale_that_its_weights_were_trained_at(
    config, make_episode, tmp_path
):
    run = LearnerRun(tmp_path, Learner(config, PPOConfig(), 1, 0), {}, resume=False)
    run.learner.change({"action_scale": 0.5})
    run.keep(run.learner.add_episode(make_episode(1)))
    assert load_checkpoint(tmp_path).config.action_scale == 0.5
    run.judge(is_good=False)
    assert run.learner.residual.action_scale == 0.2
    assert run.learner.settings == {"action_scale": 0.2}
    run.close()


def test_a_resumed_run_says_that_it_does_not_go_on_with_what_was_changed(
    config, make_episode, tmp_path, caplog
):
    run = LearnerRun(tmp_path, Learner(config, PPOConfig(), 1, 0), {}, resume=False)
    run.learner.change({"clip_range": 0.1})
    run.keep(run.learner.add_episode(make_episode(1)))
    run.close()
    resumed = LearnerRun(tmp_path, Learner(config, PPOConfig(), 1, 0), {}, resume=True)
    resumed.close()
    assert resumed.learner.config.clip_range == 0.2
    assert "was made with clip_range 0.1, set while it ran" in caplog.text
