"""The bridge on emulated servos, driven by LeRobot's own driver: what it does, and its faults.

After each fault the arm stands still, the log says why in one line, and commands are followed
again once the cause is gone.
"""

import math
import signal

import numpy as np
import pytest
from robot_graph import HOME, Bridge, Emulator, Peer, isolated

from residual_smolvla_ros.robots.units import JOINT_NAMES

pytestmark = pytest.mark.realtime

DOMAIN = 20
MAX_VELOCITY, MAX_STEP, TIMEOUT = 3.0, 0.4, 0.2
AWAY = (1.5, -0.8, 0.8, 1.0, 0.3, 0.5)


@pytest.fixture(scope="module", autouse=True)
def domain():
    with isolated(DOMAIN):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("arm")


@pytest.fixture(scope="module")
def servos(folder):
    with Emulator(folder) as emulator:
        emulator.calibrate(folder, "arm")
        yield emulator


@pytest.fixture(scope="module")
def running(folder, servos):
    bridge = Bridge(folder, servos.port)
    yield bridge
    bridge.stop()


@pytest.fixture(scope="module")
def connected():
    peer = Peer()
    yield peer
    peer.close()


@pytest.fixture
def arm(connected, running, servos):
    """The peer of a bridge whose arm is at home and free; what it logs from here is new."""
    connected.until(lambda: connected.states, "the first state")
    connected.call("so101_bridge/release")
    connected.move(HOME)
    connected.until(lambda: connected.values.get("mode") == "hold", "a hold without commands")
    servos.writes()
    running.log = ""
    return connected


def stands_still(arm: Peer, servos: Emulator) -> None:
    """Wait until the servos have no way to go, and check that they keep to it."""
    arm.until(lambda: distance(servos.goals(), servos.positions()) < 0.02, "servos at their goals")
    before = servos.positions()
    arm.ticks(10)
    assert distance(before, servos.positions()) < 0.02


def distance(a: dict[str, float], b: dict[str, float]) -> float:
    return max(abs(a[name] - b[name]) for name in JOINT_NAMES)


def test_states_are_those_of_the_servos_in_rad_at_the_rate_asked_for(arm, servos):
    arm.ticks(5)
    newest = arm.states[-1]
    assert list(newest.name) == list(JOINT_NAMES)
    assert distance(arm.position(), servos.positions()) < 0.005
    assert len(newest.velocity) == len(newest.effort) == 6


def test_each_state_gets_the_command_that_was_executed_in_answer_to_it(arm):
    first = len(arm.states)
    arm.move(AWAY)
    arm.ticks(2)
    stamps = [s.header.stamp.sec * 10**9 + s.header.stamp.nanosec for s in arm.states[first:-1]]
    arm.until(lambda: set(stamps) <= set(arm.executed), "executed commands of all states")
    np.testing.assert_allclose(arm.executed[stamps[-1]].position, AWAY, atol=0.01)
    assert np.abs(arm.states[-1].velocity).max() < MAX_VELOCITY + 1.0


def test_a_jump_of_1_rad_reaches_the_motors_as_a_ramp(arm, servos):
    target = (1.0, *HOME[1:])
    arm.move(target)
    written = [(t, goals["shoulder_pan"]) for t, goals in servos.writes()]
    steps = np.abs(np.diff([goal for _, goal in written]))
    assert steps.max() <= MAX_VELOCITY * 2 / 30 + 0.005
    assert distance(servos.positions(), dict(zip(JOINT_NAMES, target, strict=True))) < 0.03


def test_a_command_beyond_a_limit_stops_short_of_it(arm, servos):
    arm.answer = [9.0, *HOME[1:]]
    limit = math.radians((3298 - 796) * 360 / 4095 / 2)
    arm.until(lambda: abs(arm.position()["shoulder_pan"] - limit + 0.02) < 0.01, "arm at the limit")
    arm.ticks(10)
    arm.answer = None
    assert servos.goals()["shoulder_pan"] <= limit - 0.015
    arm.until(lambda: int(arm.values.get("clipped_limit", 0)) > 0, "a count of clipped commands")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"position": [math.nan, *HOME[1:]]}, "expected finite positions"),
        ({"position": [0.2] * 6, "names": ["a", "b", "c", "d", "e", "f"]}, "expected joints"),
        ({"position": [0.2] * 5}, "expected 6 positions, found 5"),
        ({"position": [0.2] * 6, "age_s": 10.0}, "expected a stamp at most 0.2 s old"),
        ({"position": [0.2] * 6, "age_s": -10.0}, "expected a stamp of the past"),
    ],
    ids=["NaN", "wrong names", "wrong length", "10 s old", "from the future"],
)
def test_a_wrong_command_moves_nothing_and_is_named(arm, servos, running, fault, said):
    before = servos.goals()
    sent = 0
    while sent < 10 or said not in running.log:
        arm.send(**fault)
        arm.ticks(1)
        sent += 1
    assert distance(servos.goals(), before) < 0.01
    arm.until(lambda: refused(arm) > 0, "a count of refused commands")
    arm.move(AWAY)


def refused(arm: Peer) -> int:
    return sum(int(n) for key, n in arm.values.items()
               if key.startswith("refused_") and not key.endswith("_per_s"))  # fmt: skip


def test_a_second_publisher_is_named_and_nobody_is_followed_until_it_has_gone(arm, servos, running):
    intruder = Peer("intruder")
    try:
        arm.answer = list(HOME)
        arm.until(lambda: "found also /intruder" in running.log, "the intruder's name")
        arm.answer = list(AWAY)
        stands_still(arm, servos)
        assert not arm.is_at(AWAY)
    finally:
        intruder.close()
    arm.move(AWAY)


