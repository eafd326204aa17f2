"""A reward of one's own loop, composed of the package's terms."""

from collections.abc import Mapping, Sequence

import numpy as np

from residual_smolvla_ros.api.observation import read_state
from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.policy.residual_policy import PolicyStep
from residual_smolvla_ros.rewards.composition import make_reward
from residual_smolvla_ros.rewards.term import RobotDescription
from residual_smolvla_ros.rewards.transition import Frame, Transition
from residual_smolvla_ros.robots.units import JOINT_NAMES, lerobot_to_rad


class SimpleRewardFunction:
    """The weighted sum of reward terms (docs/rewards.md) of one control step.

    `terms` are as in a config: `{"success": {"weight": 1.0}}` by default; `cameras` are those that
    terms may look at, `joint_names` the robot's. Raises ConfigError for terms that do not fit, or
    that need what a loop of one's own does not tell.
    """

    def __init__(
        self,
        terms: dict[str, dict] | None = None,
        cameras: tuple[str, ...] = (),
        rate_hz: float = 30.0,
        joint_names: Sequence[str] = JOINT_NAMES,
    ):
        robot = RobotDescription(tuple(joint_names), period_s=1.0 / rate_hz)
        self.reward = make_reward(terms or {"success": {"weight": 1.0}}, robot, cameras)
        if self.reward.pose_topics:
            raise ConfigError(
                f"terms: expected none with pose topics, found {list(self.reward.pose_topics)}"
            )
        self._cameras = cameras
        self._joint_names = tuple(joint_names)
        self._period = round(1e9 / rate_hz)
        self.reset()

    def reset(self) -> None:
        """Begin an episode."""
        self._tick = 0

    def compute_reward(
        self,
        observation: Mapping,
        action: Mapping[str, float],
        success: bool = False,
        step: PolicyStep | None = None,
        label: str = "",
    ) -> float:
        """Return the reward of an action by the observation that came *after* it.

        `success` says that the task is done, `label` what a person called the episode (success or
        failure); `step` is the policy's `last_step`, for terms of the residual. Raises ValueError
        where a term lacks what it needs.
        """
        tick = self._tick
        self._tick += 1
        stamp = self._tick * self._period
        frames = {name: Frame(stamp, observation[name]) for name in self._cameras}
        environment = observation.get("environment")
        shares = self.reward(
            Transition(
                stamp=tick * self._period,
                next_stamp=stamp,
                tick=tick,
                success=success or bool(environment and environment.metadata["success"]),
                label=label,
                position=self._positions(observation),
                velocity=observation.get("velocity"),
                effort=observation.get("effort", np.zeros(len(self._joint_names))),
                command=self._positions(action),
                residual=None if step is None else step.residual,
                environment=environment,
                frames={name: (lambda frame=frame: frame) for name, frame in frames.items()},
            )
        )
        if shares.missing:
            raise ValueError("; ".join(self.reward.problems[name] for name in shares.missing))
        return shares.total

    def _positions(self, values: Mapping) -> np.ndarray:
        return lerobot_to_rad(read_state(values, self._joint_names), self._joint_names)
