"""The safety filter: no command, however wrong, moves a goal further or faster than allowed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from residual_smolvla_ros.robots.safety import (
    CommandRefused,
    Mode,
    SafetyFilter,
    SafetyLimits,
)

NAMES = ("pan", "gripper")
PERIOD = 0.03
LIMITS = SafetyLimits(
    lower=np.array([-1.0, -0.2]),
    upper=np.array([1.0, 1.5]),
    max_step=np.array([0.4, 0.4]),
    max_velocity=np.array([2.0, 2.0]),
    stall_error=np.array([0.15, np.inf]),
    period=PERIOD,
)


class Arm:
    """A filter on an ideal arm, which is always where its goal is unless it is blocked."""

    def __init__(self, position=(0.0, 0.0)):
        self.filter = SafetyFilter(NAMES, LIMITS)
        self.now = 100.0
        self.position = np.array(position, dtype=float)
        self.blocked = False
        self.load = np.zeros(2)
        self.tick()

    def tick(self, steps: int = 1):
        for _ in range(steps):
            self.now += PERIOD
            if self.filter.goal is not None and not self.blocked:
                self.position = self.filter.goal.copy()
            goal = self.filter.measure(self.now, self.position, self.load)
        return goal

    def command(self, position, names=NAMES, stamp=None, age=0.005):
        stamp = self.now if stamp is None else stamp
        return self.filter.command(self.now + 0.005, list(names), position, stamp, age)

    def follow(self, position, steps: int):
        for _ in range(steps):
            self.tick()
            self.command(position)
        return self.filter.goal


def test_it_holds_where_it_starts_until_a_command_comes():
    arm = Arm((0.5, 0.1))
    np.testing.assert_allclose(arm.tick(20), [0.5, 0.1])
    assert arm.filter.mode is Mode.HOLD


def test_a_jump_of_1_rad_becomes_a_ramp_and_then_a_movement_of_limited_speed():
    arm, goals = Arm(), [np.zeros(2)]
    for _ in range(60):
        arm.tick()
        goals.append(arm.command([1.0, 0.0]))
    speeds = np.diff([goal[0] for goal in goals]) / PERIOD
    assert speeds[0] == 0.0
    assert speeds.max() <= 2.0 + 1e-9
    assert np.diff(speeds).max() <= 2.0 * PERIOD / LIMITS.ramp_s + 1e-6
    assert goals[-1][0] == 1.0
    assert arm.filter.clipped["ramp"] > 0


def test_the_order_of_joints_in_a_message_does_not_matter():
    arm = Arm()
    arm.follow([0.0, 0.0], steps=50)
    for _ in range(5):
        arm.tick()
        goal = arm.command([0.1, 0.02], names=("gripper", "pan"))
    np.testing.assert_allclose(goal, [0.02, 0.1])


def test_a_command_beyond_the_limits_stops_at_them():
    arm = Arm()
    np.testing.assert_allclose(arm.follow([9.0, -9.0], steps=100), [1.0, -0.2])
    assert arm.filter.clipped["limit"] == 100


def test_a_goal_stays_near_an_arm_that_cannot_follow():
    arm = Arm()
    arm.blocked = True
    goal = arm.follow([0.0, 1.5], steps=100)
    np.testing.assert_allclose(goal, [0.0, 0.4])
    assert arm.filter.clipped["step"] > 0


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        ("names", {"position": [0.0, 0.0], "names": ("pan", "jaw")}),
        ("names", {"position": [0.0], "names": ("pan",)}),
        ("names", {"position": [0.0, 0.0, 0.0], "names": ("pan", "pan", "gripper")}),
        ("length", {"position": [0.0]}),
        ("length", {"position": [[0.0, 0.0]]}),
        ("not_finite", {"position": [0.0, float("nan")]}),
        ("not_finite", {"position": [float("inf"), 0.0]}),
        ("stale", {"position": [0.0, 0.0], "age": 10.0}),
        ("future", {"position": [0.0, 0.0], "age": -1.0}),
    ],
)
def test_a_wrong_command_is_refused_by_name_and_the_arm_holds_within_the_timeout(kind, command):
    arm = Arm()
    arm.follow([0.5, 0.5], steps=10)
    before = arm.filter.goal.copy()
    for _ in range(int(LIMITS.command_timeout / PERIOD) + 1):
        arm.tick()
        with pytest.raises(CommandRefused) as refused:
            arm.command(**command)
        assert refused.value.kind == kind
    assert arm.filter.mode is Mode.HOLD
    np.testing.assert_allclose(arm.filter.goal, before)


def test_a_command_overtaken_by_a_later_one_is_refused_but_a_clock_set_back_is_not():
    arm = Arm()
    arm.follow([0.5, 0.5], steps=10)
    with pytest.raises(CommandRefused) as refused:
        arm.command([0.0, 0.0], stamp=arm.now - 0.1)
    assert refused.value.kind == "order"
    arm.tick(20)
    arm.command([0.5, 0.5], stamp=arm.now - 3600.0)
    assert arm.filter.mode is Mode.FOLLOW


def test_after_a_silence_it_holds_the_measured_position_and_not_the_last_goal():
    arm = Arm()
    arm.follow([0.5, 0.0], steps=20)
    arm.blocked, arm.position = True, np.array([0.1, 0.0])
    arm.tick(int(LIMITS.command_timeout / PERIOD) + 2)
    assert arm.filter.mode is Mode.HOLD
    np.testing.assert_allclose(arm.filter.goal, [0.1, 0.0])


def test_a_stalled_joint_ends_in_a_hold_that_only_release_ends():
    arm = Arm()
    arm.blocked, arm.load = True, np.array([-0.9, 0.0])
    with pytest.raises(CommandRefused, match="stalled: pan"):
        arm.follow([1.0, 0.0], steps=100)
    np.testing.assert_allclose(arm.filter.goal, arm.position)
    arm.blocked, arm.load = False, np.zeros(2)
    arm.filter.release(arm.now)
    assert arm.follow([0.3, 0.0], steps=60)[0] == 0.3


@pytest.mark.parametrize("fault", ["light load", "gripper"])
def test_a_lag_without_load_and_a_gripper_that_grips_are_no_stalls(fault):
    arm = Arm()
    arm.blocked = True
    arm.load = np.array([0.1, 0.0]) if fault == "light load" else np.array([0.0, 1.0])
    arm.follow([1.0, 0.0] if fault == "light load" else [0.0, 1.0], steps=100)
    assert arm.filter.mode is Mode.FOLLOW


def test_hold_refuses_commands_until_release_and_starts_again_with_a_ramp():
    arm = Arm()
    arm.follow([0.5, 0.0], steps=60)
    arm.filter.hold(arm.now, "asked")
    arm.tick()
    with pytest.raises(CommandRefused, match="asked"):
        arm.command([0.0, 0.0])
    arm.filter.release(arm.now)
    arm.tick()
    assert arm.command([0.0, 0.0])[0] == 0.5
    assert arm.follow([0.0, 0.0], steps=60)[0] == 0.0


def test_home_is_reached_by_all_joints_at_once_while_commands_are_refused():
    arm = Arm((0.9, 0.6))
    arm.filter.home(arm.now, np.array([0.0, 0.3]))
    arm.tick()
    with pytest.raises(CommandRefused):
        arm.command([0.9, 0.6])
    way = []
    while arm.filter.mode is Mode.HOME:
        way.append(arm.tick())
    way = np.array(way)
    np.testing.assert_allclose(way[-1], [0.0, 0.3], atol=0.05)
    np.testing.assert_allclose(way[:, 0] / 0.9, (way[:, 1] - 0.3) / 0.3)
    assert np.abs(np.diff(way, axis=0)).max() <= LIMITS.home_velocity * PERIOD + 1e-9


def test_on_the_way_home_a_goal_stays_near_an_arm_that_is_blocked():
    arm = Arm((0.9, 0.6))
    arm.blocked = True
    arm.filter.home(arm.now, np.array([-0.9, 0.6]))
    np.testing.assert_allclose(arm.tick(60), [0.9 - 0.4, 0.6])


def test_a_robot_that_could_not_be_read_is_followed_again_from_where_it_is():
    arm = Arm()
    arm.follow([0.5, 0.0], steps=60)
    np.testing.assert_allclose(arm.filter.lost(arm.now, "cable"), [0.5, 0.0])
    with pytest.raises(CommandRefused, match="cable"):
        arm.command([0.5, 0.0])
    arm.position = np.array([-0.3, 0.0])  # moved by hand meanwhile
    np.testing.assert_allclose(arm.tick(), [-0.3, 0.0])
    assert arm.follow([0.5, 0.0], steps=2)[0] < -0.25


values = st.floats(-10, 10) | st.sampled_from([float("nan"), float("inf"), -float("inf")])
events = st.one_of(
    st.tuples(st.just("command"), st.lists(values, min_size=1, max_size=3), st.floats(-1, 1)),
    st.tuples(st.sampled_from(["tick", "hold", "release", "home", "lost", "push"])),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(events, max_size=60))
def test_no_sequence_of_events_gets_a_goal_past_the_bounds(sequence):
    arm = Arm()
    for event in sequence:
        if event[0] == "command":
            arm.tick()
            before = arm.filter.goal.copy()
            try:
                goal = arm.command(event[1], age=event[2])
            except CommandRefused:
                goal = before
            reach = LIMITS.max_velocity * 2 * PERIOD + 1e-9
            assert (np.abs(goal - before) <= reach).all()
        elif event[0] == "home":
            arm.tick()
            if arm.filter.mode is not Mode.LATCHED:
                arm.filter.home(arm.now, np.array([5.0, 5.0]))
        elif event[0] in ("hold", "lost"):
            getattr(arm.filter, event[0])(arm.now, "test")
        elif event[0] == "release":
            arm.filter.release(arm.now)
        elif event[0] == "push":
            arm.position = np.clip(arm.position + 0.1, LIMITS.lower, LIMITS.upper)
        arm.tick(2)
        goal = arm.filter.goal
        assert np.isfinite(goal).all()
        assert (goal >= LIMITS.lower - 1e-9).all()
        assert (goal <= LIMITS.upper + 1e-9).all()
        assert (np.abs(goal - arm.position) <= LIMITS.max_step + 1e-9).all()
