"""The simulated SO101: LeRobot's robot `sim_so_follower` on a cube-lifting task."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
from lerobot.motors.feetech import FeetechMotorsBus
from so101_nexus.config import PhysicsConfig, PickConfig, RewardConfig, RobotConfig
from so101_nexus.lerobot_adapter.normalization import (
    action_for_env,
    motor_ticks_to_sim_rad,
    read_sim_qpos,
    sim_rad_to_motor_ticks,
)
from so101_nexus.lerobot_adapter.sim_follower import SimSOFollower
from so101_nexus.lerobot_adapter.sim_follower_config import SimSOFollowerConfig
from so101_nexus.lerobot_adapter.synthetic_calibration import write_synthetic_calibration
from so101_nexus.observations import JointPositions

from residual_smolvla_ros.robots.kinematics import heading
from residual_smolvla_ros.robots.rendering import Renderer, View
from residual_smolvla_ros.robots.units import JOINT_NAMES, lerobot_to_rad, rad_to_lerobot

RATE_HZ = 30
TASK = "Lift the red cube"
HOME_DEG = (0.0, -60.0, 60.0, 60.0, 0.0, 20.0)
IMAGE_SIZE = 96

CAMERAS = {
    "front": View(IMAGE_SIZE, IMAGE_SIZE, lookat=(0.20, 0.0, 0.02), distance=0.42,
                  azimuth=180.0, elevation=-55.0),
    "wrist": View(IMAGE_SIZE, IMAGE_SIZE, model_camera="wrist_cam"),
}  # fmt: skip
SPECTATOR = View(480, 360, lookat=(0.16, 0.0, 0.07), distance=0.62, azimuth=135.0,
                 elevation=-22.0, meshes=True)  # fmt: skip

PRIVILEGED_NAMES = (
    "cube_from_tcp.forward", "cube_from_tcp.left", "cube_from_tcp.up",
    "cube_yaw.sin4", "cube_yaw.cos4",
    "cube.x", "cube.y", "cube.height",
    "tcp.x", "tcp.y", "tcp.z",
    "grasped",
)  # fmt: skip
# Scales the metres above to numbers of about one before a network sees them.
PRIVILEGED_SCALE = np.array(
    [20.0, 20.0, 20.0, 1.0, 1.0, 10.0, 10.0, 20.0, 10.0, 10.0, 10.0, 1.0], dtype=np.float32
)


@dataclass(frozen=True)
class SimulatorState:
    """What only a simulator knows: reward of the last step, success, the cube's pose."""

    reward: float
    success: bool
    target: np.ndarray  # (3,) position of the cube in the base frame, m
    privileged: np.ndarray  # (12,) float32, PRIVILEGED_NAMES, scaled by PRIVILEGED_SCALE


