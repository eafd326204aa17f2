"""What LeRobot finds here: the policy `residual_smolvla`, the environment `so101_pick_lift`.

Importing registers both. LeRobot does so by itself where the distribution
`lerobot_policy_residual_smolvla` is installed, and with
`--policy.discover_packages_path=residual_smolvla_ros.lerobot_plugin` everywhere.
"""

from residual_smolvla_ros.lerobot_plugin.configuration_residual import BaseAndResidualConfig
from residual_smolvla_ros.lerobot_plugin.environment import PickLiftEnvConfig

__all__ = ["BaseAndResidualConfig", "PickLiftEnvConfig"]
