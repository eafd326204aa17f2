"""What the console shows of what has come in, without ROS and without a browser."""

import pytest

from residual_smolvla_ros.console.jog import LEAD_RAD, PRESS_S, Jog
from residual_smolvla_ros.console.results import RunResults
from residual_smolvla_ros.console.state import ERROR, OK, WARN, ConsoleState
from residual_smolvla_ros.learning.schedule import EpisodePlan, Outcome


class Clock:
    """A clock that stands still until it is moved."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def state(clock):
    return ConsoleState("so101_bridge", clock=clock)


def plan(episode: int, phase: str = "train", index: int = 0) -> EpisodePlan:
    return EpisodePlan(episode, phase, index, seed=0, max_steps=100, weights_version=1)


def add_reward(state, total, label="", **terms):
    state.add_reward(total, tuple(terms), list(terms.values()), (), label)


def test_actions_of_before_are_not_shown_beside_the_joints_of_now(state, clock):
    state.set_joints(["pan"], [0.5])
    state.set_action("base", ["pan"], [0.6])
    state.set_action("residual", ["pan"], [0.1])
    (joint,) = state.view().joints
    assert (joint.position, joint.base, joint.residual) == (0.5, 0.6, 0.1)
    clock.now += 2.0
    (joint,) = state.view().joints
    assert (joint.base, joint.residual) == (None, None)
    assert state.view().joints_age == 2.0
    assert state.positions() == {}


def test_rewards_add_up_from_the_start_of_an_episode(state):
    add_reward(state, 9.0, reach=9.0)  # states go on between episodes
    assert state.view().reward is None
    state.set_active(True)
    add_reward(state, 0.4, reach=0.5, smoothness=-0.1)
    add_reward(state, 0.2, reach=0.3, smoothness=-0.1)
    reward = state.view().reward
    assert (reward.total, reward.terms) == (0.2, {"reach": 0.3, "smoothness": -0.1})
    assert reward.total_sum == pytest.approx(0.6)
    assert reward.sums == pytest.approx({"reach": 0.8, "smoothness": -0.2})
    assert [value for _, value in reward.course] == [0.4, 0.2]
    assert reward.whole


def test_sums_are_partial_for_a_page_that_came_in_mid_episode(state):
    state.set_active(True)
    state.forget_stream()
    add_reward(state, 0.4, reach=0.4)
    assert not state.view().reward.whole


def test_the_reward_of_a_label_takes_the_place_of_the_last(state):
    state.set_active(True)
    add_reward(state, 0.5, success=0.0, reach=0.5)
    state.set_active(False)
    add_reward(state, 1.5, label="success", success=1.0, reach=0.5)
    reward = state.view().reward
    assert reward.total_sum == 1.5
    assert reward.sums == {"success": 1.0, "reach": 0.5}


def test_a_node_that_falls_silent_is_a_warning(state, clock):
    state.report("/so101_bridge", OK, "follow", {"mode": "follow"})
    view = state.view()
    assert (view.robot_mode, view.warnings) == ("follow", ())
    clock.now += 5.0
    view = state.view()
    assert (view.robot_mode, view.robot_text, view.robot_level) == ("", "silent", ERROR)
    assert [(w.node, w.text) for w in view.warnings] == [("so101_bridge", "silent for 5 s")]


def test_the_same_warning_is_one_line_with_its_count_until_it_is_old(state, clock):
    for _ in range(3):
        state.log("ns.policy", WARN, "no command:\n waiting")
    state.log("learner", ERROR, "lost")
    assert [(w.node, w.text, w.count) for w in state.view().warnings] == [
        ("learner", "lost", 1),
        ("policy", "no command: waiting", 3),
    ]
    clock.now += 100.0
    assert state.view().warnings == ()


def test_an_episode_counts_once_it_has_its_label(state):
    state.end(plan(1), "truncated", False, "", 100)
    assert state.view().counts == ()
    state.set_label(1, "success")
    assert state.view().counts == (("train", 1, 1),)
    assert state.view().training_steps == 100


def test_a_discarded_episode_is_none(state):
    state.end(plan(1), "stopped", False, "success", 50)
    state.set_label(1, "discard")
    assert state.view().counts == ()
    state.end(plan(2), "label", False, "discard", 50)
    assert state.view().counts == ()


def test_an_episode_that_stands_in_the_file_too_counts_once():
    file = Outcome(1, "train", 0, 0, 1, 80, True, 1.0, "terminated", 9.0, "success")
    results = RunResults([file])
    results.add_end(plan(1), "terminated", True, "success", 80)
    results.add_end(plan(2, index=1), "truncated", False, "failure", 100)
    assert results.counts() == [("train", 1, 2)]
    assert [(steps, success) for steps, success, _ in results.curve().training] == [
        (80, 1.0),
        (180, 0.5),
    ]


def test_the_curve_shows_validation_over_steps_and_the_base_as_a_level():
    results = RunResults()
    for episode, (phase, index, label) in enumerate(
        [("base", 0, "success"), ("base", 1, "failure"), ("train", 0, "failure"),
         ("validation", 0, "success"), ("validation", 1, "success")]
    ):  # fmt: skip
        results.add_end(plan(episode, phase, index), "terminated", True, label, 60)
    curve = results.curve()
    assert curve.base == (0.5, 2)
    assert curve.validation == ((60, 1.0, 2),)


def test_a_validation_that_is_under_way_is_no_point_yet():
    results = RunResults()
    for episode, (phase, index) in enumerate(
        [("validation", 0), ("validation", 1), ("train", 0), ("validation", 2)]
    ):
        results.add_end(plan(episode, phase, index), "terminated", True, "success", 60)
    assert results.curve().validation == ((0, 1.0, 2),)
    results.add_end(plan(9, "validation", 3), "truncated", False, "failure", 60)
    assert results.curve().validation == ((0, 1.0, 2), (60, 0.5, 2))


def test_the_newest_episode_is_on_the_curve_of_a_long_run_of_few_points():
    results = RunResults()
    for index in range(1001):
        label = "success" if index >= 950 else "failure"
        results.add_end(plan(index, "train", index), "terminated", True, label, 10)
    training = results.curve().training
    assert len(training) <= 200
    assert training[-1] == (10_010, 1.0, 50)


def test_a_joint_moves_at_its_speed_while_it_is_pressed_and_no_longer():
    jog = Jog(speed=0.5)
    measured = {"pan": 0.0, "lift": 1.0}
    assert jog.targets({}, 0.0) == {}
    assert jog.targets(measured, 0.0) == measured
    jog.press("pan", 1, 0.0)
    assert jog.targets(measured, 0.1) == {"pan": pytest.approx(0.05), "lift": 1.0}
    jog.press("pan", 0, 0.1)
    assert jog.targets(measured, 0.2) == {"pan": pytest.approx(0.05), "lift": 1.0}


def test_a_press_that_nobody_repeats_ends():
    jog = Jog(speed=0.5)
    jog.targets({"pan": 0.0}, 0.0)
    jog.press("pan", -1, 0.0)
    for tick in range(1, 40):
        target = jog.targets({"pan": 0.0}, tick / 30)["pan"]
    assert -0.5 * PRESS_S <= target < 0.0


def test_a_blocked_joint_winds_nothing_up():
    jog = Jog(speed=1.0)
    for tick in range(100):
        target = jog.targets({"pan": 0.0}, tick / 30)["pan"]
        jog.press("pan", 1, tick / 30)
    assert target == LEAD_RAD
    jog.rest({"pan": 0.02})
    assert jog.targets({"pan": 0.02}, 4.0) == {"pan": 0.02}


@pytest.mark.parametrize(("joint", "direction"), [("elbow", 1), ("pan", 2)])
def test_a_press_of_nothing_is_refused(joint, direction):
    jog = Jog(speed=1.0)
    jog.targets({"pan": 0.0}, 0.0)
    with pytest.raises(ValueError, match="expected"):
        jog.press(joint, direction, 0.0)
