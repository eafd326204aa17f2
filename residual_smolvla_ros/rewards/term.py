"""What a reward term is."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.rewards.transition import Transition
from residual_smolvla_ros.robots.units import is_gripper

NEEDS = frozenset({"step", "joints", "executed", "environment"})


@dataclass(frozen=True)
class RobotDescription:
    """The robot whose steps are rewarded."""

    joint_names: tuple[str, ...]
    lower: np.ndarray | None = None  # (joints,) rad, None where the limits are not known
    upper: np.ndarray | None = None
    period_s: float = 1 / 30  # of a control step

    def select(self, joints: tuple[str, ...]) -> np.ndarray:
        """Return the indices of joints by name; without names of all but the gripper.

        The gripper works at its ends and pushes against what it holds. Raises ConfigError for a
        joint that the robot does not have.
        """
        if unknown := [name for name in joints if name not in self.joint_names]:
            raise ConfigError(
                f"joints: expected some of {', '.join(self.joint_names)}, "
                f"found {', '.join(unknown)}"
            )
        names = joints or [name for name in self.joint_names if not is_gripper(name)]
        return np.array([self.joint_names.index(name) for name in names], dtype=np.intp)


class RewardTerm(ABC):
    """One share of the reward; a subclass is a dataclass whose fields are its settings.

    A term that keeps something from step to step forgets it where `transition.tick` is 0.
    """

    # What it reads: "step" (command, residual), "joints" (position, velocity, effort),
    # "executed", "environment".
    needs: ClassVar[frozenset[str]] = frozenset()
    # Depends on success and label only: computed anew when a person's label comes late.
    of_outcome: ClassVar[bool] = False
    unit: ClassVar[str] = ""

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras whose images it reads."""
        return ()

    @property
    def pose_topics(self) -> tuple[str, ...]:
        """Topics of type geometry_msgs/PoseStamped that it reads."""
        return ()

    def begin(self, robot: RobotDescription) -> None:  # noqa: B027, most need nothing of it
        """Take what it needs of the robot, once; raise ConfigError if that is not there."""

    @abstractmethod
    def __call__(self, transition: Transition) -> float:
        """Return the value of a step, unweighted; raise NotReady where an input is missing."""
