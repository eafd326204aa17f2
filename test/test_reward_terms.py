"""Each reward term gives what its docstring says, computed here by hand."""

import numpy as np
import pytest

from residual_smolvla_ros.records import ENVIRONMENT_STATE, FAILURE, SUCCESS, pack, unpack
from residual_smolvla_ros.rewards.composition import make_reward
from residual_smolvla_ros.rewards.term import RobotDescription
from residual_smolvla_ros.rewards.transition import NotReady, Transition

ROBOT = RobotDescription(
    ("pan", "lift", "gripper"),
    lower=np.array([-1.0, -2.0, 0.0]),
    upper=np.array([1.0, 2.0, 1.5]),
)


def term(kind: str, **settings):
    """Return a term as a parameter file makes it."""
    return make_reward({"term": {"type": kind, "weight": 1.0} | settings}, ROBOT, []).terms["term"]


def step(tick: int = 3, **fields) -> Transition:
    """A transition; lists become arrays."""
    arrays = {k: np.array(v) if isinstance(v, list) else v for k, v in fields.items()}
    return Transition(stamp=100, next_stamp=200, tick=tick, **arrays)


@pytest.mark.parametrize(
    ("success", "label", "succeeded", "failed"),
    [
        (False, "", 0.0, 0.0),
        (True, "", 1.0, 0.0),
        (False, SUCCESS, 1.0, 0.0),
        (False, FAILURE, 0.0, 1.0),
        (True, FAILURE, 0.0, 1.0),  # a person stands above the classifier
    ],
)
def test_success_and_failure_are_what_the_judge_says(success, label, succeeded, failed):
    transition = step(success=success, label=label)
    assert term("success")(transition) == succeeded
    assert term("failure")(transition) == failed


def test_the_environment_is_the_simulators_own_reward():
    blob = pack(
        ENVIRONMENT_STATE,
        {"privileged": [0.0], "target": [0.0, 0.0, 0.0], "reward": 0.375},
        stamp=200,
        previous_stamp=100,
        success=False,
    )
    assert term("environment")(step(environment=unpack(ENVIRONMENT_STATE, blob))) == 0.375


def test_time_is_1_a_step():
    assert term("time")(step()) == 1.0


@pytest.mark.parametrize(
    ("settings", "position", "value"),
    [
        # 0.05 and 0.08 rad from a limit, of 0.1: 0.5 + 0.2.
        ({}, [0.95, -1.92, 0.0], 0.7),
        ({}, [0.0, 0.0, 0.75], 0.0),
        # At the limit and beyond it.
        ({}, [1.0, 2.5, 0.75], 2.0),
        ({"joints": ["gripper"], "margin": 0.5}, [1.0, 2.0, 0.1], 0.8),
        ({"lower": [-1.5, -1.5], "upper": [1.5, 1.5]}, [1.0, -1.45, 0.0], 0.5),
    ],
)
def test_joint_limits_rise_within_the_margin_and_are_1_at_the_limit(settings, position, value):
    assert term("joint_limits", **settings)(step(position=position)) == pytest.approx(value)


@pytest.mark.parametrize(
    ("settings", "value"),
    [({}, 2.5), ({"limit": 1}, 1.0), ({"limit": 0.25, "joints": ["pan", "gripper"]}, 3.0)],
)
def test_velocity_is_the_speed_beyond_the_limit(settings, value):
    assert term("velocity", **settings)(step(velocity=[-0.5, 2.0, 3.0])) == pytest.approx(value)


@pytest.mark.parametrize(
    ("settings", "value"), [({}, 0.25), ({"threshold": 0.25}, 0.75), ({"joints": ["gripper"]}, 0.5)]
)
def test_load_is_what_exceeds_the_threshold_whichever_way_it_pushes(settings, value):
    assert term("load", **settings)(step(effort=[-0.75, 0.5, 1.0])) == pytest.approx(value)


def test_clipped_is_the_joint_that_the_filter_moved_most():
    transition = step(command=[0.5, 1.0, 0.0], executed=[0.25, 1.125, 0.0])
    assert term("clipped")(transition) == pytest.approx(0.25)


def test_residual_size_is_the_mean_square():
    assert term("residual_size")(step(residual=[1.0, -2.0, 0.0, 1.0])) == pytest.approx(1.5)


COMMANDS = [[0.0, 0.0, 0.0], [0.3, 0.4, 0.0], [0.6, 0.8, 0.0], [0.6, 0.8, 0.1]]


@pytest.mark.parametrize(
    ("order", "values"),
    [(1, [0.0, 0.5, 0.5, 0.1]), (2, [0.0, 0.0, 0.0, np.sqrt(0.26)])],
)
def test_smoothness_is_the_change_of_the_command(order, values):
    smoothness = term("smoothness", order=order)
    steps = [step(tick, command=command) for tick, command in enumerate(COMMANDS)]
    assert [smoothness(s) for s in steps] == pytest.approx(values)
    # The next episode begins anew: its first command is no jump from the last one of this.
    assert [smoothness(s) for s in steps] == pytest.approx(values)


def test_smoothness_does_not_take_a_lost_step_for_a_jump():
    smoothness = term("smoothness")
    smoothness(step(4, command=COMMANDS[0]))
    assert smoothness(step(6, command=COMMANDS[2])) == 0.0
    assert smoothness(step(7, command=COMMANDS[3])) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("kind", "fields", "lacks"),
    [
        ("environment", {}, "environment"),
        ("joint_limits", {}, "position"),
        ("velocity", {"position": [0.0, 0.0, 0.0]}, "velocity"),
        ("load", {"position": [0.0, 0.0, 0.0]}, "effort"),
        ("clipped", {"command": [0.0, 0.0, 0.0]}, "executed"),
        ("clipped", {"executed": [0.0, 0.0, 0.0]}, "command"),
        ("smoothness", {}, "command"),
        ("residual_size", {}, "residual"),
    ],
)
def test_a_term_without_its_input_says_which_it_lacks(kind, fields, lacks):
    with pytest.raises(NotReady, match=rf"{lacks}: expected one .*, found none"):
        term(kind)(step(**fields))
