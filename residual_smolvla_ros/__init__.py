"""Online residual reinforcement learning for SmolVLA on the SO101 arm, as ROS 2 nodes."""
