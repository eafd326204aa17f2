"""Vision tokens for the node `policy`: inline in lockstep, else beside the control loop."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from residual_smolvla_ros.policy.frozen import Images
from residual_smolvla_ros.policy.residual_policy import ResidualPolicy
from residual_smolvla_ros.policy.vision import token_age


class VisionWorker:
    """Give a policy the tokens that its features need, and know how old they are.

    In lockstep the tokens are encoded in the control step that they are due in, so that a run is
    deterministic. In real time a thread encodes them: a step takes what is there, and waits only
    for the first ones of an episode. Stamps are ns.
    """

    def __init__(self, policy: ResidualPolicy, lockstep: bool, period_ns: int):
        self._policy = policy
        self._lockstep = lockstep
        self._period_ns = period_ns
        self._thread = ThreadPoolExecutor(1, "vision")
        self.begin()

    def begin(self) -> None:
        """Forget the last episode; images that are being encoded show its scene."""
        self._pending: Future[np.ndarray] | None = None
        self._pending_stamps: dict[str, int] = {}
        self._unused: np.ndarray | None = None
        self._stamps: dict[str, int] = {}
        self._stamp: int | None = None

    @property
    def due(self) -> bool:
        """Whether the next step must be preceded by `see`."""
        return self._policy.needs_tokens if self._lockstep else not self._policy.has_tokens

    @property
    def idle(self) -> bool:
        """Whether `start` has something to do: tokens are due, and none are being encoded."""
        return not self._lockstep and self._pending is None and self._policy.needs_tokens

    def see(self, images: Images, stamps: dict[str, int], stamp: int) -> None:
        """Encode images (H, W, 3) of `stamps` for the state `stamp`, and wait for it."""
        self._unused, self._stamps = self._encode(images), stamps
        self._give(stamp)

    def start(self, images: Callable[[], Images], stamps: dict[str, int]) -> None:
        """Let the thread encode images, decoded when asked for, of `stamps`."""
        self._pending = self._thread.submit(lambda: self._encode(images()))
        self._pending_stamps = stamps

    def collect(self, stamp: int) -> None:
        """Take what the thread has encoded, if it is done, for the state `stamp`.

        Raises ValueError for images that are broken: the next ones will do.
        """
        if self._pending is not None and self._pending.done():
            done, self._pending = self._pending, None
            self._unused, self._stamps = done.result(), self._pending_stamps
        if self._unused is not None:  # also those of a state that was not answered
            self._give(stamp)

    def used(self) -> dict[str, int]:
        """Return the stamps of the images whose tokens this step is the first to use."""
        fresh, self._unused = self._unused is not None, None
        return self._stamps if fresh else {}

    def age_ms(self, stamp: int) -> int:
        """Return the age of the tokens at the state `stamp`, -1 without tokens."""
        return -1 if self._stamp is None else round((stamp - self._stamp) / 1e6)

    def _encode(self, images: Images) -> np.ndarray:
        return self._policy.base.encode([images], self._policy.config.vision_cameras)[0]

    def _give(self, stamp: int) -> None:
        self._stamp, age_steps = token_age(self._stamps, stamp, self._period_ns)
        self._policy.see(self._unused, age_steps)
