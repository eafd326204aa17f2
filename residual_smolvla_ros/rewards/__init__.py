"""Reward terms and their composition."""
