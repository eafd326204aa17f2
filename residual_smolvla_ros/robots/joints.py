"""Joint states in the order that a policy knows."""

from collections.abc import Sequence

import numpy as np

from residual_smolvla_ros.errors import ConfigError


def names_on_topics(given: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Return what joints are called on topics: `given`, or `names` where none are.

    Raises ConfigError unless there is one for each.
    """
    if given and (len(given) != len(names) or len(set(given)) != len(given)):
        raise ConfigError(
            f"ros_joint_names: expected {len(names)} different names, one each for "
            f"{', '.join(names)}, found {', '.join(given)}"
        )
    return tuple(given) or tuple(names)


def in_order(
    found: Sequence[str], values: Sequence[float], names: Sequence[str], topic: str = "joint_states"
) -> np.ndarray:
    """Return a message's values (joints,) in the order of `names`.

    Raises ConfigError where a joint is missing: no later message will mend that.
    """
    known = dict(zip(found, values, strict=False))
    if not known.keys() >= set(names):
        raise ConfigError(f"{topic}: expected joints {list(names)}, found {list(known)}")
    return np.array([known[name] for name in names])


def told(
    found: Sequence[str], values: Sequence[float], names: Sequence[str], topic: str = "joint_states"
) -> np.ndarray | None:
    """Return what `in_order` does; None where the message leaves the values out.

    That is by an empty array, or, as ros2_control's joint_state_broadcaster does, by NaN.
    """
    if not len(values):
        return None
    result = in_order(found, values, names, topic)
    return None if np.isnan(result).all() else result


def read_joints(message, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return `position` and `velocity` (joints,) of a JointState, the latter where it is told.

    In rad and rad/s. `message` has the fields of sensor_msgs/JointState, whoever decoded it.
    Errors as `in_order`.
    """
    joints = {"position": in_order(message.name, message.position, names)}
    velocity = told(message.name, message.velocity, names)
    return joints if velocity is None else joints | {"velocity": velocity}
