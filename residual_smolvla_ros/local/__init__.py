"""The command `finetune-local`: a LeRobot robot, policy, reward and learner in one process."""
