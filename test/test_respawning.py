"""What becomes of a session when one of its nodes dies and is started again."""

from pathlib import Path

import pytest
from test_rollout_assembly import make_reward, make_step, stamp_of
from test_session import STEPS, Played
from test_session import make_reward as rewarded

from residual_smolvla_ros.learning.intake import Intake
from residual_smolvla_ros.learning.learner import Learner
from residual_smolvla_ros.learning.ppo import PPOConfig
from residual_smolvla_ros.learning.run import LearnerRun
from residual_smolvla_ros.learning.schedule import EpisodePlan
from residual_smolvla_ros.policy.features import ResidualConfig
from residual_smolvla_ros.records import EPISODE_EVENT, pack, unpack
from residual_smolvla_ros.reporting.results import append_outcome, last_episode, read_outcomes
from residual_smolvla_ros.respawning import LONG_S, REFUSED, TRIES, Respawning

KILLED = -9


class TestRespawning:
    @pytest.fixture(autouse=True)
    def _begin(self, tmp_path):
        self.folder, self.now = tmp_path, 0.0
        self.respawning = Respawning(tmp_path, True, lambda: self.now)

    def test_a_node_that_refused_its_parameters_would_refuse_them_again(self):
        assert not self.respawning.respawns("reward", REFUSED)
        assert self.respawning.respawns("reward", KILLED)

    def test_one_that_dies_at_once_each_time_stays_down(self):
        ends = [self.respawning.respawns("policy", KILLED) for _ in range(TRIES)]
        assert ends == [True] * (TRIES - 1) + [False]

    def test_an_episode_in_between_is_progress_and_so_is_a_long_life(self):
        for number in range(2 * TRIES):
            (self.folder / "episodes.jsonl").write_text("{}\n" * number)
            assert self.respawning.respawns("policy", KILLED)
        for _ in range(2 * TRIES):
            self.now += LONG_S + 1
            assert self.respawning.respawns("policy", KILLED)

    def test_a_run_is_complete_with_its_summary_not_when_its_episodes_were_told_to_end(self):
        assert self.respawning.respawns("episode", 0)
        (self.folder / "summary.json").write_text("{}")
        assert self.respawning.is_complete("episode", 0)
        assert not self.respawning.respawns("episode", 0)

    def test_without_it_nothing_is_started_again(self):
        off = Respawning(self.folder, False)
        assert not off.respawns("policy", KILLED)
        assert off.is_complete("episode", 0)


def test_an_episode_that_lost_a_node_is_discarded_and_played_again():
    played = Played(judged=True)
    played.begin()
    played.step(STEPS - 1)
    lost = played.session.plan
    assert played.session.interrupt()
    played.begin()
    assert played.told()[1] == ("end", "interrupted", "discard")
    assert (played.session.plan.index, played.session.plan.seed) == (lost.index, lost.seed)
    assert played.session.plan.episode == lost.episode + 1
    played.step(STEPS)
    assert [o.label for o in played.outcomes] == ["discard", "failure"]
    assert played.outcomes[1].steps == STEPS


def test_rewards_that_are_told_again_are_no_steps_of_the_episode_that_runs():
    """A reward node that is started anew answers each state that it hears of once more."""
    played = Played(judged=True)
    played.begin()
    played.step(STEPS)
    told = [rewarded(stamp, 1.0) for stamp in range(1010, 1010 + 10 * STEPS, 10)]
    played.begin()
    for reward in told:
        played.session.take_reward(reward)
    played.step(STEPS)
    assert [o.steps for o in played.outcomes] == [STEPS, STEPS]


def test_a_scene_that_was_set_by_a_simulator_that_died_is_set_anew():
    played = Played(judged=True)
    assert played.session.prepare()
    played.session.interrupt(scene=True)
    assert played.session.prepare()
    assert [event["event"] for event in played.events] == ["prepare", "prepare"]


