"""A learner from parameters: those of the node `learner`, or of its section in a config."""

import dataclasses
from collections.abc import Callable

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.learning.learner import Learner
from residual_smolvla_ros.learning.ppo import PPOConfig
from residual_smolvla_ros.learning.td3 import TD3Config
from residual_smolvla_ros.learning.td3_learner import TD3Learner
from residual_smolvla_ros.policy.features import ResidualConfig

# Takes name, default and description of a parameter, and returns its value.
Parameter = Callable[[str, object, str], object]

# Configuration and learner of each, and after how many episodes it updates by default.
ALGORITHMS = {"ppo": (PPOConfig, Learner, 20), "td3": (TD3Config, TD3Learner, 1)}
_RESIDUAL = {
    "action_space": "gripper: small steps of the gripper; joint: shifts of joints",
    "action_scale": "size of a unit of residual in its action space",
    "residual_clip": "bound of the residual, in units",
    "hold_steps": "control steps for which a residual is held",
    "log_std_init": "log of the residual's initial standard deviation",
    "vision_period_steps": "control steps after which vision tokens are refreshed",
    "vision_grid": "rows and columns of places that vision tokens are averaged to; 0: as they are",
    "vision_channels": "channels that the tokens of a place are projected to; 0: all",
    "estimate": "in place of tokens, where the target is; learned from simulator or hindsight",
    "vision_components": "principal components of the vision tokens; 0: the tokens themselves",
}


def make_learner(
    parameter: Parameter,
    joint_names: tuple[str, ...],
    token_shape: tuple[int, int, int] | None,
    seed: int,
) -> Learner:
    """Return the learner that the parameters describe; raise ValueError where they do not fit.

    `token_shape` is that of the base's vision tokens, None where they are not known.
    """
    name = parameter("algorithm", "ppo", "what learns: " + " or ".join(ALGORITHMS))
    if name not in ALGORITHMS:
        raise ConfigError(f"algorithm: expected {' or '.join(ALGORITHMS)}, found {name!r}")
    kind, learner, episodes = ALGORITHMS[name]
    config = kind(
        **{
            field.name: parameter(field.name, field.default, f"{name}'s {field.name}")
            for field in dataclasses.fields(kind)
        }
    )
    made = learner(
        make_residual(parameter, joint_names, token_shape, squash=name == "td3"),
        config,
        parameter("episodes_per_update", episodes, "episodes of one update"),
        parameter("warmup_updates", 2, "first updates, of the critic only"),
        seed,
    )
    if isinstance(made, TD3Learner):
        made.demonstrations = parameter("demonstrations", "", "run whose replay shows what to do")
    return made


def make_residual(
    parameter: Parameter,
    joint_names: tuple[str, ...],
    token_shape: tuple[int, int, int] | None,
    squash: bool = False,
) -> ResidualConfig:
    """Return the residual that the parameters describe; raise ValueError where they do not fit."""
    names = parameter("features", list(ResidualConfig.FEATURE_NAMES), "what the residual sees")
    # An empty list has no type in ROS 2: an empty word stands for none.
    critic_only = parameter("critic_only", [""], "features that the critic alone sees")
    labels = parameter("label_only", [""], "those of them that the critic does not see either")
    cameras = parameter("vision_cameras", [""], "cameras of the vision tokens; default: all")
    privileged = parameter("privileged_size", 12, "size of the feature privileged")
    hidden = parameter("hidden_sizes", [256, 256], "hidden layers of actor and critic")
    defaults = ResidualConfig.from_names(["state"], len(joint_names))
    settings = {
        name: parameter(name, getattr(defaults, name), description)
        for name, description in _RESIDUAL.items()
    }
    return ResidualConfig.from_names(
        names,
        len(joint_names),
        privileged,
        token_shape,
        hidden_sizes=tuple(hidden),
        squash=parameter("squash", squash, "bound the residual's mean by a tanh"),
        critic_only=tuple(name for name in critic_only if name),
        label_only=tuple(name for name in labels if name),
        vision_cameras=tuple(name for name in cameras if name),
        **settings,
    )
