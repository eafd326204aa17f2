"""A camera for tests: a named pipe that a process of its own feeds with video at 30 Hz.

    python video_device.py PATH CODEC FIRST [WIDTH HEIGHT]

LeRobot's `opencv` camera opens its path as it opens /dev/video0. Each frame carries a counter.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

BITS = 16
RATE_HZ = 30
PIXEL_FORMATS = {"mjpeg": "yuvj420p", "ffv1": "yuv420p"}
# Makes a JPEG of 640x480 as large as that of a real scene, 60 kB.
TEXTURE = np.random.default_rng(0).integers(-24, 25, (480, 640), np.int16)


class VideoDevice:
    """A device that can be plugged in, unplugged, and made to hang."""

    def __init__(self, path: Path, codec: str = "mjpeg", size: tuple[int, int] = (320, 240)):
        self.path = path
        self._codec = codec
        self._size = size
        self._process: subprocess.Popen | None = None

    def plug(self, first: int = 0) -> None:
        """Make the device appear; its first frame has this counter."""
        os.mkfifo(self.path)
        words = [self.path, self._codec, first, *self._size]
        self._process = subprocess.Popen([sys.executable, __file__, *map(str, words)])

    def hang(self) -> None:
        """Give no more frames, and stay there."""
        self._process.send_signal(signal.SIGSTOP)

    def unplug(self) -> None:
        """Make the device disappear."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self.path.unlink(missing_ok=True)


def picture(counter: int, size: tuple[int, int] = (320, 240)) -> np.ndarray:
    """Return (H, W, 3) uint8 grey stripes, a bit of the counter each."""
    stripes = [192 if counter >> bit & 1 else 64 for bit in range(BITS)]
    width, height = size
    row = np.repeat(np.array(stripes, np.int16), width // BITS)
    grey = (row + TEXTURE[:height, :width]).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def read_counter(pixels: np.ndarray) -> int:
    """Return the counter of a picture, however it was compressed."""
    stripes = pixels.mean(axis=(0, 2)).reshape(BITS, -1).mean(axis=1)
    return sum(1 << bit for bit, grey in enumerate(stripes) if grey > 127)


def jpeg(counter: int, size: tuple[int, int] = (320, 240)) -> bytes:
    """Return the JPEG that the device sends for a counter."""
    return cv2.imencode(".jpg", picture(counter, size))[1].tobytes()


def write_video(target: str, codec: str, counters, size=(320, 240)) -> None:
    """Write an AVI of the pictures of these counters, as they come."""
    with av.open(target, "w", format="avi", options={"flush_packets": "1"}) as container:
        stream = container.add_stream(codec, rate=RATE_HZ)
        stream.width, stream.height = size
        stream.pix_fmt = PIXEL_FORMATS[codec]
        for index, counter in enumerate(counters):
            if codec == "mjpeg":
                packet = av.Packet(jpeg(counter, size))
                packet.stream, packet.is_keyframe = stream, True
                packet.pts = packet.dts = index
                packet.time_base = Fraction(1, RATE_HZ)
                packets = [packet]
            else:
                packets = stream.encode(av.VideoFrame.from_ndarray(picture(counter, size)))
            for packet in packets:
                container.mux(packet)


def _paced(first: int):
    counter, parent = first, os.getppid()
    next_at = time.monotonic()
    while os.getppid() == parent:  # a test that was killed leaves no device behind
        yield counter
        counter += 1
        next_at = max(next_at + 1.0 / RATE_HZ, time.monotonic())
        time.sleep(max(0.0, next_at - time.monotonic()))


def main() -> None:
    """Feed the pipe until killed; begin the video anew for each reader."""
    path, codec, first, width, height = sys.argv[1:]
    counters = _paced(int(first))
    parent = os.getppid()
    while os.getppid() == parent:
        with contextlib.suppress(BrokenPipeError):  # nobody reads it any more
            write_video(path, codec, counters, (int(width), int(height)))


if __name__ == "__main__":
    main()
