"""How far a residual's standard deviation may go: bounds that can be moved while a run goes on."""

from typing import Protocol

import torch

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.parameters import setting

# When what is changed in a learner that runs takes effect.
UPDATE = "with the next update"


class Bounds(Protocol):
    """A configuration with bounds of the log of the standard deviation."""

    log_std_min: float
    log_std_max: float


def log_std_setting(default: float, which: str):
    """Return the field of a bound; the defaults, as SAC's, bound nothing in use."""
    return setting(
        default, f"{which} log of the residual's standard deviation", least=-20, most=2, live=UPDATE
    )


def check_log_std(bounds: Bounds) -> None:
    """Raise ConfigError where there is nothing between the bounds."""
    if not bounds.log_std_min <= bounds.log_std_max:
        raise ConfigError(
            f"log_std_min: expected at most log_std_max, {bounds.log_std_max}, "
            f"found {bounds.log_std_min}"
        )


@torch.no_grad()
def bound_log_std(log_std: torch.Tensor, bounds: Bounds) -> None:
    """Bring a log of standard deviations between the bounds, in place."""
    log_std.clamp_(bounds.log_std_min, bounds.log_std_max)
