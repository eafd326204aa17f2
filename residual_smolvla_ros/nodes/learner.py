"""Node `learner`: joins steps with rewards, updates between episodes, publishes weights."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from residual_smolvla_ros.errors import CheckpointError
from residual_smolvla_ros.learning.fleet_intake import FleetIntake
from residual_smolvla_ros.learning.intake import SILENCE_S, Intake
from residual_smolvla_ros.learning.run import LearnerRun
from residual_smolvla_ros.learning.settings import make_learner
from residual_smolvla_ros.learning.td3_learner import TD3Learner
from residual_smolvla_ros.nodes.common import (
    LATCHED_QOS,
    RECORD_QOS,
    to_message,
    to_nanoseconds,
)
from residual_smolvla_ros.nodes.common import main as run
from residual_smolvla_ros.nodes.parts.joint_names import JointNames
from residual_smolvla_ros.nodes.parts.managed import ManagedNode
from residual_smolvla_ros.parameters import TORCH_THREADS, About
from residual_smolvla_ros.policy.vision import read_token_shape
from residual_smolvla_ros.records import EPISODE_EVENT, REWARD, STEP
from residual_smolvla_ros.robots.joints import in_order
from residual_smolvla_ros.robots.units import JOINT_NAMES, rad_to_lerobot

# An update beside episodes: gradient steps in one turn, and the pause after it.
LEARN_STEPS, LEARN_TURN_S = 4, 0.005


class LearnerNode(ManagedNode):
    """Train the residual from steps and rewards; inactive, it lets them wait."""

    _run: LearnerRun | None = None
    _begun = False

    def __init__(self):
        self._waiting: list[Callable[[], None]] = []
        super().__init__("learner")

    def configure(self) -> None:
        """Begin the run in the folder `output`, or go on with it."""
        output = self.parameter("output", "", "folder of the run")
        if not output:
            raise ValueError("output: expected the folder of the run, found none")
        base = self.parameter("base_checkpoint", "", "the base that the residual belongs to")
        resume = self.parameter("resume", False, "go on from the newest checkpoint in output")
        run_id = self.parameter("run_id", "", "a run in output that has it is gone on with")
        residual = self.parameter(
            "residual_checkpoint", "", "checkpoint whose weights the run starts from"
        )
        torch.set_num_threads(self.parameter("torch_threads", 1, TORCH_THREADS))
        self._joint_names = tuple(
            self.parameter("joint_names", list(JOINT_NAMES), "joints of the robot")
        )
        self._topic_names = JointNames(self, self._joint_names).on_topics
        seed = self.parameter("seed", 0, "seed of weights and minibatches")
        shape = read_token_shape(base) if base else None
        self._learner = make_learner(self.parameter, self._joint_names, shape, seed)
        settings = {"base_checkpoint": base, "seed": seed, "run_id": run_id}
        self._run = LearnerRun(
            Path(output), self._learner, settings, resume or self._begun, residual
        )
        self._begun = True
        lockstep = self.parameter("lockstep", True, "whether episodes wait for every update")
        # Off-policy, what older weights did teaches as well: the arm need not wait.
        beside = not lockstep and isinstance(self._learner, TD3Learner)
        executed = self.parameter(
            "executed_commands", False, "whether the robot reports what it executed"
        )
        silence = self.parameter(
            "silence_s",
            SILENCE_S,
            About("after how long without records what is missing is lost", 0.0),
        )
        robots = self.parameter("robots", [""], "arms of a fleet, by namespace; none: one arm")
        arms = tuple(filter(None, robots))
        places = ["", *(f"{arm}/" for arm in arms)]
        self._weights = [
            self.record_publisher(f"{place}learner/weights", LATCHED_QOS) for place in places
        ]
        settings = {
            "run": self._run,
            "publish": self._publish_weights,
            "warn": lambda text: self.get_logger().warning(text),
            "executed": executed,
            "beside": beside,
            "silence_s": silence,
        }
        self._fleet = FleetIntake(arms, **settings) if arms else None
        intake = self._intake = self._fleet.shared if arms else Intake(**settings)
        self._listen(self._fleet.arms if arms else {"": intake}, executed)
        if arms:
            self.record_subscription(EPISODE_EVENT, "episode/event", self._fleet.take_event)
        self.create_service(Trigger, "learner/save", self._on_save)
        self._watch = self._fleet.watch if arms else intake.watch
        self.create_timer(0.25, self._look)
        if beside:
            # In between it looks after messages.
            self.create_timer(LEARN_TURN_S, self._learn_on)

    def activate(self) -> None:
        """Tell the weights, and take what has come meanwhile."""
        self._publish_weights(self._intake.weights())
        waiting, self._waiting = self._waiting, []
        for take in waiting:
            take()

    def taker(self, topic: str, callback):
        """Return a callback whose messages wait while the node is inactive."""
        if topic.startswith("/"):  # of rclpy itself
            return callback

        def take(message) -> None:
            if self.active:
                callback(message)
            else:
                self._waiting.append(partial(callback, message))

        return take

    def _look(self) -> None:
        if self.active:
            self._watch()

    def _learn_on(self) -> None:
        if self.active:
            self._intake.learn_on(LEARN_STEPS)

    def change(self, values: dict) -> None:
        """Learn with other settings from the next update on."""
        self._learner.change(values)

    def _listen(self, intakes: dict[str, Intake], executed: bool) -> None:
        for arm, intake in intakes.items():
            place = f"{arm}/" if arm else ""
            self.record_subscription(EPISODE_EVENT, f"{place}episode/event", intake.take_event)
            self.record_subscription(STEP, f"{place}policy/step", intake.take_step)
            self.record_subscription(REWARD, f"{place}reward", intake.take_reward)
            if executed:
                topic = f"{place}executed_command"
                take = self.matched(topic, partial(self._on_executed, intake))
                self.create_subscription(JointState, topic, take, RECORD_QOS)

    def _publish_weights(self, blob: bytes) -> None:
        message = to_message(blob)
        for publisher in self._weights:
            publisher.publish(message)

    def _on_executed(self, intake: Intake, message: JointState) -> None:
        names, found = self._topic_names, message.name
        positions = in_order(found, message.position, names, "executed_command")
        command = rad_to_lerobot(positions, self._joint_names)
        intake.take_executed(to_nanoseconds(message.header.stamp), command)

    def _on_save(self, request: Trigger.Request, response: Trigger.Response):
        try:
            response.message = str(self._run.save())
            response.success = True
        except CheckpointError as error:  # of a full disk: training goes on, and may find room
            response.message = str(error)
        return response

    def status(self):
        """Report the last update's metrics."""
        arms = self._fleet.arms.values() if self._fleet else [self._intake]
        self.counts["episodes"] = sum(arm.episodes for arm in arms)
        values = {name: f"{value:.4g}" for name, value in self._intake.metrics.items()}
        values |= {f"setting/{name}": f"{v:.6g}" for name, v in self._learner.settings.items()}
        values["version"] = str(self._learner.counters.version)
        values["collected"] = f"{self._learner.collected}/{self._learner.episodes_per_update}"
        if self._fleet:
            values |= self._fleet.status()
        return DiagnosticStatus.OK, "training", values

    def release(self) -> None:
        """Flush TensorBoard's events."""
        run, self._run = self._run, None
        self._waiting = []
        if run is not None:
            run.close()


def main(args=None) -> None:
    """Entry point of the executable."""
    run(LearnerNode, args)


if __name__ == "__main__":
    main()
