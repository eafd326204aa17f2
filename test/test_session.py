"""Who says how an episode ended, and when: a simulator, a person at once, later, or nobody.

An episode has three steps; the reward of each is 1, and the stamp of tick n is 10 (n + 1).
"""

import pytest

from residual_smolvla_ros.learning.labelling import Labelling
from residual_smolvla_ros.learning.schedule import Schedule
from residual_smolvla_ros.learning.session import Listeners, Session
from residual_smolvla_ros.records import REWARD, Record, pack, unpack

STEPS = 3
PROGRESS = """{"episodes_per_update": 9, "warmup_updates": 0, "episodes": 0, "env_steps": 0,
               "rollbacks": 0, "weights_lag": 0}"""


class Played:
    """A session with what it told its listeners; `now` is its clock."""

    def __init__(self, unlabelled: str = "wait", judged: bool = False, **schedule):
        self.events, self.outcomes, self.now, self.stamp = [], [], 0.0, 0
        settings = {"seed": 0, "max_steps": STEPS, "eval_episodes": 0, "total_steps": 100}
        self.session = Session(
            Schedule(**settings | schedule),
            Labelling(unlabelled, time_s=5.0),
            Listeners(self.events.append, lambda active: None, self.outcomes.append),
            judged=judged,
            clock=lambda: self.now,
        )
        self.session.take_weights(0, PROGRESS)

    def begin(self) -> None:
        assert self.session.prepare()
        self.session.begin()
        self.stamp += 1000  # a reset

    def step(self, count: int = 1, success: bool = False) -> None:
        for _ in range(count):
            self.stamp += 10
            self.session.take_reward(make_reward(self.stamp, 1.0, terminated=success))

    def judge(self, label: str, bonus: float = 1.0, stamp: int = 0) -> None:
        """What the node reward answers to a label."""
        self.session.take_reward(make_reward(stamp or self.stamp, 1.0 + bonus, label=label))

    def told(self) -> list[tuple[str, str, str]]:
        return [(event["event"], event["reason"], event["label"]) for event in self.events]


def make_reward(stamp: int, reward: float, terminated: bool = False, label: str = "") -> Record:
    blob = pack(REWARD, {"reward": reward, "terms": [reward]}, stamp=stamp, next_stamp=stamp + 10,
                success=terminated, terminated=terminated, label=label, names=("sum",),
                missing=())  # fmt: skip
    return unpack(REWARD, blob)


@pytest.mark.parametrize(("success", "label"), [(True, "success"), (False, "failure")])
def test_a_simulator_knows_success_and_failure(success, label):
    played = Played(judged=True)
    played.begin()
    played.step(2)
    played.step(success=success)
    assert [(o.label, o.success, o.steps) for o in played.outcomes] == [(label, success, 3)]
    assert played.told()[-1][0::2] == ("end", label)


def test_a_label_ends_the_running_episode_and_its_reward_counts():
    played = Played()
    played.begin()
    played.step(2)
    assert played.session.label("success") == (True, "episode 1: success")
    assert played.told() == [
        ("prepare", "", ""), ("end", "labelled", ""), ("label", "labelled", "success"),
    ]  # fmt: skip
    assert not played.outcomes  # the reward for it is not here yet
    played.judge("success", bonus=4.0)
    outcome = played.outcomes[0]
    assert (outcome.success, outcome.steps, outcome.episode_return) == (True, 2, 6.0)
    assert outcome.terms == {"sum": 6.0}


def test_a_label_after_the_time_limit_still_counts():
    played = Played()
    played.begin()
    played.step(STEPS)
    assert played.told()[-1] == ("end", "truncated", "")
    played.now = 3600.0
    assert not played.session.prepare()  # it waits, and nothing is prepared meanwhile
    assert played.session.label("success")[0]
    played.judge("success")
    assert played.outcomes[0].label == "success"
    assert played.outcomes[0].reason == "truncated"


@pytest.mark.parametrize("unlabelled", ["failure", "discard"])
def test_without_a_label_the_parameter_decides_once_the_time_is_over(unlabelled):
    played = Played(unlabelled)
    played.begin()
    played.step(STEPS)
    assert not played.session.prepare()
    assert played.told()[-1] == ("end", "truncated", "")
    played.now = 5.1
    played.session.prepare()
    assert played.told()[-1] == ("label", "truncated", unlabelled)
    if unlabelled == "failure":
        played.judge("failure", bonus=-1.0)
    assert [(o.label, o.success) for o in played.outcomes] == [(unlabelled, False)]


