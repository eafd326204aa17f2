"""Training in simulation without ROS: many arms in one process, or in several."""
