"""The scripted expert: inverse kinematics through waypoints over the cube's true pose."""

import os

# MuJoCo picks its OpenGL back end when first imported, here before the simulator is.
os.environ.setdefault("MUJOCO_GL", "osmesa")

import mujoco
import numpy as np

from residual_smolvla_ros.robots.simulation import HOME_DEG, RATE_HZ, SimulatedSO101
from residual_smolvla_ros.robots.units import JOINT_NAMES

EPISODE_STEPS = 100
GRIPPER_OPEN, GRIPPER_SHUT = 0.9, -0.17  # rad; shut presses into the cube
HOVER_HEIGHT, LIFT_HEIGHT = 0.06, 0.10  # m above the grasp
# The open jaws are not centred on the tool frame: shift the cube toward the fixed jaw.
CUBE_OFFSET = 0.003  # m
# Seconds for: over the cube, down, settle, close, settle, lift.
SEGMENTS_S = (1.0, 0.6, 0.1, 0.4, 0.15, 0.7)

_ARM = slice(0, 5)
_DAMPING, _MAX_STEP, _ORIENTATION_WEIGHT = 1e-5, 0.3, 0.1


class ScriptedExpert:
    """Plan a grasp of the cube from its true pose; one joint target per control step."""

    def __init__(self, sim: SimulatedSO101) -> None:
        self._sim = sim
        self._scratch = mujoco.MjData(sim.model)
        self._site = mujoco.mj_name2id(sim.model, mujoco.mjtObj.mjOBJ_SITE, "gripperframe")
        joints = [sim.model.joint(name) for name in JOINT_NAMES]
        self._qpos = [int(joint.qposadr[0]) for joint in joints]
        self._dofs = [int(joint.dofadr[0]) for joint in joints][_ARM]
        self._limits = np.array([joint.range for joint in joints])[_ARM].T

    def plan(self, rng: np.random.Generator, noise_m: float = 0.0) -> np.ndarray:
        """Return joint targets (EPISODE_STEPS, 6) in rad for the scene as it is now."""
        cube_position, yaw = self._cube()
        position = cube_position.copy()
        position[:2] += rng.normal(0.0, noise_m, 2)
        rotation, yaw_axis = _downward(position, yaw)
        position -= CUBE_OFFSET * yaw_axis
        up = np.array([0.0, 0.0, 1.0])

        home = np.deg2rad(HOME_DEG)
        hover = self._solve(position + HOVER_HEIGHT * up, rotation, home[_ARM])
        grasp = self._solve(position, rotation, hover)
        lift = self._solve(position + LIFT_HEIGHT * up, rotation, grasp)
        arm = (home[_ARM], hover, grasp, grasp, grasp, grasp, lift)
        gripper = (home[5], *[GRIPPER_OPEN] * 3, *[GRIPPER_SHUT] * 3)
        waypoints = np.column_stack([np.array(arm), gripper])
        return _interpolate(waypoints)

    def _cube(self) -> tuple[np.ndarray, float]:
        joint = next(
            self._sim.model.joint(i)
            for i in range(self._sim.model.njnt)
            if self._sim.model.jnt_type[i] == mujoco.mjtJoint.mjJNT_FREE
        )
        pose = self._sim.data.qpos[joint.qposadr[0] : joint.qposadr[0] + 7]
        w, x, y, z = pose[3:]
        return pose[:3].copy(), float(np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)))

    def _solve(self, position: np.ndarray, rotation: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Damped least squares; the arm has five joints, so orientation only weighs in."""
        model, data = self._sim.model, self._scratch
        q = start.copy()
        jacobian = np.zeros((6, model.nv))
        for _ in range(60):
            data.qpos[self._qpos[_ARM]] = q
            mujoco.mj_kinematics(model, data)
            mujoco.mj_comPos(model, data)
            mujoco.mj_jacSite(model, data, jacobian[:3], jacobian[3:], self._site)
            current = data.site_xmat[self._site].reshape(3, 3)
            turn = 0.5 * np.cross(current.T, rotation.T).sum(axis=0)
            error = np.concatenate(
                [position - data.site_xpos[self._site], _ORIENTATION_WEIGHT * turn]
            )
            weighted = jacobian[:, self._dofs].copy()
            weighted[3:] *= _ORIENTATION_WEIGHT
            step = weighted.T @ np.linalg.solve(weighted @ weighted.T + _DAMPING * np.eye(6), error)
            q = np.clip(q + np.clip(step, -_MAX_STEP, _MAX_STEP), *self._limits)
            if np.abs(step).max() < 1e-5:
                break
        return q


def _downward(position: np.ndarray, yaw: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the tool rotation over the cube and its jaw axis in the world."""
    natural = np.arctan2(position[1], position[0])
    # Any of the cube's four faces will do: take the one nearest to an unrolled wrist.
    quarter = np.pi / 2
    angle = natural + (yaw - natural + quarter / 2) % quarter - quarter / 2
    jaw = np.array([-np.sin(angle), np.cos(angle), 0.0])
    down = np.array([0.0, 0.0, -1.0])
    return np.column_stack([np.cross(jaw, down), jaw, down]), jaw


def _interpolate(waypoints: np.ndarray) -> np.ndarray:
    """Cosine-time the segments, then hold the last waypoint."""
    knots = np.concatenate([[0.0], np.cumsum(SEGMENTS_S)])
    times = np.minimum(np.arange(1, EPISODE_STEPS + 1) / RATE_HZ, knots[-1])
    segment = np.clip(np.searchsorted(knots, times) - 1, 0, len(SEGMENTS_S) - 1)
    fraction = (times - knots[segment]) / np.array(SEGMENTS_S)[segment]
    blend = 0.5 - 0.5 * np.cos(np.pi * fraction)[:, None]
    return waypoints[segment] * (1 - blend) + waypoints[segment + 1] * blend
