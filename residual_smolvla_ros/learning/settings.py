"""A learner from parameters: those of the node `learner`, or of its section in a config."""

import dataclasses
from collections.abc import Callable

from residual_smolvla_ros.learning.exploration import UPDATE
from residual_smolvla_ros.learning.learner import Learner
from residual_smolvla_ros.learning.ppo import PPOConfig
from residual_smolvla_ros.learning.td3 import TD3Config
from residual_smolvla_ros.learning.td3_learner import TD3Learner
from residual_smolvla_ros.parameters import About
from residual_smolvla_ros.policy.features import ESTIMATES, RESIDUAL_SIZES, ResidualConfig

# Takes name and default of a parameter and what is told of it, and returns its value.
Parameter = Callable[[str, object, str | About], object]

# Configuration and learner of each, and after how many episodes it updates by default.
ALGORITHMS = {"ppo": (PPOConfig, Learner, 20), "td3": (TD3Config, TD3Learner, 1)}
_RESIDUAL = {
    "action_space": About(
        "gripper: small steps of the gripper; joint: shifts of joints",
        choices=tuple(RESIDUAL_SIZES),
    ),
    "action_scale": About(
        "size of a unit of residual in its action space", above=0, most=100, live=UPDATE
    ),
    "residual_clip": About("bound of the residual, in units", above=0),
    "hold_steps": About("control steps for which a residual is held", 1),
    "log_std_init": "log of the residual's initial standard deviation",
    "vision_period_steps": About("control steps after which vision tokens are refreshed", 1),
    "vision_grid": About(
        "rows and columns of places that vision tokens are averaged to; 0: as they are", 0
    ),
    "vision_channels": About("channels that the tokens of a place are projected to; 0: all", 0),
    "estimate": About(
        "in place of tokens, where the target is; who it is learned from", choices=tuple(ESTIMATES)
    ),
    "vision_components": About(
        "principal components of the vision tokens; 0: the tokens themselves", 0
    ),
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
    told = About("what learns", choices=tuple(ALGORITHMS))
    name = parameter("algorithm", "ppo", told)
    told.check("algorithm", name)
    kind, learner, episodes = ALGORITHMS[name]
    config = kind(
        **{
            field.name: parameter(field.name, field.default, field.metadata["about"])
            for field in dataclasses.fields(kind)
        }
    )
    made = learner(
        make_residual(parameter, joint_names, token_shape, squash=name == "td3"),
        config,
        parameter("episodes_per_update", episodes, About("episodes of one update", 1)),
        parameter("warmup_updates", 2, About("first updates, of the critic only", 0)),
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
    privileged = parameter("privileged_size", 12, About("size of the feature privileged", 0))
    hidden = parameter("hidden_sizes", [256, 256], About("hidden layers of actor and critic", 1))
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
