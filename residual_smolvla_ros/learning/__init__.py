"""Rollouts, PPO, checkpoints and the schedule of a run."""
