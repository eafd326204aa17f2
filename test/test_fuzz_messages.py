"""What is made of hostile messages beside the nodes: goals, pixels, transitions."""

import contextlib
import random

import numpy as np
from hostile import NAN, images, trajectories

from residual_smolvla_ros.nodes.common import to_nanoseconds
from residual_smolvla_ros.nodes.parts.images import from_image_message
from residual_smolvla_ros.records import ENVIRONMENT_STATE, pack, unpack
from residual_smolvla_ros.rewards.join import TransitionJoin
from residual_smolvla_ros.robots.safety import CommandRefused, SafetyFilter, SafetyLimits
from residual_smolvla_ros.robots.units import JOINT_NAMES


def test_states_of_the_simulator_that_come_again_are_not_rewarded_again():
    """Each made another reward of a step that had one, with a tick too many from there on."""
    joined = TransitionJoin(frozenset({"environment"}), lockstep=True)
    ticks = []
    for stamp, previous in ((10, 0), (20, 10), (20, 10), (30, 20), (20, 10), (30, 20)):
        blob = pack(ENVIRONMENT_STATE, {"privileged": [0.0], "target": [0.0] * 3, "reward": 0.0},
                    stamp=stamp, previous_stamp=previous, success=False)  # fmt: skip
        joined.add_environment(unpack(ENVIRONMENT_STATE, blob))
        while (transition := joined.pop()) is not None:
            ticks.append((transition.stamp, transition.tick))
    assert ticks == [(10, 0), (20, 1)]


def test_no_trajectory_takes_a_goal_beyond_the_limits_of_an_arm():
    low, high = np.full(6, -1.0), np.full(6, 1.0)
    limits = SafetyLimits(low, high, np.full(6, 0.4), np.full(6, 2.0), np.full(6, np.inf))
    arm, rng, now = SafetyFilter(JOINT_NAMES, limits), random.Random(0), 100.0
    goal, followed = arm.measure(now, np.zeros(6)), 0
    messages = [message for message in trajectories() if len(message.points) == 1]
    for _ in range(3000):
        now += 0.02
        message, before = rng.choice(messages), arm.goal
        stamp = to_nanoseconds(message.header.stamp) / 1e9
        # As the bridge tells it, or one that is made up, so that more than the age is tried.
        age = rng.choice((now - stamp, 0.0, -0.01, 0.1, NAN))
        with contextlib.suppress(CommandRefused):
            goal = arm.command(now, message.joint_names, message.points[0].positions, stamp, age)
            followed += 1
        assert np.isfinite(arm.goal).all()
        assert (arm.goal >= low).all()
        assert (arm.goal <= high).all()
        assert (np.abs(arm.goal - before) <= 2.0 * 2 * limits.period + 1e-9).all()
        arm.measure(now, goal)
    assert followed > 300


def test_an_image_without_pixels_is_refused_as_a_broken_one_is():
    """Such a one was taken, and failed in whatever looked at it first."""
    for message in images():
        with contextlib.suppress(ValueError):
            pixels = from_image_message(message, factor=2)
            assert (pixels.dtype, pixels.shape[2]) == (np.uint8, 3)
            assert pixels.size
