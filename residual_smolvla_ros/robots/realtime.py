"""Real-time scheduling of a thread that waits for its next tick."""

import contextlib
import os


class RealtimeThread:
    """Wake the calling thread ahead of all others (SCHED_FIFO), where the system allows it.

    `error` says why it does not, or is empty. Without it a tick may come as late as the time
    slice of another process, some ms.
    """

    def __init__(self, priority: int):
        self._priority = priority
        self.error = ""
        if priority:
            try:
                self._set(os.SCHED_FIFO, priority)
            except (AttributeError, OSError, ValueError) as error:
                self._priority, self.error = 0, str(error)

    @contextlib.contextmanager
    def paused(self):
        """Be an ordinary thread for a while.

        LeRobot's servo driver spins while it waits for answers: with real-time priority it would
        starve the very threads of the kernel that bring them, for up to 0.1 s.
        """
        if not self._priority:
            yield
            return
        self._set(os.SCHED_OTHER, 0)
        try:
            yield
        finally:
            self._set(os.SCHED_FIFO, self._priority)

    @staticmethod
    def _set(policy: int, priority: int) -> None:
        os.sched_setscheduler(0, policy, os.sched_param(priority))
