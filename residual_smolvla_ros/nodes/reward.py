"""Node `reward`: the reward, success and termination of every control step."""

from std_msgs.msg import Float32

from residual_smolvla_ros.nodes.common import PipelineNode, to_message
from residual_smolvla_ros.nodes.common import main as run
from residual_smolvla_ros.records import ENVIRONMENT_STATE, REWARD, Record, pack
from residual_smolvla_ros.rewards.environment import EnvironmentReward


class RewardNode(PipelineNode):
    """Answer each environment state with the reward of the step that led to it."""

    def __init__(self):
        super().__init__("reward")
        bonus = self.parameter("success_bonus", 1.0, "reward added to the step that succeeds")
        self._reward = EnvironmentReward(success_bonus=bonus)
        self._rewards = self.record_publisher("reward")
        self._values = self.create_publisher(Float32, "reward/value", 1)
        self.record_subscription(ENVIRONMENT_STATE, "environment/state", self._on_state)

    def _on_state(self, state: Record) -> None:
        if not state.metadata["previous_stamp"]:
            return  # the first state of an episode ends no step
        step = self._reward(state)
        blob = pack(
            REWARD,
            {"reward": step.reward},
            stamp=state.metadata["previous_stamp"],
            next_stamp=state.metadata["stamp"],
            success=step.success,
            terminated=step.terminated,
        )
        self._rewards.publish(to_message(blob))
        self.tally("rewards")
        if self._values.get_subscription_count():
            self._values.publish(Float32(data=step.reward))


def main(args=None) -> None:
    """Entry point of the executable."""
    run(RewardNode, args)


if __name__ == "__main__":
    main()
