"""What the console shows. The ROS thread puts it in, the page takes a `View` out.

Positions are rad, times those of one monotonic clock.
"""

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from residual_smolvla_ros.console.results import Curve, RunResults
from residual_smolvla_ros.learning.schedule import EpisodePlan, Outcome

# A node reports once a second.
SILENT_S = 3.5
STALE_S = 1.0
# Warnings stay in view for so long after they were last said.
WARNING_S = 60.0
# Of what anybody may send, so much is kept and shown.
MAX_WARNINGS, MAX_NODES, MAX_JOINTS, MAX_TEXT = 100, 100, 100, 1000
OK, WARN, ERROR = 0, 1, 2


@dataclass(frozen=True)
class JointView:
    """One joint in rad; base and residual are None where the policy has sent none of late."""

    name: str
    position: float
    base: float | None = None
    residual: float | None = None


@dataclass(frozen=True)
class RewardView:
    """The newest reward with its terms, the sums over the episode, and its course.

    `whole` is false where the console has not seen the episode from its first step.
    """

    total: float
    terms: dict[str, float]
    missing: tuple[str, ...]
    total_sum: float
    sums: dict[str, float]
    course: tuple[tuple[int, float], ...]
    whole: bool


@dataclass(frozen=True)
class Notice:
    """A line of a node: `count` times the same, last `age` seconds ago."""

    node: str
    level: int
    text: str
    count: int
    age: float


@dataclass(frozen=True)
class View:
    """All that a page needs at a moment; `age`s are in s."""

    joints: tuple[JointView, ...] = ()
    joints_age: float | None = None
    reward: RewardView | None = None
    plan: EpisodePlan | None = None
    tick: int | None = None
    active: bool = False
    episode_state: str = ""
    label: str = ""
    reason: str = ""
    intervention: bool = False
    robot_mode: str = ""
    robot_text: str = ""
    robot_level: int = OK
    counts: tuple[tuple[str, int, int], ...] = ()
    training_steps: int = 0
    metrics: dict[str, str] = field(default_factory=dict)
    warnings: tuple[Notice, ...] = ()
    curve: Curve = field(default_factory=Curve)
    curve_revision: int = 0


@dataclass
class _Report:
    level: int
    message: str
    values: dict[str, str]
    at: float


