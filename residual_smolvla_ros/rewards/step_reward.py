"""What every reward returns."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StepReward:
    """What a control step earned, and whether it ended the episode."""

    reward: float
    success: bool
    terminated: bool
