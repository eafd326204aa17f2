"""Reward term `target_distance`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.rewards.term import RewardTerm, RobotDescription
from residual_smolvla_ros.rewards.transition import NotReady, Transition
from residual_smolvla_ros.robots.urdf import UrdfKinematics, so101_urdf


@dataclass(kw_only=True)
class TargetDistance(RewardTerm):
    """Distance of the gripper from a target, in m.

    The gripper is a link of the URDF, by forward kinematics of the measured joints. The target is
    fixed, or the newest pose of a topic; it is in the URDF's root link, which `frame` names.
    Isaac Lab: position_command_error.
    """

    needs = frozenset({"joints"})
    unit = "m"

    target: tuple[float, float, float] | None = None  # m
    topic: str = ""  # geometry_msgs/PoseStamped
    frame: str = "base_link"
    max_age_s: float = 0.5  # of the topic's pose
    urdf: str = ""  # a file; that of so101-nexus
    tool_frame: str = "gripper_frame_link"

    def __post_init__(self):
        if (self.target is None) == (not self.topic):
            found = "both" if self.topic else "none"
            raise ConfigError(f"target, topic: expected one of both, found {found}")
        if not self.max_age_s > 0:
            raise ConfigError(f"max_age_s: expected > 0 s, found {self.max_age_s}")

    @property
    def pose_topics(self) -> tuple[str, ...]:
        """The topic of the target, if it is not fixed."""
        return (self.topic,) if self.topic else ()

    def begin(self, robot: RobotDescription) -> None:
        """Read the URDF; raise ConfigError if it is not one of the robot's."""
        urdf = Path(self.urdf).expanduser() if self.urdf else so101_urdf()
        self._names = robot.joint_names
        self._kinematics = UrdfKinematics(urdf, self.tool_frame)
        self._kinematics.forward(self._names, np.zeros(len(self._names)))

    def __call__(self, transition: Transition) -> float:
        """Return the distance in m."""
        target = self._target(transition)
        tool = self._kinematics.forward(self._names, transition.require("position"))
        return float(np.linalg.norm(tool - target))

    def _target(self, transition: Transition) -> np.ndarray:
        if self.target is not None:
            return np.array(self.target)
        pose = transition.pose(self.topic, self.max_age_s)
        if pose.frame_id != self.frame:
            raise NotReady(
                f"{self.topic}: expected poses in frame {self.frame}, found {pose.frame_id!r}"
            )
        return pose.position
