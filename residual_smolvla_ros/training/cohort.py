"""Episodes played side by side, so that SmolVLA plans for all arms at once."""

from collections.abc import Callable, Sequence

import torch

from residual_smolvla_ros.learning.schedule import EpisodePlan
from residual_smolvla_ros.planning import INLINE, Planning
from residual_smolvla_ros.policy.features import ResidualConfig
from residual_smolvla_ros.policy.frozen import FrozenPolicy
from residual_smolvla_ros.policy.look_ahead import look_ahead
from residual_smolvla_ros.policy.residual_policy import ResidualPolicy
from residual_smolvla_ros.rewards.composition import Reward
from residual_smolvla_ros.robots.kinematics import Kinematics
from residual_smolvla_ros.robots.simulation import RATE_HZ, SimulatedSO101
from residual_smolvla_ros.training.arm import Arm, Played


class Cohort:
    """`size` simulated arms in one process.

    All begin their episodes together, so plans and vision tokens are due at the same steps and are
    computed in one batch. `make_reward` makes the reward of one arm. `like` is a simulator to share
    model and renderer with, which is not closed with the cohort's.
    """

    def __init__(
        self,
        base: FrozenPolicy,
        task: str,
        size: int,
        make_reward: Callable[[], Reward],
        like: SimulatedSO101 | None = None,
        planning: Planning = INLINE,
    ):
        kinematics = Kinematics()
        delay_steps = planning.delay_steps(RATE_HZ)
        first = SimulatedSO101(like)
        sims = [first, *(SimulatedSO101(like=first) for _ in range(size - 1))]
        policies = [ResidualPolicy(base, task, kinematics, planning, delay_steps) for _ in sims]
        self.arms = [
            Arm(sim, policy, make_reward()) for sim, policy in zip(sims, policies, strict=True)
        ]
        self._sims = sims
        self.size = size

    def load_weights(
        self, config: ResidualConfig, weights: dict[str, torch.Tensor], version: int
    ) -> None:
        """Swap in weights on all arms; call between episodes only."""
        for arm in self.arms:
            arm.policy.load_weights(config, weights, version)

    def play(self, plans: Sequence[EpisodePlan]) -> list[Played]:
        """Play as many episodes as there are plans, `size` at most."""
        arms = self.arms[: len(plans)]
        for arm, plan in zip(arms, plans, strict=True):
            arm.begin(plan)
        live = list(arms)
        while live:
            self.look_ahead(live)
            for arm in live:
                arm.step()
            live = [arm for arm in live if not arm.done]
        return [arm.result() for arm in arms]

    def look_ahead(self, arms: Sequence[Arm]) -> None:
        """Give each arm the plan and the vision tokens that its next step needs."""
        policies, states = [arm.policy for arm in arms], [arm.state for arm in arms]
        look_ahead(policies, states, lambda row, cameras: arms[row].images(cameras))

    def close(self) -> None:
        """Release the simulators."""
        for sim in reversed(self._sims):  # the first one's model and renderer are all the others'
            sim.close()
