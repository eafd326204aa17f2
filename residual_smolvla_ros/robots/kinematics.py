"""Forward kinematics and tool steps of the SO101, from MuJoCo Menagerie's model of it."""

import mujoco
import numpy as np
from so101_nexus import get_so101_mujoco_model_path
from so101_nexus.config import SO101_TCP_SITE_NAME

from residual_smolvla_ros.robots.units import JOINT_NAMES, lerobot_to_rad, rad_to_lerobot

ARM_JOINTS = 5
DAMPING = 1e-4
ORIENTATION_WEIGHT = 0.05
MAX_STEP_RAD = 0.3


def heading(tcp: np.ndarray) -> np.ndarray:
    """Return the rotation (3, 3) whose columns point from the base to the TCP, left, and up."""
    angle = np.arctan2(tcp[1], tcp[0])
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


class Kinematics:
    """Positions of the tool centre point (TCP) in the base frame, in m."""

    def __init__(self) -> None:
        self._model = mujoco.MjModel.from_xml_path(str(get_so101_mujoco_model_path()))
        self._data = mujoco.MjData(self._model)
        self._site = self._model.site(SO101_TCP_SITE_NAME).id
        joints = [self._model.joint(name) for name in JOINT_NAMES]
        self._qpos = np.array([joint.qposadr[0] for joint in joints])
        self._dofs = np.array([joint.dofadr[0] for joint in joints[:ARM_JOINTS]])

    heading = staticmethod(heading)

    @staticmethod
    def to_radians(state: np.ndarray) -> np.ndarray:
        """Turn joint positions (6,) in LeRobot's units into rad."""
        return lerobot_to_rad(state)

    @staticmethod
    def to_lerobot_change(change: np.ndarray) -> np.ndarray:
        """Turn a change of the joints (6,) in rad into LeRobot's units."""
        return rad_to_lerobot(change) - rad_to_lerobot(np.zeros_like(change))

    def forward(self, joints: np.ndarray) -> np.ndarray:
        """Return the TCP (3,) for joint positions (6,) in rad."""
        self._data.qpos[self._qpos] = joints
        mujoco.mj_kinematics(self._model, self._data)
        return self._data.site_xpos[self._site].copy()

    def joint_step(self, joints: np.ndarray, step: np.ndarray, yaw: float) -> np.ndarray:
        """Return the change (6,) of the joints, in rad, that moves the TCP.

        `step` (3,) is in the heading frame in m, `yaw` about the vertical in rad. The other two
        rotations are held as well as five joints can (damped least squares).
        """
        tcp = self.forward(joints)
        mujoco.mj_comPos(self._model, self._data)
        jacp = np.zeros((3, self._model.nv))
        jacr = np.zeros((3, self._model.nv))
        mujoco.mj_jacSite(self._model, self._data, jacp, jacr, self._site)
        jacobian = np.vstack([jacp[:, self._dofs], ORIENTATION_WEIGHT * jacr[:, self._dofs]])
        twist = np.concatenate([heading(tcp) @ step, [0.0, 0.0, ORIENTATION_WEIGHT * yaw]])
        gram = jacobian @ jacobian.T + DAMPING * np.eye(6)
        change = jacobian.T @ np.linalg.solve(gram, twist)
        return np.append(np.clip(change, -MAX_STEP_RAD, MAX_STEP_RAD), 0.0)
