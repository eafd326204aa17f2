"""The emulated arm, driven by LeRobot's own driver: what the tests of the bridge rely on."""

import itertools
import math
import subprocess
import sys
import termios
import time
from pathlib import Path

import psutil
import pytest
from feetech_emulator import Emulator
from sts3215 import (
    ACCELERATION,
    GOAL_POSITION,
    LOAD,
    MAX_SPEED,
    POSITION,
    TORQUE_ENABLE,
    VELOCITY,
    Servo,
    decode_sign,
)

from residual_smolvla_ros.robots.units import JOINT_NAMES, rad_to_lerobot

STEP_DEG = 360 / 4095  # of the encoder; of the gripper's percent it is 100 / 1251
STEP_RAD = math.radians(STEP_DEG)
HOME = {"shoulder_pan": 0, "shoulder_lift": -60, "elbow_flex": 60, "wrist_flex": 60}
HOME |= {"wrist_roll": 0, "gripper": 20}
POSE = {"shoulder_pan": 20, "shoulder_lift": -40, "elbow_flex": 40, "wrist_flex": 30}
POSE |= {"wrist_roll": -25, "gripper": 60}


@pytest.fixture
def arm(tmp_path):
    with Emulator(tmp_path) as arm:
        yield arm


@pytest.fixture
def make_robot(arm, tmp_path):
    """Return a function that makes LeRobot's driver; close its ports at the end."""
    from lerobot.robots.so_follower import SO101Follower, SO101FollowerConfig

    arm.calibrate(tmp_path, "emulated")
    made = []

    def make() -> SO101Follower:
        config = SO101FollowerConfig(port=arm.port, id="emulated", calibration_dir=tmp_path)
        made.append(SO101Follower(config))
        return made[-1]

    yield make
    for robot in made:
        vanish(robot)


@pytest.fixture
def robot(make_robot):
    robot = make_robot()
    connect(robot)
    return robot


def connect(robot, tries: int = 5) -> None:
    """Connect; LeRobot gives up at one late answer, for which a busy machine is enough."""
    for left in reversed(range(tries)):
        try:
            # pytest gives no stdin: a question for a calibration would fail.
            return robot.connect()
        except (ConnectionError, RuntimeError):
            vanish(robot)
            if not left:
                raise


def vanish(robot) -> None:
    """Close a driver's port without a word to the servos, as the end of its process would."""
    if robot.bus.is_connected:
        robot.bus.port_handler.closePort()


def action(pose: dict[str, float]) -> dict[str, float]:
    return {f"{name}.pos": value for name, value in pose.items()}


def eventually(condition, timeout_s: float = 20) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.01)


def is_at(arm: Emulator, pose: dict[str, float]) -> bool:
    """Return whether the joints of a pose are where it says, to two steps of the encoder."""
    positions = dict(zip(JOINT_NAMES, rad_to_lerobot(list(arm.positions().values())), strict=True))
    return all(abs(positions[name] - value) < 2 * STEP_DEG for name, value in pose.items())


def test_the_driver_connects_and_sees_where_the_arm_is(arm, robot):
    arm.set_position("wrist_roll", math.radians(45))
    observation = robot.get_observation()
    assert observation == pytest.approx(action(HOME | {"wrist_roll": 45}), abs=STEP_DEG)
    assert robot.is_calibrated


def test_connecting_moves_nothing_and_switches_torque_on(arm, make_robot):
    before = arm.positions()
    assert not any(arm.torque().values())
    connect(make_robot())
    assert all(arm.torque().values())
    assert arm.positions() == before


def test_an_action_moves_the_arm_there(arm, robot):
    robot.send_action(action(POSE))
    eventually(lambda: is_at(arm, POSE))
    eventually(lambda: not any(robot.bus.sync_read("Moving", num_retry=5).values()))
    assert robot.get_observation() == pytest.approx(action(POSE), abs=2 * STEP_DEG)
    assert not any(robot.bus.sync_read("Present_Load", num_retry=5).values())


