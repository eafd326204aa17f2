"""Plans for the node `policy`: inline in lockstep, else beside the control loop."""

import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from residual_smolvla_ros.planning import Planning
from residual_smolvla_ros.policy.chunk_player import PlanRequest
from residual_smolvla_ros.policy.frozen import Images
from residual_smolvla_ros.policy.residual_policy import ResidualPolicy

# Plans of late whose durations tell how early the next one must be begun, and control steps to
# spare: a plan is taken at the tick after its end.
REMEMBERED = 10
SPARE_STEPS = 2


@dataclass(frozen=True)
class _Made:
    """The stamps in ns of what a plan was made from."""

    state: int
    images: dict[str, int]


class PlanWorker:
    """Have a policy's plans made in time, and know what they were made from.

    In lockstep a plan is made in the control step that it is due in, so that a run is
    deterministic. In real time a thread makes it while the present one plays, begun as early as
    the last plans took: a step waits only for the first plan of an episode, for one after a
    takeover, and for one that takes longer than any of late. Stamps are ns.
    """

    def __init__(self, policy: ResidualPolicy, lockstep: bool, period_ns: int, planning: Planning):
        self._policy = policy
        self._lockstep = lockstep
        self._period_ns = period_ns
        self._delay_s = planning.delay_ms / 1e3
        self._thread = ThreadPoolExecutor(1, "plan")
        self._durations: deque[float] = deque(maxlen=REMEMBERED)
        self._pending: Future[tuple[np.ndarray, float]] | None = None
        self.begin()

    def begin(self) -> None:
        """Forget the last episode, and the plan that is being made for it."""
        if self._pending is not None:
            self._pending.cancel()  # unless it has begun
        self._pending = None
        self._request: PlanRequest | None = None  # of the pending one
        self._made: dict[PlanRequest, _Made] = {}  # by request; of the present plan and later
        self._told: PlanRequest | None = None

    @property
    def idle(self) -> bool:
        """Whether no plan is being made."""
        return self._pending is None

    def start(
        self, images: Callable[[], Images], stamps: dict[str, int], state: np.ndarray, stamp: int
    ) -> None:
        """Plan from images, decoded when asked for, of `stamps` and the state (joints,) `stamp`.

        Raises ValueError in lockstep, and `collect` in real time, for images that are broken.
        """
        pixels = images() if self._lockstep else None
        request = self._policy.ask_for_plan()
        self._made[request] = _Made(stamp, stamps)
        if pixels is not None:
            self._policy.take_plan(self._policy.make_plan(request, pixels, state), request)
        else:
            seed, task = self._policy.noise_seed, self._policy.task
            self._request = request
            self._pending = self._thread.submit(self._make, images, state, task, seed, request)

    def _make(self, images, state, task, seed, request) -> tuple[np.ndarray, float]:
        start, base = time.monotonic(), self._policy.base
        chunk = base.plan(images(), state, task, base.make_noise(*seed), request)
        time.sleep(max(0.0, start + self._delay_s - time.monotonic()))
        return chunk, time.monotonic() - start

    def collect(self) -> None:
        """Take the plan that the thread has made, if it has."""
        if self._pending is None or not self._pending.done():
            return
        made, self._pending = self._pending, None
        try:
            chunk, duration = made.result()
        except ValueError:
            self._policy.player.withdraw()
            raise
        self._durations.append(duration)
        steps = math.ceil(max(self._durations) * 1e9 / self._period_ns) + SPARE_STEPS
        self._policy.player.lead = steps
        self._policy.take_plan(chunk, self._request)

    def describe(self, request: PlanRequest | None, stamp: int) -> dict:
        """Return what the record `step` of the state `stamp` tells of the plan that it plays.

        What the plan was made from is told in the first step that plays it only.
        """
        if request is None:
            return {"plan_age_ms": -1, "plan_images": {}, "plan": {}}
        made = self._made[request]
        told = {"plan_age_ms": round((stamp - made.state) / 1e6), "plan_images": {}, "plan": {}}
        if request is not self._told:
            self._told = request
            # Of older ones nobody will ask.
            self._made = {one: self._made[one] for one in self._made if one.tick >= request.tick}
            left = 0 if request.left_over is None else len(request.left_over)
            told["plan_images"] = made.images
            told["plan"] = {"stamp": made.state, "tick": request.tick, "lead": request.lead}
            told["plan"]["left"] = left
        return told

    def status(self) -> dict[str, str]:
        """Return how long the last plans took beside the control loop, for /diagnostics."""
        if not self._durations:
            return {}
        return {
            "plan_ms": f"{1e3 * max(self._durations):.0f}",
            "plan_lead_steps": str(self._policy.player.lead),
        }
