"""The simulated SO101 as an environment of lerobot-eval: `--env.type=so101_pick_lift`.

It is the arm of the demo, with images and joints as observation and joint targets as action; the
residual problem for other libraries is `training/environment.py`.
"""

import os
from dataclasses import dataclass, field
from typing import ClassVar

import gymnasium as gym
import numpy as np
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.utils.constants import ACTION, OBS_ENV_STATE, OBS_IMAGES, OBS_STATE

from residual_smolvla_ros.lerobot_plugin.configuration_residual import ENVIRONMENT_STATE
from residual_smolvla_ros.pipeline import environment
from residual_smolvla_ros.robots.units import JOINT_NAMES, lerobot_to_rad, rad_to_lerobot

ENV_ID = "residual_smolvla_ros/PickLiftArm-v0"
CAMERAS = ("front", "wrist")
IMAGE_SHAPE = (96, 96, 3)
JOINTS = (len(JOINT_NAMES),)
PRIVILEGED = (sum(ENVIRONMENT_STATE.values()),)


@EnvConfig.register_subclass("so101_pick_lift")
@dataclass
class PickLiftEnvConfig(EnvConfig):
    """A cube to be lifted; the seed of a reset is the number of its scene."""

    task: str | None = "Lift the red cube"
    fps: int = 30
    episode_length: int = 100
    features: dict[str, PolicyFeature] = field(
        default_factory=lambda: (
            {
                ACTION: PolicyFeature(FeatureType.ACTION, JOINTS),
                "agent_pos": PolicyFeature(FeatureType.STATE, JOINTS),
                "environment_state": PolicyFeature(FeatureType.ENV, PRIVILEGED),
            }
            | {f"pixels/{name}": PolicyFeature(FeatureType.VISUAL, IMAGE_SHAPE) for name in CAMERAS}
        )
    )
    features_map: dict[str, str] = field(
        default_factory=lambda: (
            {
                ACTION: ACTION,
                "agent_pos": OBS_STATE,
                "environment_state": OBS_ENV_STATE,
            }
            | {f"pixels/{name}": f"{OBS_IMAGES}.{name}" for name in CAMERAS}
        )
    )

    @property
    def package_name(self) -> str:
        """What registers the environment."""
        return __name__

    @property
    def gym_id(self) -> str:
        """Its name in Gymnasium."""
        return ENV_ID

    @property
    def gym_kwargs(self) -> dict:
        """What it is made with."""
        return {"task": self.task, "max_episode_steps": self.episode_length}


class PickLiftEnv(gym.Env):
    """One simulated arm in LeRobot's units, at 30 Hz."""

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 30}
    render_mode = "rgb_array"

    def __init__(self, task: str = "Lift the red cube"):
        # The renderer's choice, before it is loaded.
        os.environ.setdefault("MUJOCO_GL", environment()["MUJOCO_GL"])
        from residual_smolvla_ros.robots.simulation import SimulatedSO101

        self.task = self.task_description = task
        self._sim = SimulatedSO101()
        self.action_space = gym.spaces.Box(-180.0, 180.0, JOINTS, np.float32)
        image = gym.spaces.Box(0, 255, IMAGE_SHAPE, np.uint8)
        self.observation_space = gym.spaces.Dict(
            {
                "pixels": gym.spaces.Dict(dict.fromkeys(CAMERAS, image)),
                "agent_pos": gym.spaces.Box(-np.inf, np.inf, JOINTS, np.float32),
                "environment_state": gym.spaces.Box(-np.inf, np.inf, PRIVILEGED, np.float32),
            }
        )

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Set the scene of a seed, or a random one."""
        super().reset(seed=seed)
        self._sim.reset(int(self.np_random.integers(2**31)) if seed is None else seed)
        return self._observe(), {"is_success": False}

    def step(self, action: np.ndarray):
        """Send joint targets (joints,) in degrees, the gripper's from 0 to 100."""
        action = np.asarray(action, dtype=np.float32)
        if action.shape != JOINTS or not np.isfinite(action).all():
            raise ValueError(f"action: expected finite numbers {JOINTS}, found {action.tolist()}")
        self._sim.step(lerobot_to_rad(action))
        state = self._sim.state()
        return self._observe(), state.reward, state.success, False, {"is_success": state.success}

    def _observe(self) -> dict:
        state = self._sim.state()
        told = {
            "privileged": state.privileged,
            "target": state.target,
            "velocity": self._sim.joint_velocities(),
        }
        return {
            "pixels": {name: self._sim.render(name) for name in CAMERAS},
            "agent_pos": rad_to_lerobot(self._sim.joint_positions()).astype(np.float32),
            "environment_state": np.concatenate([told[n] for n in ENVIRONMENT_STATE]).astype(
                np.float32
            ),
        }

    def render(self) -> np.ndarray:
        """Return what a spectator sees, (H, W, 3) uint8."""
        return self._sim.render("spectator")

    def close(self) -> None:
        """Release the simulator."""
        self._sim.close()


gym.register(ENV_ID, entry_point=f"{__name__}:PickLiftEnv")
