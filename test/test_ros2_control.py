"""Our commands against what the controllers of ros2_control accept; their states against ours.

Rules from github.com/ros-controls/ros2_controllers, whose branches jazzy, kilted and master say the
same here (validate_trajectory_msg is the same in all three, to the letter). JTC stands for
joint_trajectory_controller/src/joint_trajectory_controller.cpp, FCC for
forward_command_controller/src/forward_controllers_base.cpp, JSB for
joint_state_broadcaster/src/joint_state_broadcaster.cpp.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import rclpy
import yaml
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from residual_smolvla_ros import pipeline
from residual_smolvla_ros.arguments import DEMO_CHECKPOINT, ArgumentError
from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.nodes.common import PipelineNode, to_nanoseconds, to_stamp
from residual_smolvla_ros.nodes.parts.command_publisher import CommandPublisher
from residual_smolvla_ros.nodes.parts.joint_names import JointNames
from residual_smolvla_ros.robots.joints import read_joints
from residual_smolvla_ros.robots.units import JOINT_NAMES

ROOT = Path(__file__).resolve().parents[1]
CONFIG = yaml.safe_load((ROOT / "config" / "ros2_control.yaml").read_text())
DOMAIN = 34
PERIOD_NS = 33_333_333
STATE_AT = 1_700_000_000_000_000_000
POSITIONS = np.linspace(-0.5, 0.5, 6)
OTHER_NAMES = ("Rotation", "Pitch", "Elbow", "Wrist_Pitch", "Wrist_Roll", "Jaw")


def parameters(controller: str) -> dict:
    return CONFIG[controller]["ros__parameters"]


def accepted_by_trajectory_controller(message: JointTrajectory, now: int, **settings) -> str:
    """Return why a joint_trajectory_controller drops a message on its topic, "" if it follows it.

    JTC, topic_callback -> validate_trajectory_msg, check by check in its order; `now` in ns is
    get_node()->now(): simulated time where the controller runs with use_sim_time.
    """
    found = parameters("joint_trajectory_controller") | settings
    joints, names, points = found["joints"], message.joint_names, message.points
    # "Partial joint goals"
    if not found["allow_partial_joints_goal"] and len(names) != len(joints):
        return "joints don't match"
    # "if joint names are provided", "if provided trajectory has points"
    if not names or not points:
        return "empty"
    # "If joint names are matching the joints defined for the controller"; their order is free:
    # sort_to_local_joint_order maps it.
    if set(names) - set(joints):
        return "unknown joint"
    # "if trajectory ends with non-zero velocity"
    ends_moving = any(abs(v) > np.finfo(np.float32).eps for v in points[-1].velocities)
    if ends_moving and not found["allow_nonzero_velocity_at_trajectory_end"]:
        return "nonzero velocity at the end"
    # "if trajectory end time is in the past (if start time defined)"; a stamp of 0 is "now".
    start = to_nanoseconds(message.header.stamp)
    if start and start + to_nanoseconds(points[-1].time_from_start) < now:
        return "ends in the past"
    before = 0
    for number, point in enumerate(points):
        # "if time of points in the trajectory is monotonous"
        at = to_nanoseconds(point.time_from_start)
        if number and at <= before:
            return "not strictly increasing"
        before = at
        # validate_trajectory_point_field: positions are needed, derivatives may be left out
        # (allow_integration_in_goal_trajectories is false).
        if len(point.positions) != len(names):
            return "size of positions"
        derivatives = (point.velocities, point.accelerations)
        if any(len(field) not in (0, len(names)) for field in derivatives):
            return "size of derivatives"
        # "reject effort entries"
        if point.effort and "effort" not in found["command_interfaces"]:
            return "effort"
    return ""


def accepted_by_forward_controller(message: Float64MultiArray) -> str:
    """Return why a forward_command_controller does not write a message, "" if it does."""
    # FCC, on_configure: the subscription drops what is not finite.
    if not all(map(math.isfinite, message.data)):
        return "not finite"
    # FCC, update: the number must be that of the joints; the order is theirs, there are no names.
    if len(message.data) != len(parameters("forward_command_controller")["joints"]):
        return "size"
    return ""


@pytest.fixture
def make(tmp_path):
    """Return a function that makes the commands of a node with parameters."""
    nodes = []

    def publisher(period_ns=PERIOD_NS, real_time=False, **values):
        file = tmp_path / "parameters.yaml"
        file.write_text(yaml.safe_dump({"/**": {"ros__parameters": values}}))
        rclpy.init(args=["--ros-args", "--params-file", str(file)], domain_id=DOMAIN)
        nodes.append(PipelineNode("policy"))
        names = JointNames(nodes[-1], JOINT_NAMES).on_topics
        return CommandPublisher(nodes[-1], names, period_ns, real_time)

    publisher.nodes = nodes
    yield publisher
    for node in nodes:
        node.destroy_node()
    rclpy.try_shutdown()


def test_a_trajectory_controller_follows_our_command_until_its_step_is_over(make):
    command = make().publish(to_stamp(STATE_AT), POSITIONS)
    assert accepted_by_trajectory_controller(command, now=STATE_AT + 10_000_000) == ""
    assert accepted_by_trajectory_controller(command, now=STATE_AT + PERIOD_NS) == ""
    # Stale commands are dropped, and the arm holds: as so101_bridge has it.
    late = accepted_by_trajectory_controller(command, now=STATE_AT + PERIOD_NS + 1)
    assert late == "ends in the past"


def test_a_command_may_have_longer_than_a_control_period(make):
    """On a loaded machine two of three commands took more than the 33 ms, and were dropped."""
    command = make(command_time_s=0.1).publish(to_stamp(STATE_AT), POSITIONS)
    assert accepted_by_trajectory_controller(command, now=STATE_AT + 99_000_000) == ""
    late = accepted_by_trajectory_controller(command, now=STATE_AT + 101_000_000)
    assert late == "ends in the past"


def test_late_commands_are_counted_where_time_is_that_of_the_wall(make):
    commands = make(real_time=True)
    (node,) = make.nodes
    now = node.get_clock().now().nanoseconds
    for age in (0, 2 * PERIOD_NS, 3600 * 10**9):  # the last is of another clock
        commands.publish(to_stamp(now - age), POSITIONS)
    assert node.counts == {"late_commands": 1}


@pytest.mark.parametrize("seconds", [-0.1, 1.5, math.nan])
def test_a_time_that_no_command_may_have_is_refused(make, seconds):
    with pytest.raises(ConfigError, match="command_time_s: expected 0 to 1"):
        make(command_time_s=seconds)


def test_the_commands_time_is_that_of_the_state_whatever_clock_it_is_of(make):
    """In simulation the stamp is simulated time: only a controller on wall time drops it."""
    simulated = 12_000_000_000
    command = make().publish(to_stamp(simulated), POSITIONS)
    assert accepted_by_trajectory_controller(command, now=simulated + 1_000_000) == ""
    assert accepted_by_trajectory_controller(command, now=STATE_AT) == "ends in the past"


def test_a_command_is_one_point_of_finite_positions_that_names_each_joint_once(make):
    command = make().publish(to_stamp(STATE_AT), POSITIONS)
    assert sorted(command.joint_names) == sorted(JOINT_NAMES)
    (point,) = command.points
    assert np.isfinite(point.positions).all()
    assert [len(f) for f in (point.velocities, point.accelerations, point.effort)] == [0, 0, 0]


@pytest.mark.parametrize("rate_hz", [1.0, 30.0, 100.0])
def test_a_control_period_is_a_valid_duration_at_every_rate(make, rate_hz):
    """At 1 Hz the nanoseconds alone would be a whole second."""
    period = round(1e9 / rate_hz)
    command = make(period).publish(to_stamp(STATE_AT), POSITIONS)
    assert command.points[0].time_from_start.nanosec < 1_000_000_000
    assert to_nanoseconds(command.points[0].time_from_start) == period


@pytest.mark.parametrize("joints", [list(reversed(JOINT_NAMES)), [*JOINT_NAMES, "wrist_yaw"]])
def test_order_is_free_and_a_controller_of_more_joints_needs_partial_goals(make, joints):
    command = make().publish(to_stamp(STATE_AT), POSITIONS)
    found = accepted_by_trajectory_controller(command, STATE_AT, joints=joints)
    assert found == ("" if len(joints) == 6 else "joints don't match")
    partial = {"joints": joints, "allow_partial_joints_goal": True}
    assert accepted_by_trajectory_controller(command, STATE_AT, **partial) == ""


def test_joints_may_have_the_names_of_another_stack(make):
    command = make(ros_joint_names=list(OTHER_NAMES)).publish(to_stamp(STATE_AT), POSITIONS)
    assert accepted_by_trajectory_controller(command, STATE_AT, joints=list(OTHER_NAMES)) == ""
    assert accepted_by_trajectory_controller(command, STATE_AT) == "unknown joint"
    state = JointState(name=list(reversed(OTHER_NAMES)), position=POSITIONS[::-1].tolist())
    assert read_joints(state, OTHER_NAMES)["position"] == pytest.approx(POSITIONS)


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "c", "d", "e", "e"]])
def test_other_names_must_be_one_for_each_joint(make, names):
    with pytest.raises(ConfigError, match="ros_joint_names: expected 6 different names"):
        make(ros_joint_names=names)


def test_a_forward_controller_takes_the_positions_in_the_order_of_its_joints(make):
    command = make(command_type="float64_multi_array").publish(to_stamp(STATE_AT), POSITIONS)
    assert accepted_by_forward_controller(command) == ""
    assert command.data.tolist() == POSITIONS.tolist()
    assert parameters("forward_command_controller")["joints"] == list(JOINT_NAMES)


def test_only_the_chosen_type_is_published(make):
    """A bridge follows nobody while it sees two publishers, and two controllers fight."""
    make(command_type="float64_multi_array")
    (node,) = make.nodes
    assert node.count_publishers("joint_commands") == 1
    assert node.count_publishers("joint_trajectory") == 0


def test_another_type_is_refused(make):
    with pytest.raises(ConfigError, match="command_type: expected trajectory or"):
        make(command_type="float64")


def test_what_the_hardware_does_not_tell_is_not_taken_for_a_broken_state():
    """JSB, init_joint_state_msg, fills such velocities and efforts with NaN (kUninitializedValue).

    The state once was refused as not finite, and the arm never moved.
    """
    nan = [math.nan] * 7
    state = JointState(name=[*JOINT_NAMES, "wrist_yaw"], position=[0.0] * 7, velocity=nan)
    assert read_joints(state, JOINT_NAMES).keys() == {"position"}
    state.velocity = [0.5] * 6 + [math.nan]
    assert read_joints(state, JOINT_NAMES)["velocity"].tolist() == [0.5] * 6


def test_the_configuration_has_one_state_for_each_control_step():
    """JSB publishes in each of its updates, and policy answers each of its states.

    controller_manager/src/controller_manager.cpp, configure_controller: a controller's rate must
    divide the manager's, or it is served at another one.
    """
    rate = parameters("joint_state_broadcaster")["update_rate"]
    assert rate == 30
    assert parameters("controller_manager")["update_rate"] % rate == 0


def test_the_configuration_names_the_same_joints_everywhere():
    controllers = ("joint_state_broadcaster", "joint_trajectory_controller",
                   "forward_command_controller")  # fmt: skip
    manager = parameters("controller_manager")
    for controller in controllers:
        assert parameters(controller)["joints"] == list(JOINT_NAMES)
        assert manager[controller]["type"].startswith(f"{controller}/")


def test_the_configuration_puts_the_controllers_on_our_topics():
    """controller_manager.cpp, load_controller, reads node_options_args for their nodes."""
    manager = parameters("controller_manager")
    for controller, rule in (
        ("joint_trajectory_controller", "~/joint_trajectory:=joint_trajectory"),
        ("forward_command_controller", "~/commands:=joint_commands"),
    ):
        assert manager[controller]["node_options_args"] == ["--ros-args", "-r", rule]


@pytest.mark.parametrize(("sim", "robot"), [("true", "so101_sim"), ("false", "so101_bridge")])
def test_commands_that_the_robots_node_does_not_take_are_refused(tmp_path, sim, robot):
    given = {"sim": sim, "command_type": "float64_multi_array", "output": str(tmp_path / "run")}
    given["base_checkpoint"] = str(DEMO_CHECKPOINT)
    with pytest.raises(ArgumentError, match=f"as {robot} takes it"):
        pipeline.build("finetune", given)


def test_a_robot_of_ones_own_need_not_tell_what_it_executed(tmp_path):
    """Else the learner would wait for ever for executed_command, which no controller publishes."""
    given = {"sim": "false", "executed_commands": "false", "nodes": "-so101_bridge",
             "command_type": "float64_multi_array", "record": "true",
             "output": str(tmp_path / "run"),
             "base_checkpoint": str(DEMO_CHECKPOINT)}  # fmt: skip
    specs = {spec.name: spec.parameters for spec in pipeline.build("finetune", given).nodes}
    assert "so101_bridge" not in specs
    assert specs["policy"]["command_type"] == "float64_multi_array"
    assert not specs["learner"]["executed_commands"]
    assert not specs["reward"]["executed_commands"]
    assert not {"executed_command", "joint_trajectory"} & set(specs["recorder"]["needed"])
