"""A leader arm on emulated servos, read by LeRobot's own driver: its targets, and its faults."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from feetech_emulator import Emulator
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from robot_graph import isolated
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.nodes.common import LATCHED_QOS, to_nanoseconds
from residual_smolvla_ros.robots.driver import RobotDriver
from residual_smolvla_ros.robots.leader import Leader
from residual_smolvla_ros.robots.servo_bus import DeviceLost
from residual_smolvla_ros.robots.units import JOINT_NAMES

pytestmark = pytest.mark.realtime

DOMAIN = 46
TIMEOUT_S = 30.0
HELD = (0.3, -0.5, 0.4, 0.2, -0.7, 1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("leader")


@pytest.fixture(scope="module")
def servos(folder):
    with Emulator(folder) as emulator:
        emulator.calibrate(folder, "leader")
        yield emulator


@pytest.fixture(scope="module")
def values(servos, folder):
    return {"type": "so101_leader", "port": servos.port, "id": "leader",
            "calibration_dir": str(folder)}  # fmt: skip


def hold(servos: Emulator, positions) -> None:
    """Move the joints by hand."""
    for name, rad in zip(JOINT_NAMES, positions, strict=True):
        servos.set_position(name, rad)


def recalibrate(servos: Emulator, folder: Path) -> dict[str, str]:
    """Write another calibration than the servos'; return the fields that name it."""
    servos.calibrate(folder, "leader")
    file = folder / "leader.json"
    file.write_text(file.read_text().replace("796", "800"))
    return {"calibration_dir": str(folder)}


# -- the leader -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"type": "so102_leader"}, "teleop: expected a type out of .*so101_leader"),
        ({"speed": 3}, "fields `speed` are not valid"),
        ({"use_degrees": False}, "expected shoulder_pan in degrees, found range_m100_100"),
    ],
)
def test_a_leader_that_cannot_be_read_in_rad_is_refused(values, change, said):
    with pytest.raises(ConfigError, match=said):
        Leader(values | change)


def test_a_teleoperator_without_joints_is_refused():
    with pytest.raises(ConfigError, match="expected a teleoperator whose actions are joint pos"):
        Leader({"type": "gamepad"})


def test_a_calibration_file_that_is_none_is_one_line(values, tmp_path):
    (tmp_path / "leader.json").write_text("{nonsense")
    with pytest.raises(ConfigError, match=f"teleop so101_leader: .*{tmp_path}"):
        Leader(values | {"calibration_dir": str(tmp_path)})


def test_the_followers_port_is_refused_and_its_arm_does_not_fall(values, servos, tmp_path):
    """LeRobot's leader switches torque off as soon as it connects."""
    servos.calibrate(tmp_path, "arm")
    arm = RobotDriver({"type": "so101_follower", "port": servos.port, "id": "arm",
                       "calibration_dir": str(tmp_path)})  # fmt: skip
    arm.connect()
    with pytest.raises(DeviceLost, match="exclusively lock port"):
        Leader(values).connect()
    assert arm.read()[0].shape == (6,)
    arm.close()
    wrong = Leader(values | recalibrate(servos, tmp_path))
    with pytest.raises(ConfigError, match="another one in the servos; run: lerobot-calibrate "):
        wrong.connect()
    wrong.close()
    assert all(servos.torque().values())


def test_a_connected_leader_lets_the_hand_move_it_and_survives_bad_packets(values, servos):
    servos.corrupt(1)
    leader = Leader(values)
    leader.connect()
    assert not any(servos.torque().values())
    for count in (1, 7):
        servos.corrupt(count)
        leader.poll()
        for rad in (0.3, -0.2):
            servos.set_position("shoulder_pan", rad)
            assert leader.read()[0] == pytest.approx(rad, abs=0.005)
    leader.close()


# -- the node -------------------------------------------------------------------------------


