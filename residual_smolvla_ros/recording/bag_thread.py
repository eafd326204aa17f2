"""Write a bag in a thread of its own, so that whoever hears messages never waits for the disk."""

import heapq
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from rosbags.interfaces import Qos

from residual_smolvla_ros.recording.bag_writer import BagWriter

# Topics overtake each other on their way through an executor: a message waits for older ones.
HOLD_NS = 150_000_000
POLL_S = 0.05
ENCODERS = 2


@dataclass
class _Waiting:
    topic: str
    kind: str
    data: bytes | Future
    size: int
    qos: Qos | None


class BagThread:
    """Messages in, a bag out: sorted by stamp, images encoded on the way.

    `error` says why writing ended early, "" while it goes on; `refused` counts messages that could
    not be encoded, `refusal` tells of the last one.
    """

    def __init__(self, folder: Path, max_waiting: int):
        """Open the bag; `max_waiting` is how many bytes may wait. Raises BagError, OSError."""
        self._writer = BagWriter(folder)
        self._max_waiting = max_waiting
        self._encoders = ThreadPoolExecutor(ENCODERS, "encoder")
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        self._heap: list = []
        self._put_bytes = self._done_bytes = 0  # one writing thread each
        self._number = 0
        self._deadline: float | None = None
        self.written = self.dropped = self.refused = 0
        self.error = self.refusal = ""
        self._thread = threading.Thread(target=self._run, name="bag", daemon=True)
        self._thread.start()

    def put(
        self,
        topic: str,
        kind: str,
        data: bytes,
        stamp: int,
        qos: Qos | None = None,
        encode: Callable[[bytes], bytes] | None = None,
        is_image: bool = False,
    ) -> None:
        """Take a message, as `BagWriter.write` does; images are dropped where too much waits.

        `encode` makes of `data` what is written; it may raise ValueError. To be called from one
        thread only.
        """
        if self.error or (is_image and self.waiting + len(data) > self._max_waiting):
            self.dropped += 1
            return
        self._put_bytes += len(data)
        self._number += 1
        content = self._encoders.submit(encode, data) if encode else data
        waiting = _Waiting(topic, kind, content, len(data), qos)
        self._queue.put((stamp, self._number, waiting))

    @property
    def waiting(self) -> int:
        """How many bytes wait to be written."""
        return self._put_bytes - self._done_bytes

    @property
    def size(self) -> int:
        """Length of the bag in bytes."""
        return self._writer.size

    def close(self, timeout_s: float) -> None:
        """Write what waits, but for images that are not encoded in time, and close the bag."""
        self._deadline = time.monotonic() + timeout_s
        self._queue.put(None)
        self._thread.join()
        self._encoders.shutdown(wait=False, cancel_futures=True)

    def _run(self) -> None:
        try:
            while self._deadline is None:
                self._collect()
                self._write_until(time.time_ns() - HOLD_NS)
                self._writer.flush_if_due()
            self._collect()
            self._write_until(None)
            self._writer.close()
        except OSError as error:
            self.error = error.strerror or str(error)
            self.dropped += len(self._heap) + self._queue.qsize()

    def _collect(self) -> None:
        """Move what has come to the heap; wait a moment where nothing has."""
        try:
            timeout = POLL_S if self._deadline is None else 0
            entry = self._queue.get(timeout=timeout) if timeout else self._queue.get_nowait()
            while True:
                if entry is not None:
                    heapq.heappush(self._heap, entry)
                entry = self._queue.get_nowait()
        except queue.Empty:
            pass

    def _wait_for(self, encoded: Future) -> bytes:
        """Return what an encoder made; at the end raise TimeoutError if it is not in time."""
        while not encoded.done():
            if self._deadline is not None and time.monotonic() > self._deadline:
                encoded.cancel()
                raise TimeoutError
            wait([encoded], POLL_S)
        return encoded.result()

    def _write_until(self, stamp: int | None) -> None:
        while self._heap and (stamp is None or self._heap[0][0] <= stamp):
            at, _, message = heapq.heappop(self._heap)
            self._done_bytes += message.size
            data = message.data
            try:
                if isinstance(data, Future):
                    data = self._wait_for(data)
            except (TimeoutError, CancelledError):
                self.dropped += 1
                continue
            except Exception as error:  # whatever it is, the messages after it are to be kept
                self.refused += 1
                self.refusal = f"{message.topic}: {error}"
                continue
            try:
                self._writer.write(message.topic, message.kind, data, at, message.qos)
            except OSError:
                self.dropped += 1
                raise
            self.written += 1
