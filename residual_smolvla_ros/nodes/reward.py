"""Node `reward`: the reward, success and termination of every control step."""

from std_msgs.msg import Float32
from std_srvs.srv import Trigger

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.nodes.common import PipelineNode, to_message
from residual_smolvla_ros.nodes.common import main as run
from residual_smolvla_ros.records import ENVIRONMENT_STATE, REWARD, STEP, Record, pack
from residual_smolvla_ros.rewards.environment import EnvironmentReward
from residual_smolvla_ros.rewards.label import FAILURE, SUCCESS, LabelReward
from residual_smolvla_ros.rewards.step_reward import StepReward


class RewardNode(PipelineNode):
    """Answer each step with its reward once the following state is known."""

    def __init__(self):
        super().__init__("reward")
        bonus = self.parameter("success_bonus", 1.0, "reward added to the step that succeeds")
        source = self.parameter(
            "source", "environment", "environment: what a simulator says; label: a person's labels"
        )
        self._rewards = self.record_publisher("reward")
        self._values = self.create_publisher(Float32, "reward/value", 1)
        if source == "environment":
            self._environment_reward = EnvironmentReward(success_bonus=bonus)
            self.record_subscription(ENVIRONMENT_STATE, "environment/state", self._on_state)
        elif source == "label":
            self._label_reward = LabelReward(success_bonus=bonus)
            self._step: Record | None = None  # whose following state is not known yet
            self._label: str | None = None
            self._ended_episode = -1
            self.record_subscription(STEP, "policy/step", self._on_step)
            for label in (SUCCESS, FAILURE):
                self.create_service(
                    Trigger,
                    f"episode/{label}",
                    lambda request, response, label=label: self._on_label(label, response),
                )
        else:
            raise ConfigError(f"source: expected environment or label, found {source!r}")

    def _on_state(self, state: Record) -> None:
        if state.metadata["previous_stamp"]:  # the first state of an episode ends no step
            step = self._environment_reward(state)
            self._publish(step, state.metadata["previous_stamp"], state.metadata["stamp"])

    def _on_step(self, step: Record) -> None:
        episode = step.metadata["episode"]
        if episode == self._ended_episode:
            return  # under way when the label ended the episode
        before, self._step = self._step, None if step.metadata["final"] else step
        if before is None or before.metadata["episode"] != episode:
            self._label = None
            return
        reward = self._label_reward(self._label)
        self._publish(reward, before.metadata["stamp"], step.metadata["stamp"])
        if reward.terminated:
            self._ended_episode, self._step, self._label = episode, None, None

    def _on_label(self, label: str, response: Trigger.Response) -> Trigger.Response:
        response.success = self._step is not None
        response.message = label if response.success else "no episode is running"
        if response.success:
            self._label = label
        return response

    def _publish(self, step: StepReward, stamp: int, next_stamp: int) -> None:
        blob = pack(
            REWARD,
            {"reward": step.reward},
            stamp=stamp,
            next_stamp=next_stamp,
            success=step.success,
            terminated=step.terminated,
        )
        self._rewards.publish(to_message(blob))
        self.tally("rewards")
        if self._values.get_subscription_count():
            self._values.publish(Float32(data=float(step.reward)))


def main(args=None) -> None:
    """Entry point of the executable."""
    run(RewardNode, args)


if __name__ == "__main__":
    main()
