"""A learner from parameters: those of the node `learner`, or of its section in a config."""

import dataclasses
from collections.abc import Callable

from residual_smolvla_ros.learning.learner import Learner
from residual_smolvla_ros.learning.ppo import PPOConfig
from residual_smolvla_ros.policy.features import ResidualConfig

# Takes name, default and description of a parameter, and returns its value.
Parameter = Callable[[str, object, str], object]

_RESIDUAL = {
    "action_space": "gripper: small steps of the gripper; joint: shifts of joints",
    "action_scale": "size of a unit of residual in its action space",
    "residual_clip": "bound of the residual, in units",
    "hold_steps": "control steps for which a residual is held",
    "log_std_init": "log of the residual's initial standard deviation",
}


def make_learner(parameter: Parameter, joint_names: tuple[str, ...], seed: int) -> Learner:
    """Return the learner that the parameters describe; raise ValueError where they do not fit."""
    config = PPOConfig(
        **{
            field.name: parameter(field.name, field.default, f"PPO's {field.name}")
            for field in dataclasses.fields(PPOConfig)
        }
    )
    return Learner(
        _residual(parameter, joint_names),
        config,
        parameter("episodes_per_update", 20, "episodes of one update"),
        parameter("warmup_updates", 2, "first updates, of the critic only"),
        seed,
    )


def _residual(parameter: Parameter, joint_names: tuple[str, ...]) -> ResidualConfig:
    names = parameter("features", list(ResidualConfig.FEATURE_NAMES), "what the residual sees")
    privileged = parameter("privileged_size", 12, "size of the feature privileged")
    hidden = parameter("hidden_sizes", [256, 256], "hidden layers of actor and critic")
    defaults = ResidualConfig.from_names(["state"], len(joint_names))
    settings = {
        name: parameter(name, getattr(defaults, name), description)
        for name, description in _RESIDUAL.items()
    }
    return ResidualConfig.from_names(
        names, len(joint_names), privileged, hidden_sizes=tuple(hidden), **settings
    )
