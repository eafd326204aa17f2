"""What a residual does to a command: shift joints, or move the gripper a little."""

from typing import Protocol

import numpy as np

from residual_smolvla_ros.policy.features import ResidualConfig
from residual_smolvla_ros.policy.frozen import FrozenPolicy

# One unit of residual: steps forward, left and up in m, yaw and gripper opening in rad.
GRIPPER_UNITS = np.array([0.02, 0.02, 0.02, 0.15, 0.1])


class Kinematics(Protocol):
    """What the action space `gripper` and the feature planned_tcp need of a robot."""

    def forward(self, joints: np.ndarray) -> np.ndarray:
        """Return the tool centre point (3,) in m for joints in rad."""

    def heading(self, tcp: np.ndarray) -> np.ndarray:
        """Return the rotation (3, 3) whose columns point from the base to the TCP, left, up."""

    def joint_step(self, joints: np.ndarray, step: np.ndarray, yaw: float) -> np.ndarray:
        """Return the change of the joints in rad that moves the tool centre point."""

    def to_radians(self, state: np.ndarray) -> np.ndarray:
        """Turn LeRobot's units into rad."""

    def to_lerobot_change(self, change: np.ndarray) -> np.ndarray:
        """Turn a change of joints in rad into a change in LeRobot's units."""


class JointSpace:
    """Shift each joint by `action_scale` standard deviations of the base's actions a unit."""

    def __init__(self, config: ResidualConfig, base: FrozenPolicy):
        self._scale = config.action_scale * base.action_std

    def correction(self, residual: np.ndarray, state: np.ndarray) -> np.ndarray:
        """Return what a clipped residual adds to the command, in LeRobot's units."""
        return residual * self._scale

    def residual(self, correction: np.ndarray, state: np.ndarray) -> np.ndarray:
        """Return the residual, not clipped, whose correction this is."""
        return correction / self._scale


class GripperSpace:
    """Move the gripper by `action_scale` times GRIPPER_UNITS a unit, seen from the base."""

    def __init__(self, config: ResidualConfig, kinematics: Kinematics):
        self._units = config.action_scale * GRIPPER_UNITS
        self._kinematics = kinematics

    def correction(self, residual: np.ndarray, state: np.ndarray) -> np.ndarray:
        """Return what a clipped residual adds to the command, in LeRobot's units."""
        step = residual * self._units
        if not step.any():
            return np.zeros_like(state)
        joints = self._kinematics.to_radians(state)
        change = self._kinematics.joint_step(joints, step[:3], step[3])
        change[-1] += step[4]
        return self._kinematics.to_lerobot_change(change)

    def residual(self, correction: np.ndarray, state: np.ndarray) -> np.ndarray:
        """Return the residual, not clipped, whose correction comes closest (least squares).

        Five numbers cannot express every change of six joints.
        """
        each = [self.correction(one, state) for one in np.eye(len(self._units))]
        return np.linalg.lstsq(np.stack(each, axis=1), correction, rcond=None)[0]