class ConsoleState:
    """The newest of each topic, and the run's results."""

    def __init__(self, robot: str, outcomes: Sequence[Outcome] = (), clock=time.monotonic):
        self._robot = robot
        self._clock = clock
        self._lock = threading.Lock()
        self._results = RunResults(outcomes)
        self._positions: dict[str, float] = {}
        self._positions_at: float | None = None
        self._actions: dict[str, tuple[float, dict[str, float]]] = {}
        self._plan: EpisodePlan | None = None
        self._tick: int | None = None
        self._active = self._intervention = False
        self._episode_state = self._label = self._reason = ""
        self._reports: dict[str, _Report] = {}
        self._warnings: dict[tuple[str, int, str], tuple[int, float]] = {}
        self._curve, self._curve_revision = Curve(), -1
        self._forget_rewards(whole=False)

    # -- from topics ------------------------------------------------------------------------

    def set_joints(self, names: Sequence[str], positions: Sequence[float]) -> None:
        """Take a state of the robot, in rad."""
        with self._lock:
            self._positions = _joints(names, positions)
            self._positions_at = self._clock()

    def set_action(self, kind: str, names: Sequence[str], positions: Sequence[float]) -> None:
        """Take what the policy shows: `kind` is base or residual, in rad."""
        with self._lock:
            self._actions[kind] = self._clock(), _joints(names, positions)

    def add_reward(
        self,
        total: float,
        names: Sequence[str],
        terms: Sequence[float],
        missing: Sequence[str],
        label: str,
    ) -> None:
        """Take the reward of a step; one that a label gave replaces the episode's last."""
        with self._lock:
            if label and self._course:
                self._total_sum -= self._course.pop()
                for name, value in self._last_terms.items():
                    self._sums[name] -= value
            elif not self._active:
                return  # states go on between episodes
            self._last_terms = dict(zip(names, map(float, terms), strict=False))
            self._missing = tuple(missing)
            self._course.append(total)
            self._total_sum += total
            for name, value in self._last_terms.items():
                self._sums[name] = self._sums.get(name, 0.0) + value

    def set_tick(self, tick: int) -> None:
        """Take the number of the control step that was just played."""
        with self._lock:
            self._tick = tick

    def prepare(self, plan: EpisodePlan) -> None:
        """Take the plan of the next episode."""
        with self._lock:
            self._plan, self._tick = plan, None

    def end(self, plan: EpisodePlan, reason: str, success: bool, label: str, steps: int) -> None:
        """Take an episode's end."""
        with self._lock:
            self._reason, self._label, self._tick = reason, label, steps
            self._results.add_end(plan, reason, success, label, steps)

    def set_label(self, episode: int, label: str) -> None:
        """Take the label that an episode got after its end."""
        with self._lock:
            self._label = label
            self._results.add_label(episode, label)

    def set_active(self, active: bool) -> None:
        """Take whether an episode runs."""
        with self._lock:
            if active and not self._active:
                self._label = self._reason = ""
                self._forget_rewards(whole=True)
            self._active = active

    def set_episode_state(self, text: str) -> None:
        """Take what the node `episode` is doing."""
        with self._lock:
            self._episode_state = text[:MAX_TEXT]

    def set_intervention(self, active: bool) -> None:
        """Take whether a person drives."""
        with self._lock:
            self._intervention = active

    def report(self, name: str, level: int, message: str, values: dict[str, str]) -> None:
        """Take a node's line of /diagnostics."""
        with self._lock:
            node = _short(name)
            if node not in self._reports and len(self._reports) >= MAX_NODES:
                self._reports.pop(min(self._reports, key=lambda known: self._reports[known].at))
            values = {key[:MAX_TEXT]: value[:MAX_TEXT] for key, value in values.items()}
            self._reports[node] = _Report(level, message[:MAX_TEXT], values, self._clock())

    def log(self, node: str, level: int, text: str) -> None:
        """Take a warning or an error that a node logged."""
        with self._lock:
            key = _short(node), level, " ".join(text[:MAX_TEXT].split())
            count, _ = self._warnings.pop(key, (0, 0.0))
            self._warnings[key] = count + 1, self._clock()
            while len(self._warnings) > MAX_WARNINGS:
                self._warnings.pop(next(iter(self._warnings)))

    def forget_stream(self) -> None:
        """Forget what is only taken while somebody looks: it goes on without being seen."""
        with self._lock:
            self._positions_at = self._tick = None
            self._actions.clear()
            self._forget_rewards(whole=False)

    def _forget_rewards(self, whole: bool) -> None:
        self._course: deque[float] = deque(maxlen=2000)
        self._last_terms: dict[str, float] = {}
        self._sums: dict[str, float] = {}
        self._missing: tuple[str, ...] = ()
        self._total_sum = 0.0
        self._whole = whole

    # -- to the page ------------------------------------------------------------------------

    def positions(self) -> dict[str, float]:
        """Return the joint positions in rad; empty where there is no recent state."""
        with self._lock:
            if self._positions_at is None or self._clock() - self._positions_at > STALE_S:
                return {}
            return dict(self._positions)

    def view(self) -> View:
        """Return what there is to see now."""
        with self._lock:
            now = self._clock()
            if self._curve_revision != self._results.revision:
                self._curve = self._results.curve()
                self._counts = tuple(self._results.counts())
                self._training_steps = self._results.training_steps()
                self._curve_revision = self._results.revision
            robot = self._reports.get(self._robot)
            silent = robot is not None and now - robot.at > SILENT_S
            learner = self._reports.get("learner")
            return View(
                joints=self._joints(now),
                joints_age=None if self._positions_at is None else now - self._positions_at,
                reward=self._reward(),
                plan=self._plan,
                tick=self._tick,
                active=self._active,
                episode_state=self._episode_state,
                label=self._label,
                reason=self._reason,
                intervention=self._intervention,
                robot_mode="" if robot is None or silent else robot.values.get("mode", ""),
                robot_text="" if robot is None else "silent" if silent else robot.message,
                robot_level=OK if robot is None else ERROR if silent else robot.level,
                counts=self._counts,
                training_steps=self._training_steps,
                metrics={} if learner is None else dict(learner.values),
                warnings=self._current_warnings(now),
                curve=self._curve,
                curve_revision=self._curve_revision,
            )

    def _joints(self, now: float) -> tuple[JointView, ...]:
        recent = {kind: v for kind, (at, v) in self._actions.items() if now - at < STALE_S}
        base, residual = recent.get("base", {}), recent.get("residual", {})
        return tuple(
            JointView(name, position, base.get(name), residual.get(name))
            for name, position in self._positions.items()
        )

    def _reward(self) -> RewardView | None:
        if not self._course:
            return None
        course = list(enumerate(self._course))
        every = max(1, len(course) // 100)
        return RewardView(
            self._course[-1],
            dict(self._last_terms),
            self._missing,
            self._total_sum,
            dict(self._sums),
            tuple(course[::every]),
            self._whole,
        )

    def _current_warnings(self, now: float) -> tuple[Notice, ...]:
        found = [
            Notice(name, ERROR if now - r.at > SILENT_S else r.level,
                   f"silent for {now - r.at:.0f} s" if now - r.at > SILENT_S else r.message,
                   1, 0.0)
            for name, r in self._reports.items()
            if r.level > OK or now - r.at > SILENT_S
        ]  # fmt: skip
        logged = [
            Notice(node, level, text, count, now - at)
            for (node, level, text), (count, at) in self._warnings.items()
            if now - at < WARNING_S
        ]
        return tuple(found + logged[::-1])


def _short(name: str) -> str:
    """Return a node's name without its namespace; rosout separates by dots, diagnostics by /."""
    return name.replace("/", ".").rsplit(".", 1)[-1][:MAX_TEXT]


def _joints(names: Sequence[str], positions: Sequence[float]) -> dict[str, float]:
    several = zip(names[:MAX_JOINTS], positions, strict=False)
    return {name[:MAX_TEXT]: position for name, position in several}
