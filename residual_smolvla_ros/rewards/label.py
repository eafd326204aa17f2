"""Reward of a robot that is watched by a person, who says when the task is done or failed."""

from dataclasses import dataclass

from residual_smolvla_ros.rewards.step_reward import StepReward

SUCCESS, FAILURE = "success", "failure"


@dataclass(frozen=True)
class LabelReward:
    """A bonus for the step in which a person called success; a label ends the episode."""

    success_bonus: float = 1.0

    def __call__(self, label: str | None) -> StepReward:
        """Return the reward of a step during which `label` was given: SUCCESS, FAILURE or None."""
        success = label == SUCCESS
        return StepReward(self.success_bonus * success, success, terminated=label is not None)
