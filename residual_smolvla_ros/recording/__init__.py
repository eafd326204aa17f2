"""Sessions as bags: written, read, checked and turned into datasets, without ROS."""
