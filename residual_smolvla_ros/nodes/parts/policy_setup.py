"""What the node `policy` acts with: base, robot and planning from its parameters."""

import torch

from residual_smolvla_ros.learning.acting import load_residual
from residual_smolvla_ros.nodes.common import PipelineNode
from residual_smolvla_ros.parameters import TORCH_THREADS, About
from residual_smolvla_ros.planning import make_planning
from residual_smolvla_ros.policy.base import load_base
from residual_smolvla_ros.policy.residual_policy import ResidualPolicy
from residual_smolvla_ros.robots.kinematics import Kinematics
from residual_smolvla_ros.robots.units import JOINT_NAMES


class PolicySetup:
    """Declare a node's parameters of the policy, and load it.

    Raises ValueError with one line where base, residual and robot do not fit.
    """

    def __init__(self, node: PipelineNode):
        checkpoint = node.parameter(
            "base_checkpoint", "", "folder of the SmolVLA checkpoint (lerobot-train)"
        )
        residual = node.parameter(
            "residual_checkpoint", "", "residual to act with where no learner sends weights"
        )
        device = node.parameter("device", "cpu", "torch device of SmolVLA")
        task = node.parameter("task", "", "language instruction; the topic `task` replaces it")
        cameras = node.parameter(
            "cameras", ["front", "wrist"], "cameras that the robot has, by topic name"
        )
        self.joint_names = tuple(
            node.parameter(
                "joint_names", list(JOINT_NAMES), "joints in the order of the checkpoint's features"
            )
        )
        rate_hz = node.parameter("rate_hz", 30.0, About("control rate of the robot", 1, 100))
        self.lockstep = node.parameter("lockstep", True, "wait for images of the state's stamp")
        wait = node.parameter("wait_for_weights", True, "whether a learner sends weights")
        torch.set_num_threads(node.parameter("torch_threads", 1, TORCH_THREADS))

        self.planning = make_planning(node.parameter)
        base = load_base(checkpoint, device, self.planning)
        base.check_robot(cameras, list(self.joint_names))
        self.planning.period_steps(base.chunk_size, rate_hz)
        # In real time the planner knows how long plans take.
        delay_steps = self.planning.delay_steps(rate_hz) if self.lockstep else 0
        self.policy = ResidualPolicy(base, task, Kinematics(), self.planning, delay_steps)
        if residual or not wait:
            load_residual(self.policy, residual)
        self.period_ns = round(1e9 / rate_hz)
