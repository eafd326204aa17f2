"""LeRobot's driver in rad: what is refused, what is read after errors, which limits hold."""

import importlib

import numpy as np
import pytest
from feetech_emulator import Emulator
from so101_nexus.lerobot_adapter.synthetic_calibration import write_synthetic_calibration

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.robots.driver import RobotDriver, RobotLost
from residual_smolvla_ros.robots.limits import ArmSettings, make_limits
from residual_smolvla_ros.robots.units import JOINT_NAMES

pytestmark = pytest.mark.realtime


@pytest.fixture(scope="module")
def servos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arm")
    with Emulator(folder) as emulator:
        emulator.calibrate(folder, "arm")
        yield emulator


@pytest.fixture(scope="module")
def values(servos, tmp_path_factory):
    folder = servos.port.rsplit("/", 1)[0]
    return {"type": "so101_follower", "port": servos.port, "id": "arm", "calibration_dir": folder}


@pytest.fixture
def driver(values):
    opened = RobotDriver(values)
    opened.connect()
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"type": "so102"}, "expected a type out of .*so101_follower"),
        ({"type": None}, "expected a type"),
        ({"speed": 3}, "fields `speed` are not valid"),
        ({"use_degrees": False}, "expected use_degrees: true"),
        ({"max_relative_target": 5.0}, "max_step takes its place"),
        ({"type": "lekiwi"}, "expected a robot whose actions are joint positions"),
    ],
)
def test_a_robot_that_cannot_be_driven_is_refused(values, change, said):
    with pytest.raises(ConfigError, match=said):
        RobotDriver(values | change)


def test_another_calibration_than_the_servos_have_is_refused_with_the_command(
    values, servos, tmp_path
):
    file = tmp_path / "arm.json"
    servos.calibrate(tmp_path, "arm")
    file.write_text(file.read_text().replace("796", "800"))
    with pytest.raises(ConfigError, match="another one in the servos; run: lerobot-calibrate"):
        RobotDriver(values | {"calibration_dir": str(tmp_path)}).connect()


def test_connecting_moves_nothing_though_the_servos_hold_an_old_goal(values, servos):
    first = RobotDriver(values)
    first.connect()
    first.write(np.array([0.5, -1.0, 1.0, 1.0, 0.0, 0.5]))
    servos.set_position("shoulder_pan", 0.1)
    first.close()
    second = RobotDriver(values)
    second.connect()
    position, _ = second.read()
    second.close()
    assert position[0] == pytest.approx(0.1, abs=0.005)
    assert all(servos.torque().values())


def test_connecting_survives_a_corrupted_packet(values, servos):
    """LeRobot gives up at the first bad answer, of some two hundred that it asks for."""
    for count in (1, 2):
        servos.corrupt(count)
        driver = RobotDriver(values)
        driver.connect()
        assert driver.read()[0].shape == (6,)
        assert all(servos.torque().values())
        driver.close()


def test_so100_is_driven_by_the_same_names(values, servos):
    driver = RobotDriver(values | {"type": "so100_follower"})
    driver.connect()
    position, load = driver.read()
    driver.close()
    assert driver.joint_names == JOINT_NAMES
    assert position.shape == load.shape == (6,)


def test_a_robot_without_servos_is_driven_by_the_same_interface(tmp_path):
    """The simulated follower: another LeRobot robot with joint positions, from a plugin."""
    importlib.import_module("so101_nexus.lerobot_adapter.sim_follower_config")
    write_synthetic_calibration(tmp_path, "sim")
    driver = RobotDriver({"type": "sim_so_follower", "id": "sim", "calibration_dir": str(tmp_path),
                          "env_id": "MuJoCoPickLift-v1"})  # fmt: skip
    driver.connect()
    position, load = driver.read()
    target = position + np.array([0.05, 0.0, 0.0, 0.0, 0.0, 0.0])
    for _ in range(20):
        driver.write(target)
    np.testing.assert_allclose(driver.read()[0], target, atol=0.05)
    assert abs(driver.read()[0][0] - position[0]) > 0.02
    assert load is None
    assert driver.limits() is None
    driver.close()


def test_after_corrupted_packets_the_state_is_the_present_one(driver, servos):
    """LeRobot's retries leave answers behind, and each later read is one state late for good."""
    for count in (1, 2, 3, 7):
        servos.corrupt(count)
        for _ in range(3):
            try:
                driver.read()
            except RobotLost:
                continue
        for rad in (0.3, -0.2):
            servos.set_position("shoulder_pan", rad)
            assert driver.read()[0][0] == pytest.approx(rad, abs=0.005)


def test_a_second_driver_on_the_same_port_is_refused(driver, values):
    with pytest.raises(RobotLost, match="exclusively lock port"):
        RobotDriver(values).connect()
    assert driver.read()[0].shape == (6,)


def test_a_lost_port_is_named_and_connecting_again_serves(driver, servos):
    servos.pull()
    with pytest.raises(RobotLost, match=f"port {servos.port}: "):
        driver.read()
    with pytest.raises(RobotLost, match=r"Could not connect.*\(.*No such file or directory"):
        driver.connect()
    servos.plug()
    driver.connect()
    assert driver.read()[0].shape == (6,)


CALIBRATED = (np.full(6, -1.5), np.full(6, 1.5))


def test_limits_keep_a_margin_but_let_the_gripper_close():
    limits = make_limits(JOINT_NAMES, ArmSettings(limit_margin=0.1), CALIBRATED, 30.0)
    np.testing.assert_allclose(limits.lower, [-1.4] * 5 + [-1.5])
    np.testing.assert_allclose(limits.upper, [1.4] * 5 + [1.5])
    assert np.isinf(limits.stall_error[-1])


@pytest.mark.parametrize(
    ("change", "calibrated", "said"),
    [
        ({"max_step": (0.1, 0.2)}, CALIBRATED, "max_step: expected 1 or 6 finite numbers"),
        ({"max_velocity": (0.0,)}, CALIBRATED, "max_velocity: expected > 0"),
        ({"max_velocity": (float("nan"),)}, CALIBRATED, "max_velocity: expected"),
        ({"stall_error": 0.5}, CALIBRATED, "stall_error: expected less than max_step"),
        ({"command_timeout": 0.0}, CALIBRATED, "command_timeout: expected > 0"),
        ({"lower": (1.0,), "upper": (-1.0,)}, CALIBRATED, "expected lower < upper"),
        ({"lower": (1.0,)}, CALIBRATED, "expected both"),
        ({}, None, "expected joint limits in rad"),
    ],
)
def test_limits_against_sense_are_refused(change, calibrated, said):
    with pytest.raises(ConfigError, match=said):
        make_limits(JOINT_NAMES, ArmSettings(**change), calibrated, 30.0)
