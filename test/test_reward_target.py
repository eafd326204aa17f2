"""Distance of the gripper from a target, fixed or on a topic."""

import numpy as np
import pytest

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.rewards.composition import make_reward
from residual_smolvla_ros.rewards.term import RobotDescription
from residual_smolvla_ros.rewards.transition import Pose, Transition
from residual_smolvla_ros.robots.units import JOINT_NAMES

SECOND = 1_000_000_000
STATE = 100 * SECOND
# One joint about the vertical, and a tool 0.5 m in front of it and 0.1 m above.
ARM = """<robot name="arm"><link name="base_link"/><link name="arm"/><link name="tool"/>
<joint name="pan" type="continuous"><parent link="base_link"/><child link="arm"/>
<axis xyz="0 0 1"/></joint>
<joint name="flange" type="fixed"><parent link="arm"/><child link="tool"/>
<origin xyz="0.5 0 0.1"/></joint></robot>"""


@pytest.fixture
def make(tmp_path):
    """Return a function that makes the reward of the arm above from settings."""
    file = tmp_path / "arm.urdf"
    file.write_text(ARM)

    def make(joint_names=("gripper", "pan"), **settings):
        values = {"weight": 1.0, "urdf": str(file), "tool_frame": "tool"} | settings
        return make_reward({"target_distance": values}, RobotDescription(joint_names), [])

    return make


def step(pan: float = 0.0, poses: dict | None = None) -> Transition:
    return Transition(
        stamp=STATE - SECOND // 30,
        next_stamp=STATE,
        tick=0,
        position=np.array([0.0, pan]),
        poses=poses or {},
    )


def pose(frame_id: str = "base_link", age_s: float = 0.1) -> Pose:
    return Pose(frame_id, STATE - round(age_s * SECOND), np.array([0.5, 0.0, 0.5]))


@pytest.mark.parametrize(
    ("pan", "target", "distance"),
    [
        (0.0, [0.5, 0.0, 0.1], 0.0),
        (0.0, [0.8, 0.4, 0.1], 0.5),
        (np.pi / 2, [0.0, 0.5, -0.1], 0.2),
        (np.pi, [0.5, 0, 0.1], 1.0),
    ],
)
def test_a_fixed_target(make, pan, target, distance):
    shares = make(target=target)(step(pan))
    assert shares.total == pytest.approx(distance, abs=1e-7)


def test_a_target_on_a_topic(make):
    reward = make(topic="cube/pose")
    assert reward.pose_topics == ("cube/pose",)
    assert reward(step(poses={"cube/pose": pose()})).total == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("poses", "text"),
    [
        ({}, "cube/pose: expected a pose, found none yet"),
        ({"other/pose": pose()}, "cube/pose: expected a pose, found none yet"),
        ({"cube/pose": pose("camera_link")}, "in frame base_link, found 'camera_link'"),
        ({"cube/pose": pose(age_s=0.6)}, "within 0.5 s of the state's, found one 0.600 s before"),
        # Another clock: simulated time against that of the day.
        ({"cube/pose": pose(age_s=-1e9)}, "within 0.5 s of the state's"),
    ],
)
def test_a_pose_that_is_not_there_of_another_frame_or_old_is_missing(make, poses, text):
    reward = make(topic="cube/pose")
    shares = reward(step(poses=poses))
    assert (shares.total, shares.missing) == (0.0, ("target_distance",))
    assert text in reward.problems["target_distance"]


def test_frame_and_age_are_settings(make):
    reward = make(topic="cube/pose", frame="table", max_age_s=2)
    assert reward(step(poses={"cube/pose": pose("table", age_s=1.9)})).missing == ()


def test_joints_that_were_not_reported_are_missing(make):
    reward = make(target=[0.5, 0.0, 0.1])
    assert reward(Transition(stamp=1, next_stamp=2, tick=0)).missing == ("target_distance",)
    assert "position: expected" in reward.problems["target_distance"]


def test_the_so101_is_the_default_robot(kinematics):
    """Its tool frame is the fingertip, 19.9 mm beside the middle of the jaws."""
    position = np.array([0.3, -1.0, 1.0, 0.9, 0.2, 0.5])
    settings = {"weight": 1.0, "target": kinematics.forward(position)}
    reward = make_reward({"target_distance": settings}, RobotDescription(JOINT_NAMES), [])
    transition = Transition(stamp=1, next_stamp=2, tick=0, position=position)
    assert reward(transition).total == pytest.approx(0.0199, abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({}, "target, topic: expected one of both, found none"),
        ({"target": [0, 0, 0], "topic": "cube"}, "target, topic: expected one of both, found both"),
        ({"target": [0.0, 0.0]}, "Expected 3 items, got 2"),
        ({"target": [0.0, 0.0, np.nan]}, "target: expected no NaN"),
        ({"topic": "cube", "max_age_s": 0}, "max_age_s: expected > 0 s, found 0"),
        ({"topic": "cube", "urdf": "no.urdf"}, "urdf no.urdf: expected a URDF file, found no such"),
        ({"topic": "cube", "tool_frame": "hand"}, "expected a link out of base_link, arm, tool"),
        ({"topic": "cube", "joint_names": ("turn",)}, "expected one angle each of pan, found"),
    ],
)
def test_wrong_settings_are_refused_before_the_first_step(make, settings, text):
    with pytest.raises(ConfigError, match=rf"terms\.target_distance: .*{text}"):
        make(**settings)
