"""Errors that name what was expected and what was found."""


class CheckpointError(ValueError):
    """A checkpoint is missing, is not what was expected, or does not fit the robot."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint, or a file beside it, is cut, changed or gone: an older one may be whole."""


class ConfigError(ValueError):
    """A parameter or a file that configures something is not what it must be."""


class BagError(ValueError):
    """A bag is missing, is not what was expected, or does not hold what was asked for."""
