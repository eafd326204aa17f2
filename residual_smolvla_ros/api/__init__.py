"""The residual policy in one's own Python loop, without ROS."""
