"""The residual problem as Gymnasium environments, for any library of reinforcement learning.

An observation is the residual's features, an action a residual in its units. The frozen base plans
inside, and one step is one decision: the residual is held `hold_steps` control steps, whose
rewards are summed. Importing this module registers `residual_smolvla_ros/PickLift-v0`;
docs/environment.md says more.
"""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from residual_smolvla_ros.arguments import DEMO_CHECKPOINT
from residual_smolvla_ros.pipeline import environment, share_directory

if TYPE_CHECKING:
    from residual_smolvla_ros.robots.simulation import SimulatedSO101
    from residual_smolvla_ros.training.arm import Arm

ENV_ID = "residual_smolvla_ros/PickLift-v0"
# No run, but what a config says of one is checked with it.
RUN = {"seed": 0, "eval_episodes": 0, "total_steps": 1, "episodes": 0}


class _Problem:
    """What both environments share: arms without a network of their own, and their scenes.

    `config` is a parameter file of which the sections learner, episode and reward count; without
    one it is config/sim.yaml of the package. `like` is a simulator whose model and renderer the
    arms share; it must outlive them. Raises ConfigError or CheckpointError for what cannot work.
    """

    def __init__(
        self,
        num_envs: int,
        config: str | Path | None = None,
        base_checkpoint: str | Path = DEMO_CHECKPOINT,
        task: str = "Lift the red cube",
        device: str = "cpu",
        like: "SimulatedSO101 | None" = None,
    ):
        # The renderer's choice, before it is loaded.
        os.environ.setdefault("MUJOCO_GL", environment()["MUJOCO_GL"])
        # Only now: who merely registers the environments does not wait for torch.
        from residual_smolvla_ros.learning.schedule import TRAINING_SEED
        from residual_smolvla_ros.training.settings import (
            CohortMaker,
            learner_from,
            schedule_from,
        )

        file = Path(config) if config else share_directory() / "config" / "sim.yaml"
        maker = CohortMaker(file, Path(base_checkpoint), device, task)
        learner = learner_from(file, maker.base_checkpoint, RUN["seed"], RUN["total_steps"])
        self.residual = learner.residual
        self.max_steps = schedule_from(file, RUN, learner).max_steps
        self.cohort = maker(num_envs, like)
        self.cohort.load_weights(self.residual, learner.weights(), version=0)
        clip, size = self.residual.residual_clip, self.residual.residual_size
        self.action_space = gym.spaces.Box(-clip, clip, (size,), np.float32)
        self.observation_space = gym.spaces.Box(
            -np.inf, np.inf, (self.residual.feature_size,), np.float32
        )
        self._first_scene = TRAINING_SEED
        self.scenes = np.zeros(num_envs, dtype=np.int64)
        self._seed(0)

    def _seed(self, seed: int) -> None:
        self._sequence = itertools.count(self._first_scene * (seed + 1))

    def reset(self, seed: int | None, options: dict | None) -> None:
        """Set scenes on all arms: the next ones, those of a seed, or those from a number on."""
        options = dict(options or {})
        scene = options.pop("scene", None)
        if options:
            raise ValueError(f"options: expected scene or none, found {', '.join(options)}")
        if scene is not None and not (isinstance(scene, int | np.integer) and scene >= 0):
            raise ValueError(f"scene: expected a whole number, 0 or more, found {scene!r}")
        if seed is not None:
            self._seed(seed)
        self._upcoming = self._sequence if scene is None else itertools.count(int(scene))
        self.begin(self.cohort.arms)

    def begin(self, arms: "Sequence[Arm]") -> None:
        """Set the next scenes on arms."""
        from residual_smolvla_ros.learning.schedule import TRAIN, EpisodePlan

        for arm in arms:
            scene = next(self._upcoming)
            self.scenes[self.cohort.arms.index(arm)] = scene
            arm.begin(EpisodePlan(0, TRAIN, 0, scene, self.max_steps))
        self.cohort.look_ahead(arms)

    def decide(self, residuals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Hold residuals (arms, size) for a decision; return rewards and control steps (arms,)."""
        arms = self.cohort.arms
        if any(arm.done for arm in arms):
            raise gym.error.ResetNeeded("step: expected a reset before it, found none")
        residuals = np.asarray(residuals, dtype=np.float32)
        expected = (len(arms), *self.action_space.shape)
        if residuals.shape != expected or not np.isfinite(residuals).all():
            raise ValueError(
                f"residuals: expected finite numbers {expected}, found {residuals.shape}: "
                f"{residuals.tolist()}"
            )
        rewards, steps = np.zeros(len(arms)), np.zeros(len(arms), dtype=np.int64)
        for _ in range(self.residual.hold_steps):
            live = [index for index, arm in enumerate(arms) if not arm.done]
            for index in live:
                rewards[index] += arms[index].step(residuals[index])
            steps[live] += 1
            # At once, since the next features are those of the next plan.
            self.cohort.look_ahead([arms[index] for index in live if not arms[index].done])
        return rewards, steps


class ResidualEnv(gym.Env):
    """One arm; `settings` are config, base_checkpoint, task, device and like.

    `info` holds the number of the `scene`, whether it came to `success`, and for how many control
    `steps` the residual was held: fewer than `hold_steps` only where the episode ended.
    `residual` is the residual's configuration, in which `columns(name)` is where a feature is, and
    `max_steps` the time limit in control steps.
    """

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 6}

    def __init__(self, render_mode: str | None = None, **settings):
        self.render_mode = render_mode
        self._problem = _Problem(1, **settings)
        self.residual = self._problem.residual
        self.max_steps = self._problem.max_steps
        self.observation_space = self._problem.observation_space
        self.action_space = self._problem.action_space
        self._arm = self._problem.cohort.arms[0]

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Set the next scene; a seed begins the sequence of scenes anew.

        With options={"scene": n} it is scene n, and the sequence waits.
        """
        super().reset(seed=seed)
        self._problem.reset(seed, options)
        return self._arm.features, {"scene": int(self._problem.scenes[0])}

    def step(self, action: np.ndarray):
        """Hold a residual (size,) for one decision."""
        (reward,), (steps,) = self._problem.decide(np.asarray(action)[None])
        success, scene = self._arm.success, int(self._problem.scenes[0])
        info = {"scene": scene, "success": success, "steps": int(steps)}
        return self._arm.features, float(reward), success, self._arm.done and not success, info

    def render(self) -> np.ndarray | None:
        """Return what a spectator sees, (H, W, 3) uint8."""
        return self._arm.spectate() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Release the simulator."""
        self._problem.cohort.close()


class ResidualVectorEnv(VectorEnv):
    """Arms side by side; one that ends begins the next scene in the same step.

    `info` is of the episode that the decision was part of, and holds in `final_obs` what was
    observed at its end. See ResidualEnv for the rest.
    """

    metadata: ClassVar = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(self, num_envs: int = 1, render_mode: None = None, **settings):
        self.num_envs = num_envs
        self.render_mode = render_mode
        self._problem = _Problem(num_envs, **settings)
        self.residual = self._problem.residual
        self.max_steps = self._problem.max_steps
        self.single_observation_space = self._problem.observation_space
        self.single_action_space = self._problem.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Set the next scenes on all arms; a seed begins the sequence of scenes anew.

        With options={"scene": n} they are scenes n, n + 1, ... until the next reset, and the
        sequence waits.
        """
        super().reset(seed=seed)
        self._problem.reset(seed, options)
        return self._observe(), {"scene": self._problem.scenes.copy()}

    def step(self, actions: np.ndarray):
        """Hold residuals (num_envs, size) for one decision."""
        rewards, steps = self._problem.decide(actions)
        arms = self._problem.cohort.arms
        done = np.array([arm.done for arm in arms])
        success = np.array([arm.success for arm in arms])
        info: dict = {"scene": self._problem.scenes.copy(), "success": success, "steps": steps}
        if done.any():
            final = np.full(self.num_envs, None, dtype=object)
            for index in np.flatnonzero(done):
                final[index] = arms[index].features
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
