"""Checks of a recorded session without ROS: what it did against what is computed anew."""
