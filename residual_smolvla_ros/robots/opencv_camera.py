"""LeRobot's OpenCV camera, whose frames are the camera's own JPEG where it sends JPEG."""

import os
import time
from pathlib import Path

import cv2
from lerobot.cameras.opencv import OpenCVCamera

from residual_smolvla_ros.robots.frames import Frame

JPEG_FORMATS = (b"MJPG", b"JPEG")
JPEG_START = b"\xff\xd8"


class JpegOpenCVCamera(OpenCVCamera):
    """LeRobot's camera; its frames are `Frame`s, and a JPEG stream is not decoded.

    A JPEG passes through where the stream is MJPG, no rotation is asked for, and OpenCV's backend
    hands it over: V4L2 (a USB camera on Linux) and FFmpeg (a video file or a pipe).
    """

    passes_jpeg = False

    def connect(self, warmup: bool = True) -> None:
        """Open the camera; raise ConnectionError or RuntimeError if it cannot be."""
        # What these would print is part of the error that this class raises.
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        # A read of a camera that hangs returns after 1 s instead of 10 s.
        os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "1")
        path = self.index_or_path
        if isinstance(path, Path) and path.is_absolute() and not path.exists():
            raise ConnectionError(f"{path}: no such device")
        super().connect(warmup)

    def _configure_capture_settings(self) -> None:
        super()._configure_capture_settings()
        self.passes_jpeg = self.rotation is None and self._ask_for_jpeg()

    def _ask_for_jpeg(self) -> bool:
        capture = self.videocapture
        fourcc = (int(capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF).to_bytes(4, "little")
        if fourcc not in JPEG_FORMATS:
            return False
        backend = capture.getBackendName()
        if backend == "V4L2":
            return capture.set(cv2.CAP_PROP_CONVERT_RGB, 0)
        if backend == "FFMPEG":
            return capture.set(cv2.CAP_PROP_FORMAT, -1)
        return False

    def _postprocess_image(self, image) -> Frame:
        captured = self._capture_time()
        if self.passes_jpeg:
            jpeg = image.tobytes()
            if not jpeg.startswith(JPEG_START):
                raise RuntimeError(f"{self}: expected a JPEG, found {len(jpeg)} other bytes")
            return Frame(captured, self.capture_width, self.capture_height, jpeg=jpeg)
        pixels = super()._postprocess_image(image)
        height, width, _ = pixels.shape
        return Frame(captured, width, height, pixels=pixels)

    def _capture_time(self) -> float:
        """Return when the frame was captured: V4L2 says so, on the clock of perf_counter."""
        now = time.perf_counter()
        if self.videocapture.getBackendName() == "V4L2":
            captured = 1e-3 * self.videocapture.get(cv2.CAP_PROP_POS_MSEC)
            if 0.0 <= now - captured < 1.0:  # a driver may use another clock
                return captured
        return now

    def _cleanup_resources(self) -> None:
        thread, capture = self.thread, self.videocapture
        self._stop_read_thread()
        self.videocapture = None
        # OpenCV does not survive a release while a hanging thread still reads, which LeRobot does:
        # that thread holds the last reference, and releases it when its read returns.
        if capture is not None and (thread is None or not thread.is_alive()):
            capture.release()
