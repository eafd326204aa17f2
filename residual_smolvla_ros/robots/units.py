"""SO101 joint names and the conversion between ROS units and LeRobot units."""

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

_SCALE = np.array(
    [180.0 / np.pi] * 5 + [100.0 / (GRIPPER_OPEN_RAD - GRIPPER_CLOSED_RAD)], dtype=np.float64
)
_OFFSET = np.array([0.0] * 5 + [GRIPPER_CLOSED_RAD], dtype=np.float64)


def rad_to_lerobot(position: np.ndarray) -> np.ndarray:
    """Convert joint positions (..., 6) from rad to LeRobot's degrees and gripper 0..100."""
    return (np.asarray(position, dtype=np.float64) - _OFFSET) * _SCALE


def lerobot_to_rad(position: np.ndarray) -> np.ndarray:
    """Convert joint positions (..., 6) from LeRobot's degrees and gripper 0..100 to rad."""
    return np.asarray(position, dtype=np.float64) / _SCALE + _OFFSET
