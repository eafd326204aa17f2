"""Several arms on one schedule: who plays what, and what the learner makes of it.

Arms play episodes of ten steps; an update takes two. The learner's episodes have two steps.
"""

import json
from dataclasses import asdict

import pytest
from test_rollout_assembly import make_reward, make_step, stamp_of
from test_schedule import make_outcome, make_schedule, play

from residual_smolvla_ros.learning.fleet import Fleet, Share, identify, outcome_from_json
from residual_smolvla_ros.learning.fleet_intake import FleetIntake
from residual_smolvla_ros.learning.intake import SILENCE_S
from residual_smolvla_ros.learning.run import LearnerRun
from residual_smolvla_ros.learning.schedule import TRAIN, EpisodePlan
from residual_smolvla_ros.learning.settings import make_learner
from residual_smolvla_ros.pipeline import REMOTE_SILENCE_S
from residual_smolvla_ros.records import EPISODE_EVENT, WEIGHTS, RecordError, pack, unpack

ARMS = ("arm1", "arm2", "arm3")
LEARNER = {"features": ["episode_time"], "action_space": "joint", "episodes_per_update": 4,
           "warmup_updates": 0, "hidden_sizes": [4]}  # fmt: skip


class Played:
    """A fleet whose arms end their episodes when they are told; `now` is its clock."""

    def __init__(self, arms=ARMS, **schedule):
        self.now, self.playing, self.kept, self.versions = 0.0, {}, [], []
        self.fleet = Fleet(make_schedule(**schedule), ARMS, patience_s=60, clock=lambda: self.now)
        for arm in arms:
            self.fleet.ask(arm, 0)
        self.go_on()

    def go_on(self) -> None:
        self.playing |= dict(self.fleet.hand_out())

    def end(self, arm: str, **changes) -> bool:
        """End an arm's episode; return whether it counts."""
        plan = self.playing.pop(arm)
        outcome = make_outcome(plan)
        outcome = outcome.__class__(**asdict(outcome) | changes)
        taken = self.fleet.ask(arm, plan.episode, outcome)
        if taken:
            self.kept.append(taken)
            self.versions.append(self.fleet.schedule.version)
        self.go_on()
        return taken is not None


def play_out(played: Played, order) -> list[tuple]:
    """End episodes, the arm chosen by `order` first; return what counts, in the plan's order."""
    while not played.fleet.is_complete:
        played.end(order(played.playing))
    return sorted(identify(o) for o in played.kept)


