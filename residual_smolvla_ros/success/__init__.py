"""Learned success: LeRobot's reward models, frames to train them on, and their training."""
