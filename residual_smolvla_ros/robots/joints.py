"""Joint states in the order that a policy knows."""

import numpy as np

from residual_smolvla_ros.errors import ConfigError


def read_joints(message, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return `position` and `velocity` (joints,) of a JointState, the latter where it is told.

    In rad and rad/s. `message` has the fields of sensor_msgs/JointState, whoever decoded it.

    Raises ConfigError where a joint is missing: no later message will mend that.
    """
    found = {}
    for field in ("position", "velocity"):
        values = dict(zip(message.name, getattr(message, field), strict=False))
        if not values and field != "position":
            continue
        if not values.keys() >= set(names):
            raise ConfigError(f"joint_states: expected joints {list(names)}, found {list(values)}")
        found[field] = np.array([values[name] for name in names])
    return found
