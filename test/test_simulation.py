"""The simulated arm: the same seed gives the same bits, whatever was played or drawn before."""

import numpy as np
import pytest

from residual_smolvla_ros.robots.simulation import (
    CAMERAS,
    HOME_DEG,
    PRIVILEGED_NAMES,
    PRIVILEGED_SCALE,
    SPECTATOR,
    SimulatedSO101,
)
from residual_smolvla_ros.robots.units import (
    GRIPPER_CLOSED_RAD,
    GRIPPER_OPEN_RAD,
    JOINT_NAMES,
    rad_to_lerobot,
)

HOME = np.radians(HOME_DEG)
COMMANDS = HOME + np.random.default_rng(0).uniform(-0.3, 0.3, size=(30, 6))


def play(sim: SimulatedSO101, seed: int, draw: bool = False) -> np.ndarray:
    """Return all that an episode of COMMANDS shows, one row a step."""
    sim.reset(seed)
    rows = []
    for command in COMMANDS:
        sim.step(command)
        if draw:
            sim.render("front")
        state = sim.state()
        rows.append(
            [*sim.joint_positions(), *sim.joint_velocities(), state.reward, state.success,
             *state.target, *state.privileged]
        )  # fmt: skip
    return np.array(rows, dtype=np.float64)


@pytest.fixture(scope="module")
def seed_3(sim) -> np.ndarray:
    return play(sim, 3)


def test_the_same_seed_gives_the_same_bits_after_another_episode(sim, seed_3):
    other = play(sim, 4)
    np.testing.assert_array_equal(play(sim, 3), seed_3)
    assert not np.array_equal(other, seed_3)


def test_a_new_simulator_gives_the_same_bits_as_a_used_one(seed_3):
    fresh = SimulatedSO101()
    np.testing.assert_array_equal(play(fresh, 3), seed_3)
    fresh.close()


def test_rendering_does_not_change_the_physics(sim, seed_3):
    np.testing.assert_array_equal(play(sim, 3, draw=True), seed_3)


def test_scenes_of_different_seeds_differ_and_keep_the_cube_in_reach(sim):
    targets = []
    for seed in range(20):
        sim.reset(seed)
        targets.append(sim.state().target)
    targets = np.array(targets)
    assert len(np.unique(targets[:, 0])) == 20
    distance = np.linalg.norm(targets[:, :2], axis=1)
    assert distance.min() > 0.05
    assert distance.max() < 0.35


@pytest.mark.parametrize("name", [*CAMERAS, "spectator"])
def test_a_view_is_a_picture_of_its_size(sim, name):
    sim.reset(5)
    image = sim.render(name)
    view = CAMERAS.get(name, SPECTATOR)
    assert image.dtype == np.uint8
    assert image.shape == (view.height, view.width, 3)
    assert image.std() > 5, "expected a picture, found a plain area"


@pytest.mark.parametrize("name", [*CAMERAS, "spectator"])
def test_a_view_does_not_depend_on_the_camera_drawn_before_it(sim, name):
    """MuJoCo centres an endless floor on the camera: on which one is a matter of order."""
    # It shows in one of seven images of the wrist, and in each of the spectator, drawn slowly.
    for seed in range(20 if name in CAMERAS else 2):
        sim.reset(seed)
        sim.render("front" if name != "front" else "wrist")
        image = sim.render(name)
        np.testing.assert_array_equal(sim.render(name), image)


def test_an_image_after_a_reset_shows_the_new_scene(sim):
    sim.reset(5)
    first = sim.render("front")
    play(sim, 6)
    sim.reset(5)
    np.testing.assert_array_equal(sim.render("front"), first)
    sim.reset(6)
    assert not np.array_equal(sim.render("front"), first)


def test_joints_have_their_names_and_the_gripper_its_range(sim):
    assert sim.joint_names == JOINT_NAMES
    assert sim.model.joint("gripper").range == pytest.approx([GRIPPER_CLOSED_RAD, GRIPPER_OPEN_RAD])


def test_reported_positions_are_those_of_the_joints(sim):
    play(sim, 3)
    actual = [sim.data.joint(name).qpos[0] for name in JOINT_NAMES]
    # Servos report in ticks of 0.0015 rad.
    np.testing.assert_allclose(sim.joint_positions(), actual, atol=0.002)


def test_a_command_and_what_is_reported_are_those_of_lerobots_robot(sim):
    """`step` and `joint_positions` do what `send_action` and `get_observation` do, in less time."""
    sim.reset(3)
    for command in COMMANDS[:5]:
        sim.step(command)
    ours = sim.joint_positions()
    sim.reset(3)
    for command in COMMANDS[:5]:
        values = dict(zip(JOINT_NAMES, rad_to_lerobot(command).tolist(), strict=True))
        sim.robot.send_action({f"{name}.pos": value for name, value in values.items()})
    theirs = sim.robot.get_observation()
    assert rad_to_lerobot(ours) == pytest.approx([theirs[f"{name}.pos"] for name in JOINT_NAMES])


def test_an_episode_starts_at_home_and_a_command_is_followed(sim):
    sim.reset(3)
    np.testing.assert_allclose(sim.joint_positions(), HOME, atol=0.02)
    for _ in range(40):
        sim.step(COMMANDS[0])
    np.testing.assert_allclose(sim.joint_positions(), COMMANDS[0], atol=0.05)


def test_nothing_of_the_last_episode_is_left_after_a_reset(sim):
    play(sim, 3)
    sim.reset(3)
    state = sim.state()
    assert state.reward == 0.0
    assert not state.success
    assert state.privileged[PRIVILEGED_NAMES.index("grasped")] == 0.0


def test_privileged_values_are_named_scaled_and_agree_with_each_other(sim, kinematics):
    sim.reset(7)
    sim.step(HOME)
    state = sim.state()
    assert state.privileged.dtype == np.float32
    assert len(PRIVILEGED_NAMES) == len(PRIVILEGED_SCALE) == len(state.privileged)
    value = dict(zip(PRIVILEGED_NAMES, state.privileged / PRIVILEGED_SCALE, strict=True))
    tcp = np.array([value[f"tcp.{axis}"] for axis in "xyz"])
    offset = [value[f"cube_from_tcp.{axis}"] for axis in ("forward", "left", "up")]
    np.testing.assert_allclose(tcp + kinematics.heading(tcp) @ offset, state.target, atol=1e-6)
    np.testing.assert_allclose([value["cube.x"], value["cube.y"]], state.target[:2], atol=1e-6)
    assert value["cube_yaw.sin4"] ** 2 + value["cube_yaw.cos4"] ** 2 == pytest.approx(1.0)


def test_nearing_the_cube_earns_reward_and_standing_still_none(sim, kinematics):
    earned = []
    for moves in (True, False):
        sim.reset(3)
        command, total = HOME, 0.0
        for _ in range(30):
            tcp = kinematics.forward(command)
            way = kinematics.heading(tcp).T @ (sim.state().target - tcp)
            if moves and np.linalg.norm(way) > 0.03:
                step = 0.01 * way / np.linalg.norm(way)
                command = command + kinematics.joint_step(command, step, yaw=0.0)
            sim.step(command)
            total += sim.state().reward
        earned.append(total)
    assert earned[0] > 0.05
    assert abs(earned[1]) < 0.01


def test_a_simulator_that_is_closed_takes_no_other_ones_pictures_with_it(sim):
    sim.reset(5)
    before = sim.render("front")
    other = SimulatedSO101()
    other.reset(5)
    np.testing.assert_array_equal(other.render("front"), before)
    other.close()
    np.testing.assert_array_equal(sim.render("front"), before)
