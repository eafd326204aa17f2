"""ROS 2 nodes, one a file: parameters, topics and services."""
