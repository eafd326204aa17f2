"""The dataset that the node `recorder` writes beside its bag, or instead of one."""

import signal
from pathlib import Path

from residual_smolvla_ros.nodes.common import PipelineNode
from residual_smolvla_ros.parameters import About
from residual_smolvla_ros.recording.session import Session
from residual_smolvla_ros.session_outline import free_folder


class DatasetWriter:
    """Episodes of a session to a LeRobotDataset; declares the parameters `dataset...` of a node.

    `is_on` tells whether one was asked for. With `beside` it is written beside one that is there.
    """

    def __init__(self, node: PipelineNode, session: Session, beside: bool = False):
        folder = node.parameter("dataset", "", "LeRobotDataset to write; none: no dataset")
        episodes = node.parameter(
            "dataset_episodes", "all", About("episodes to take", choices=("all", "success"))
        )
        phases = node.parameter("dataset_phases", "", "of these phases, as train,validation")
        videos = node.parameter("dataset_videos", True, "images as video; false: PNG without loss")
        age = node.parameter(
            "dataset_max_image_age_s", 0.15, About("no episode with older images", 0)
        )
        waiting = node.parameter(
            "dataset_max_waiting_mb", 1000, About("episodes are dropped beyond", 0)
        )
        self._close_s = node.parameter(
            "dataset_close_s", 3, About("what may be written at the end", 0)
        )
        self._node, self._thread, self._has_failed = node, None, False
        if not folder:
            return
        # Only now: LeRobot takes seconds to import.
        from residual_smolvla_ros.recording.dataset_thread import DatasetThread
        from residual_smolvla_ros.recording.episodes import Selection

        self._thread = DatasetThread(
            session,
            free_folder(Path(folder)) if beside else Path(folder),
            Selection(episodes, tuple(phases.split(",")) if phases else ()),
            waiting * 1_000_000,
            videos=videos,
            max_image_age_s=age,
        )

    @property
    def is_on(self) -> bool:
        """Whether a dataset was asked for."""
        return self._thread is not None

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics that it is made of, beside the images."""
        return self._thread.topics if self.is_on else ()

    def put(self, topic: str, kind: str, message: bytes) -> None:
        """Take a serialised message of a topic by its relative name."""
        if self.is_on:
            self._thread.put(topic, kind, message)

    def tell(self) -> None:
        """Log what became of episodes, and once why no more are written."""
        if not self.is_on:
            return
        for line in self._thread.reports():
            self._node.get_logger().info(f"dataset: {line}")
        if self._thread.refusal:
            self._node.get_logger().warning(
                f"dataset: {self._thread.refusal}", throttle_duration_sec=30.0
            )
        if self._thread.error and not self._has_failed:
            self._has_failed = True
            self._node.get_logger().error(
                f"dataset: it ends here, the session goes on without it: {self._thread.error}"
            )

    def status(self) -> dict[str, str]:
        """Return values for /diagnostics."""
        if not self.is_on:
            return {}
        return {
            "dataset_episodes": str(self._thread.dataset.episodes),
            "dataset_dropped": str(self._thread.dropped),
        }

    def close(self) -> None:
        """Write the episodes that wait, as far as that goes in time, and close the dataset.

        Ctrl-C ends that too.
        """
        if not self.is_on:
            return
        # rclpy's own handler, which was called already, would let a second one pass.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            self._thread.close(self._close_s, self._say)
        except KeyboardInterrupt:
            self._thread.error = "interrupted"
        for line in self._thread.reports():
            print(f"recorder: dataset: {line}")
        dataset = self._thread.dataset
        print(f"recorder: dataset: {dataset.episodes} episodes, {dataset.successes} successes")
        if self._thread.error:
            print(
                f"recorder: error: dataset: {self._thread.error}; it may not open, but one can be "
                "made of a session's bag by residual-smolvla convert"
            )

    def _say(self, waiting: int) -> None:
        print(
            f"[WARN] recorder: dataset: {waiting} episodes are still to be written, Ctrl-C leaves "
            "them out",
            flush=True,
        )
