"""Forward kinematics from a URDF: against sums done by hand, and against MuJoCo's model."""

import subprocess
import sys

import numpy as np
import pytest

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.robots.units import JOINT_NAMES
from residual_smolvla_ros.robots.urdf import UrdfKinematics, so101_urdf

POSTURES = np.random.default_rng(0).uniform(-1.5, 1.5, size=(50, 6))


def joint(name: str, kind: str, parent: str, child: str, x: float, axis: str) -> str:
    limit = (
        ""
        if kind in ("continuous", "fixed")
        else '<limit lower="-3" upper="3" effort="1" velocity="1"/>'
    )
    return (
        f'<joint name="{name}" type="{kind}"><parent link="{parent}"/><child link="{child}"/>'
        f'<origin xyz="{x} 0 0"/><axis xyz="{axis}"/>{limit}</joint>'
    )


# Two links of 1 m and 0.5 m in a plane, a slide along the second, and a jaw that moves no tool.
LINKS = "".join(
    f'<link name="{name}"/>' for name in ("base", "upper", "lower", "slide", "tool", "jaw")
)
PLANAR = f"""<robot name="planar">{LINKS}
{joint("shoulder", "revolute", "base", "upper", 0.0, "0 0 1")}
{joint("elbow", "continuous", "upper", "lower", 1.0, "0 0 1")}
{joint("rail", "prismatic", "lower", "slide", 0.0, "1 0 0")}
{joint("flange", "fixed", "slide", "tool", 0.5, "1 0 0")}
{joint("grip", "revolute", "slide", "jaw", 0.2, "0 0 1")}
</robot>"""


@pytest.fixture
def planar(tmp_path):
    file = tmp_path / "planar.urdf"
    file.write_text(PLANAR)
    return file


@pytest.mark.parametrize(
    ("shoulder", "elbow", "rail", "place"),
    [
        (0.0, 0.0, 0.0, [1.5, 0.0, 0.0]),
        (np.pi / 2, 0.0, 0.0, [0.0, 1.5, 0.0]),
        (np.pi / 2, -np.pi / 2, 0.25, [0.75, 1.0, 0.0]),
        (0.0, np.pi, 0.0, [0.5, 0.0, 0.0]),  # beyond which a continuous joint goes round
        (0.0, 2.5 * np.pi, 0.0, [1.0, 0.5, 0.0]),
    ],
)
def test_joints_are_found_by_name_whatever_their_order(planar, shoulder, elbow, rail, place):
    kinematics = UrdfKinematics(planar, "tool")
    for names, values in (
        (("shoulder", "elbow", "rail"), [shoulder, elbow, rail]),
        (("grip", "rail", "other", "shoulder", "elbow"), [9.0, rail, 9.0, shoulder, elbow]),
    ):
        found = kinematics.forward(names, np.array(values))
        np.testing.assert_allclose(found, place, atol=1e-12)


def test_a_result_is_not_overwritten_by_the_next_call(planar):
    kinematics = UrdfKinematics(planar, "tool")
    names = ("shoulder", "elbow", "rail")
    first = kinematics.forward(names, np.zeros(3))
    kinematics.forward(names, np.ones(3))
    np.testing.assert_allclose(first, [1.5, 0.0, 0.0])


def test_the_so101s_tool_is_where_mujoco_has_it(kinematics):
    urdf = UrdfKinematics(so101_urdf(), "tcp_frame_link")
    for posture in POSTURES:
        found = urdf.forward(JOINT_NAMES, posture)
        np.testing.assert_allclose(found, kinematics.forward(posture), atol=1e-4)


def test_lerobots_gripper_frame_is_fixed_to_that_tool(kinematics):
    """It lies at the fixed fingertip, 19.9 mm beside the middle of the jaws."""
    urdf = UrdfKinematics(so101_urdf(), "gripper_frame_link")
    between = [
        np.linalg.norm(urdf.forward(JOINT_NAMES, p) - kinematics.forward(p)) for p in POSTURES
    ]
    np.testing.assert_allclose(between, 0.0199, atol=1e-4)


def test_the_so101s_urdf_is_found_without_importing_a_simulator():
    code = (
        "import sys; from residual_smolvla_ros.robots.urdf import so101_urdf;"
        "print(so101_urdf().is_file(), 'so101_nexus' in sys.modules, 'mujoco' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert output.stdout.split() == ["True", "False", "False"], output.stderr


def test_without_the_package_the_default_is_one_clear_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "so101_nexus", None)  # as Python marks what is not there
    with pytest.raises(ConfigError, match=r"urdf: expected a file, or .* so101-nexus.*neither"):
        so101_urdf()


@pytest.mark.parametrize(
    ("content", "tool", "text"),
    [
        (None, "tool", "expected a URDF file, found no such file"),
        ("a: b", "tool", "expected a URDF file, found another"),
        (PLANAR, "flange", "expected a link out of base, .*tool, .*found 'flange'"),
    ],
)
def test_a_file_that_does_not_fit_is_named(tmp_path, content, tool, text):
    file = tmp_path / "arm.urdf"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=rf"urdf .*arm\.urdf: {text}"):
        UrdfKinematics(file, tool)


def test_a_robot_without_a_joint_of_the_chain_is_refused(planar):
    with pytest.raises(
        ConfigError, match=r"expected one angle each of shoulder, elbow, rail, found"
    ):
        UrdfKinematics(planar, "tool").forward(("shoulder", "elbow_flex"), np.zeros(2))


def test_a_chain_with_a_joint_of_many_angles_is_refused(tmp_path):
    file = tmp_path / "boat.urdf"
    file.write_text(
        '<robot name="boat"><link name="sea"/><link name="boat"/>'
        f"{joint('drift', 'floating', 'sea', 'boat', 0.0, '0 0 1')}</robot>"
    )
    with pytest.raises(ConfigError, match="expected one angle each of drift"):
        UrdfKinematics(file, "boat").forward(("drift",), np.zeros(1))