class Teleop:
    """The node `teleop` in a process of its own, and a node that takes its targets."""

    def __init__(self, folder: Path, values: dict):
        parameters = {f"teleop.{name}": value for name, value in values.items()}
        file = folder / "teleop.yaml"
        file.write_text(json.dumps({"/**": {"ros__parameters": parameters}}))
        self._log = folder / "teleop.log"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "residual_smolvla_ros.nodes.teleop",
             "--ros-args", "--params-file", str(file)],
            stdout=self._log.open("w"), stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.targets: list[JointState] = []
        self.status: tuple = (None, "")
        self._context = Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node("peer", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._active = self._node.create_publisher(Bool, "intervention/active", LATCHED_QOS)
        self._node.create_subscription(
            JointState, "intervention/command", self.targets.append, QoSProfile(depth=1)
        )
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._on_report, 10)

    def _on_report(self, message: DiagnosticArray) -> None:
        self.status = message.status[0].level, message.status[0].message

    def log(self) -> str:
        """Return what the node has printed."""
        return self._log.read_text()

    def take_over(self) -> None:
        """Say that a person drives, as `policy` does."""
        self._active.publish(Bool(data=True))
        self.until(lambda: self.status[1] == "a person drives")

    def until(self, condition) -> None:
        """Spin until a condition holds."""
        end = time.monotonic() + TIMEOUT_S
        while not condition():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < end, self.log()
            self._executor.spin_once(timeout_sec=0.02)

    def wait_for_targets(self, positions) -> None:
        """Spin until the newest target is where the hand is."""
        self.until(lambda: self.targets and self.targets[-1].position.tolist()
                   == pytest.approx(positions, abs=0.005))  # fmt: skip

    def close(self) -> None:
        """End what a test left, and leave the graph."""
        self.process.kill()
        self.process.wait()
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()


@pytest.fixture
def ros():
    with isolated(DOMAIN):
        yield


@pytest.fixture
def start(ros, tmp_path):
    started = []

    def start(values: dict) -> Teleop:
        started.append(Teleop(tmp_path, values))
        return started[-1]

    yield start
    for teleop in started:
        teleop.close()


def test_targets_follow_the_hand_stop_with_the_leader_and_come_back_with_it(start, servos, values):
    servos.pull()
    teleop = start(values)
    teleop.until(lambda: "leader lost: port" in teleop.log())  # not there at the start
    servos.plug()
    for positions in (HELD, [-rad for rad in HELD[:5]] + [0.5]):
        hold(servos, positions)
        teleop.wait_for_targets(positions)
    newest = teleop.targets[-1]
    assert list(newest.name) == list(JOINT_NAMES)
    assert newest.velocity.tolist() == newest.effort.tolist() == [0.0] * 6
    stamps = [to_nanoseconds(target.header.stamp) for target in teleop.targets]
    assert stamps == sorted(stamps)
    assert abs(time.time_ns() - stamps[-1]) < 1e9
    assert not any(servos.torque().values())

    teleop.take_over()
    servos.pull()
    teleop.until(lambda: teleop.status[0] == DiagnosticStatus.ERROR)
    assert "the arm stays at the last target" in teleop.log()
    teleop.targets.clear()
    teleop.until(lambda: "No such file or directory" in teleop.log())  # tried and not found
    assert not teleop.targets
    hold(servos, HELD)
    servos.plug()
    teleop.wait_for_targets(HELD)
    teleop.until(lambda: teleop.status == (DiagnosticStatus.OK, "a person drives"))
    assert teleop.log().count("connected: shoulder_pan") == 2
    assert "Traceback" not in teleop.log()

    teleop.process.send_signal(signal.SIGTERM)
    assert teleop.process.wait(timeout=TIMEOUT_S) == 0
    Leader(values).connect()  # nobody has the port


def test_a_wrong_calibration_ends_the_node_with_one_line(start, servos, values, tmp_path):
    teleop = start(values | recalibrate(servos, tmp_path))
    assert teleop.process.wait(timeout=TIMEOUT_S) == 1
    (line,) = teleop.log().splitlines()
    assert line.startswith("teleop: error: calibration: expected that of")
    assert f"--teleop.port={servos.port} --teleop.id=leader" in line
