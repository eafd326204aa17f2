"""Write a session's dataset while it goes on, in a thread of its own."""

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from residual_smolvla_ros.errors import BagError
from residual_smolvla_ros.policy.action_units import ActionUnits
from residual_smolvla_ros.recording.dataset import DatasetSettings, SessionDataset
from residual_smolvla_ros.recording.episode_builder import EpisodeBuilder
from residual_smolvla_ros.recording.episodes import Layout, RecordedEpisode, Selection
from residual_smolvla_ros.recording.session import Session

SAY_S = 2.0


@dataclass(frozen=True)
class _Waiting:
    episode: RecordedEpisode
    size: int


class DatasetThread:
    """Messages in, episodes of a LeRobotDataset out.

    `reports` returns lines on what became of episodes since it was last asked. `error` says why
    writing ended early, "" while it goes on; `refused` counts messages that could not be read.
    """

    def __init__(
        self,
        session: Session,
        folder: Path,
        selection: Selection,
        max_waiting: int,
        **settings,
    ):
        """`max_waiting` is how many bytes of images may wait; `settings` are DatasetSettings'.

        Raises ConfigError, BagError or CheckpointError for what makes no dataset.
        """
        layout = Layout.of(session)
        units = ActionUnits(Path(session.base_checkpoint["path"]), len(layout.joint_names))
        described = DatasetSettings.of(session, folder, **settings)
        self.dataset = SessionDataset(described, units, settles=True)
        self.error = self.refusal = ""
        self.refused = self.dropped = 0
        self._builder = EpisodeBuilder(layout)
        self._selection = selection
        self._max_waiting = max_waiting
        # One writing thread each.
        self._put_bytes = self._done_bytes = 0
        self._put_episodes = self._done_episodes = 0
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._deadline: float | None = None
        self._thread = threading.Thread(target=self._run, name="dataset", daemon=True)
        self._thread.start()

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics that a dataset is made of, beside the images."""
        return self._builder.layout.topics

    @property
    def waiting(self) -> int:
        """How many bytes of images wait to be written."""
        return self._put_bytes - self._done_bytes

    def put(self, topic: str, kind: str, data: bytes) -> None:
        """Take a message (CDR) of a topic by its relative name; from one thread only."""
        if self.error:
            return
        try:
            episodes = self._builder.take(topic, kind, data)
        except BagError as error:
            self.refused += 1
            self.refusal = str(error)
            return
        self._hand_over(episodes)

    def reports(self) -> list[str]:
        """Return what is new: a line for each episode that was written, or was not and why."""
        lines, self._builder.left_out = self._builder.left_out, []
        while not self._lines.empty():
            lines.append(self._lines.get())
        return lines

    def close(self, timeout_s: float, say: Callable[[int], None] = lambda waiting: None) -> None:
        """Write the episodes that wait, as far as that goes in time, and close the dataset.

        `say` is told how many wait if that takes longer than SAY_S.
        """
        self._hand_over(self._builder.finish())
        self._deadline = time.monotonic() + timeout_s
        self._queue.put(None)
        self._thread.join(min(SAY_S, timeout_s))
        if self._thread.is_alive():
            say(self._put_episodes - self._done_episodes)
            self._thread.join(max(0.0, self._deadline - time.monotonic()))
        if self._thread.is_alive():
            self.error = self.error or "no time was left to close it"

    def _hand_over(self, episodes: list[RecordedEpisode]) -> None:
        for episode in (e for e in episodes if self._selection.wants(e)):
            images = {id(i): len(i.data) for s in episode.steps for i in s.images.values()}
            size = sum(images.values())
            if self.waiting + size > self._max_waiting:
                self._drop(episode, "too many wait already")
                continue
            self._put_bytes += size
            self._put_episodes += 1
            self._queue.put(_Waiting(episode, size))

    def _drop(self, episode: RecordedEpisode, reason: str) -> None:
        self.dropped += 1
        self._lines.put(f"episode {episode.plan.episode}: not written, {reason}")

    def _run(self) -> None:
        try:
            while (waiting := self._queue.get()) is not None:
                self._write(waiting.episode)
                self._done_bytes += waiting.size
                self._done_episodes += 1
            self.dataset.close()
        except Exception as error:  # of the disk, of LeRobot: the session goes on without it
            self.error = " ".join(str(error).split()) or type(error).__name__

    def _write(self, episode: RecordedEpisode) -> None:
        if self._deadline is not None and time.monotonic() > self._deadline:
            self._drop(episode, "the session was over")
            return
        try:
            self.dataset.add(episode)
        except BagError as error:
            self.dropped += 1
            self._lines.put(f"not written: {error}")
            return
        self._lines.put(
            f"episode {episode.plan.episode}: {len(episode.steps)} frames "
            f"(episode {self.dataset.episodes} of the dataset)"
        )
