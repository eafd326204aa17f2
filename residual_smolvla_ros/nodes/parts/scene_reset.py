"""Ask for a reset of the scene until it is set: a service that the user's stack may provide."""

import time
from collections.abc import Callable

from std_srvs.srv import Trigger

from residual_smolvla_ros.nodes.common import PipelineNode

RETRY_S = 0.02
# A reset that a person takes part in is asked about less and less often.
RETRY_MAX_S = 0.5
# A node that died counts as there until its lease ends, after 20 s, and what it is asked is lost:
# the one in its place is asked after a while, and again, less and less often, until it answers.
ANEW_S = 1.0


class SceneReset:
    """Call `reset_environment` again and again, until it says yes.

    `on_set` is called then, `on_wait` whenever a long one says why it is not done.
    """

    def __init__(self, node: PipelineNode, on_set: Callable[[], None], on_wait):
        self._client = node.create_client(Trigger, "reset_environment")
        self._on_set, self._on_wait = on_set, on_wait
        self._asked = None
        self._ask_at, self._pause = 0.0, RETRY_S
        self._patience: float | None = None  # while a node that died may be asked

    @property
    def is_there(self) -> bool:
        """Whether the service can be called."""
        return self._client.service_is_ready()

    def ask(self) -> None:
        """Ask, unless an answer is awaited or it is too early."""
        now = time.monotonic()
        if now < self._ask_at or not self.is_there:
            return
        if self._patience is not None:
            self._drop()
            self._patience *= 2
            self._ask_at = now + self._patience
        if self._asked is None:
            self._asked = self._client.call_async(Trigger.Request())
            self._asked.add_done_callback(self._on_answer)

    def forget(self) -> None:
        """Ask anew: who was asked has died, and another is in its place."""
        self._drop()
        self._patience, self._ask_at = ANEW_S, time.monotonic() + ANEW_S

    def _drop(self) -> None:
        if self._asked is not None:
            self._client.remove_pending_request(self._asked)
            self._asked = None

    def _on_answer(self, future) -> None:
        if future is not self._asked:
            return
        self._asked = self._patience = None
        response = future.result()
        if response.success:
            self._ask_at, self._pause = 0.0, RETRY_S
            self._on_set()
            return
        self._ask_at = time.monotonic() + self._pause
        if self._pause == RETRY_MAX_S:
            self._on_wait(response.message)
        self._pause = min(2 * self._pause, RETRY_MAX_S)