def test_a_session_goes_on_in_the_place_of_one_that_died(tmp_path):
    first = Played(judged=True)
    for _ in range(2):
        first.begin()
        first.step(STEPS)
    for outcome in first.outcomes:
        append_outcome(tmp_path, outcome)
    first.begin()  # and dies in it
    second = Played(judged=True)
    second.session.take_over(read_outcomes(tmp_path), last_episode(tmp_path))
    assert second.told()[-1] == ("end", "interrupted", "discard")
    assert second.events[-1]["episode"] == first.session.plan.episode
    # What the learner has not made an update of: it may have died as well.
    ends = [event for event in first.events if event["event"] == "end"]
    assert [(e["last_stamp"], e["steps"], e["label"]) for e in second.events[:-1]] == [
        (e["last_stamp"], e["steps"], e["label"]) for e in ends
    ]
    second.begin()
    assert second.session.plan.index == first.session.plan.index
    assert second.session.schedule.env_steps == 2 * STEPS


def test_what_a_run_played_before_it_was_resumed_counts_as_far_as_its_checkpoint(tmp_path):
    played = Played(judged=True)
    for _ in range(4):
        played.begin()
        played.step(STEPS)
    for outcome in played.outcomes:
        append_outcome(tmp_path, outcome)
    # Resumed from a checkpoint after two, when four had been played.
    assert [o.index for o in read_outcomes(tmp_path, 2, up_to=4)] == [0, 1]
    assert [o.index for o in read_outcomes(tmp_path, 2, up_to=3)] == [0, 1, 3]


class Told:
    """A learner of a run's folder, and records of episodes of three steps for it."""

    def __init__(self, folder: Path, run_id: str = "a"):
        names = ["episode_time"]
        residual = ResidualConfig.from_names(names, joints=1, action_space="joint")
        self.learner = Learner(residual, PPOConfig(epochs=1), 2, warmup_updates=0)
        run = LearnerRun(folder, self.learner, {"seed": 0, "run_id": run_id}, resume=False)
        self.intake = Intake(run, publish=lambda blob: None, warn=pytest.fail)

    def tell(self, episode: int, index: int, label: str = "failure") -> None:
        for tick in range(STEPS):
            self.intake.take_step(make_step(episode, tick))
            self.intake.take_reward(make_reward(episode, tick))
        plan = EpisodePlan(episode, "train", index, seed=0, max_steps=STEPS)
        blob = pack(EPISODE_EVENT, event="end", episode=episode, plan=plan.to_json(),
                    reason="terminated", success=False, label=label, steps=STEPS,
                    last_stamp=stamp_of(episode, STEPS - 1))  # fmt: skip
        self.intake.take_event(unpack(EPISODE_EVENT, blob))


def test_a_learner_that_is_started_anew_learns_from_each_episode_once(tmp_path):
    """It goes on from its checkpoint, and hears all records of the session once more."""
    first = Told(tmp_path)
    for episode in (1, 2, 3):
        first.tell(episode, index=episode - 1)
    assert first.learner.progress()["episodes"] == 2
    second = Told(tmp_path)
    for episode in (1, 2, 3):
        second.tell(episode, index=episode - 1)
    assert (second.learner.progress()["episodes"], second.learner.collected) == (2, 1)


def test_an_episode_whose_outcome_was_never_kept_is_learned_from_once(tmp_path):
    """The node episode died between its word to the learner and the run's file."""
    told = Told(tmp_path)
    told.tell(1, index=0)
    told.tell(1, index=0, label="discard")  # by the one that took its place
    told.tell(2, index=0)
    assert told.learner.taken == 1
    told.tell(3, index=1)
    assert told.learner.progress()["episodes"] == 2


def test_the_checkpoints_of_another_run_are_not_gone_on_with(tmp_path):
    Told(tmp_path)
    with pytest.raises(ValueError, match="expected a folder without checkpoints"):
        Told(tmp_path, run_id="b")
