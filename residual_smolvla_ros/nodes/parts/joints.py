"""Joint states in the order that a policy knows."""

import numpy as np
from sensor_msgs.msg import JointState

from residual_smolvla_ros.errors import ConfigError


def read_joints(message: JointState, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return `position` and `velocity` (joints,), in rad and rad/s, the latter where it is told.

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
