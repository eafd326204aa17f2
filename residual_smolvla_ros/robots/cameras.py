"""Frames of any LeRobot camera, for as long as it takes: a camera that goes away is reopened."""

import contextlib
import copy
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from lerobot.cameras import Camera, CameraConfig, ColorMode, make_cameras_from_configs

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.robots.frames import Frame

RETRY_S = 1.0
STALL_S = 1.0
# A camera that was just opened may take its time to adjust.
FIRST_FRAME_S = 5.0
POLL_S = 0.1
CLOSE_S = 0.5


@dataclass(frozen=True)
class Gone:
    """Since when (time.time()) a camera gives no frames, and why."""

    since: float
    reason: str


class CameraStream:
    """Read a camera in a thread of its own; keep its newest frame until it is taken.

    `notify` is called from that thread when a frame has arrived, and when `gone` has changed.
    """

    def __init__(self, config: CameraConfig, notify: Callable[[], None]):
        """Raise ConfigError if the packages of the camera's driver are not installed."""
        self._config = _in_rgb(config)
        self._notify = notify
        self._newest: deque[Frame] = deque(maxlen=1)
        self._reader_error: Exception | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="camera", daemon=True)
        self.gone: Gone | None = None
        try:
            make_camera(self._config)
        except ImportError as error:
            raise ConfigError(f"camera: {error}") from None
        except Exception:
            pass  # a driver may look for its device here already: the thread tries again

    def start(self) -> None:
        """Open the camera and read it until `close`."""
        _quiet_reader_threads()
        self._thread.start()

    def take(self) -> Frame | None:
        """Return the newest frame, if it has not been taken before."""
        try:
            return self._newest.pop()
        except IndexError:
            return None

    def close(self) -> None:
        """Stop reading. A driver that hangs is left to the end of the process."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_S)

    def _run(self) -> None:
        while not self._stop.is_set():
            camera = None
            self._reader_error = None
            try:
                camera = make_camera(self._config)
                self._remember_end(camera)
                # `_read` waits for the first frame itself; LeRobot would drop a second of them.
                camera.connect(warmup=self._config.type != "opencv")
                self._read(camera)
            except Exception as error:  # each driver raises what it likes
                self._lose(self._reader_error or error)
            self._release(camera)
            self._stop.wait(RETRY_S)

    def _release(self, camera: Camera | None) -> None:
        """Close a camera, and wait for a reader thread that hangs: it holds the device."""
        reader = getattr(camera, "thread", None)
        with contextlib.suppress(Exception):
            camera.disconnect()
        while reader is not None and reader.is_alive() and not self._stop.is_set():
            reader.join(POLL_S)

    def _remember_end(self, camera: Camera) -> None:
        """Keep why the driver's reader thread ended; Python would print a trace."""
        loop = getattr(camera, "_read_loop", None)
        if loop is None:
            return

        def read_loop() -> None:
            try:
                loop()
            except Exception as error:
                self._reader_error = error.__cause__ or error

        camera._read_loop = read_loop

    def _read(self, camera: Camera) -> None:
        """Keep each frame; return when told to stop, raise when no more frames come."""
        allowed = FIRST_FRAME_S
        last = time.perf_counter()
        while not self._stop.is_set():
            try:
                frame = _next_frame(camera)
            except TimeoutError:
                if time.perf_counter() - last > allowed:
                    raise TimeoutError(f"no frame for {allowed:.1f} s") from None
                continue
            last = time.perf_counter()
            allowed = max(STALL_S, 5.0 / camera.fps) if camera.fps else STALL_S
            self._newest.append(frame)
            self.gone = None
            self._notify()
            if not hasattr(camera, "thread"):
                # This driver does not wait for a frame: it hands out what there is.
                self._stop.wait(1.0 / (camera.fps or 30))

    def _lose(self, error: Exception) -> None:
        self._newest.clear()
        since = self.gone.since if self.gone else time.time()
        reason = " ".join(str(error).split()) or type(error).__name__
        self.gone = Gone(since, reason)
        self._notify()


def make_camera(config: CameraConfig) -> Camera:
    """Return LeRobot's camera of a configuration, not yet opened."""
    if config.type == "opencv":
        from residual_smolvla_ros.robots.opencv_camera import JpegOpenCVCamera

        return JpegOpenCVCamera(config)
    return make_cameras_from_configs({"camera": config})["camera"]


def _next_frame(camera: Camera) -> Frame:
    """Return a frame that was not there before; raise TimeoutError if none comes soon."""
    pixels = camera.async_read(timeout_ms=1e3 * POLL_S)
    if isinstance(pixels, Frame):
        return pixels
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise RuntimeError(
            f"expected frames of (height, width, 3) uint8, found {pixels.shape} {pixels.dtype}"
        )
    height, width, _ = pixels.shape
    return Frame(time.perf_counter(), width, height, pixels=pixels)


def _in_rgb(config: CameraConfig) -> CameraConfig:
    """Return a configuration whose camera gives RGB: topics say which order they have."""
    config = copy.copy(config)
    if hasattr(config, "color_mode"):
        config.color_mode = ColorMode.RGB
    return config


def _quiet_reader_threads() -> None:
    """Drop what LeRobot's reader threads log, a line a frame: `Gone` has the reason."""
    handler = logging.StreamHandler()
    handler.addFilter(lambda record: not record.threadName.endswith("_read_loop"))
    log = logging.getLogger("lerobot.cameras")
    log.handlers = [handler]
    log.propagate = False
