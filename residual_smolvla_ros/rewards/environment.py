"""Reward of the simulated task: the environment's own shaping and a bonus for success."""

from dataclasses import dataclass

from residual_smolvla_ros.records import Record
from residual_smolvla_ros.rewards.step_reward import StepReward


@dataclass(frozen=True)
class EnvironmentReward:
    """so101-nexus's potential-shaped reach, grasp and lift reward; success ends the episode."""

    success_bonus: float = 1.0

    def __call__(self, state: Record) -> StepReward:
        """Return the reward of the step that led to an environment/state record."""
        success = state.metadata["success"]
        reward = float(state["reward"]) + self.success_bonus * success
        return StepReward(reward=reward, success=success, terminated=success)
