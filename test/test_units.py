"""Conversion between ROS's radians and LeRobot's degrees and gripper 0..100."""

import math

import numpy as np

from residual_smolvla_ros.robots.units import (
    GRIPPER_CLOSED_RAD,
    GRIPPER_OPEN_RAD,
    JOINT_NAMES,
    lerobot_to_rad,
    rad_to_lerobot,
)


def test_arm_joints_are_degrees():
    rad = [0.0, math.pi, -math.pi / 2, math.pi / 6, 1.0, GRIPPER_CLOSED_RAD]
    np.testing.assert_allclose(rad_to_lerobot(rad)[:5], [0, 180, -90, 30, 57.29577951], atol=1e-8)


def test_the_gripper_goes_from_0_closed_to_100_open():
    middle = (GRIPPER_CLOSED_RAD + GRIPPER_OPEN_RAD) / 2
    for rad, percent in ((GRIPPER_CLOSED_RAD, 0), (middle, 50), (GRIPPER_OPEN_RAD, 100)):
        np.testing.assert_allclose(rad_to_lerobot([0] * 5 + [rad])[5], percent, atol=1e-9)
        np.testing.assert_allclose(lerobot_to_rad([0] * 5 + [percent])[5], rad, atol=1e-9)


def test_there_and_back_is_the_same_position_for_one_and_for_many():
    positions = np.random.default_rng(0).uniform(-2, 2, size=(20, len(JOINT_NAMES)))
    np.testing.assert_allclose(lerobot_to_rad(rad_to_lerobot(positions)), positions, atol=1e-12)
    np.testing.assert_array_equal(rad_to_lerobot(positions)[3], rad_to_lerobot(positions[3]))


def test_float32_input_is_not_rounded_again():
    assert rad_to_lerobot(np.zeros(6, np.float32)).dtype == np.float64
    assert lerobot_to_rad(np.zeros(6, np.float32)).dtype == np.float64


def test_the_input_is_left_as_it_was():
    position = np.ones(6)
    rad_to_lerobot(position)
    lerobot_to_rad(position)
    np.testing.assert_array_equal(position, np.ones(6))