def test_when_commands_end_in_mid_motion_the_arm_holds_where_it_was_measured(arm, servos, running):
    arm.answer = list(AWAY)
    arm.until(lambda: abs(arm.position()["shoulder_pan"]) > 0.2, "an arm in motion")
    arm.answer = None
    arm.until(lambda: f"hold: no command for {TIMEOUT} s" in running.log, "the hold")
    stands_still(arm, servos)
    assert not arm.is_at(AWAY)
    arm.move(AWAY)


def test_a_stall_is_held_until_release(arm, servos, running):
    servos.obstacle("shoulder_pan", 0.2)
    arm.answer = [1.0, *HOME[1:]]
    arm.until(lambda: "latched hold: stalled: shoulder_pan" in running.log, "the stall")
    stands_still(arm, servos)
    servos.obstacle("shoulder_pan", None)
    arm.ticks(5)
    assert arm.position()["shoulder_pan"] < 0.25
    assert arm.call("so101_bridge/release").success
    arm.move([1.0, *HOME[1:]])


def test_corrupted_packets_are_survived(arm, servos):
    servos.corrupt(1)
    arm.ticks(3)
    servos.corrupt(5)
    arm.ticks(3)
    arm.move(AWAY)


def test_a_servo_that_stops_answering_is_named_and_the_arm_holds(arm, servos, running):
    arm.answer = list(AWAY)
    arm.until(lambda: abs(arm.position()["shoulder_pan"]) > 0.1, "an arm in motion")
    servos.silence("elbow_flex")
    arm.until(lambda: "robot lost" in running.log and "Missing motor IDs: - 3" in arm.status)
    arm.until(lambda: distance(servos.goals(), servos.positions()) < 0.02, "servos at their goals")
    assert not arm.is_at(AWAY)
    servos.silence("elbow_flex", False)
    arm.move(AWAY)
    assert "Traceback" not in running.log


def test_a_pulled_cable_is_named_and_put_back_it_serves_again(arm, servos, running):
    arm.answer = list(AWAY)
    arm.until(lambda: abs(arm.position()["shoulder_pan"]) > 0.1, "an arm in motion")
    servos.pull()
    arm.until(lambda: "robot lost: port" in running.log, "the loss")
    arm.until(lambda: distance(servos.goals(), servos.positions()) < 0.02, "servos at their goals")
    assert all(servos.torque().values())
    servos.set_position("shoulder_pan", -0.3)  # moved by hand meanwhile
    servos.writes()
    servos.plug()
    arm.move(AWAY)
    first = servos.writes()[0][1]
    assert abs(first["shoulder_pan"] + 0.3) < 0.01
    assert "Traceback" not in running.log


def test_hold_stops_the_arm_until_release(arm, servos):
    arm.answer = list(AWAY)
    arm.until(lambda: abs(arm.position()["shoulder_pan"]) > 0.1, "an arm in motion")
    assert arm.call("so101_bridge/hold").success
    stands_still(arm, servos)
    assert not arm.is_at(AWAY)
    assert not arm.call("so101_bridge/home").success
    assert arm.call("so101_bridge/release").success
    arm.move(AWAY)


def test_a_reset_goes_home_and_waits_for_the_scene(arm):
    arm.move(AWAY)
    answer = arm.call("reset_environment")
    assert (answer.success, answer.message) == (False, "going home")
    arm.until(lambda: arm.is_at(HOME), "home")
    arm.until(lambda: "waiting for the scene" in arm.call("reset_environment").message)
    assert arm.call("reset_environment/done").success
    assert arm.call("reset_environment").success
    assert not arm.call("reset_environment/done").success


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_when_the_bridge_ends_in_mid_motion_the_servos_stay_near_with_torque_on(
    tmp_path, monkeypatch, signum
):
    """SIGTERM: where they were measured. SIGKILL: at the last goal, at most max_step away."""
    monkeypatch.setenv("ROS_DOMAIN_ID", str(DOMAIN + 1))
    with Emulator(tmp_path) as servos:
        servos.calibrate(tmp_path, "arm")
        arm, bridge = Peer(), Bridge(tmp_path, servos.port)
        try:
            arm.answer = [1.5, *HOME[1:]]
            arm.until(lambda: arm.states and arm.position()["shoulder_pan"] > 0.3, "a motion")
            measured = arm.position()["shoulder_pan"]
            code = bridge.stop(signum)
            arm.until(lambda: distance(servos.goals(), servos.positions()) < 0.01, "a stop")
        finally:
            bridge.stop(signal.SIGKILL)
            arm.close()
        assert all(servos.torque().values())
        assert abs(servos.positions()["shoulder_pan"] - measured) < MAX_STEP
        assert servos.positions()["shoulder_pan"] < 1.4
        assert code == (0 if signum == signal.SIGTERM else -signal.SIGKILL), bridge.log


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"robot.id": "nobody"}, "run: lerobot-calibrate --robot.type=so101_follower"),
        ({"robot.port": "/nowhere"}, "Could not connect on port '/nowhere'"),
        ({"rate_hz": 500.0}, "rate_hz: expected 1 to 100, found 500"),
        ({"rate_hz": 30}, "rate_hz: expected one like 30.0"),
    ],
)
def test_a_wrong_parameter_ends_the_bridge_with_one_line(tmp_path, change, said):
    with Emulator(tmp_path) as servos:
        servos.calibrate(tmp_path, "arm")
        bridge = Bridge(tmp_path, servos.port, **change)
        try:
            assert bridge.wait() == 1
        finally:
            bridge.stop(signal.SIGKILL)
    errors = [line for line in bridge.log.splitlines() if "error" in line]
    assert len(errors) == 1
    assert said in errors[0]
    assert "Traceback" not in bridge.log
