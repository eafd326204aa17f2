"""Which label an ended episode gets: a person's, or what is set for those without one."""

from residual_smolvla_ros.arguments import UNLABELLED
from residual_smolvla_ros.errors import ConfigError

WAIT = UNLABELLED[0]


class Labelling:
    """The label of the episode that has ended last, while it has none or is being rewarded.

    `unlabelled` is wait, failure or discard; the latter two are given after `time_s`. Times are s.
    Raises ConfigError for another word.
    """

    def __init__(self, unlabelled: str, time_s: float):
        if unlabelled not in UNLABELLED:
            raise ConfigError(
                f"unlabelled: expected one of {', '.join(UNLABELLED)}, found {unlabelled!r}"
            )
        self._unlabelled = unlabelled
        self._time = time_s
        self.close()

    @property
    def is_open(self) -> bool:
        """Whether an episode has ended whose outcome is not kept yet."""
        return self.reason is not None

    @property
    def awaits_label(self) -> bool:
        """Whether a person may label it."""
        return self.is_open and not self.label

    def open(self, reason: str, now: float) -> None:
        """Wait for the label of an episode that ended for a reason."""
        self.reason: str | None = reason
        self.label = ""
        self._until = now + self._time

    def due(self, now: float) -> str:
        """Return the label of an episode that nobody labels, once it is time, else ""."""
        late = self.awaits_label and self._unlabelled != WAIT and now > self._until
        return self._unlabelled if late else ""

    def close(self) -> None:
        """The outcome is kept."""
        self.reason, self.label = None, ""