@pytest.mark.parametrize("order", [min, max, lambda playing: sorted(playing)[len(playing) // 2]])
def test_arms_play_what_one_arm_would_whichever_ends_first(order):
    alone = sorted(identify(plan) for plan in play(make_schedule()))
    assert play_out(Played(), order) == alone


def test_no_episode_begins_before_all_of_the_version_before_are_known():
    """On-policy: weights of an older version do not act once newer ones are due."""
    played = Played(eval_episodes=0, validation_episodes=0, warmup_updates=0)
    versions = {plan.weights_version for plan in played.playing.values()}
    assert (len(played.playing), versions) == (2, {0})  # an update takes two: the third waits
    played.end("arm1")
    assert not set(played.playing) - {"arm2"}
    played.end("arm2")
    assert {plan.weights_version for plan in played.playing.values()} == {1}


def test_off_policy_no_arm_waits_for_another():
    played = Played(eval_episodes=0, validation_episodes=0, warmup_updates=0, episodes_per_update=1,
                    weights_lag=1, total_steps=400)  # fmt: skip
    assert len(played.playing) == 3
    for _ in range(9):
        played.end("arm2")
        assert played.playing["arm2"].weights_version <= played.fleet.schedule.version


def test_what_an_arm_that_left_was_to_play_is_played_by_another():
    played = Played(validation_episodes=0)
    lost = played.playing["arm1"]
    assert played.fleet.leave("arm1")
    played.end("arm2")
    again = played.playing["arm2"]
    assert (again.seed, again.index) == (lost.seed, lost.index)
    assert again.episode > lost.episode  # numbers are not used twice
    assert not played.fleet.leave("arm1")  # told once


def test_an_arm_that_comes_back_late_has_not_played_in_vain_unless_another_has():
    played = Played(("arm1", "arm2"), eval_episodes=9)
    played.fleet.leave("arm1")
    assert played.end("arm1")
    played.fleet.leave("arm1")
    lost = played.playing["arm1"]
    played.end("arm2")
    assert identify(played.playing["arm2"]) == identify(lost)
    assert played.end("arm2")
    assert not played.end("arm1")
    assert "arm1" in played.playing  # and takes part again


def test_an_arm_that_stands_still_holds_up_the_others_for_a_time_only():
    played = Played(("arm1", "arm2"), validation_episodes=0, eval_episodes=2)
    slow = played.playing["arm1"]
    played.end("arm2")
    assert set(played.playing) == {"arm1"}
    played.now += 61
    played.go_on()
    assert played.playing["arm2"].seed == slow.seed
    assert played.end("arm2")
    assert played.playing["arm2"].phase != slow.phase
    assert not played.end("arm1")


def test_a_restarted_arm_plays_its_episode_anew_and_a_discarded_one_is_played_again():
    played = Played(("arm1",))
    first = played.playing["arm1"]
    played.fleet.ask("arm1", 0)
    played.go_on()
    assert played.playing["arm1"].seed == first.seed
    assert not played.end("arm1", label="discard")
    assert played.playing["arm1"].seed == first.seed
    assert played.playing["arm1"].episode == first.episode + 2


def test_a_resumed_evaluation_plays_what_its_arms_had_not_ended():
    played = Played(eval_episodes=5)
    played.end("arm2")  # index 1; arm1 still plays index 0
    resumed = Fleet(make_schedule(eval_episodes=5), ARMS)
    resumed.restore(played.kept, 3)
    resumed.ask("arm1", 3)
    plan = dict(resumed.hand_out())["arm1"]
    assert (plan.index, plan.episode) == (0, 4)


def test_a_share_plays_one_plan_at_a_time_and_tells_what_came_of_it():
    asked = []
    share = Share(lambda *words: asked.append(words))
    assert "fleet" in share.awaited
    share.offer(EpisodePlan(episode=7, phase=TRAIN, index=3, seed=1, max_steps=9))
    assert share.awaited == ""
    outcome = make_outcome(share.next())
    share.record(outcome)
    assert share.awaited
    share.offer(EpisodePlan(episode=7, phase=TRAIN, index=3, seed=1, max_steps=9))
    assert share.awaited  # the answer of before, said again
    share.offer(None)
    assert (share.awaited, share.next()) == ("", None)
    assert asked == [(0, None), (7, outcome)]


def test_outcomes_pass_as_json_and_others_are_refused():
    outcome = make_outcome(EpisodePlan(episode=7, phase=TRAIN, index=3, seed=1, max_steps=9))
    assert outcome_from_json(json.dumps(asdict(outcome))) == outcome
    assert outcome_from_json("") is None
    for text in ("{}", "[]", "none", json.dumps(asdict(outcome) | {"steps": "9"})):
        with pytest.raises(RecordError):
            outcome_from_json(text)


# -- what the learner takes -------------------------------------------------------------------


class Taught:
    """A learner of three arms; `weights` are those of each version."""

    def __init__(self, folder, **settings):
        learner = make_learner(lambda n, d, _: LEARNER.get(n, d), ("joint",), None, 3)
        self.run = LearnerRun(folder, learner, {}, False)
        self.weights, self.warnings, self.now = {}, [], 0.0
        self.fleet = FleetIntake(ARMS, self.run, self.keep, self.warnings.append,
                                 clock=lambda: self.now, **settings)  # fmt: skip

    def keep(self, blob: bytes) -> None:
        record = unpack(WEIGHTS, blob)
        self.weights[record.metadata["version"]] = record.tensors

    def play(self, arm: str, index: int, number: int = 0, without: str = "") -> None:
        number = number or index + 1
        taker = self.fleet.arms[arm]
        for tick in range(2):
            taker.take_step(make_step(number, tick))
            if without != "reward":
                taker.take_reward(make_reward(number, tick, bonus=index))
        if without != "end":
            taker.take_event(event("end", number, index))

    def close(self) -> dict:
        self.run.close()
        return self.weights


def event(name: str, number: int, index: int):
    plan = EpisodePlan(episode=number, phase=TRAIN, index=index, seed=0, max_steps=2)
    return unpack(EPISODE_EVENT, pack(
        EPISODE_EVENT, event=name, episode=number, plan=plan.to_json(), reason="terminated",
        success=False, label="failure", last_stamp=stamp_of(number, 1), steps=2))  # fmt: skip


def same(one: dict, other: dict) -> bool:
    return all((one[name] == other[name]).all() for name in one)


def test_the_order_in_which_arms_end_changes_no_bit_of_the_weights(tmp_path):
    orders = {"a": ["arm1"] * 8, "b": ["arm3", "arm1", "arm2", "arm1"] * 2}
    made = []
    for name, arms in orders.items():
        taught = Taught(tmp_path / name)
        indices = range(8) if name == "a" else (2, 0, 3, 1, 7, 4, 6, 5)
        for arm, index in zip(arms, indices, strict=True):
            taught.play(arm, index)
        made.append(taught.close())
    assert list(made[0]) == list(made[1]) == [1, 2]
    assert same(made[0][2], made[1][2])


def test_an_episode_that_two_arms_have_played_is_learned_from_once(tmp_path):
    taught = Taught(tmp_path)
    for arm, index, number in (("arm1", 0, 1), ("arm2", 1, 2), ("arm3", 1, 5), ("arm1", 0, 6)):
        taught.play(arm, index, number)
    assert taught.run.learner.collected == 2
    assert taught.fleet.status()["arm3/episodes"] == "1"
    taught.close()


def test_what_an_arm_took_with_it_when_it_was_lost_does_not_hold_up_the_update(tmp_path):
    taught = Taught(tmp_path)
    taught.play("arm1", 0, without="end")
    for index in (1, 2, 3):
        taught.play("arm2", index)
    taught.fleet.take_event(event("played", 1, 0))
    taught.fleet.watch()
    assert not taught.weights
    taught.now += 2 * SILENCE_S + 1
    taught.fleet.watch()
    assert list(taught.weights) == [1]
    assert "training episode 0" in taught.warnings[0]
    taught.close()


def test_a_network_that_is_away_for_10_s_costs_no_step(tmp_path):
    """What was under way comes with Fast DDS's next heartbeat, which may be lost as well."""
    taught = Taught(tmp_path, silence_s=REMOTE_SILENCE_S)
    taught.play("arm1", 0, without="reward")
    for _ in range(13):
        taught.now += 1.0
        taught.fleet.watch()
    for tick in range(2):
        taught.fleet.arms["arm1"].take_reward(make_reward(1, tick))
    assert taught.fleet.status()["arm1/lost"] == "0"
    assert taught.run.learner.collected == 1
    taught.close()
