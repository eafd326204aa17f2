"""The last records of an episode may come late; what does not come at all is lost, and named."""

import pytest
from test_rollout_assembly import make_reward, make_step, stamp_of

from residual_smolvla_ros.learning.intake import SILENCE_S, Intake
from residual_smolvla_ros.learning.learner import Learner
from residual_smolvla_ros.learning.ppo import PPOConfig
from residual_smolvla_ros.learning.run import LearnerRun
from residual_smolvla_ros.learning.schedule import EpisodePlan
from residual_smolvla_ros.policy.features import ResidualConfig
from residual_smolvla_ros.records import EPISODE_EVENT, pack, unpack

STEPS = 3
# Fast DDS tells so often what it has sent, and is asked for what is missing.
HEARTBEAT_S = 3.0


class Waiting:
    """An intake whose episode has ended, but for the reward of its last step."""

    def __init__(self, folder):
        self.now, self.warnings, self.heard = 100.0, [], []
        residual = ResidualConfig.from_names(["episode_time"], joints=1, action_space="joint")
        learner = Learner(residual, PPOConfig(epochs=1), 9, warmup_updates=0)
        run = LearnerRun(folder, learner, {"seed": 0, "run_id": "a"}, resume=False)
        self.intake = Intake(run, lambda blob: None, self.warnings.append, clock=lambda: self.now)
        for tick in range(STEPS):
            self.intake.take_step(make_step(1, tick))
        for tick in range(STEPS - 1):
            self.intake.take_reward(make_reward(1, tick))
        plan = EpisodePlan(1, "train", 0, seed=0, max_steps=STEPS)
        end = pack(EPISODE_EVENT, event="end", episode=1, plan=plan.to_json(), reason="terminated",
                   success=False, label="failure", last_stamp=stamp_of(1, STEPS - 1),
                   steps=STEPS)  # fmt: skip
        self.intake.take_event(unpack(EPISODE_EVENT, end))

    def watch_until(self, seconds: float) -> None:
        """Look as the node does, four times a second, until so long after the last record."""
        while self.now < 100.0 + seconds:
            self.now += 0.25
            self.intake.watch()


@pytest.fixture
def waiting(tmp_path):
    return Waiting(tmp_path)


def test_a_last_reward_that_dds_had_to_tell_twice_more_is_waited_for(waiting):
    """With 2 s the learner took the episode for short while its last reward was on its way."""
    waiting.watch_until(2 * HEARTBEAT_S + 1.0)  # the first repetition was lost too
    assert waiting.intake.waits
    waiting.intake.take_reward(make_reward(1, STEPS - 1))
    assert (waiting.intake.episodes, waiting.intake.lost, waiting.warnings) == (1, 0, [])


def test_a_reward_that_never_comes_holds_the_learner_up_for_seconds_only(waiting):
    waiting.watch_until(SILENCE_S + 0.25)
    assert not waiting.intake.waits
    assert (waiting.intake.episodes, waiting.intake.lost) == (1, 1)
    assert waiting.warnings == ["episode 1: 1 of 3 steps were lost"]
    assert SILENCE_S <= 4 * HEARTBEAT_S
