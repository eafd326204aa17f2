"""An SO101 on a desk, emulated at its wires: servos on a pseudo-terminal, cameras on pipes."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from feetech_emulator import Emulator
from video_device import VideoDevice


@contextlib.contextmanager
def emulated_so101(folder: Path) -> Iterator[tuple[Emulator, dict[str, Path]]]:
    """Yield the servos, calibrated as `arm` in a folder, and the cameras' devices by name."""
    devices = {name: VideoDevice(folder / name) for name in ("front", "wrist")}
    with Emulator(folder) as servos:
        servos.calibrate(folder, "arm")
        for device in devices.values():
            device.plug()
        try:
            yield servos, {name: device.path for name, device in devices.items()}
        finally:
            for device in devices.values():
                device.unplug()
