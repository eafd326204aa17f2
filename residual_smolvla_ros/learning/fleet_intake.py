"""What a learner hears of several arms: their episodes in one order, whoever sends them first."""

import time
from collections.abc import Callable
from functools import partial

from residual_smolvla_ros.learning.assembly import EpisodeEnd
from residual_smolvla_ros.learning.intake import SILENCE_S, Intake
from residual_smolvla_ros.learning.rollout import Episode
from residual_smolvla_ros.learning.run import LearnerRun
from residual_smolvla_ros.learning.schedule import EpisodePlan
from residual_smolvla_ros.records import Record


class FleetIntake:
    """Join what comes of each arm's episodes, and let one learner learn from all.

    `arms` holds an Intake for each; `shared` is the one without an arm, which makes the weights.
    Training episodes are taken in the order of their index, each once: so the same run gives the
    same weights whichever arms play it. With `beside`, off-policy, whatever comes is taken at once.
    For further arguments see Intake.
    """

    def __init__(
        self,
        arms: tuple[str, ...],
        run: LearnerRun,
        publish: Callable[[bytes], None],
        warn: Callable[[str], None],
        executed: bool = False,
        beside: bool = False,
        clock: Callable[[], float] = time.monotonic,
        silence_s: float = SILENCE_S,
    ):
        self.shared = Intake(run, publish, warn, executed, beside, clock)
        self.arms = {
            arm: Intake(run, publish, partial(self._warn, arm), executed, beside, clock,
                        self._take, silence_s)
            for arm in arms
        }  # fmt: skip
        self._silence_s = silence_s
        self._tell, self._clock, self._ordered = warn, clock, not beside
        self._next = run.learner.counters.episodes + run.learner.collected
        self._ahead: dict[int, Episode | None] = {}  # None: taken already
        self._played: dict[int, float] = {}  # what has been played, and since when it is known

    def take_event(self, record: Record) -> None:
        """Take an episode/event of the node fleet."""
        if record.metadata["event"] == "played":
            plan = EpisodePlan.from_json(record.metadata["plan"])
            if plan.is_training and plan.index >= self._next:
                self._played[plan.index] = self._clock()
        else:
            self.shared.take_event(record)

    def watch(self) -> None:
        """Go on where records do not come; to be called regularly."""
        for arm in self.arms.values():
            arm.watch()
        since = self._played.get(self._next) if self._ordered else None
        # An arm that was lost right after an episode has taken what it had not sent with it.
        late = since is not None and self._clock() - since > 2 * self._silence_s
        if late and not any(arm.waits for arm in self.arms.values()):
            self._tell(f"training episode {self._next}: played, and nothing of it came")
            self._ahead[self._next] = Episode()
            self._drain()

    def _take(self, end: EpisodeEnd, episode: Episode) -> None:
        if end.index < self._next or end.index in self._ahead:
            return  # played twice: its arm was taken for lost
        self._ahead[end.index] = episode if self._ordered else None
        if not self._ordered:
            self.shared.learn(episode)
        self._drain()

    def _drain(self) -> None:
        while self._next in self._ahead:
            index, self._next = self._next, self._next + 1
            self._played.pop(index, None)
            episode = self._ahead.pop(index)
            if episode is not None:
                self.shared.learn(episode)

    def _warn(self, arm: str, text: str) -> None:
        self._tell(f"{arm}: {text}")

    def status(self) -> dict[str, str]:
        """Return what each arm has sent."""
        found = {}
        for name, arm in self.arms.items():
            for what in ("episodes", "steps", "lost"):
                found[f"{name}/{what}"] = str(getattr(arm, what))
        return found
