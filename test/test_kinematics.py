"""Kinematics against the simulator's own model, which holds a table and a cube beside the arm."""

import mujoco
import numpy as np
import pytest

from residual_smolvla_ros.robots.kinematics import MAX_STEP_RAD
from residual_smolvla_ros.robots.simulation import HOME_DEG
from residual_smolvla_ros.robots.units import JOINT_NAMES

HOME = np.radians(HOME_DEG)
# Around the arm at work over the table, where the Jacobian is well conditioned.
POSES = HOME + np.random.default_rng(0).uniform(-0.4, 0.4, size=(12, 6))


@pytest.fixture(scope="module")
def simulated_tool(sim):
    """Return position and rotation of the TCP in the simulator's model for joints in rad."""
    data = mujoco.MjData(sim.model)
    addresses = [sim.model.joint(name).qposadr[0] for name in JOINT_NAMES]

    def tool(joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        data.qpos[addresses] = joints
        mujoco.mj_kinematics(sim.model, data)
        site = data.site("gripperframe")
        return site.xpos.copy(), site.xmat.reshape(3, 3).copy()

    return tool


def test_forward_is_where_the_simulator_has_its_tcp(kinematics, simulated_tool):
    for joints in POSES:
        np.testing.assert_allclose(kinematics.forward(joints), simulated_tool(joints)[0], atol=1e-6)


def test_forward_does_not_depend_on_the_call_before(kinematics):
    first = kinematics.forward(POSES[0])
    kinematics.joint_step(POSES[1], np.full(3, 0.01), 0.1)
    np.testing.assert_array_equal(kinematics.forward(POSES[0]), first)


def test_forward_matches_the_live_arm_from_its_reported_positions(kinematics, sim):
    sim.reset(0)
    for _ in range(10):
        sim.step(POSES[2])
    reported = kinematics.forward(sim.joint_positions())
    # Servos report in ticks of 0.0015 rad.
    np.testing.assert_allclose(reported, sim.data.site("gripperframe").xpos, atol=1e-3)


@pytest.mark.parametrize("axis", [0, 1, 2], ids=["forward", "left", "up"])
@pytest.mark.parametrize("metres", [0.005, -0.005])
def test_a_step_moves_the_tcp_where_it_is_asked_to(kinematics, axis, metres):
    step = np.zeros(3)
    step[axis] = metres
    for joints in POSES:
        start = kinematics.forward(joints)
        moved = kinematics.forward(joints + kinematics.joint_step(joints, step, yaw=0.0)) - start
        in_heading = kinematics.heading(start).T @ moved
        np.testing.assert_allclose(in_heading, step, atol=0.002)
        assert in_heading[axis] / metres > 0.7


def test_a_turn_yaws_the_tool_and_keeps_the_tcp_in_place(kinematics, simulated_tool):
    for joints in POSES:
        turned = joints + kinematics.joint_step(joints, np.zeros(3), yaw=0.1)
        (start, before), (end, after) = simulated_tool(joints), simulated_tool(turned)
        np.testing.assert_allclose(end, start, atol=0.003)
        turn = after @ before.T
        assert 0.0 < np.arctan2(turn[1, 0] - turn[0, 1], turn[0, 0] + turn[1, 1]) < 0.15


def test_a_step_of_nothing_is_nothing(kinematics):
    assert not kinematics.joint_step(HOME, np.zeros(3), 0.0).any()


def test_an_absurd_step_is_bounded_and_leaves_the_gripper_alone(kinematics):
    for joints in POSES:
        change = kinematics.joint_step(joints, np.array([5.0, -5.0, 5.0]), yaw=10.0)
        assert np.abs(change).max() <= MAX_STEP_RAD
        assert change[-1] == 0.0


@pytest.mark.parametrize(
    ("tcp", "forward"),
    [([0.2, 0, 0.1], [1, 0, 0]), ([0, 0.2, 0], [0, 1, 0]), ([-1, 0, 3], [-1, 0, 0])],
)
def test_the_heading_points_from_the_base_to_the_tcp(kinematics, tcp, forward):
    rotation = kinematics.heading(np.array(tcp))
    np.testing.assert_allclose(rotation[:, 0], forward, atol=1e-12)
    np.testing.assert_allclose(rotation[:, 2], [0, 0, 1])
    np.testing.assert_allclose(np.cross(rotation[:, 2], rotation[:, 0]), rotation[:, 1], atol=1e-12)


def test_a_change_of_joints_carries_no_offset_of_the_gripper(kinematics):
    """LeRobot's gripper is 0 where the joint is not: a difference must not take that in."""
    np.testing.assert_allclose(kinematics.to_lerobot_change(np.zeros(6)), np.zeros(6))
    change = np.array([0.1, 0, 0, 0, 0, 0.2])
    state = kinematics.to_lerobot_change(change) + np.full(6, 10.0)
    moved = kinematics.to_radians(state) - kinematics.to_radians(np.full(6, 10.0))
    np.testing.assert_allclose(moved, change, atol=1e-12)
