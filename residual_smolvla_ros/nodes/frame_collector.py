"""Node `frame_collector`: frames of labelled episodes -> a LeRobotDataset to train success on."""

import time

from diagnostic_msgs.msg import DiagnosticStatus
from std_msgs.msg import Bool

from residual_smolvla_ros.nodes.common import LATCHED_QOS, PipelineNode
from residual_smolvla_ros.nodes.common import main as run
from residual_smolvla_ros.nodes.parts.image_intake import ImageIntake
from residual_smolvla_ros.parameters import About
from residual_smolvla_ros.records import EPISODE_EVENT, Record
from residual_smolvla_ros.success.collector import Collector, FrameWindow
from residual_smolvla_ros.success.frames import FrameDataset
from residual_smolvla_ros.success.images import resize
from residual_smolvla_ros.success.sampling import ImageClock


class FrameCollectorNode(PipelineNode):
    """Keep the frames of each episode, and write them once its label is known."""

    def __init__(self):
        super().__init__("frame_collector")
        output = self.parameter("output", "", "folder of the dataset; new or empty")
        cameras = self.parameter("cameras", ["front", "wrist"], "cameras whose images to keep")
        rate = self.parameter(
            "rate_hz", 5.0, About("frames a second, in the images' time", above=0)
        )
        size = self.parameter("image_size", [128, 128], About("height and width of frames", 1))
        task = self.parameter("task", "", "what the episodes are about, for the dataset")
        window = FrameWindow(
            success_s=self.parameter(
                "success_s", 0.5, About("end of a success that counts as done", 0)
            ),
            after_s=self.parameter(
                "after_s", 1.0, About("frames to keep after the end, at most", 0)
            ),
            unsure_s=self.parameter(
                "unsure_s", 1.0, About("of a success, before success_s: left out", 0)
            ),
        )
        self._silence = self.parameter(
            "silence_s", 2.0, About("a camera is silent after so long", above=0)
        )
        self._dataset = FrameDataset(output, cameras, rate, tuple(size), task)
        self._collector = Collector(self._dataset, window)
        self._image_clock = ImageClock(cameras, rate)
        self._active = False
        self._silent: dict[str, float] = {}

        self.record_subscription(EPISODE_EVENT, "episode/event", self._on_event)
        self.create_subscription(Bool, "episode/active", self._on_active, LATCHED_QOS)
        # Best effort, which takes what lockstep sends reliably, too.
        self._images = ImageIntake(self, cameras, False, self._on_image)
        self.create_timer(1.0, self._watch)

    def _on_event(self, record: Record) -> None:
        event, stamp = record.metadata["event"], record.metadata["last_stamp"]
        if event == "prepare" and self._collector.has_ended:
            self._finish()  # the scene is about to change
        elif event == "end":
            self._collector.end(stamp, record.metadata["label"])
        elif event == "label":
            self._collector.label(stamp, record.metadata["label"])

    def _on_active(self, message: Bool) -> None:
        self._active = message.data
        if message.data:
            self._finish()
            self._collector.begin()
            self._image_clock.start(time.monotonic())

    def _on_image(self, name: str) -> None:
        self._image_clock.see(name, self._images.stamp(name), time.monotonic())
        stamp = self._image_clock.take()
        if stamp is None or not self._collector.wants(stamp):
            return
        try:
            pixels = {camera: self._images.pixels(camera) for camera in self._dataset.cameras}
        except ValueError as error:
            self.refuse("images", error)
            return
        size = self._dataset.size
        self._collector.add(stamp, {name: resize(pixels[name], *size) for name in pixels})
        self.tally("frames")

    def _finish(self) -> None:
        outcome = self._collector.finish()
        if outcome:
            self.get_logger().info(outcome)

    def _watch(self) -> None:
        """Tell which cameras send nothing, while an episode goes on."""
        now = time.monotonic()
        self._silent = self._image_clock.silent(now, self._silence) if self._active else {}
        for camera, age in self._silent.items():
            self.get_logger().warning(
                f"camera {camera}: no image for {age:.0f} s", throttle_duration_sec=5.0
            )

    def status(self):
        """Report what has been collected, and cameras that are silent."""
        dataset = self._dataset
        values = {
            "episodes": str(dataset.episodes),
            "dataset_frames": str(dataset.frames),
            "positive_frames": str(dataset.positives),
            "episode_frames": str(self._collector.frames),
        }
        if self._silent:
            return DiagnosticStatus.WARN, f"no images of {', '.join(self._silent)}", values
        message = "collecting" if self._active else "waiting for an episode"
        return DiagnosticStatus.OK, message, values

    def close(self) -> None:
        """Write the last episode, if it is labelled."""
        outcome = self._collector.finish()
        if outcome:
            print(f"frame_collector: {outcome}")


def main(args=None) -> None:
    """Entry point of the executable."""
    run(FrameCollectorNode, args)


if __name__ == "__main__":
    main()
