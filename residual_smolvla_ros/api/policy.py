"""Base and residual in one's own loop: a LeRobot robot's observation in, its action out."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from residual_smolvla_ros.api.observation import read_images, read_state, write_action
from residual_smolvla_ros.errors import CheckpointError, ConfigError
from residual_smolvla_ros.learning.checkpoint import load_checkpoint
from residual_smolvla_ros.learning.learner import Learner
from residual_smolvla_ros.pipeline import share_directory
from residual_smolvla_ros.policy.base import load_base
from residual_smolvla_ros.policy.look_ahead import look_ahead
from residual_smolvla_ros.policy.residual_policy import PolicyStep, ResidualPolicy
from residual_smolvla_ros.robots.kinematics import Kinematics
from residual_smolvla_ros.robots.units import JOINT_NAMES
from residual_smolvla_ros.training.settings import learner_from

# What features need beside joints and images; a robot in simulation may tell it.
EXTRAS = ("velocity", "privileged", "target")


class ResidualSmolVLAPolicy:
    """A frozen base and a residual, as the node `policy` composes them.

    `base_policy` is the folder of a checkpoint, or a policy of LeRobot whose
    `config.pretrained_path` names it, as lerobot's commands set it.
    `config` is a parameter file whose section `learner` says what the residual sees and how it
    learns: config/so101.yaml of the package by default; `total_steps` ends its schedules. An
    episode has at most `max_steps` control steps; its randomness comes from `seed` and its number.
    `joint_names` are the robot's, in the order of the base's state: the SO101's by default.
    `explore` says whether the residual is sampled: a trainer sets it. `last_step` is what the last
    action was made of. Raises CheckpointError and ConfigError for what cannot work.
    """

    def __init__(
        self,
        base_policy,
        device: str = "cpu",
        *,
        config: str | Path = "",
        total_steps: int = 0,
        max_steps: int = 900,
        seed: int = 0,
        joint_names: Sequence[str] = JOINT_NAMES,
    ):
        self.base = load_base(_folder_of(base_policy), device)
        self.joint_names = tuple(joint_names)
        file = Path(config) if config else share_directory() / "config" / "so101.yaml"
        if not file.is_file():
            raise ConfigError(f"config: expected a parameter file, found no such file: {file}")
        self.learner = learner_from(file, self.base.path, seed, total_steps, self.joint_names)
        self.seed = seed
        self.explore = False
        self.last_step: PolicyStep | None = None
        # Of the SO101: another arm has the action space joint, and no feature of the tool.
        kinematics = Kinematics() if self.joint_names == JOINT_NAMES else None
        self._core = ResidualPolicy(self.base, kinematics=kinematics)
        self._max_steps = max_steps
        self._seed = seed
        self._plays = False
        self.use_learner(self.learner)

    def use_learner(self, learner: Learner) -> None:
        """Act with the weights that a learner has by now."""
        self.learner = learner
        self._core.load_weights(learner.residual, learner.weights(), learner.counters.version)

    def load_residual_weights(self, path: str | Path) -> None:
        """Act with the residual of a checkpoint or run; raise CheckpointError where it is none."""
        if Path(path).suffix in (".pt", ".pth", ".bin", ".ckpt"):
            raise CheckpointError(
                f"residual checkpoint {path}: expected a folder with residual.safetensors, found "
                "a pickle, which may run code when it is opened: docs/python_api.md has the "
                "command that converts it"
            )
        self.learner.load(load_checkpoint(path))
        self.use_learner(self.learner)

    def save_residual_weights(self, folder: str | Path) -> Path:
        """Write a checkpoint into a folder, as the node `learner` does; return where it is."""
        return self.learner.save(Path(folder), {})

    def reset(self, seed: int | None = None) -> None:
        """Let the next action begin an episode; with a `seed` of its own if one is given."""
        self._seed = self._seed + self._plays if seed is None else seed
        self._plays = False

    def predict_action(
        self, observation: Mapping, task: str = "", use_residual: bool = True
    ) -> dict[str, float]:
        """Return the next action of an episode, in LeRobot's units, for a robot's observation.

        `use_residual` counts from the episode's first action on. Raises ValueError where the
        observation lacks what base or residual look at.
        """
        self._look(observation, task, use_residual)
        state, extra = read_state(observation, self.joint_names), _extras(observation)
        self.last_step = self._core.step(state, extra)
        return write_action(self.last_step.command, self.joint_names)

    def extract_state_features(self, observation: Mapping, task: str = "") -> np.ndarray:
        """Return what the residual sees (feature_size,) of an observation, float32."""
        if not self._plays:
            self._look(observation, task, use_residual=True)
        return self._core.features(read_state(observation, self.joint_names), _extras(observation))

    def _look(self, observation: Mapping, task: str, use_residual: bool) -> None:
        """Begin an episode, and plan, where either is due."""
        if not self._plays:
            # While it learns, the residual stands aside in the critic's warm-up.
            use_residual = use_residual and not (self.explore and self.learner.warms_up)
            self._core.begin_episode(self._seed, self._max_steps, use_residual, self.explore)
            self._plays = True
        self._core.task = task
        state = read_state(observation, self.joint_names)
        look_ahead([self._core], [state], lambda _, cameras: read_images(observation, cameras))


def _extras(observation: Mapping) -> dict[str, np.ndarray]:
    return {name: observation[name] for name in EXTRAS if name in observation}


def _folder_of(base_policy) -> Path:
    if isinstance(base_policy, str | Path):
        return Path(base_policy)
    folder = getattr(getattr(base_policy, "config", None), "pretrained_path", None)
    if folder is None:
        raise ConfigError(
            "base_policy: expected a checkpoint's folder, or a LeRobot policy whose "
            f"config.pretrained_path names it, found {type(base_policy).__name__} without"
        )
    return Path(folder)
