"""How plans are made, and how one takes over from the last: parameters of the node `policy`."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.parameters import About

BLEND, RTC = "blend", "rtc"
FLOAT32, BFLOAT16 = "float32", "bfloat16"
DELAY = About("a plan takes at least so long; in lockstep, as steps", 0)
OVERLAP = About("actions left of the old plan when the new takes over", 0)
SWITCH = About("how it takes over; rtc: real-time chunking", choices=(BLEND, RTC))
PRECISION = About("of SmolVLA's weights; float32: as loaded", choices=(FLOAT32, BFLOAT16))


@dataclass(frozen=True)
class Acceleration:
    """How SmolVLA computes a plan; as it stands, by LeRobot's own code in the loaded precision."""

    precision: str = FLOAT32
    compile: bool = False
    cuda_graph: bool = False

    def __post_init__(self):
        if self.precision not in (FLOAT32, BFLOAT16):
            raise ConfigError(
                f"precision: expected {FLOAT32} or {BFLOAT16}, found {self.precision!r}"
            )
        for name in ("compile", "cuda_graph"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name}: expected true or false, found {getattr(self, name)!r}")


AS_LEROBOT = Acceleration()


@dataclass(frozen=True)
class Planning:
    """How long a plan takes, and how it takes over from the last.

    `delay_ms` is what a plan takes at least: in lockstep it takes over so many control steps after
    the observation that it was made from. At the switch `overlap_steps` actions of the old chunk
    are left: with `switch` blend the command goes over from them to the new ones, with rtc the
    plan itself was guided by them (real-time chunking: Black et al. 2025, arXiv:2506.07339).
    """

    delay_ms: float = 0.0
    overlap_steps: int = 0
    switch: str = BLEND
    acceleration: Acceleration = AS_LEROBOT

    def __post_init__(self):
        if not (isinstance(self.delay_ms, int | float) and 0 <= self.delay_ms < math.inf):
            raise ConfigError(f"plan_delay_ms: expected 0 or more, found {self.delay_ms!r}")
        if not (isinstance(self.overlap_steps, int) and self.overlap_steps >= 0):
            raise ConfigError(
                f"plan_overlap_steps: expected a whole number, 0 or more, "
                f"found {self.overlap_steps!r}"
            )
        if self.switch not in (BLEND, RTC):
            raise ConfigError(f"plan_switch: expected {BLEND} or {RTC}, found {self.switch!r}")

    def delay_steps(self, rate_hz: float) -> int:
        """Return the delay in control steps."""
        return math.ceil(round(self.delay_ms * rate_hz / 1e3, 6))

    def period_steps(self, chunk_size: int, rate_hz: float) -> int:
        """Return how many control steps of lockstep lie between two plans.

        Raises ConfigError where a plan would come too late to be played.
        """
        steps = chunk_size - self.delay_steps(rate_hz) - self.overlap_steps
        if steps < 1:
            raise ConfigError(
                f"plan_delay_ms, plan_overlap_steps: expected less than the {chunk_size} actions "
                f"of a plan, found {self.delay_steps(rate_hz)} and {self.overlap_steps} steps"
            )
        return steps


INLINE = Planning()  # a plan is there at once, when the last one is over


def make_planning(parameter: Callable) -> Planning:
    """Return what parameters say, asked for by name, default and description."""
    return Planning(
        parameter("plan_delay_ms", 0.0, DELAY),
        parameter("plan_overlap_steps", 0, OVERLAP),
        parameter("plan_switch", BLEND, SWITCH),
        Acceleration(
            parameter("precision", FLOAT32, PRECISION),
            parameter("compile", False, "compile SmolVLA by torch.compile; takes minutes at start"),
            parameter("cuda_graph", False, "launch SmolVLA's kernels as CUDA graphs"),
        ),
    )
