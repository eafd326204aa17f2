"""Ask for a reset of the scene until it is set: a service that the user's stack may provide."""

import time
from collections.abc import Callable

from std_srvs.srv import Trigger

from residual_smolvla_ros.nodes.common import PipelineNode

RETRY_S = 0.02
# A reset that a person takes part in is asked about less and less often.
RETRY_MAX_S = 0.5


class SceneReset:
    """Call `reset_environment` again and again, until it says yes.

    `on_set` is called then, `on_wait` whenever a long one says why it is not done.
    """

    def __init__(self, node: PipelineNode, on_set: Callable[[], None], on_wait):
        self._client = node.create_client(Trigger, "reset_environment")
        self._on_set, self._on_wait = on_set, on_wait
        self._asking = False
        self._ask_at, self._pause = 0.0, RETRY_S

    @property
    def is_there(self) -> bool:
        """Whether the service can be called."""
        return self._client.service_is_ready()

    def ask(self) -> None:
        """Ask, unless an answer is awaited or it is too early."""
        if not self._asking and time.monotonic() >= self._ask_at and self.is_there:
            self._asking = True
            self._client.call_async(Trigger.Request()).add_done_callback(self._on_answer)

    def _on_answer(self, future) -> None:
        self._asking = False
        response = future.result()
        if response.success:
            self._ask_at, self._pause = 0.0, RETRY_S
            self._on_set()
            return
        self._ask_at = time.monotonic() + self._pause
        if self._pause == RETRY_MAX_S:
            self._on_wait(response.message)
        self._pause = min(2 * self._pause, RETRY_MAX_S)
