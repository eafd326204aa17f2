"""What an episode has earned so far, from reward records, which go on between episodes."""

from residual_smolvla_ros.records import Record


class EpisodeTally:
    """Count the steps of an episode and sum their rewards and the shares of their terms.

    Each reward follows on the one before, up to a reset. Those that were still under way when an
    episode ended go on from it, and are not the next one's. Those of states that were known when it
    began are of before: a node that is started anew says all of them once more.
    """

    def __init__(self):
        self._following_stamp = self.newest_stamp = 0
        self._resets = self._ended_resets = 0
        self.begin()

    def begin(self) -> None:
        """Begin an episode with nothing."""
        self.steps = self.intervened_steps = self.last_stamp = 0
        self.episode_return = 0.0
        self.terms: dict[str, float] = {}
        self._stamps: set[int] = set()
        self._last: Record | None = None
        self._known_stamp = self.newest_stamp

    def add(self, record: Record, active: bool, intervened: bool = False) -> bool:
        """Take a reward record; return whether it is one of the episode's, which is `active`.

        One that has been counted already is none.
        """
        stamp = record.metadata["stamp"]
        self.newest_stamp = max(self.newest_stamp, record.metadata["next_stamp"])
        if stamp < self._known_stamp or (active and stamp in self._stamps):
            return False
        if record.metadata["stamp"] != self._following_stamp:
            self._resets += 1
        self._following_stamp = record.metadata["next_stamp"]
        if not active or self._resets == self._ended_resets:
            return False
        self.steps += 1
        self._stamps.add(record.metadata["stamp"])
        self.intervened_steps += intervened
        self._earn(record, 1)
        self._last, self.last_stamp = record, record.metadata["stamp"]
        return True

    def end(self) -> None:
        """End the episode: rewards that follow on its last one no longer count."""
        self._ended_resets = self._resets

    def judge(self, record: Record) -> None:
        """Take the reward that the last step got for a person's label, in place of its own."""
        self._earn(self._last, -1)
        self._earn(record, 1)
        self._last = record

    def _earn(self, record: Record, sign: int) -> None:
        self.episode_return += sign * float(record["reward"])
        for name, share in zip(record.metadata["names"], record["terms"], strict=False):
            self.terms[name] = self.terms.get(name, 0.0) + sign * float(share)
