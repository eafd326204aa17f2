"""SO101 joint names and the conversion between ROS units and LeRobot units."""

from functools import lru_cache

import numpy as np

JOINT_NAMES = (
    "shoulder_pan",
    "shoulder_lift",
    "elbow_flex",
    "wrist_flex",
    "wrist_roll",
    "gripper",
)

# Range of the gripper joint in the SO101 URDF; LeRobot calls its ends 0 and 100.
GRIPPER_CLOSED_RAD = -0.174533
GRIPPER_OPEN_RAD = 1.745329


def is_gripper(joint_name: str) -> bool:
    """Tell whether LeRobot measures a joint from 0 to 100 instead of in degrees."""
    return joint_name.endswith("gripper")


def rad_to_lerobot(position: np.ndarray, joint_names: tuple[str, ...] = JOINT_NAMES) -> np.ndarray:
    """Convert joint positions (..., joints) from rad to LeRobot's degrees and gripper 0..100."""
    scale, offset = _affine(tuple(joint_names))
    return (np.asarray(position, dtype=np.float64) - offset) * scale


def lerobot_to_rad(position: np.ndarray, joint_names: tuple[str, ...] = JOINT_NAMES) -> np.ndarray:
    """Convert joint positions (..., joints) from LeRobot's degrees and gripper 0..100 to rad."""
    scale, offset = _affine(tuple(joint_names))
    return np.asarray(position, dtype=np.float64) / scale + offset


@lru_cache
def _affine(joint_names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    gripper = np.array([is_gripper(name) for name in joint_names])
    scale = np.where(gripper, 100.0 / (GRIPPER_OPEN_RAD - GRIPPER_CLOSED_RAD), 180.0 / np.pi)
    return scale, np.where(gripper, GRIPPER_CLOSED_RAD, 0.0)
