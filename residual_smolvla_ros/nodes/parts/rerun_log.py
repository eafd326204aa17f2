"""A session in rerun: what LeRobot's own loops log, under its names, and what the residual adds."""

import os
import queue
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from residual_smolvla_ros.errors import ConfigError

VIEWER = "viewer"
SESSION = "residual_smolvla_ros"
# Of a list of names to scalars, by how their entities are called.
PLOTS = ("base", "residual", "reward", "metrics")


@dataclass
class Moment:
    """What is new of a session: joints in LeRobot's units by `<joint>.pos`, images as RGB."""

    stamp: int | None = None  # ns
    observation: dict[str, np.ndarray | float] = field(default_factory=dict)
    action: dict[str, float] = field(default_factory=dict)
    plots: dict[str, dict[str, float]] = field(default_factory=dict)  # by one of PLOTS

    def __bool__(self) -> bool:
        return bool(self.observation or self.action or self.plots)


class RerunLog:
    """Log moments in a thread of its own: rerun blocks for as long as its viewer takes nothing.

    `sink` is `viewer` for one on this machine, host:port for one elsewhere, or a file *.rrd.
    Raises ConfigError where there is no rerun, no display for its viewer, or the file exists.
    """

    def __init__(self, sink: str):
        _check(sink)
        self.skipped = 0
        self._sink = sink
        self._waiting: queue.Queue[Moment | None] = queue.Queue(maxsize=1)
        self._arranged = False
        self._open()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def add(self, moment: Moment) -> bool:
        """Take a moment; False, and nothing is logged, while the one before is being logged."""
        try:
            self._waiting.put_nowait(moment)
        except queue.Full:
            self.skipped += 1
            return False
        return True

    def close(self, timeout_s: float = 2.0) -> None:
        """Log what is waiting, and end; give up after `timeout_s`."""
        try:
            self._waiting.put(None, timeout=timeout_s)
            self._thread.join(timeout_s)
        except queue.Full:
            pass  # its viewer takes nothing

    def _open(self) -> None:
        import rerun
        from lerobot.utils.rerun_visualization import init_rerun, log_rerun_data

        host, _, port = self._sink.rpartition(":")
        if self._sink.endswith(".rrd"):
            log_rerun_data.blueprint = None
            rerun.init(SESSION)
            rerun.save(self._sink)
            return
        # A Python that is started by its path has the viewer beside it, and not in its PATH.
        os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        init_rerun(SESSION, ip=host or None, port=int(port) if host else None)

    def _work(self) -> None:
        from lerobot.utils.rerun_visualization import shutdown_rerun

        while (moment := self._waiting.get()) is not None:
            self._log(moment)
        shutdown_rerun()

    def _log(self, moment: Moment) -> None:
        import rerun
        from lerobot.utils.rerun_visualization import log_rerun_data

        if moment.stamp is not None:
            rerun.set_time("stamp", duration=moment.stamp / 1e9)
        log_rerun_data(observation=moment.observation, action=moment.action)
        for plot, values in moment.plots.items():
            for name, value in values.items():
                rerun.log(f"{plot}.{name}", rerun.Scalars(value))
        if not self._arranged and moment.observation:
            self._arranged = True
            rerun.send_blueprint(_blueprint(moment.observation))


def _check(sink: str) -> None:
    if find_spec("rerun") is None:
        raise ConfigError("rerun: expected the package rerun-sdk (of lerobot[viz]), found none")
    screen = sys.platform != "linux" or {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys()
    if sink == VIEWER and not screen:
        raise ConfigError(
            "rerun: expected a display for its viewer, found none; rerun:=<file>.rrd writes a "
            "file, rerun:=<host>:<port> shows it elsewhere"
        )
    if sink.endswith(".rrd") and Path(sink).exists():
        raise ConfigError(f"rerun: expected a new file, found {sink}")


def _blueprint(observation: Mapping):
    """Return a view for each camera, one for the joints, and one for each plot."""
    import rerun.blueprint as layout

    cameras = [name for name, value in observation.items() if np.ndim(value) == 3]
    views = [layout.Spatial2DView(origin=f"observation.{name}", name=name) for name in cameras]
    names = [name for name in observation if name not in cameras]
    for kind in ("observation", "action", "base", "residual"):
        contents = [f"{kind}.{name}" for name in names]
        views.append(layout.TimeSeriesView(name=kind, contents=contents))
    return layout.Blueprint(layout.Grid(*views), auto_views=True)
