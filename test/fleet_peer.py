"""The nodes of a fleet without simulators and SmolVLA: an arm's steps and rewards are made up.

    python fleet_peer.py SETTINGS

runs some of them in a process; SETTINGS is JSON: output, robots, arms (to run here, with their
`episode`), learner (whether to run it and `fleet`), and period_s of the arms' control steps.
"""

import functools
import json
import os
import sys
from pathlib import Path
from unittest import mock

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from std_msgs.msg import Bool
from std_srvs.srv import Trigger
from test_rollout_assembly import make_reward, make_step

from residual_smolvla_ros.learning.schedule import EpisodePlan
from residual_smolvla_ros.nodes.common import LATCHED_QOS, PipelineNode, to_message
from residual_smolvla_ros.nodes.episode import EpisodeNode
from residual_smolvla_ros.nodes.fleet import FleetNode
from residual_smolvla_ros.pipeline import REMOTE_SILENCE_S
from residual_smolvla_ros.records import EPISODE_EVENT, REWARD, STEP, Record, pack

STEPS = 8
SCHEDULE = {"max_steps": STEPS, "eval_episodes": 4, "total_steps": 8 * STEPS, "clip": False}
LEARNER = {"features": ["episode_time"], "action_space": "joint", "joint_names": ["joint"],
           "episodes_per_update": 4, "warmup_updates": 0, "hidden_sizes": [4]}  # fmt: skip


def make(node_class, context: Context, namespace: str, values: dict, *words):
    """Return a node of the package, in a context, with a namespace and parameters."""
    settings = {
        "context": context,
        "namespace": namespace,
        "parameter_overrides": [Parameter(name, value=value) for name, value in values.items()],
    }
    begin = functools.partialmethod(PipelineNode.__init__, **settings)
    with mock.patch.object(PipelineNode, "__init__", begin):
        return node_class(*words)


class StubArm(PipelineNode):
    """Stand for robot, policy and reward of an arm: made-up steps at a made-up rate.

    What they hold follows from the plan, as the real ones do.
    """

    def __init__(self, period_s: float):
        super().__init__("stub")
        self._steps = self.record_publisher("policy/step")
        self._rewards = self.record_publisher("reward")
        self.create_publisher(Bool, "intervention/active", LATCHED_QOS).publish(Bool())
        self._plan: EpisodePlan | None = None
        self._active = False
        self._tick = 0
        self.create_service(Trigger, "reset_environment", self._on_reset)
        self.record_subscription(EPISODE_EVENT, "episode/event", self._on_event)
        self.create_subscription(Bool, "episode/active", self._on_active, LATCHED_QOS)
        self.create_timer(period_s, self._step)

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response):
        response.success = True
        return response

    def _on_event(self, record: Record) -> None:
        if record.metadata["event"] == "prepare":
            self._plan = EpisodePlan.from_json(record.metadata["plan"])
            self._tick = 0

    def _on_active(self, message: Bool) -> None:
        self._active = message.data

    def _step(self) -> None:
        if self._plan is None or not self._active or self._tick == STEPS:
            return
        number, tick = self._plan.episode, self._tick
        self._tick += 1
        self._say(make_step(number, tick))
        if self._tick == STEPS:
            self._say(make_step(number, STEPS, final=True))
        reward = make_reward(number, tick, bonus=self._plan.seed % 7)
        self._rewards.publish(to_message(pack(REWARD, reward.tensors, **reward.metadata)))

    def _say(self, step: Record) -> None:
        self._steps.publish(to_message(pack(STEP, step.tensors, **step.metadata)))


def make_arm(context: Context, arm: str, output: Path, period_s: float) -> list[PipelineNode]:
    """Return an arm's nodes."""
    values = {"output": str(output / arm), "fleet": True}
    return [
        make(StubArm, context, arm, {}, period_s),
        make(EpisodeNode, context, arm, values),
    ]


def make_learner(
    context: Context, robots: list[str], output: Path, silence_s: float = 8.0
) -> list[PipelineNode]:
    """Return the nodes that all arms share."""
    from residual_smolvla_ros.nodes.learner import LearnerNode  # and torch, which takes seconds

    shared = {"output": str(output), "robots": robots}
    return [
        make(LearnerNode, context, "", shared | LEARNER | {"silence_s": silence_s}),
        make(FleetNode, context, "", shared | SCHEDULE),
    ]


def main(text: str) -> None:
    """Run nodes until the fleet has ended, or the process is."""
    settings = json.loads(text)
    context, output = Context(), Path(settings["output"])
    rclpy.init(context=context)
    executor = SingleThreadedExecutor(context=context)
    nodes = []
    if settings["learner"]:
        nodes += make_learner(context, settings["robots"], output, REMOTE_SILENCE_S)
    for arm in settings["arms"]:
        nodes += make_arm(context, arm, output, settings["period_s"])
    for node in nodes:
        executor.add_node(node)
    try:
        executor.spin()
    except SystemExit:
        if settings["learner"]:
            (output / "lost.json").write_text(json.dumps(nodes[0]._fleet.status()))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
