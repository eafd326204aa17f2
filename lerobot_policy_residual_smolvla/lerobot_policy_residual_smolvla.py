"""Found by LeRobot by its name; what it registers is in residual_smolvla_ros.lerobot_plugin."""

import residual_smolvla_ros.lerobot_plugin  # noqa: F401
