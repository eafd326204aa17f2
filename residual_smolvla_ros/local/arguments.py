"""Arguments of `finetune-local`: those of lerobot-record, parsed as LeRobot does, and `--rl.*`."""

import contextlib
import io
import re
from dataclasses import dataclass, field

import draccus
from lerobot.configs.dataset import DatasetRecordConfig
from lerobot.robots import RobotConfig

from residual_smolvla_ros.arguments import UNLABELLED
from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.local.robot import SimulatedArmConfig  # noqa: F401, registers its type
from residual_smolvla_ros.robots.lerobot_config import register_camera, register_robot

# In a camera's fields, as YAML or JSON.
_TYPE = re.compile(r"""\btype["']?\s*:\s*["']?(\w+)""")


@dataclass
class BasePolicyArguments:
    """The frozen base, as lerobot-record names its policy."""

    path: str = ""
    device: str = ""


@dataclass
class RLArguments:
    """What lerobot-record does not have.

    `config` is a parameter file: its sections learner and reward count; config/so101.yaml of the
    package by default. `output` is the run's folder: a new one in outputs/ by default.
    `unlabelled` says what becomes of an episode that nobody labels.
    """

    config: str = ""
    output: str = ""
    seed: int = 0
    unlabelled: str = "wait"

    def __post_init__(self):
        if self.unlabelled not in UNLABELLED:
            raise ConfigError(
                f"rl.unlabelled: expected {' or '.join(UNLABELLED)}, found {self.unlabelled!r}"
            )


@dataclass
class LocalArguments:
    """All arguments. A dataset is written where `dataset.repo_id` is given.

    `num_episodes`, `episode_time_s`, `reset_time_s`, `fps`, `task`, `base_policy_path` and `device`
    are short for those of `dataset` and `policy`, and win over them. `learning_rate` is the
    actor's. `residual_checkpoint_path` is the run or checkpoint to go on from. `resume` adds to an
    existing dataset, as in lerobot-record.
    """

    robot: RobotConfig
    dataset: DatasetRecordConfig = field(default_factory=DatasetRecordConfig)
    policy: BasePolicyArguments = field(default_factory=BasePolicyArguments)
    rl: RLArguments = field(default_factory=RLArguments)
    base_policy_path: str = ""
    residual_checkpoint_path: str = ""
    num_episodes: int | None = None
    learning_rate: float = 3e-4
    device: str = ""
    episode_time_s: float | None = None
    reset_time_s: float | None = None
    fps: int | None = None
    task: str = ""
    resume: bool = False

    def __post_init__(self):
        for name in ("num_episodes", "episode_time_s", "reset_time_s", "fps"):
            if getattr(self, name) is not None:
                setattr(self.dataset, name, getattr(self, name))
        self.dataset.single_task = self.task or self.dataset.single_task
        self.policy.path = self.base_policy_path or self.policy.path
        self.policy.device = self.device or self.policy.device or "cpu"
        if not self.policy.path:
            raise ConfigError("base_policy_path: expected a checkpoint's folder, found none")
        for name, least in (("num_episodes", 1), ("fps", 1), ("episode_time_s", 0.1)):
            if not getattr(self.dataset, name) >= least:
                raise ConfigError(
                    f"{name}: expected {least} or more, found {getattr(self.dataset, name)}"
                )
        if not self.learning_rate > 0:
            raise ConfigError(f"learning_rate: expected > 0, found {self.learning_rate}")
        if self.dataset.repo_id and not self.dataset.single_task:
            raise ConfigError("dataset.single_task: expected the task in words, found none")


def parse(words: list[str]) -> LocalArguments:
    """Return the arguments of a command line; raise ConfigError, one line, where they are wrong."""
    _register(words)
    said = io.StringIO()
    try:
        # LeRobot's parser shows all of its arguments and ends the process.
        with contextlib.redirect_stderr(said):
            return draccus.parse(config_class=LocalArguments, args=words)
    except SystemExit as end:
        if not end.code:  # --help
            raise
        last = (said.getvalue().strip().splitlines() or ["arguments of another kind"])[-1]
        text = last.partition("error: ")[2] or last
    except (draccus.utils.DraccusException, ConfigError, ValueError, TypeError) as error:
        # draccus says what is wrong by itself, or in the error behind it.
        found = [str(e) for e in (error, error.__cause__) if e is not None]
        if isinstance(error.__cause__, ConfigError):
            found = found[1:]
        text = " ".join("; ".join(found).split())
    raise ConfigError(f"finetune-local: {text}") from None


def _register(words: list[str]) -> None:
    """Import the drivers whose types are asked for: each registers where it is imported."""
    for word in words:
        name, _, value = word.partition("=")
        if name == "--robot.type":
            register_robot(value)
        elif name.startswith("--robot.") and "cameras" in name:
            for camera in _TYPE.findall(value):
                register_camera(camera)
