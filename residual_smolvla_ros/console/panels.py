"""The panels of the page: each builds its elements once, and `show`s a `View` with them."""

from nicegui import ui

from residual_smolvla_ros.console.charts import RewardCourse
from residual_smolvla_ros.console.layout import (
    GIVE_BACK,
    SCENE,
    START,
    STOP,
    TAKE_OVER,
    Layout,
)
from residual_smolvla_ros.console.state import ERROR, OK, WARN, View
from residual_smolvla_ros.progress import LABELS as PHASES
from residual_smolvla_ros.records import DISCARD, FAILURE, SUCCESS
from residual_smolvla_ros.robots.units import is_gripper, rad_to_lerobot

# A correction that fills its bar: degrees, or percent of the gripper.
FULL_BAR = 10.0
WARNING_ROWS = 12
NOTHING = "-"
LEVELS = {OK: "ok", WARN: "warn", ERROR: "error"}
METRICS = {
    "version": "updates",
    "collected": "collected",
    "success": "success",
    "return": "return",
    "kl": "KL",
    "explained_variance": "explained var.",
    "policy_loss": "policy loss",
    "value_loss": "value loss",
    "entropy": "entropy",
    "std": "std",
    "intervened": "by a person",
    "episode_steps": "steps an episode",
}


def _button(text: str, action: str, key: str = "", kind: str = "") -> None:
    with ui.element("button").props(f'type="button" data-call="{action}"').classes(kind):
        ui.label(text)
        if key:
            ui.label(key).classes("key")


def _rounded(value: float, digits: int) -> float:
    """Round, without a negative zero."""
    return round(value, digits) + 0.0


def _title(element: ui.element, text: str) -> None:
    if element.props.get("title") != text:
        element.props["title"] = text


class StatusBar:
    """One line at the top: what the session does, who drives, what the robot does."""

    def __init__(self, settings: Layout):
        self._robot_name = settings.robot
        with ui.element("header"):
            ui.label("residual_smolvla_ros").classes("name")
            self._phase = ui.label().classes("chip")
            self._state = ui.label().classes("chip")
            self._driver = ui.label().classes("chip")
            self._robot = ui.label().classes("chip")

    def show(self, view: View) -> None:
        """Follow the view."""
        plan = view.plan
        phase = f"{PHASES.get(plan.phase, plan.phase)}, episode {plan.episode}" if plan else ""
        self._phase.set_text(phase or "no episode yet")
        self._state.set_text(view.episode_state or ("running" if view.active else "not running"))
        self._driver.set_text("a person drives" if view.intervention else "policy drives")
        self._driver.classes(replace=f"chip {'warn' if view.intervention else ''}")
        text = view.robot_mode or view.robot_text or "not heard of"
        self._robot.set_text(f"{self._robot_name}: {text}")
        self._robot.classes(replace=f"chip {LEVELS.get(view.robot_level, 'error')}")
        _title(self._robot, view.robot_text)


class EpisodePanel:
    """Time, counts, and the buttons of a session."""

    def __init__(self, settings: Layout):
        self._rate = settings.rate_hz
        with ui.row().classes("title"):
            ui.label("Episode")
            self._time = ui.label().classes("note time")
        self._bar = ui.element("div").classes("timer")
        with ui.element("div").classes("buttons labels"):
            _button("Success", SUCCESS, "S", "good")
            _button("Failure", FAILURE, "F", "bad")
            _button("Discard", DISCARD, "R")
        with ui.element("div").classes("buttons session"):
            _button("Start", START, kind="start")
            _button("Stop", STOP, "Esc", "stop")
            if SCENE in settings.services:
                _button("Scene is set", SCENE, kind="scene")
            _button("Take over", TAKE_OVER, kind="takeover")
            _button("Give back", GIVE_BACK, kind="giveback")
        self._said = ui.label().classes("note said")
        with ui.element("div").classes("counts"):
            self._counts = {phase: _Count(text) for phase, text in PHASES.items()}

    def show(self, view: View) -> None:
        """Follow the view."""
        steps = view.plan.max_steps if view.plan else 0
        tick = min(view.tick or 0, steps)
        known = steps and view.tick is not None
        self._time.set_text(
            f"{tick / self._rate:.1f} of {steps / self._rate:.1f} s" if known
            else f"up to {steps / self._rate:.1f} s" if steps else ""
        )  # fmt: skip
        self._bar.style(f"--done: {100 * tick / steps if steps else 0:.1f}%")
        ended = f"ended: {view.reason}, {view.label or 'no label yet'}" if view.reason else ""
        self._said.set_text("" if view.active else ended)
        counts = {phase: (successes, n) for phase, successes, n in view.counts}
        for phase, count in self._counts.items():
            count.show(counts.get(phase))


class _Count:
    def __init__(self, text: str):
        with ui.element("div").classes("count") as self._row:
            ui.label(text)
            self._value = ui.label().classes("number")
        self._row.set_visibility(False)

    def show(self, count: tuple[int, int] | None) -> None:
        self._row.set_visibility(count is not None)
        if count is not None:
            successes, episodes = count
            self._value.set_text(f"{successes} of {episodes} ({100 * successes / episodes:.0f} %)")


