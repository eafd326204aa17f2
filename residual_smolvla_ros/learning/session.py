"""The life of a session's episodes: prepared, running, ended, labelled, kept."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass

from residual_smolvla_ros.learning.labelling import Labelling
from residual_smolvla_ros.learning.schedule import (
    TRAINING_PHASES,
    EpisodePlan,
    Outcome,
    Schedule,
)
from residual_smolvla_ros.learning.tally import EpisodeTally
from residual_smolvla_ros.records import DISCARD, FAILURE, SUCCESS, Record, RecordError

INTERRUPTED = "interrupted"

# What a learner tells of its progress, and what it is called in a schedule.
PROGRESS = {
    "episodes_per_update": "episodes_per_update",
    "warmup_updates": "warmup_updates",
    "episodes": "training_episodes",
    "env_steps": "env_steps",
    "rollbacks": "rollbacks",
    "weights_lag": "weights_lag",
}


@dataclass(frozen=True)
class Listeners:
    """Who is told: of events (with the fields of an EPISODE_EVENT), of activity, of outcomes."""

    event: Callable[[dict], None]
    active: Callable[[bool], None]
    outcome: Callable[[Outcome], None]


class Session:
    """Play a schedule's episodes one after the other.

    `judged` says that a simulator knows failure too: an episode that ends without success has
    failed then. Else it stays open until it is labelled. Methods that a person's request leads to
    return whether it was followed, and a message.
    """

    def __init__(
        self,
        schedule: Schedule,
        labelling: Labelling,
        listeners: Listeners,
        judged: bool = True,
        trains: bool = True,
        paused: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.schedule = schedule
        self.labelling = labelling
        self.plan: EpisodePlan | None = None
        self.running = self._scene_is_set = False
        self.paused = paused
        self.person_drives = False
        self.version: int | None = None if trains else -1
        self._tell = listeners
        self._judged = judged
        self._trains = trains
        self._clock = clock
        self._tally = EpisodeTally()
        self._started = self.progress_at = clock()

    # -- the life of an episode -------------------------------------------------------------

    def take_weights(self, version: int, progress: str) -> bool:
        """Take note of the learner's version; return whether it is the first one heard of.

        Raises RecordError, with all as it was, where the progress is not one.
        """
        first = self.version is None
        if first:
            for name, value in read_progress(progress).items():
                setattr(self.schedule, PROGRESS[name], value)
        self.version = version
        return first

    def restore(self, outcomes: list[Outcome], last_episode: int) -> None:
        """Go on after the outcomes of an interrupted run."""
        self.schedule.restore(outcomes, last_episode)
        self._started -= max((o.wall_s for o in outcomes), default=0.0)

    def take_over(self, outcomes: list[Outcome], last_episode: int) -> None:
        """Go on in the place of a session that died, while all others went on.

        The episode that it may have been in is discarded, and played again. A learner that dies
        too, before its next update, hears again how the episodes ended that it learns from then.
        """
        self.restore(outcomes, last_episode)
        for outcome in outcomes:
            if (
                outcome.phase in TRAINING_PHASES
                and outcome.index >= self.schedule.training_episodes
            ):
                self._tell.event(_end_again(outcome, self.schedule.max_steps))
        trained = {o.index: o.steps for o in outcomes if o.phase in TRAINING_PHASES}
        self.schedule.training_episodes = len(trained)
        self.schedule.env_steps = sum(trained.values())
        self.plan = self.schedule.next()
        if self.plan is not None:
            self._end(INTERRUPTED, DISCARD)

    def interrupt(self, scene: bool = True) -> bool:
        """Discard the episode that runs: it lost a node that it needs, and is played again.

        One that is only prepared is prepared anew where its `scene` is lost. Returns whether an
        episode was discarded.
        """
        if self.running:
            self._end(INTERRUPTED, DISCARD)
            return True
        if scene and not self.labelling.is_open:
            self.plan = None
        return False

    def give_up_label(self) -> bool:
        """Discard the episode that waits for its label or the reward of it, if one does."""
        waits = self.labelling.is_open
        if waits:
            self._take_label(DISCARD)
        return waits

    def prepare(self) -> bool:
        """Plan the next episode where none is; return whether its scene is to be set.

        Raises StopIteration when all have been played.
        """
        if self.labelling.is_open:
            label = self.labelling.due(self._clock())
            if label:
                self._take_label(label)
            return False
        if self.running or self.paused:
            return False
        if self.plan is None:
            plan = self.schedule.next()
            if plan is None:
                raise StopIteration
            self.plan = plan
            self._scene_is_set = False
            self._tally.begin()
            self._announce("prepare", last_stamp=self._tally.newest_stamp)
        if self._scene_is_set:
            self._run()
        return not self._scene_is_set

    def begin(self) -> None:
        """Let the prepared episode run: its scene is set."""
        if self.paused or self.plan is None:
            self.plan = None  # stopped meanwhile: prepared anew at the start
            return
        self._scene_is_set = True
        self._run()

    @property
    def is_updating(self) -> bool:
        """Whether the prepared episode waits for weights that the learner has not sent yet."""
        return self._trains and self.plan is not None and self.plan.weights_version > self.version

    def _run(self) -> None:
        # The scene is set while the learner updates.
        if self.is_updating:
            return
        self.running = True
        self.progress_at = self._clock()
        self._tell.active(True)

    def take_reward(self, record: Record) -> None:
        """Count a step, and end the episode where it terminated or at its time limit."""
        if record.metadata["label"]:
            self._take_judged(record)
            return
        if not self._tally.add(record, self.running, self.person_drives):
            return
        self.progress_at = self._clock()
        if record.metadata["terminated"]:
            self._end("terminated", SUCCESS if record.metadata["success"] else FAILURE)
        elif self._tally.steps >= self.plan.max_steps:
            self._end("truncated", self._judgement())

    def _judgement(self) -> str:
        return FAILURE if self._judged else ""

    def _end(self, reason: str, label: str) -> None:
        """End the episode; without a label a person is asked for one."""
        self.running = False
        self._tally.end()
        self._tell.active(False)
        self._announce("end", reason, label)
        if label:
            self._close(reason, label)
        else:
            self.labelling.open(reason, self._clock())

    def _take_label(self, label: str) -> None:
        """Label the episode that has ended; the reward of its last step follows from it."""
        self.labelling.label = label
        self._announce("label", self.labelling.reason, label)
        if label == DISCARD:
            self._close(self.labelling.reason, label)

    def _take_judged(self, record: Record) -> None:
        waits = self.labelling.is_open and record.metadata["label"] == self.labelling.label
        if waits and record.metadata["stamp"] == self._tally.last_stamp:
            self._tally.judge(record)
            self._close(self.labelling.reason, self.labelling.label)

    def _close(self, reason: str, label: str) -> None:
        """Keep the outcome."""
        plan, tally = self.plan, self._tally
        outcome = plan.outcome(
            steps=tally.steps,
            success=label == SUCCESS,
            episode_return=tally.episode_return,
            reason=reason,
            wall_s=self._clock() - self._started,
            label=label,
            intervened_steps=tally.intervened_steps,
            last_stamp=tally.last_stamp,
            terms={name: round(share, 6) for name, share in tally.terms.items()},
        )
        self._tell.outcome(outcome)
        self.schedule.record(outcome)
        self._judge_version()
        self.plan = None
        self.labelling.close()
        self.progress_at = self._clock()

    def _judge_version(self) -> None:
        """Announce what a validation that is complete says of the weights."""
        verdict = self.schedule.verdict
        if verdict is None:
            return
        if not verdict:
            self.schedule.roll_back()
        self._announce("validated", "", SUCCESS if verdict else FAILURE)

    def _announce(
        self, event: str, reason: str = "", label: str = "", last_stamp: int | None = None
    ) -> None:
        fields = {
            "event": event,
            "episode": self.plan.episode,
            "plan": self.plan.to_json(),
            "reason": reason,
            "success": label == SUCCESS,
            "label": label,
            "last_stamp": self._tally.last_stamp if last_stamp is None else last_stamp,
            "steps": self._tally.steps,
        }
        self._tell.event(fields)

    # -- what a person asks for -------------------------------------------------------------

    def label(self, label: str) -> tuple[bool, str]:
        """Label the running episode, which ends it, or the one that has just ended."""
        running = self.running and self._tally.steps > 0
        if not running and not self.labelling.awaits_label:
            return False, self._why_no_label()
        episode = self.plan.episode
        if running:
            self._end("labelled", "")
        self._take_label(label)
        return True, f"episode {episode}: {label}"

    def _why_no_label(self) -> str:
        if self.running:
            return "the episode has no step yet"
        if self.labelling.is_open:
            return f"episode {self.plan.episode} is labelled {self.labelling.label} already"
        last = self.schedule.last_episode
        return f"no episode to label: {f'episode {last} is closed' if last else 'none yet'}"

    def stop(self) -> tuple[bool, str]:
        """End the running episode, and begin no other until `start`."""
        if self.paused:
            return False, "stopped already"
        self.paused = True
        if self._scene_is_set and not self.running:
            self.plan = None  # nobody knows what becomes of the scene meanwhile
        if self.running:
            self._end("stopped", self._judgement() if self._tally.steps else DISCARD)
        return True, "stopped until episode/start"

    def start(self) -> tuple[bool, str]:
        """Go on after a stop."""
        if not self.paused:
            return False, "no episode/stop to go on from"
        self.paused = False
        return True, "going on"


def read_progress(text: str) -> dict[str, int]:
    """Return what a learner tells of its progress; raise RecordError where it is not one."""
    try:
        values = json.loads(text)
        counters = {name: values[name] for name in PROGRESS}
    except (ValueError, KeyError, TypeError, RecursionError):
        counters = {}
    whole = [value for value in counters.values() if type(value) is int and 0 <= value < 2**63]
    if len(whole) < len(PROGRESS) or counters["episodes_per_update"] < 1:
        raise RecordError(
            f"weights record: expected progress with {', '.join(PROGRESS)}, found {text[:80]!r}"
        )
    return counters


def _end_again(outcome: Outcome, max_steps: int) -> dict:
    """Return the event of an episode that has ended and been labelled."""
    done = outcome.label == SUCCESS
    return {
        "event": "end",
        "episode": outcome.episode,
        "plan": outcome.plan(max_steps).to_json(),
        "reason": "terminated" if done else outcome.reason,
        "success": done,
        "label": outcome.label,
        "last_stamp": outcome.last_stamp,
        "steps": outcome.steps,
    }
