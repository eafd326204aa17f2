"""Features of the tool centre point (TCP): where it is, where the plan takes it, what it misses."""

from collections.abc import Sequence

import numpy as np

from residual_smolvla_ros.policy.action_space import Kinematics
from residual_smolvla_ros.policy.features import TARGET_CLIP, TARGET_SCALE, TCP_SCALE


def tool_features(
    robot: Kinematics,
    state: np.ndarray,
    commands: Sequence[np.ndarray],
    target: np.ndarray | None,
) -> dict[str, np.ndarray]:
    """Return the features of `features.TCP_NAMES`; those of the target only where it is known.

    `state` and `commands`, the plan at PLAN_AHEAD, are (joints,) in LeRobot's units, `target` (3,)
    is the position of the task's object in the base frame in m.
    """
    tcp = robot.forward(robot.to_radians(state))
    frame = robot.heading(tcp).T
    planned = np.stack([robot.forward(robot.to_radians(command)) for command in commands])
    values = {"planned_tcp": TCP_SCALE * (planned - tcp) @ frame.T, "tcp": TCP_SCALE * tcp}
    if target is not None:
        values["target_from_tcp"] = TCP_SCALE * frame @ (target - tcp)
        miss = TARGET_SCALE * (target - planned) @ frame.T
        values["target_from_plan"] = np.clip(miss, -TARGET_CLIP, TARGET_CLIP)
    return values
