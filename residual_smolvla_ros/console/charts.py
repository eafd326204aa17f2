"""The charts of the page."""

from nicegui import ui

from residual_smolvla_ros.console.state import View

# Readable on light and on dark.
_GREY, _BLUE, _ORANGE, _GREEN = "#8b929c", "#3b82f6", "#f59e0b", "#22a06b"
_TEXT = {"color": _GREY, "fontSize": 11}
_SPLIT = {"lineStyle": {"color": _GREY, "opacity": 0.2}}


class LearningCurve:
    """Success over control steps of training, with the evaluations as levels."""

    def __init__(self):
        with ui.row().classes("title"):
            ui.label("Learning curve")
            self._note = ui.label().classes("note")
        self._chart = ui.echart(
            {
                "animation": False,
                "textStyle": {"fontFamily": "inherit"},
                "grid": {"left": 34, "right": 14, "top": 26, "bottom": 34},
                "legend": {"top": 0, "itemWidth": 16, "itemHeight": 8, "textStyle": _TEXT},
                "tooltip": {"trigger": "axis"},
                "xAxis": {
                    "type": "value", "min": 0, "axisLabel": _TEXT, "splitLine": {"show": False},
                    "name": "thousand control steps of training", "nameLocation": "middle",
                    "nameGap": 20, "nameTextStyle": _TEXT,
                },
                "yAxis": {"type": "value", "min": 0, "max": 1, "interval": 0.25,
                          "axisLabel": _TEXT, "splitLine": _SPLIT},
                "series": [
                    _line("training, running mean", _BLUE, width=1.5, opacity=0.7),
                    _line("validation", _ORANGE, symbol="circle"),
                    _line("base alone", _GREY, dashed=True),
                    _line("base + residual", _GREEN, dashed=True),
                ],
            }
        ).classes("chart")  # fmt: skip
        self._revision = -1

    def show(self, view: View) -> None:
        """Draw the curve where it has changed."""
        if view.curve_revision == self._revision:
            return
        self._revision, curve = view.curve_revision, view.curve
        last = max(view.training_steps / 1e3, 1.0)
        levels = (curve.base, curve.residual)
        data = [
            [[steps / 1e3, round(success, 3)] for steps, success, _ in points]
            for points in (curve.training, curve.validation)
        ]
        data += [[] if rate is None else [[0, rate[0]], [last, rate[0]]] for rate in levels]
        for series, points in zip(self._chart.options["series"], data, strict=True):
            series["data"] = points
        self._chart.update()
        self._note.set_text("" if curve.training or curve.base else "no episode yet")


class RewardCourse:
    """The reward of each step of the episode."""

    def __init__(self):
        hidden = {"show": False}
        self._chart = ui.echart(
            {
                "animation": False,
                "grid": {"left": 34, "right": 14, "top": 6, "bottom": 6},
                "xAxis": {"type": "value", "min": 0, "axisLabel": hidden, "splitLine": hidden,
                          "axisTick": hidden},
                "yAxis": {"type": "value", "axisLabel": _TEXT, "splitNumber": 2,
                          "splitLine": _SPLIT},
                "series": [_line("reward", _BLUE, width=1.5)],
            }
        ).classes("course")  # fmt: skip
        self._shown: tuple = ()

    def show(self, course: tuple[tuple[int, float], ...]) -> None:
        """Draw the rewards where they have changed."""
        if course == self._shown:
            return
        self._shown = course
        self._chart.options["series"][0]["data"] = [[x, round(y, 4)] for x, y in course]
        self._chart.update()


def _line(
    name: str,
    color: str,
    symbol: str = "none",
    dashed: bool = False,
    width: float = 2,
    opacity: float = 1,
) -> dict:
    return {
        "name": name,
        "type": "line",
        "data": [],
        "symbol": symbol,
        "symbolSize": 6,
        "color": color,
        "lineStyle": {"width": width, "opacity": opacity, "type": "dashed" if dashed else "solid"},
    }
