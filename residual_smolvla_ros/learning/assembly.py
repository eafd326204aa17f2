"""Join the steps and rewards of episodes, which arrive on several topics in any order."""

from dataclasses import dataclass, replace

import numpy as np

from residual_smolvla_ros.learning.rollout import Episode
from residual_smolvla_ros.records import DISCARD, SUCCESS, Record


@dataclass(frozen=True)
class EpisodeEnd:
    """How an episode closed.

    `wanted` is false where the learner is not to have it; `index` counts those that it is to have.
    `timed_out` ones are truncated by the time limit, others by a person. `open` ones wait for a
    person's label; with `judged`, the last step's reward is the one that was given for that label.
    """

    episode: int
    last_stamp: int
    steps: int
    truncated: bool
    success: bool
    wanted: bool = True
    open: bool = False
    judged: str = ""
    timed_out: bool = False
    index: int = 0

    def labelled(self, label: str) -> "EpisodeEnd":
        """Return the end of an open episode with its label."""
        return replace(
            self,
            open=False,
            judged="" if label == DISCARD else label,
            success=label == SUCCESS,
            # Done is done, also at the time limit. Not done there may be done a moment later.
            truncated=self.truncated and label != SUCCESS,
            wanted=self.wanted and label != DISCARD,
        )


class EpisodeAssembler:
    """Collect step, reward and end records, and hand out whole episodes in their order.

    Records past an episode's end are left out. When partners stay missing, the episode is cut
    before the first gap, and the state there bootstraps its return. With `with_executed` each
    step also waits for the command that the robot executed.
    """

    def __init__(self, with_executed: bool = False):
        self._with_executed = with_executed
        self._steps: dict[int, dict[int, Record]] = {}
        self._rewards: dict[int, float | None] = {}
        self._labels: dict[int, str] = {}
        self._executed: dict[int, np.ndarray] = {}
        self._ends: list[EpisodeEnd] = []
        self._closed_episode = 0
        self._closed_stamp = 0

    def add_step(self, record: Record) -> None:
        """Take a policy/step record; a second one of the same stamp is ignored."""
        episode = record.metadata["episode"]
        if episode > self._closed_episode:
            self._steps.setdefault(episode, {}).setdefault(record.metadata["stamp"], record)

    def add_reward(self, record: Record) -> None:
        """Take a reward record; a second one of the same stamp counts only if it has a label."""
        stamp, label = record.metadata["stamp"], record.metadata["label"]
        if stamp > self._closed_stamp and (label or stamp not in self._rewards):
            # Without all of its terms a reward says nothing: the episode is cut there.
            complete = not record.metadata["missing"]
            self._rewards[stamp] = float(record["reward"]) if complete else None
            self._labels[stamp] = label

    def add_executed(self, stamp: int, command: np.ndarray) -> None:
        """Take what the robot executed in answer to a state, in LeRobot's units."""
        if stamp > self._closed_stamp:
            self._executed.setdefault(stamp, command)

    def add_end(self, end: EpisodeEnd) -> None:
        """Take note of an episode's end; one that is told again replaces what was told before."""
        if end.episode <= self._closed_episode:
            return
        ends = {known.episode: known for known in self._ends}
        self._ends = list((ends | {end.episode: end}).values())

    def add_label(self, episode: int, label: str) -> None:
        """Close an episode that ended without a label."""
        self._ends = [
            end.labelled(label) if end.open and end.episode == episode else end
            for end in self._ends
        ]

    @property
    def waiting(self) -> EpisodeEnd | None:
        """The oldest episode that has ended and still lacks records, not only a label."""
        return self._ends[0] if self._ends and not self._ends[0].open else None

    def pop(self, late: bool = False) -> tuple[EpisodeEnd, Episode, int] | None:
        """Return the next wanted episode and how many of its steps were lost, or None so far.

        With `late` the oldest episode is taken as it is, unless it waits for its label.
        """
        while self._ends:
            end = self._ends[0]
            if end.open:
                return None
            if end.wanted and not late and not self._complete(end):
                return None
            self._ends.pop(0)
            built = self._build(end) if end.wanted else None
            self._forget(end)
            if built:
                return end, *built
        return None

    def _complete(self, end: EpisodeEnd) -> bool:
        stamps = self._played(end)
        if len(stamps) != end.steps or not all(self._has_partners(stamp) for stamp in stamps):
            return False
        if end.judged and self._labels.get(end.last_stamp) != end.judged:
            return False
        return not end.truncated or self._following(end, end.last_stamp) is not None

    def _has_partners(self, stamp: int) -> bool:
        return stamp in self._rewards and (not self._with_executed or stamp in self._executed)

    def _build(self, end: EpisodeEnd) -> tuple[Episode, int]:
        records = self._steps.get(end.episode, {})
        stamps = []
        for tick, stamp in enumerate(self._played(end)):
            lost = records[stamp].metadata["tick"] != tick or not self._has_partners(stamp)
            if lost or self._rewards[stamp] is None:
                break
            if not tick and not records[stamp].metadata["decision"]:
                break  # nothing was decided that could have led here
            stamps.append(stamp)
        cut = len(stamps) < end.steps
        following = self._following(end, stamps[-1]) if stamps else None
        if stamps and following is None and (cut or end.truncated):
            # The state after the last step is unknown: that step becomes the state to bootstrap.
            following = records[stamps.pop()]
            cut = True
        episode = Episode(success=end.success)
        for stamp in stamps:
            record = records[stamp]
            episode.add_step(
                self._rewards[stamp],
                record.metadata["decision"],
                record["features"],
                record["residual"],
                float(record["log_prob"]),
                float(record["value"]),
                record.metadata["intervention"],
            )
            if self._with_executed:
                episode.commands.append(record["command"])
                episode.executed.append(self._executed[stamp])
            episode.weights_version = record.metadata["weights_version"]
        if stamps and (cut or end.truncated):
            episode.final_features = following["features"]
            episode.timed_out = end.timed_out and not cut
        return episode, end.steps - len(stamps)

    def _forget(self, end: EpisodeEnd) -> None:
        # An episode that was stopped at once has no stamp of a last step.
        self._closed_episode = end.episode
        self._closed_stamp = max(self._closed_stamp, end.last_stamp)
        self._steps = {e: s for e, s in self._steps.items() if e > end.episode}
        self._rewards = {s: r for s, r in self._rewards.items() if s > end.last_stamp}
        self._labels = {s: text for s, text in self._labels.items() if s > end.last_stamp}
        self._executed = {s: c for s, c in self._executed.items() if s > end.last_stamp}

    def _played(self, end: EpisodeEnd) -> list[int]:
        records = self._steps.get(end.episode, {})
        return sorted(
            stamp
            for stamp, record in records.items()
            if stamp <= end.last_stamp and not record.metadata["final"]
        )

    def _following(self, end: EpisodeEnd, stamp: int) -> Record | None:
        records = self._steps.get(end.episode, {})
        later = [s for s in records if s > stamp]
        following = records[min(later)] if later else None
        # Beyond a lost step lies another state than the one that followed.
        is_next = following and following.metadata["tick"] == records[stamp].metadata["tick"] + 1
        return following if is_next else None
