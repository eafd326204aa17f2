"""What a person asks for while episodes run: keys of this terminal, and Ctrl-C."""

import signal
import threading

from lerobot.utils.keyboard_input import create_key_listener

from residual_smolvla_ros.records import DISCARD, FAILURE, SUCCESS

HELP = "s: success, f: failure, d or left: discard, right: end the episode, Ctrl-C or q: stop"
_LABELS = {"s": SUCCESS, "f": FAILURE, "d": DISCARD, "r": DISCARD, "left": DISCARD}


class Keys:
    """Listen for the time of a `with` block; `clear` before each episode.

    Keys are heard where there is a terminal. The first Ctrl-C asks for a stop, a second one is
    Python's own.
    """

    def __init__(self):
        self.label = ""
        self.ends = self.stops = False
        self.heard = threading.Event()

    def __enter__(self) -> "Keys":
        self._before = signal.signal(signal.SIGINT, self._interrupt)
        self._listener = create_key_listener(self.press, controls_help=HELP)
        return self

    def __exit__(self, *_) -> None:
        if self._listener is not None:
            self._listener.stop()
        signal.signal(signal.SIGINT, self._before)

    @property
    def are_heard(self) -> bool:
        """Whether anybody listens to keys."""
        return self._listener is not None

    def clear(self) -> None:
        """Forget what was asked for of the last episode."""
        self.label, self.ends = "", False
        self.heard.clear()

    def press(self, name: str) -> None:
        """Take a key."""
        key = name.lower()
        if key in _LABELS:
            self.label = _LABELS[key]
        elif key in ("right", "n"):
            self.ends = True
        elif key in ("q", "esc"):
            self.stops = True
        else:
            return
        self.heard.set()

    def _interrupt(self, *_) -> None:
        self.stops = True
        self.heard.set()
        signal.signal(signal.SIGINT, self._before)
