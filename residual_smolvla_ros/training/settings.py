"""What a run is made of, from the same config that the ROS nodes read."""

from dataclasses import dataclass
from pathlib import Path

from residual_smolvla_ros.config_file import read_parameters
from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.learning.learner import Learner
from residual_smolvla_ros.learning.schedule import Schedule
from residual_smolvla_ros.learning.settings import make_learner
from residual_smolvla_ros.planning import make_planning
from residual_smolvla_ros.policy.base import load_base
from residual_smolvla_ros.policy.vision import read_token_shape
from residual_smolvla_ros.rewards.composition import Reward, make_reward
from residual_smolvla_ros.rewards.term import RobotDescription
from residual_smolvla_ros.robots.simulation import CAMERAS, RATE_HZ, SimulatedSO101
from residual_smolvla_ros.robots.units import JOINT_NAMES
from residual_smolvla_ros.training.cohort import Cohort

# As in the node `episode`.
MAX_STEPS = 100
# What a simulated arm offers to reward terms.
OFFERED = frozenset({"step", "joints", "environment"})


class Section:
    """A node's parameters in a config: asked for by name, with a default, as of a ROS node."""

    def __init__(self, file: Path, node: str):
        self._place = f"config {file}, {node}"
        self._values = read_parameters(file, node)
        self._known: set[str] = set()

    def __call__(self, name: str, default, description: str = ""):
        """Return a parameter; raise ConfigError if it has another type than its default."""
        self._known.add(name)
        value = self._values.get(name, default)
        if isinstance(default, float) and type(value) is int:
            value = float(value)
        if type(value) is not type(default):
            raise ConfigError(f"{self._place}: expected {name} like {default!r}, found {value!r}")
        return value

    def give(self, name: str, value) -> None:
        """Set a parameter that comes from elsewhere."""
        self._values[name] = value

    def check(self) -> None:
        """Raise ConfigError if the section holds what nobody has asked for."""
        if unknown := self._values.keys() - self._known:
            raise ConfigError(
                f"{self._place}: expected parameters out of {', '.join(sorted(self._known))}, "
                f"found {', '.join(sorted(unknown))}"
            )


def learner_from(
    file: Path,
    base_checkpoint: Path,
    seed: int,
    total_steps: int,
    joint_names: tuple[str, ...] = JOINT_NAMES,
) -> Learner:
    """Return the learner that the config's section `learner` describes."""
    section = Section(file, "learner")
    section.give("total_steps", total_steps)  # as the pipeline gives it to the node
    shape = read_token_shape(base_checkpoint)
    learner = make_learner(section, joint_names, shape, seed)
    for name, default in (("total_steps", 0), ("torch_threads", 1)):
        section(name, default)  # of the node alone
    section.check()
    return learner


def schedule_from(file: Path, values: dict, learner: Learner) -> Schedule:
    """Return the schedule of a run: the command's values, and the config's section `episode`."""
    section = Section(file, "episode")
    ours = ("seed", "eval_episodes", "total_steps")
    schedule = Schedule(
        **{name: values[name] for name in ours},
        episode_limit=values["episodes"],
        max_steps=section("max_steps", MAX_STEPS),
        validation_episodes=section("validation_episodes", 0),
        validation_every=section("validation_every", 0),
        episodes_per_update=learner.episodes_per_update,
        warmup_updates=learner.warmup_updates,
    )
    section.check()
    if schedule.max_steps < 1:
        raise ConfigError(
            f"config {file}, episode: expected max_steps 1 or more, found {schedule.max_steps}"
        )
    return schedule


@dataclass(frozen=True)
class CohortMaker:
    """Makes a process's cohort; can be sent to it."""

    config: Path
    base_checkpoint: Path
    device: str
    task: str

    def __call__(self, size: int, like: SimulatedSO101 | None = None) -> Cohort:
        """Return a cohort of `size` arms; see Cohort for `like`."""
        # The section's other parameters are of the node alone.
        planning = make_planning(Section(self.config, "policy"))
        base = load_base(self.base_checkpoint, self.device, planning)
        base.check_robot(list(CAMERAS), list(JOINT_NAMES))
        planning.period_steps(base.chunk_size, RATE_HZ)
        return Cohort(base, self.task, size, self.reward, like, planning)

    def reward(self) -> Reward:
        """Return the reward of one arm; raise ConfigError for a term that needs more than it."""
        section = Section(self.config, "reward")
        defaults = {"environment": {"weight": 1.0}, "success": {"weight": 1.0}}
        terms = section("terms", defaults)
        section.check()
        robot = RobotDescription(JOINT_NAMES, period_s=1.0 / RATE_HZ)
        reward = make_reward(terms, robot, tuple(CAMERAS))
        for name, term in reward.terms.items():
            if missing := term.needs - OFFERED:
                raise ConfigError(f"terms {name}: expected a robot with {missing}, found none")
            if term.cameras or term.pose_topics:
                raise ConfigError(
                    f"terms {name}: expected a term without images and pose topics, which only "
                    "the ROS pipeline has, found one with them"
                )
        return reward
