"""Hyperparameters of TD3."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.learning.exploration import UPDATE, check_log_std, log_std_setting
from residual_smolvla_ros.parameters import check_settings, setting
from residual_smolvla_ros.policy.features import ResidualConfig

if TYPE_CHECKING:
    from residual_smolvla_ros.learning.td3 import TD3


@dataclass(frozen=True)
class TD3Config:
    """Hyperparameters, named as in the papers; discounting is per decision, not per step.

    Exploration's standard deviation is that of the residual's configuration, `log_std_init`, as
    far as `log_std_min` and `log_std_max` let it. docs/td3.md says where each comes from. Raises
    ConfigError for a value that nothing can be learned with.
    """

    gamma: float = setting(0.99, "discount of a decision", least=0, most=1)  # ResFiT, RLPD
    n_step: int = setting(3, "decisions of a return before the critics' value", least=1)  # ResFiT
    batch_size: int = setting(256, "decisions of a gradient step", least=1)
    critics: int = setting(5, "layer-normalised critics", least=1)  # RLPD: 10
    critics_in_target: int = setting(2, "the target is the least of so many", least=1)  # REDQ
    utd: float = setting(1.0, "gradient steps a decision", least=0, live=UPDATE)
    actor_learning_rate: float = setting(3e-4, "Adam's, of the actor", above=0, most=1, live=UPDATE)
    critic_learning_rate: float = setting(
        3e-4, "Adam's, of the critics", above=0, most=1, live=UPDATE
    )
    tau: float = setting(0.005, "how fast the targets follow", least=0, most=1, live=UPDATE)  # TD3
    policy_delay: int = setting(2, "critic steps an actor step", least=1, live=UPDATE)  # TD3
    target_noise: float = setting(
        0.2, "smoothing of the target's action, in units of residual", least=0, live=UPDATE
    )
    residual_penalty: float = setting(  # at 0 it saturates early
        0.1, "weight of the mean squared residual in the actor's loss", least=0, live=UPDATE
    )
    demo_share: float = setting(  # RLPD: 0.5
        0.0, "share of a batch that comes from demonstrations", least=0, most=1, live=UPDATE
    )
    replay_size: int = setting(100_000, "decisions that are kept", least=1)
    learning_starts: int = setting(400, "decisions before the first gradient step", least=2)
    actor_starts: int = setting(2000, "decisions before the actor's first gradient step", least=0)
    time_limit_ends: bool = setting(False, "the return ends at the time limit")
    log_std_min: float = log_std_setting(-20.0, "least")
    log_std_max: float = log_std_setting(2.0, "largest")

    # What is in the replay must mean the same all the time.
    residual_ramp_steps: ClassVar[int] = 0

    def __post_init__(self):
        check_settings(self)
        check_log_std(self)
        if self.critics < self.critics_in_target:
            raise ConfigError(
                f"critics: expected at least the {self.critics_in_target} of critics_in_target, "
                f"found {self.critics}"
            )
        if self.replay_size < self.learning_starts:
            raise ConfigError(
                f"replay_size: expected at least the {self.learning_starts} of learning_starts, "
                f"found {self.replay_size}"
            )

    def changed(self, values: dict) -> "TD3Config":
        """Return it with other values; raise ConfigError for one that cannot be changed."""
        return dataclasses.replace(self, **values)

    def make(self, residual: ResidualConfig, seed: int) -> "TD3":
        """Return TD3 with an untrained network."""
        from residual_smolvla_ros.learning.td3 import TD3  # which needs this module

        return TD3(residual, self, seed)
