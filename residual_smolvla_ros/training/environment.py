"""The residual problem as Gymnasium environments, for any library of reinforcement learning.

An observation is the residual's features, an action a residual in its units. The frozen base plans
inside, and one step is one decision: the residual is held `hold_steps` control steps, whose
rewards are summed. Importing this module registers `residual_smolvla_ros/PickLift-v0`, of which
`gymnasium.make_vec` with `vectorization_mode="vector_entry_point"` makes the batched one.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from residual_smolvla_ros.arguments import DEMO_CHECKPOINT
from residual_smolvla_ros.learning.schedule import TRAIN, TRAINING_SEED, EpisodePlan
from residual_smolvla_ros.pipeline import share_directory
from residual_smolvla_ros.policy.actor_critic import ResidualActorCritic
from residual_smolvla_ros.training.arm import Arm
from residual_smolvla_ros.training.settings import CohortMaker, residual_from, steps_from

ENV_ID = "residual_smolvla_ros/PickLift-v0"


class _Problem:
    """What both environments share: arms without a network of their own, and their scenes.

    `config` is a parameter file of which the sections learner, episode and reward count; without
    one it is config/sim.yaml of the package.
    """

    def __init__(
        self,
        num_envs: int,
        config: str | Path | None = None,
        base_checkpoint: str | Path = DEMO_CHECKPOINT,
        task: str = "Lift the red cube",
        device: str = "cpu",
    ):
        file = Path(config) if config else share_directory() / "config" / "sim.yaml"
        maker = CohortMaker(file, Path(base_checkpoint), device, task)
        self.residual = residual_from(file, maker.base_checkpoint)
        self.max_steps = steps_from(file)
        self.cohort = maker(num_envs)
        untrained = ResidualActorCritic(self.residual).state_dict()
        self.cohort.load_weights(self.residual, untrained, version=0)
        clip, size = self.residual.residual_clip, self.residual.residual_size
        self.action_space = gym.spaces.Box(-clip, clip, (size,), np.float32)
        self.observation_space = gym.spaces.Box(
            -np.inf, np.inf, (self.residual.feature_size,), np.float32
        )
        self.seed(0)

    def seed(self, seed: int) -> None:
        """Begin anew with the scenes that `residual-smolvla train seed:=...` plays."""
        self._first, self._episodes = TRAINING_SEED * (seed + 1), 0

    def begin(self, arms: Sequence[Arm], scene: int | None = None) -> None:
        """Set the next scenes, or a given one."""
        for arm in arms:
            seed = self._first + self._episodes if scene is None else scene
            self._episodes += 1
            arm.begin(EpisodePlan(self._episodes, TRAIN, self._episodes, seed, self.max_steps))
        self.cohort.look_ahead(arms)

    def decide(self, residuals: np.ndarray) -> np.ndarray:
        """Hold residuals (arms, size) for a decision on arms that play; return their rewards."""
        rewards = np.zeros(len(residuals))
        arms = self.cohort.arms
        for _ in range(self.residual.hold_steps):
            live = [index for index, arm in enumerate(arms) if not arm.done]
            for index in live:
                rewards[index] += arms[index].step(residuals[index])
            # At once, since the next features are those of the next plan.
            self.cohort.look_ahead([arms[index] for index in live if not arms[index].done])
        return rewards


class ResidualEnv(gym.Env):
    """One arm; `reset(options={"scene": n})` sets a scene by its number.

    `info["success"]` tells how an episode ended.
    """

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 30}

    def __init__(self, render_mode: str | None = None, **settings):
        self.render_mode = render_mode
        self._problem = _Problem(1, **settings)
        self.observation_space = self._problem.observation_space
        self.action_space = self._problem.action_space
        self._arm = self._problem.cohort.arms[0]

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Set the next scene; a seed begins the sequence of scenes anew."""
        super().reset(seed=seed)
        if seed is not None:
            self._problem.seed(seed)
        self._problem.begin([self._arm], (options or {}).get("scene"))
        return self._arm.features, {}

    def step(self, action: np.ndarray):
        """Hold a residual (size,) for one decision."""
        reward = self._problem.decide(np.asarray(action)[None])[0]
        success = self._arm.success
        truncated = self._arm.done and not success
        return self._arm.features, float(reward), success, truncated, {"success": success}

    def render(self) -> np.ndarray | None:
        """Return what a spectator sees, (H, W, 3) uint8."""
        return self._arm.spectate() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Release the simulator."""
        self._problem.cohort.close()


class ResidualVectorEnv(VectorEnv):
    """Arms side by side; one that ends begins the next scene in the same step.

    The observation that it ended with is in `info["final_obs"]`.
    """

    metadata: ClassVar = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(self, num_envs: int = 1, **settings):
        settings.pop("render_mode", None)
        self.num_envs = num_envs
        self._problem = _Problem(num_envs, **settings)
        self.single_observation_space = self._problem.observation_space
        self.single_action_space = self._problem.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Set the next scenes on all arms; a seed begins the sequence of scenes anew."""
        super().reset(seed=seed)
        if seed is not None:
            self._problem.seed(seed)
        self._problem.begin(self._problem.cohort.arms)
        return self._observe(), {}

    def step(self, actions: np.ndarray):
        """Hold residuals (num_envs, size) for one decision."""
        rewards = self._problem.decide(np.asarray(actions))
        arms = self._problem.cohort.arms
        done = np.array([arm.done for arm in arms])
        success = np.array([arm.done and arm.success for arm in arms])
        info: dict = {"success": success}
        if done.any():
            final = np.full(self.num_envs, None, dtype=object)
            final[done] = [arm.features for arm in arms if arm.done]
            info |= {"final_obs": final, "_final_obs": done}
            self._problem.begin([arm for arm in arms if arm.done])
        return self._observe(), rewards, success, done & ~success, info

    def _observe(self) -> np.ndarray:
        return np.stack([arm.features for arm in self._problem.cohort.arms])

    def close_extras(self, **kwargs) -> None:
        """Release the simulators."""
        self._problem.cohort.close()


gym.register(
    ENV_ID,
    entry_point=f"{__name__}:ResidualEnv",
    vector_entry_point=f"{__name__}:ResidualVectorEnv",
)
