"""Node `success_classifier`: a LeRobot reward model beside the control loop.

It looks at the newest images at a rate of its own, in a thread of its own: nothing waits for it,
and it waits for no image.
"""

import time
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from diagnostic_msgs.msg import DiagnosticStatus
from std_msgs.msg import Bool, Float32, String

from residual_smolvla_ros.nodes.common import LATCHED_QOS, PipelineNode, to_message
from residual_smolvla_ros.nodes.common import main as run
from residual_smolvla_ros.nodes.parts.image_intake import ImageIntake
from residual_smolvla_ros.parameters import TORCH_THREADS, About
from residual_smolvla_ros.records import SUCCESS_ESTIMATE, pack
from residual_smolvla_ros.success.hold import SuccessHold
from residual_smolvla_ros.success.model import SuccessModel
from residual_smolvla_ros.success.sampling import ImageClock


class SuccessClassifierNode(PipelineNode):
    """Publish how probable success is while an episode is active."""

    def __init__(self):
        super().__init__("success_classifier")
        checkpoint = self.parameter("checkpoint", "", "folder of the reward model (lerobot-train)")
        cameras = self.parameter(
            "cameras", ["front", "wrist"], "cameras that the robot has, by topic name"
        )
        device = self.parameter("device", "cpu", "torch device of the reward model")
        threshold = self.parameter(
            "threshold", 0.9, About("probability of success", above=0, most=1)
        )
        hold = self.parameter("hold_s", 0.3, About("time above it, in the images' time", 0))
        rate = self.parameter(
            "rate_hz", 5.0, About("predictions a second at most, in the images' time", above=0)
        )
        allow_hub = self.parameter(
            "allow_hub", False, "fetch the encoder from the hub, and run code that comes with it"
        )
        allow_code = self.parameter(
            "allow_code", False, "run Python code in the folder of the encoder"
        )
        self._task = self.parameter("task", "", "language instruction, for models that read it")
        self._silence = self.parameter(
            "silence_s", 2.0, About("a camera is silent after so long", above=0)
        )
        torch.set_num_threads(self.parameter("torch_threads", 1, TORCH_THREADS))

        self._hold = SuccessHold(threshold, hold)
        self._model = SuccessModel.load(checkpoint, device, allow_hub, allow_code)
        self._model.check_cameras(cameras)
        self._image_clock = ImageClock(self._model.cameras, rate)
        self._tell_model()
        self._active = False
        self._silent: dict[str, float] = {}
        self._last: dict[str, str] = {}
        self._worker = ThreadPoolExecutor(max_workers=1)
        self._prediction: Future | None = None
        self._is_stale = False  # the prediction under way is of an episode that is over
        self._stamp, self._started = 0, 0.0

        self._estimates = self.record_publisher("success/estimate")
        self._probabilities = self.create_publisher(Float32, "success/probability", 1)
        # The thread only wakes the executor: all of ROS stays in one thread.
        self._predicted = self.create_guard_condition(self._on_predicted)
        self.create_subscription(String, "task", self._on_task, LATCHED_QOS)
        self.create_subscription(Bool, "episode/active", self._on_active, LATCHED_QOS)
        self._images = ImageIntake(
            self, self._model.cameras, lockstep=False, on_image=self._on_image
        )
        self.create_timer(1.0, self._watch)

    def _tell_model(self) -> None:
        model = self._model
        self.get_logger().info(f"{model.type}: {model.meaning}; cameras {', '.join(model.cameras)}")
        if not model.normalised:
            self.get_logger().warning(
                "no preprocessor in the checkpoint: images are scaled to 0 to 1, not normalised"
            )

    def _on_task(self, message: String) -> None:
        self._task = message.data

    def _on_active(self, message: Bool) -> None:
        self._active = message.data
        self._is_stale = True
        if message.data:
            self._begin()

    def _begin(self) -> None:
        self._hold.reset()
        self._image_clock.start(time.monotonic())
        # In its thread: a prediction may still be under way.
        self._worker.submit(self._model.reset, self._task)

    def _on_image(self, name: str) -> None:
        self._image_clock.see(name, self._images.stamp(name), time.monotonic())
        self._look()

    def _look(self) -> None:
        """Start a prediction from the newest images, if it is time and none is under way."""
        if not self._active or self._prediction is not None:
            return
        stamp = self._image_clock.take()
        if stamp is None:
            return
        try:
            pixels = {camera: self._images.pixels(camera) for camera in self._model.cameras}
        except ValueError as error:
            self.refuse("images", error)
            return
        self._stamp, self._started, self._is_stale = stamp, time.monotonic(), False
        self._prediction = self._worker.submit(self._model.predict, pixels)
        self._prediction.add_done_callback(lambda future: self._predicted.trigger())

    def _on_predicted(self) -> None:
        if self._prediction is None or not self._prediction.done():
            return
        prediction, self._prediction = self._prediction, None
        probability = prediction.result()
        if not self._is_stale:
            self._publish(probability)
        self._look()

    def _publish(self, probability: float) -> None:
        success = self._hold.update(self._stamp, probability)
        blob = pack(
            SUCCESS_ESTIMATE, {"probability": probability}, stamp=self._stamp, success=success
        )
        self._estimates.publish(to_message(blob))
        self._probabilities.publish(Float32(data=probability))
        self.tally("predictions")
        self._last = {
            "probability": f"{probability:.3f}",
            "success": str(success),
            "prediction_ms": f"{1e3 * (time.monotonic() - self._started):.0f}",
        }

    def _watch(self) -> None:
        """Tell which cameras send nothing; what they showed before does not hold on."""
        now = time.monotonic()
        self._silent = self._image_clock.silent(now, self._silence) if self._active else {}
        for camera, age in self._silent.items():
            self._hold.reset()
            self.get_logger().warning(
                f"camera {camera}: no image for {age:.0f} s: success is not estimated",
                throttle_duration_sec=5.0,
            )

    def status(self):
        """Report the newest estimate, and cameras that are silent."""
        if self._silent:
            return DiagnosticStatus.WARN, f"no images of {', '.join(self._silent)}", {**self._last}
        message = "estimating" if self._active else "waiting for an episode"
        return DiagnosticStatus.OK, message, {**self._last}

    def close(self) -> None:
        """Let no further prediction start."""
        self._worker.shutdown(wait=False, cancel_futures=True)


def main(args=None) -> None:
    """Entry point of the executable."""
    run(SuccessClassifierNode, args)


if __name__ == "__main__":
    main()