def test_every_goal_that_was_written_is_told_with_its_time(arm, robot):
    arm.writes()
    start = time.monotonic()
    robot.send_action(action({"shoulder_pan": 5, "gripper": 30}))
    robot.send_action(action({"shoulder_pan": 200}))
    # A sync write is not answered: when this is, the writes before it were done.
    robot.get_observation()
    (first, goals), (second, last) = arm.writes()
    assert start < first < second < time.monotonic()
    assert set(goals) == {"shoulder_pan", "gripper"}
    assert goals["shoulder_pan"] == pytest.approx(math.radians(5), abs=STEP_RAD)
    # As sent, though the servo will not go there.
    assert last == pytest.approx({"shoulder_pan": math.radians(200)}, abs=STEP_RAD)
    assert arm.writes() == []


def test_an_obstacle_stalls_a_joint_with_a_high_load(arm, robot):
    arm.obstacle("shoulder_pan", 0.2)
    robot.send_action(action({"shoulder_pan": 60, "wrist_roll": 60}))
    eventually(lambda: is_at(arm, {"wrist_roll": 60}))
    eventually(lambda: not any(robot.bus.sync_read("Moving", num_retry=5).values()))
    assert arm.positions()["shoulder_pan"] == pytest.approx(0.2)
    load = robot.bus.sync_read("Present_Load", num_retry=5)
    assert (load["shoulder_pan"], load["wrist_roll"]) == (1000, 0)
    arm.obstacle("shoulder_pan", None)
    eventually(lambda: is_at(arm, {"shoulder_pan": 60}))


def test_a_goal_outside_the_position_limits_is_clamped(arm, robot):
    robot.send_action(action({"elbow_flex": 170}))
    eventually(lambda: is_at(arm, {"elbow_flex": 96}))
    assert arm.goals()["elbow_flex"] == pytest.approx(math.radians(96), abs=STEP_RAD)


def test_without_torque_a_joint_follows_no_goal_and_with_it_goes_there(arm, robot):
    robot.bus.disable_torque("shoulder_pan", num_retry=5)
    robot.send_action(action({"shoulder_pan": 30, "wrist_roll": 30}))
    eventually(lambda: is_at(arm, {"wrist_roll": 30}))
    assert is_at(arm, {"shoulder_pan": 0})
    robot.bus.enable_torque("shoulder_pan", num_retry=5)
    eventually(lambda: is_at(arm, {"shoulder_pan": 30}))


def test_one_corrupted_packet_is_survived_and_three_are_an_error(arm, robot):
    arm.corrupt(1)
    assert robot.get_observation() == pytest.approx(action(HOME), abs=STEP_DEG)
    arm.corrupt(3, "shoulder_pan")
    with pytest.raises(ConnectionError, match="Incorrect status packet"):
        robot.get_observation()
    assert robot.get_observation() == pytest.approx(action(HOME), abs=STEP_DEG)


def test_a_silent_servo_is_an_error_goes_on_to_its_goal_and_comes_back(arm, robot):
    robot.send_action(action(POSE))
    robot.get_observation()
    arm.silence("elbow_flex")
    with pytest.raises(ConnectionError, match="no status packet"):
        robot.get_observation()
    eventually(lambda: is_at(arm, POSE))
    arm.silence("elbow_flex", False)
    assert robot.get_observation() == pytest.approx(action(POSE), abs=2 * STEP_DEG)


def test_a_servo_reports_an_overload(arm, robot):
    arm.alarm("gripper", 32)
    with pytest.raises(RuntimeError, match="Overload"):
        robot.bus.read("Present_Load", "gripper", num_retry=5)
    # LeRobot does not look at the error byte here.
    robot.get_observation()


