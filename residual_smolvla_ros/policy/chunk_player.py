"""Play chunks of actions, and switch from one to the next in line with time."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class PlanRequest:
    """What a plan is to be made for."""

    tick: int  # control step of the observation
    lead: int  # control steps from there until it is expected to take over
    left_over: np.ndarray | None  # (n, action_size), what is left of the present chunk then


class ChunkPlayer:
    """Tell the action of each control step of an episode, from the chunk that plays then.

    A chunk's first action belongs to the control step of the observation that it was planned
    from: one that takes over later skips the actions whose time has passed.
    """

    def __init__(self, overlap_steps: int = 0, blends: bool = True):
        self._overlap, self._blends = overlap_steps, blends
        self.lead = 0  # control steps that a plan takes
        self.begin()

    def begin(self) -> None:
        """Forget all chunks."""
        self.chunk: np.ndarray | None = None
        self.taken = 0  # chunks that have been played, or begun
        self.request: PlanRequest | None = None  # that of the chunk
        self._old: tuple[np.ndarray, int] | None = None
        self._next: tuple[np.ndarray, PlanRequest, int] | None = None
        self._since = 0  # the step in which the chunk took over
        self._asked: PlanRequest | None = None
        self._outdated = False

    @property
    def is_empty(self) -> bool:
        """Whether the episode has not been planned for at all."""
        return self.chunk is None

    def outdate(self) -> None:
        """Play no more of the chunk, and none that is being planned."""
        self._outdated, self._asked, self._next = True, None, None

    def index(self, tick: int) -> int:
        """Return the place of a control step in the chunk; its length where the chunk is over."""
        return min(tick - self.request.tick, len(self.chunk))

    def is_out(self, tick: int) -> bool:
        """Whether there is nothing to play in a control step."""
        return self.chunk is None or self._outdated or self.index(tick) >= len(self.chunk)

    def is_due(self, tick: int) -> bool:
        """Whether it is time to plan the next chunk, and nobody has been asked to."""
        if self._asked is not None:
            return False
        return self.is_out(tick) or (
            len(self.chunk) - self.index(tick) <= self.lead + self._overlap
        )

    def ask(self, tick: int) -> PlanRequest:
        """Return what the next chunk is to be planned for."""
        left = 0 if self.is_out(tick) else len(self.chunk) - self.index(tick)
        return self.ask_again(tick, self.lead, left)

    def ask_again(self, tick: int, lead: int, left: int) -> PlanRequest:
        """Return a request of before, which had so many actions left over."""
        self._asked = PlanRequest(tick, lead, self.chunk[-left:] if left else None)
        return self._asked

    def withdraw(self) -> None:
        """Forget what was asked for: it cannot be made."""
        self._asked = None

    def take(self, chunk: np.ndarray, request: PlanRequest, tick: int) -> bool:
        """Take a chunk that takes over in a control step; False if it has become outdated."""
        if request is not self._asked:
            return False
        self._next = (chunk, request, tick)
        return True

    def reach(self, tick: int) -> None:
        """Let the next chunk take over if its control step has come, or nothing else is left."""
        if self._next is None or not (tick >= self._next[2] or self.is_out(tick)):
            return
        smooth = self._blends and self._overlap and not self.is_out(tick)
        self._old = (self.chunk, self.request.tick) if smooth else None
        (self.chunk, self.request, _), self._next = self._next, None
        self._since, self._asked, self._outdated = tick, None, False
        self.taken += 1

    def action(self, tick: int) -> np.ndarray:
        """Return the action (action_size,) of a control step; the last one stands for later."""
        new = self.chunk[min(self.index(tick), len(self.chunk) - 1)]
        age = tick - self._since
        if self._old is None or age >= self._overlap:
            return new
        old, start = self._old
        share = np.float32((age + 1) / (self._overlap + 1))
        return (1 - share) * old[min(tick - start, len(old) - 1)] + share * new