def test_a_discarded_episode_is_played_again_under_a_new_number():
    played = Played()
    played.begin()
    played.step()
    played.session.label("discard")
    assert played.session.schedule.training_episodes == 0
    first = played.session.plan
    played.begin()
    again = played.session.plan
    assert first is None
    assert (again.index, again.episode) == (0, 2)


def test_labels_for_no_episode_are_refused():
    played = Played()
    assert played.session.label("success") == (False, "no episode to label: none yet")
    played.begin()
    assert played.session.label("success") == (False, "the episode has no step yet")
    played.step()
    played.session.label("failure")
    message = "episode 1 is labelled failure already"
    assert played.session.label("success") == (False, message)
    played.judge("failure")
    assert played.session.label("success") == (False, "no episode to label: episode 1 is closed")
    assert [o.label for o in played.outcomes] == ["failure"]


def test_a_reward_for_another_label_or_step_closes_nothing():
    played = Played()
    played.begin()
    played.step()
    played.session.label("success")
    played.judge("failure")
    played.judge("success", stamp=played.stamp - 10)
    assert not played.outcomes


def test_stop_ends_the_episode_and_start_goes_on():
    played = Played()
    played.begin()
    played.step()
    assert played.session.stop()[0]
    assert played.session.stop() == (False, "stopped already")
    played.session.label("failure")
    played.judge("failure")
    assert not played.session.prepare()
    assert played.session.start()[0]
    assert played.session.prepare()


def test_stopped_before_its_first_step_an_episode_is_discarded():
    played = Played()
    played.begin()
    played.session.stop()
    assert [(o.label, o.steps) for o in played.outcomes] == [("discard", 0)]


def test_stopped_during_a_reset_the_episode_is_prepared_anew():
    """The robot's reset belongs to the event before it: begun later, nothing would answer it."""
    played = Played()
    assert played.session.prepare()
    played.session.stop()
    played.session.begin()
    assert not played.session.running
    played.session.start()
    assert played.session.prepare()
    assert [event["event"] for event in played.events] == ["prepare", "prepare"]


def test_steps_that_a_person_drove_are_counted():
    played = Played(judged=True)
    played.begin()
    played.step()
    played.session.person_drives = True
    played.step(2)
    assert played.outcomes[0].intervened_steps == 2


def test_the_scene_is_set_while_the_learner_updates_and_the_episode_waits_for_both():
    """The arm must never wait for an update that fits into the reset."""
    played = Played(judged=True)
    played.session.take_weights(0, PROGRESS)
    played.session.schedule.episodes_per_update = 1
    played.begin()
    played.step(success=True)
    assert played.session.prepare()  # with version 1 still to come
    played.session.begin()
    assert played.session.is_updating
    assert not played.session.running
    assert not played.session.prepare()  # the scene is not set twice
    played.session.take_weights(1, PROGRESS)
    played.session.prepare()
    assert played.session.running


def test_stopped_while_it_waits_for_weights_an_episode_is_prepared_anew():
    played = Played(judged=True)
    played.session.schedule.episodes_per_update = 1
    played.begin()
    played.step(success=True)
    assert played.session.prepare()
    played.session.begin()
    played.session.stop()
    played.session.take_weights(1, PROGRESS)
    assert not played.session.running
    played.session.start()
    assert played.session.prepare()  # a person may have moved the scene meanwhile


@pytest.mark.parametrize(("solved", "label"), [(True, "success"), (False, "failure")])
def test_a_complete_validation_says_whether_its_weights_may_stay(solved, label):
    """Ten of ten solved by the base alone: a version that solves none must not go unnoticed."""
    played = Played(judged=True, eval_episodes=10, validation_episodes=10, validation_every=1)
    for episode in range(20):
        played.begin()
        played.step(success=episode < 10 or solved)
        played.step(2 if played.session.running else 0)
    verdict = played.events[-1]
    assert (verdict["event"], verdict["label"]) == ("validated", label)
    assert played.session.schedule.rollbacks == (not solved)
