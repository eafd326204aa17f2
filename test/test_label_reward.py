"""A person's label ends the episode; only success earns something."""

import pytest

from residual_smolvla_ros.rewards.label import FAILURE, SUCCESS, LabelReward


@pytest.mark.parametrize(
    ("label", "reward", "success", "terminated"),
    [(None, 0.0, False, False), (SUCCESS, 2.0, True, True), (FAILURE, 0.0, False, True)],
)
def test_a_label_is_reward_success_and_end(label, reward, success, terminated):
    step = LabelReward(success_bonus=2.0)(label)
    assert (step.reward, step.success, step.terminated) == (reward, success, terminated)
