"""What the node `rerun_viewer` logs, and under which names."""

import threading

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.serialization import serialize_message
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.nodes.common import to_stamp
from residual_smolvla_ros.nodes.parts.images import to_image_message
from residual_smolvla_ros.records import REWARD, pack, unpack
from residual_smolvla_ros.robots.units import JOINT_NAMES, lerobot_to_rad

rerun = pytest.importorskip("rerun")
from residual_smolvla_ros.nodes import rerun_viewer  # noqa: E402
from residual_smolvla_ros.nodes.parts import rerun_log  # noqa: E402

DOMAIN = 33
ROS_NAMES = ["1", "2", "3", "4", "5", "6"]


@pytest.fixture
def node(tmp_path):
    """The node of a robot whose joints have other names; it writes session.rrd."""
    arguments = [
        f"sink:={tmp_path / 'session.rrd'}",
        "cameras:=[front]",
        f"ros_joint_names:={ROS_NAMES}",
    ]
    words = [word for argument in arguments for word in ("-p", argument)]
    rclpy.init(args=["--ros-args", *words], domain_id=DOMAIN)
    made = rerun_viewer.RerunViewerNode()
    yield made
    made.close()
    made.destroy_node()
    rclpy.try_shutdown()


def take_one_of_each(node) -> None:
    rad = lerobot_to_rad(np.full(6, 10.0)).tolist()
    state = JointState(name=ROS_NAMES, position=rad)
    state.header.stamp = to_stamp(2_500_000_000)
    node._on_state(state)
    node._on_base(JointState(name=ROS_NAMES, position=rad))
    node._on_residual(JointState(name=ROS_NAMES, position=[0.1] * 6))
    point = JointTrajectoryPoint(positions=rad)
    node._on_command(JointTrajectory(joint_names=ROS_NAMES, points=[point]))
    pixels = np.zeros((4, 6, 3), np.uint8)
    node._images["front"] = serialize_message(to_image_message(pixels, to_stamp(1), "front"))
    blob = pack(REWARD, {"reward": np.float32(0.5), "terms": np.array([0.5], np.float32)},
                stamp=1, next_stamp=2, success=False, terminated=False, label="",
                names=("success",), missing=())  # fmt: skip
    node._on_reward(unpack(REWARD, blob))
    values = [KeyValue(key="kl", value="0.01"), KeyValue(key="collected", value="3/8")]
    status = DiagnosticStatus(name="/arm1/learner", values=values)
    node._on_diagnostics(DiagnosticArray(status=[status]))


def test_entities_have_lerobots_names_and_units(node, monkeypatch):
    """Of a robot that calls its joints 1 to 6, in rad; beside them what the residual adds."""
    logged = {}
    monkeypatch.setattr(rerun, "log", lambda path, entity, **_: logged.update({path: entity}))
    monkeypatch.setattr(rerun, "send_blueprint", lambda _: None)
    take_one_of_each(node)
    node._show()
    node._log.close(timeout_s=60.0)
    joints = {f"{name}.pos" for name in JOINT_NAMES}
    assert logged.keys() == {"observation.front", "reward.value", "reward.terms.success",
                             "metrics.kl"} | {f"{kind}.{joint}" for joint in joints
                             for kind in ("observation", "action", "base", "residual")}  # fmt: skip
    value = {path: logged[path].scalars.as_arrow_array()[0].as_py()
             for path in ("observation.gripper.pos", "residual.shoulder_pan.pos",
                          "residual.gripper.pos")}  # fmt: skip
    assert value["observation.gripper.pos"] == pytest.approx(10.0)
    assert value["residual.shoulder_pan.pos"] == pytest.approx(np.rad2deg(0.1))
    assert value["residual.gripper.pos"] == pytest.approx(100 * 0.1 / (1.745329 + 0.174533))


def test_a_session_is_written_to_a_file(node, tmp_path):
    take_one_of_each(node)
    node._show()
    node._log.close(timeout_s=60.0)
    assert (tmp_path / "session.rrd").read_bytes()[:3] == b"RRF"


def test_a_viewer_that_takes_nothing_holds_the_node_up_no_longer_than_its_close(node, monkeypatch):
    """Once its viewer is closed, rerun blocks in each call."""
    go_on, begun = threading.Event(), threading.Event()

    def block(*_, **__):
        begun.set()
        go_on.wait()

    monkeypatch.setattr(rerun, "log", block)
    take_one_of_each(node)
    node._show()
    assert begun.wait(10.0)
    for _ in range(3):
        take_one_of_each(node)
        node._show()
    assert node.status()[0] == DiagnosticStatus.WARN
    node._log.close(timeout_s=0.1)
    go_on.set()


@pytest.mark.parametrize(
    ("sink", "told"),
    [("viewer", "expected a display for its viewer, found none"), ("a.rrd", "expected a new file")],
)
def test_a_sink_that_cannot_be_is_refused_with_one_line(tmp_path, monkeypatch, sink, told):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.rrd").touch()
    with pytest.raises(ConfigError, match=told):
        rerun_log.RerunLog(sink)