class SimulatedSO101:
    """Step LeRobot's simulated SO101 at 30 Hz; render only when asked.

    Made `like` another one, it shares that one's compiled model and renderer; close that one last.
    """

    joint_names = JOINT_NAMES

    def __init__(self, like: "SimulatedSO101 | None" = None) -> None:
        config = PickConfig(
            physics=PhysicsConfig(
                timestep_s=1 / 150, control_period_s=1 / RATE_HZ, noslip_iterations=3
            ),
            robot=RobotConfig(rest_qpos_deg=HOME_DEG),
            reward=RewardConfig(tanh_shaping_scale=20.0),
            spawn_center=(0.15, 0.0),
            spawn_min_radius=0.08,
            spawn_max_radius=0.15,
            spawn_angle_half_range_deg=60.0,
            observations=[JointPositions()],  # the others cost time, and nobody reads them
        )
        with tempfile.TemporaryDirectory(prefix="so101_sim_") as folder:
            write_synthetic_calibration(Path(folder), "sim")
            self.robot = SimSOFollower(
                SimSOFollowerConfig(
                    id="sim",
                    calibration_dir=Path(folder),
                    env_id="MuJoCoPickLift-v1",
                    env_kwargs={"config": config, "render_mode": None},
                )
            )
            self.robot.connect()
        self._env = self.robot._env.unwrapped
        # Only its arithmetic is used: the robot makes three of these in each step.
        self._bus = FeetechMotorsBus("/dev/null", self.robot.motors, self.robot.calibration)
        self._like = like
        if like is not None:
            # A model of its own takes 60 MB, and its data would keep it.
            self._env.model, self._env.data = like.model, mujoco.MjData(like.model)
        self._renderer: Renderer | None = None
        self._success = False

    @property
    def model(self):
        """The compiled `mujoco.MjModel`."""
        return self._env.model

    @property
    def data(self):
        """The live `mujoco.MjData`."""
        return self._env.data

    def reset(self, seed: int) -> None:
        """Start a new episode; the same seed gives the same scene."""
        self.robot.reset(seed=seed)
        self._success = False

    def joint_positions(self) -> np.ndarray:
        """Return the joint positions (6,) in rad, as the servos would report them."""
        robot = self.robot
        # As in get_observation, which in half of a step's time also reads what is not needed here.
        ticks = sim_rad_to_motor_ticks(
            read_sim_qpos(robot._env),
            calibration=robot.calibration,
            gripper_limits_rad=robot._gripper_limits_rad,
        )
        values = self._bus._normalize({robot.motors[name].id: t for name, t in ticks.items()})
        return lerobot_to_rad([values[robot.motors[name].id] for name in JOINT_NAMES])

    def joint_velocities(self) -> np.ndarray:
        """Return the joint velocities (6,) in rad/s."""
        return self._env._get_current_qvel()

    def field_of_view(self, name: str) -> float:
        """Return the vertical field of view of a camera in rad."""
        camera = CAMERAS[name].model_camera
        degrees = self.model.camera(camera).fovy[0] if camera else self.model.vis.global_.fovy
        return float(np.radians(degrees))

    def step(self, command: np.ndarray) -> None:
        """Send joint targets (6,) in rad and advance one control period."""
        # As in send_action, which in half of a step's time also works out what it returns.
        robot, values = self.robot, rad_to_lerobot(command)
        goals = {
            robot.motors[name].id: float(value)
            for name, value in zip(JOINT_NAMES, values, strict=True)
        }
        ticks = self._bus._unnormalize(goals)
        target = motor_ticks_to_sim_rad(
            {name: ticks[robot.motors[name].id] for name in JOINT_NAMES},
            calibration=robot.calibration,
            gripper_limits_rad=robot._gripper_limits_rad,
        )
        robot._step_env(robot._env, action_for_env(robot._env, target))

    def state(self) -> SimulatorState:
        """Return reward and success of the last step with the privileged state."""
        info = self.robot.last_step_info()
        success = bool(info.info.get("success", False)) if info else False
        return SimulatorState(
            reward=info.reward if info else 0.0,
            success=success,
            target=self._env._get_target_pose()[:3],
            privileged=self._privileged(info),
        )

    def _privileged(self, info) -> np.ndarray:
        env = self._env
        cube = env._get_target_pose()
        tcp = env.data.site_xpos[env._tcp_site_id]
        rotation = env.data.site_xmat[env._tcp_site_id].reshape(3, 3)
        offset = heading(tcp).T @ (cube[:3] - tcp)
        w, x, y, z = cube[3:]
        # A cube looks the same every 90 degrees, so its yaw enters as an angle times four.
        cube_yaw = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
        gripper_yaw = np.arctan2(rotation[1, 0], rotation[0, 0])
        angle = 4.0 * (cube_yaw - gripper_yaw)
        height = cube[2] - env._initial_obj_z
        grasped = info.info.get("is_grasped", 0.0) if info else 0.0
        raw = [*offset, np.sin(angle), np.cos(angle), cube[0], cube[1], height, *tcp, grasped]
        return np.asarray(raw, dtype=np.float32) * PRIVILEGED_SCALE

    def render(self, name: str) -> np.ndarray:
        """Return the view of a camera of `CAMERAS`, or "spectator", as (H, W, 3) uint8."""
        return self._shared_renderer().render(self.data, name)

    def _shared_renderer(self) -> Renderer:
        if self._like is not None:
            return self._like._shared_renderer()
        if self._renderer is None:
            self._renderer = Renderer(self.model, {**CAMERAS, "spectator": SPECTATOR})
        return self._renderer

    def close(self) -> None:
        """Release the simulator."""
        if self._renderer is not None:
            self._renderer.close()
        self.robot.disconnect()
