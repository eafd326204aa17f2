"""Online residual reinforcement learning for SmolVLA on the SO101 arm, as ROS 2 nodes.

Without ROS: ResidualSmolVLAPolicy, ResidualRLTrainer, SimpleRewardFunction, SimulatedRobot.
"""

import importlib

_API = {
    "ResidualSmolVLAPolicy": "api.policy",
    "ResidualRLTrainer": "api.trainer",
    "SimpleRewardFunction": "api.reward",
    "SimulatedRobot": "api.simulated_robot",
}
__all__ = list(_API)


def __getattr__(name: str):
    # Only when they are asked for: torch and LeRobot take seconds to import.
    if name not in _API:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_API[name]}"), name)
