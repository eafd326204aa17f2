"""Find the class of a reward term: built in, of an installed package, or "module:Class"."""

import importlib
from importlib.metadata import entry_points

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.rewards.term import RewardTerm

GROUP = "residual_smolvla_ros.reward_terms"
_TERMS = "residual_smolvla_ros.rewards.terms"
BUILT_IN = {
    "success": f"{_TERMS}.success:Success",
    "failure": f"{_TERMS}.failure:Failure",
    "environment": f"{_TERMS}.environment:Environment",
    "target_distance": f"{_TERMS}.target_distance:TargetDistance",
    "image_distance": f"{_TERMS}.image_distance:ImageDistance",
    "joint_limits": f"{_TERMS}.joint_limits:JointLimits",
    "velocity": f"{_TERMS}.velocity:Velocity",
    "load": f"{_TERMS}.load:Load",
    "clipped": f"{_TERMS}.clipped:Clipped",
    "smoothness": f"{_TERMS}.smoothness:Smoothness",
    "residual_size": f"{_TERMS}.residual_size:ResidualSize",
    "time": f"{_TERMS}.time:Time",
}


def find_term(kind: str) -> type[RewardTerm]:
    """Return a class by its type: a known name, or "module:Class".

    Raises ConfigError for an unknown name, a module that cannot be imported, or no RewardTerm.
    """
    place = kind if ":" in kind else _known_place(kind)
    module, _, name = place.partition(":")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except Exception as error:  # whatever a user's module raises while it is imported
        text = " ".join(str(error).split())
        raise ConfigError(
            f"type: expected a module {module}, found {type(error).__name__}: {text}"
        ) from None
    if not (isinstance(found, type) and issubclass(found, RewardTerm)):
        raise ConfigError(f"type: expected a RewardTerm {name} in {module}, found {found}")
    return found


def _known_place(kind: str) -> str:
    installed = {point.name: point.value for point in entry_points(group=GROUP)}
    known = installed | BUILT_IN
    if kind not in known:
        raise ConfigError(
            f'type: expected one of {", ".join(known)} or "module:Class", found {kind!r}'
        )
    return known[kind]
