"""The page: elements of NiceGUI that follow the `View`, a few times a second for each browser.

What acts (buttons, HOLD, jogging) and the cameras are in `static/console.js`.
"""

import json
from collections.abc import Callable
from pathlib import Path

from nicegui import ui

from residual_smolvla_ros.console import charts
from residual_smolvla_ros.console.layout import Layout
from residual_smolvla_ros.console.panels import (
    EpisodePanel,
    JointPanel,
    LearnerPanel,
    RewardPanel,
    StatusBar,
    WarningPanel,
)
from residual_smolvla_ros.console.state import ConsoleState, View

UPDATE_S = 0.2
# A browser that has not answered for so long has gone, or sleeps: a phone in a pocket.
ANSWER_S = 10.0
_STATIC = Path(__file__).parent / "static"


def build_page(settings: Layout, state: ConsoleState, look: Callable[[], None]) -> None:
    """Register the page; `look` is called whenever one is in view."""
    # No part of NiceGUI's tree, so that HOLD works before it is there and when it is not.
    hold = (_STATIC / "hold.html").read_text()
    style, script = _address("console.css"), _address("console.js")
    head = f'<link rel="stylesheet" href="{style}"><script src="{script}" defer></script>'

    @ui.page("/")
    def page() -> None:
        ui.add_head_html(head)
        ui.add_body_html(hold)
        Page(settings, state, look)


class Page:
    """One browser's page. The next update waits until the browser has taken the last."""

    def __init__(self, settings: Layout, state: ConsoleState, look: Callable[[], None]):
        self._state = state
        self._look = look
        self._held_mode = settings.held_mode
        self._hidden = False
        self._client = ui.context.client
        with ui.element("main").classes("console"):
            self._status = StatusBar(settings)
            with ui.element("div").classes("column-left"):
                with _panel("cameras"):
                    for name in settings.cameras:
                        with ui.element("figure"):
                            ui.element("img").props(f'data-camera="{name}" alt="{name}"')
                            ui.element("figcaption").props(f'data-caption="{name}"')
                with _panel("joints"):
                    self._joints = JointPanel()
                with _panel("reward"):
                    self._reward = RewardPanel()
            with ui.element("div").classes("column-right"):
                with _panel("episode"):
                    self._episode = EpisodePanel(settings)
                with _panel("curve"):
                    self._curve = charts.LearningCurve()
                with _panel("learner"):
                    self._learner = LearnerPanel()
                with _panel("warnings"):
                    self._warnings = WarningPanel()
        ui.timer(UPDATE_S, self._update)

    async def _update(self) -> None:
        view = self._state.view()
        if not self._hidden:
            self._look()
            self._render(view)
        said = {
            "arm": "held" if view.robot_mode == self._held_mode else "free",
            "episode": view.episode_state,
            "driver": "person" if view.intervention else "policy",
        }
        try:
            self._hidden = await self._client.run_javascript(
                f"consoleSays({json.dumps(said)})", timeout=ANSWER_S
            )
        except TimeoutError:
            self._hidden = True

    def _render(self, view: View) -> None:
        for part in (self._status, self._episode, self._joints, self._reward, self._curve,
                     self._learner, self._warnings):  # fmt: skip
            part.show(view)


def _address(name: str) -> str:
    """Return a file's address, another one for each version: a browser keeps what it has got."""
    return f"/static/{name}?{(_STATIC / name).stat().st_mtime_ns}"


def _panel(name: str) -> ui.element:
    return ui.element("section").classes(f"panel {name}")
