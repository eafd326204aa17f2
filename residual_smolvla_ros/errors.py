"""Errors that name what was expected and what was found."""


class CheckpointError(ValueError):
    """A checkpoint is missing, is not what was expected, or does not fit the robot."""
