"""Node `learner`: joins steps with rewards, updates between episodes, publishes weights."""

import json
import time
from pathlib import Path

import torch
from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.learning.assembly import EpisodeAssembler, EpisodeEnd
from residual_smolvla_ros.learning.rollout import Episode
from residual_smolvla_ros.learning.run import LearnerRun
from residual_smolvla_ros.learning.schedule import EpisodePlan
from residual_smolvla_ros.learning.settings import make_learner
from residual_smolvla_ros.learning.td3_learner import TD3Learner
from residual_smolvla_ros.nodes.common import (
    LATCHED_QOS,
    RECORD_QOS,
    PipelineNode,
    to_message,
    to_nanoseconds,
)
from residual_smolvla_ros.nodes.common import main as run
from residual_smolvla_ros.policy.vision import read_token_shape
from residual_smolvla_ros.records import DISCARD, EPISODE_EVENT, REWARD, STEP, WEIGHTS, Record, pack
from residual_smolvla_ros.robots.units import JOINT_NAMES, rad_to_lerobot

# Records of an episode come on three topics; what is missing when all are silent is lost.
SILENCE_S = 2.0
# An update beside episodes: gradient steps in one turn, and the pause after it.
LEARN_STEPS, LEARN_TURN_S = 4, 0.005


class LearnerNode(PipelineNode):
    """Train the residual from the steps and rewards of training episodes."""

    def __init__(self):
        super().__init__("learner")
        output = self.parameter("output", "", "folder of the run")
        if not output:
            raise ValueError("output: expected the folder of the run, found none")
        base = self.parameter("base_checkpoint", "", "the base that the residual belongs to")
        resume = self.parameter("resume", False, "go on from the newest checkpoint in output")
        residual = self.parameter(
            "residual_checkpoint", "", "checkpoint whose weights the run starts from"
        )
        torch.set_num_threads(self.parameter("torch_threads", 1, "threads of torch's operators"))
        self._joint_names = tuple(
            self.parameter("joint_names", list(JOINT_NAMES), "joints of the robot")
        )
        seed = self.parameter("seed", 0, "seed of weights and minibatches")
        shape = read_token_shape(base) if base else None
        self._learner = make_learner(self.parameter, self._joint_names, shape, seed)
        self._run = LearnerRun(
            Path(output), self._learner, {"base_checkpoint": base}, resume, residual
        )
        lockstep = self.parameter("lockstep", True, "whether episodes wait for every update")
        # Off-policy, what older weights did teaches as well: the arm need not wait.
        self._beside = not lockstep and isinstance(self._learner, TD3Learner)
        executed = self.parameter(
            "executed_commands", False, "whether the robot reports what it executed"
        )
        self._assembler = EpisodeAssembler(with_executed=executed)
        self._heard_at = time.monotonic()
        self._metrics: dict[str, float] = {}

        self._weights = self.record_publisher("learner/weights", LATCHED_QOS)
        self.record_subscription(EPISODE_EVENT, "episode/event", self._on_event)
        self.record_subscription(STEP, "policy/step", self._on_step)
        self.record_subscription(REWARD, "reward", self._on_reward)
        if executed:
            self.create_subscription(JointState, "executed_command", self._on_executed, RECORD_QOS)
        self.create_service(Trigger, "learner/save", self._on_save)
        self.create_timer(0.25, self._on_timer)
        if self._beside:
            self.create_timer(LEARN_TURN_S, self._learn_on)
        self._publish_weights()

    def _on_event(self, record: Record) -> None:
        if record.metadata["event"] == "label":
            self._assembler.add_label(record.metadata["episode"], record.metadata["label"])
            self._take_episodes()
        if record.metadata["event"] == "validated":
            self._on_validated(record)
        if record.metadata["event"] != "end":
            return
        plan = EpisodePlan.from_json(record.metadata["plan"])
        end = EpisodeEnd(
            episode=plan.episode,
            last_stamp=record.metadata["last_stamp"],
            steps=record.metadata["steps"],
            truncated=record.metadata["reason"] in ("truncated", "stopped"),
            success=record.metadata["success"],
            wanted=plan.is_training and record.metadata["label"] != DISCARD,
            open=not record.metadata["label"],
            timed_out=record.metadata["reason"] == "truncated",
        )
        self._assembler.add_end(end)
        self._take_episodes()

    def _on_validated(self, record: Record) -> None:
        good = record.metadata["success"]
        version = self._learner.counters.version
        self._run.judge(good)
        if not good:
            counters = self._learner.counters
            self.get_logger().warning(
                f"version {version} does worse than the base alone: rolled back, the weights of "
                f"the last version that did not are version {counters.version} now"
            )
            self._publish_weights()

    def _on_step(self, record: Record) -> None:
        self._assembler.add_step(record)
        self._take_episodes()

    def _on_reward(self, record: Record) -> None:
        self._assembler.add_reward(record)
        waiting = self._assembler.waiting
        if waiting is None or record.metadata["stamp"] <= waiting.last_stamp:
            self._heard_at = time.monotonic()
        self._pop_episodes()

    def _on_executed(self, message: JointState) -> None:
        positions = dict(zip(message.name, message.position, strict=False))
        if not positions.keys() >= set(self._joint_names):
            # No later message will mend this: the robot and `joint_names` do not match.
            raise ConfigError(
                f"executed_command: expected joints {self._joint_names}, found {list(positions)}"
            )
        values = [positions[name] for name in self._joint_names]
        command = rad_to_lerobot(values, self._joint_names)
        self._assembler.add_executed(to_nanoseconds(message.header.stamp), command)
        # A robot reports between episodes too: this alone is no sign that records still come.
        self._pop_episodes()

    def _on_timer(self) -> None:
        # Not the time since the episode's end: on a busy machine the queue may be long.
        silent = time.monotonic() - self._heard_at > SILENCE_S
        if silent and self._assembler.waiting:
            self._pop_episodes(late=True)

    def _take_episodes(self) -> None:
        self._heard_at = time.monotonic()
        self._pop_episodes()

    def _pop_episodes(self, late: bool = False) -> None:
        while self._assembler.waiting:
            taken = self._assembler.pop(late)
            if taken is None:
                return
            end, episode, lost = taken
            if lost:
                self.get_logger().warning(
                    f"episode {end.episode}: {lost} of {end.steps} steps were lost"
                )
            self._learn(episode)

    def _learn(self, episode: Episode) -> None:
        self.tally("episodes")
        take = self._learner.take if self._beside else self._learner.add_episode
        metrics = take(episode)
        if metrics is not None:
            self._after_update(metrics)

    def _learn_on(self) -> None:
        """Go on with an update beside the episodes, and look after messages in between."""
        metrics = self._learner.learn(LEARN_STEPS)
        if metrics is not None:
            self._after_update(metrics)

    def _after_update(self, metrics: dict[str, float]) -> None:
        self._metrics = metrics
        self._run.keep(metrics)
        self._publish_weights()

    def _publish_weights(self) -> None:
        counters = self._learner.counters
        blob = pack(
            WEIGHTS,
            {name: value.numpy() for name, value in self._learner.weights().items()},
            version=counters.version,
            config=self._learner.residual.to_json(),
            progress=json.dumps(self._learner.progress() | {"weights_lag": int(self._beside)}),
            anytime=self._beside,
        )
        self._weights.publish(to_message(blob))

    def _on_save(self, request: Trigger.Request, response: Trigger.Response):
        response.message = str(self._run.save())
        response.success = True
        return response

    def status(self):
        """Report the last update's metrics."""
        values = {name: f"{value:.4g}" for name, value in self._metrics.items()}
        values["version"] = str(self._learner.counters.version)
        values["collected"] = f"{self._learner.collected}/{self._learner.episodes_per_update}"
        return DiagnosticStatus.OK, "training", values

    def close(self) -> None:
        """Flush TensorBoard's events."""
        self._run.close()


def main(args=None) -> None:
    """Entry point of the executable."""
    run(LearnerNode, args)


if __name__ == "__main__":
    main()