def test_a_pulled_cable_is_an_error_and_a_new_driver_connects_when_it_is_back(
    arm, robot, make_robot
):
    robot.send_action(action(POSE))
    robot.get_observation()
    arm.pull()
    with pytest.raises((OSError, termios.error)):
        robot.get_observation()
    eventually(lambda: is_at(arm, POSE))
    with pytest.raises(ConnectionError):
        make_robot().connect()
    goals = arm.goals()
    arm.plug()
    again = make_robot()
    connect(again)
    assert arm.goals() == goals
    assert again.get_observation() == pytest.approx(action(POSE), abs=2 * STEP_DEG)


def test_servos_keep_goal_and_torque_when_the_host_vanishes(arm, robot):
    robot.send_action(action(POSE))
    vanish(robot)
    eventually(lambda: is_at(arm, POSE))
    assert all(arm.torque().values())


def test_the_driver_takes_torque_off_when_it_disconnects(arm, robot):
    robot.disconnect()
    assert not any(arm.torque().values())


def test_nothing_lives_on_after_the_context(tmp_path):
    with Emulator(tmp_path) as arm:
        assert Path(arm.port).exists()
    assert not psutil.pid_exists(arm.pid)
    assert not Path(arm.port).is_symlink()


def test_nothing_lives_on_when_the_test_run_is_killed(tmp_path):
    code = "import sys; from feetech_emulator import Emulator\n"
    code += "with Emulator(sys.argv[1]) as arm: print(arm.pid, flush=True); input()"
    command = [sys.executable, "-c", code, str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=Path(__file__).parent, stdin=pipe, stdout=pipe, text=True
    ) as run:
        emulator = psutil.Process(int(run.stdout.readline()))
        run.kill()
    eventually(lambda: not emulator.is_running() or emulator.status() == psutil.STATUS_ZOMBIE)
    assert not (tmp_path / "arm").is_symlink()


def moving_servo(goal: int) -> Servo:
    """Return a servo at 2000 that sets out for a goal at time 0."""
    servo = Servo(1, 0, 4095, 0)
    servo.place(2000)
    servo.write(ACCELERATION, bytes([254]), 0.0)
    servo.write(TORQUE_ENABLE, bytes([1]), 0.0)
    servo.write(GOAL_POSITION, goal.to_bytes(2, "little"), 0.0)
    return servo


def test_a_joint_accelerates_stays_below_its_speed_and_does_not_overshoot():
    servo = moving_servo(3000)
    places = [servo.shaft]
    for tick in range(1, 81):
        servo.advance(tick / 100)
        places.append(servo.shaft)
    speeds = [(b - a) * 100 for a, b in itertools.pairwise(places)]
    assert 0 < speeds[0] < speeds[1] < max(speeds) <= MAX_SPEED + 1e-6
    assert min(speeds) >= 0
    assert places[-1] == 3000


@pytest.mark.parametrize("goal", [3000, 2003, 100])
def test_a_joint_is_at_the_same_place_whether_or_not_it_is_watched(goal):
    for end in (0.1, 0.3, 1.0):
        watched, alone = moving_servo(goal), moving_servo(goal)
        for tick in range(1, round(end * 100)):
            watched.read(POSITION, 2, tick / 100)
        assert watched.read(POSITION, 2, end) == alone.read(POSITION, 2, end)


def test_velocity_and_load_have_the_sign_of_the_way_that_is_left():
    for goal, sign in ((2600, 1), (1400, -1)):
        servo = moving_servo(goal)
        velocity = decode_sign(int.from_bytes(servo.read(VELOCITY, 2, 0.05), "little"), 15)
        load = decode_sign(int.from_bytes(servo.read(LOAD, 2, 0.05), "little"), 10)
        assert (velocity * sign, load * sign) == (pytest.approx(1270, abs=30), 1000)


def test_a_new_goal_on_the_way_turns_the_joint_round():
    servo = moving_servo(3000)
    servo.advance(0.2)
    turning = servo.shaft
    servo.write(GOAL_POSITION, (1500).to_bytes(2, "little"), 0.2)
    servo.advance(0.22)
    assert servo.shaft > turning  # it cannot stop at once
    servo.advance(2.0)
    assert servo.shaft == 1500