class JointPanel:
    """Position, base action and residual of each joint; buttons to jog while a person drives."""

    def __init__(self):
        with ui.row().classes("title"):
            ui.label("Joints")
            self._note = ui.label().classes("note")
        self._grid = ui.element("div").classes("joint-grid")
        self._names: tuple[str, ...] = ()
        self._rows: list[_JointRow] = []

    def show(self, view: View) -> None:
        """Follow the view; the rows are made anew for a robot with other joints."""
        names = tuple(joint.name for joint in view.joints)
        if names != self._names:
            self._names = names
            self._grid.clear()
            with self._grid:
                for head in ("", "position", "base"):
                    ui.label(head).classes("head")
                ui.label("residual").classes("head residual-head")
                ui.label().classes("head jog")
                self._rows = [_JointRow(name) for name in names]
        for row, joint in zip(self._rows, view.joints, strict=True):
            row.show(joint.position, joint.base, joint.residual)
        stale = view.joints_age is None or view.joints_age > 1.0
        since = f"no joint_states for {view.joints_age:.0f} s" if view.joints_age else ""
        self._note.set_text((since or "no joint_states yet") if stale else "")
        self._grid.classes(replace=f"joint-grid {'stale' if stale else ''}")


class _JointRow:
    def __init__(self, name: str):
        self._name = name
        self._unit = "%" if is_gripper(name) else "°"
        ui.label(name).classes("joint")
        self._position = ui.label().classes("number position")
        self._base = ui.label().classes("number")
        with ui.element("div").classes("residual"):
            self._residual = ui.label().classes("number")
            self._bar = ui.element("div").classes("bar")
        with ui.element("div").classes("jog"):
            for sign, direction in (("-", -1), ("+", 1)):
                jog = f'type="button" data-jog="{name}" data-direction="{direction}"'
                with ui.element("button").props(f'{jog} aria-label="{name} {sign}"'):
                    ui.label(sign)

    def show(self, position: float, base: float | None, residual: float | None) -> None:
        self._position.set_text(self._format(position))
        _title(self._position, f"{position:.4f} rad")
        self._base.set_text(NOTHING if base is None else self._format(base))
        _title(self._base, "" if base is None else f"{base:.4f} rad")
        if residual is None:
            self._residual.set_text(NOTHING)
            self._bar.style("--size: 0; --from: 50%")
            return
        # A difference: without the offset of the gripper's zero.
        size = self._convert(residual) - self._convert(0.0)
        self._residual.set_text(f"{_rounded(size, 2):+.2f}{self._unit}")
        _title(self._residual, f"{residual:+.5f} rad")
        part = 50 * min(abs(size) / FULL_BAR, 1.0)
        start = 50 if size >= 0 else 50 - part
        self._bar.style(f"--size: {part:.1f}%; --from: {start:.1f}%")

    def _format(self, rad: float) -> str:
        return f"{_rounded(self._convert(rad), 1):.1f}{self._unit}"

    def _convert(self, rad: float) -> float:
        return float(rad_to_lerobot([rad], (self._name,))[0])


class RewardPanel:
    """The newest reward with its terms, their sums over the episode, and its course."""

    def __init__(self):
        with ui.row().classes("title"):
            ui.label("Reward")
            self._note = ui.label().classes("note")
        self._grid = ui.element("div").classes("reward-grid")
        self._course = RewardCourse()
        self._names: tuple[str, ...] | None = None
        self._rows: dict[str, tuple[ui.label, ui.label]] = {}

    def show(self, view: View) -> None:
        """Follow the view; the rows are made anew for other terms."""
        reward = view.reward
        names = ("total", *reward.terms) if reward else ("total",)
        if names != self._names:
            self._names = names
            self._grid.clear()
            with self._grid:
                for head in ("", "step", "episode"):
                    ui.label(head).classes("head")
                self._rows = {name: self._row(name) for name in names}
        if reward is None:
            self._note.set_text("no reward yet")
            self._course.show(())
            return
        step = {"total": reward.total} | reward.terms
        sums = {"total": reward.total_sum} | reward.sums
        for name, (now, total) in self._rows.items():
            now.set_text(f"{_rounded(step[name], 3):+.3f}")
            total.set_text(f"{_rounded(sums.get(name, 0.0), 2):+.2f}")
        self._note.set_text(
            f"lacks {', '.join(reward.missing)}" if reward.missing
            else "" if reward.whole else "sums since this page came"
        )  # fmt: skip
        self._course.show(reward.course)

    @staticmethod
    def _row(name: str) -> tuple[ui.label, ui.label]:
        ui.label(name).classes("term" if name != "total" else "total")
        return ui.label(NOTHING).classes("number"), ui.label(NOTHING).classes("number")


class LearnerPanel:
    """The newest metrics of the learner."""

    def __init__(self):
        with ui.row().classes("title"):
            ui.label("Learner")
            self._note = ui.label().classes("note")
        with ui.element("div").classes("metrics"):
            self._values = {name: self._cell(text) for name, text in METRICS.items()}

    def show(self, view: View) -> None:
        """Follow the view."""
        for name, label in self._values.items():
            label.set_text(view.metrics.get(name, NOTHING))
        self._note.set_text(
            f"{view.training_steps} control steps of training" if view.training_steps else ""
        )

    @staticmethod
    def _cell(text: str) -> ui.label:
        with ui.element("div").classes("metric"):
            ui.label(text)
            return ui.label(NOTHING).classes("number")


class WarningPanel:
    """What nodes warn of, the newest first."""

    def __init__(self):
        with ui.row().classes("title"):
            ui.label("Warnings")
            self._note = ui.label().classes("note")
        with ui.element("div").classes("lines"):
            self._lines = [ui.label() for _ in range(WARNING_ROWS)]

    def show(self, view: View) -> None:
        """Follow the view."""
        self._note.set_text("" if view.warnings else "none")
        for index, line in enumerate(self._lines):
            line.set_visibility(index < len(view.warnings))
            if index < len(view.warnings):
                warning = view.warnings[index]
                times = f" ({warning.count} times)" if warning.count > 1 else ""
                line.set_text(f"{warning.node}: {warning.text}{times}")
                line.classes(replace=LEVELS.get(warning.level, "error"))
