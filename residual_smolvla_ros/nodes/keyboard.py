"""Node `keyboard`: keys of a terminal -> services of a running pipeline.

Keys mean what they mean in `lerobot-record` and in LeRobot's HIL-SERL, where both have them. Only
keys typed into this terminal count. What could set an arm in motion that stands still waits for
Enter, so that a stray key never does.
"""

import queue
import sys
import time
from dataclasses import dataclass
from functools import partial

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.exceptions import InvalidServiceNameException
from rclpy.task import Future
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.nodes.common import LATCHED_QOS, PipelineNode
from residual_smolvla_ros.nodes.common import main as run

# Another node is found within this time, and answers within it.
ANSWER_S = 3.0
CONFIRM_S = 5.0
POLL_S = 0.05
ROBOT = "so101_bridge"
USAGE = """usage: residual-smolvla keys
       ros2 run residual_smolvla_ros keyboard --ros-args -p robot:=so101_sim

"""


@dataclass(frozen=True)
class Action:
    """What keys do: the service that they call, and whether they wait for Enter."""

    keys: tuple[str, ...]
    does: str
    service: str
    confirm: bool = False
    label: bool = False


TAKE_KEYS = ("t", "tab")
TAKE = Action(TAKE_KEYS, "take the arm over", "intervention/start")
GIVE_BACK = Action(TAKE_KEYS, "give the arm back", "intervention/stop", confirm=True)
ACTIONS = (
    Action(("s",), "success; ends the episode", "episode/success", label=True),
    Action(("f", "q"), "failure; ends the episode", "episode/failure", label=True),
    Action(("r", "left"), "discard the episode; ends it", "episode/discard", label=True),
    Action(("esc",), "end the episode and stop there", "episode/stop"),
    Action(("g",), "go on after a stop", "episode/start", confirm=True),
    Action(("n", "right"), "the scene is set", "reset_environment/done", confirm=True),
    TAKE,
    GIVE_BACK,
    Action(("space",), "hold the arm", "{robot}/hold"),
    Action(("u",), "release the arm", "{robot}/release", confirm=True),
)
# What the session waits for, by the state of `episode`.
PROMPTS = {
    "unlabelled": "the episode waits for its label: s, f or r, then Enter",
    "paused": "the session stands still: g, then Enter, goes on",
}


def table(robot: str = ROBOT) -> str:
    """Return the keys, what they do, and the services that they call."""
    rows = []
    for action in ACTIONS:
        keys = ", ".join(action.keys) + (" + Enter" if action.confirm else "")
        rows.append(f"  {keys:18}{action.does:32}{action.service.format(robot=robot)}")
    rows.append("  Ctrl-C            leave; the pipeline runs on")
    return "\n".join(rows)


@dataclass
class Call:
    """A call under way: until when its service is looked for, or its answer is awaited."""

    until: float
    future: Future | None = None


class KeyboardNode(PipelineNode):
    """Call a service for each key, and print what it answers."""

    def __init__(self):
        super().__init__("keyboard")
        robot = self.parameter("robot", ROBOT, "the robot's node: so101_bridge or so101_sim")
        if not sys.stdin.isatty():
            raise ConfigError("expected a terminal to read keys from, found none")
        try:
            self._callers = {
                action: self.create_client(Trigger, action.service.format(robot=robot))
                for action in ACTIONS
            }
        except InvalidServiceNameException:
            raise ConfigError(f"robot: expected the name of a node, found {robot!r}") from None
        self._calls: dict[Action, Call] = {}
        self._armed: tuple[Action, float] | None = None  # waits for Enter, until when
        self._person_drives = False
        self._state = ""
        self.create_subscription(Bool, "intervention/active", self._on_active, LATCHED_QOS)
        self.create_subscription(String, "episode/state", self._on_state, LATCHED_QOS)
        self.create_timer(POLL_S, self._watch)
        self._typed: queue.SimpleQueue[str] = queue.SimpleQueue()
        # The reading thread only wakes the executor: all of ROS stays in one thread.
        self._pressed = self.create_guard_condition(self._on_keys)
        # Imported late: it brings torch, and what is wrong is said without seconds of that. Not
        # LeRobot's create_key_listener: on X11 that would take keys typed into any window.
        from lerobot.utils.keyboard_input import TerminalKeyListener

        print(table(robot), flush=True)
        # Last of all: the terminal is put back by `close`, which needs a whole node.
        self._listener = TerminalKeyListener(self._on_key)
        self._listener.start()

    # -- keys -------------------------------------------------------------------------------

    def _on_key(self, name: str) -> None:
        self._typed.put(name)
        self._pressed.trigger()

    def _on_keys(self) -> None:
        while not self._typed.empty():
            self._press(self._typed.get().lower())

    def _press(self, key: str) -> None:
        armed, self._armed = self._armed, None
        if key == "enter":
            if armed is not None and time.monotonic() < armed[1]:
                self._call(armed[0])
            return
        action = self._action(key)
        if action is None:
            return
        waits = action.label and self._state == "unlabelled"  # the next reset moves the arm
        if action.confirm or waits:
            self._armed = action, time.monotonic() + CONFIRM_S
            self._say(action, "the arm may move then: press Enter")
        else:
            self._call(action)

    def _action(self, key: str) -> Action | None:
        if key in TAKE_KEYS:
            return GIVE_BACK if self._person_drives else TAKE
        return next((action for action in ACTIONS if key in action.keys), None)

    # -- calls ------------------------------------------------------------------------------

    def _call(self, action: Action) -> None:
        if action not in self._calls:  # a key that is held down repeats itself
            self._calls[action] = Call(time.monotonic() + ANSWER_S)
            self._watch()

    def _watch(self) -> None:
        """Send the calls whose service was found; give up on those that nobody answers."""
        for action, call in list(self._calls.items()):
            client = self._callers[action]
            if call.future is None and client.service_is_ready():
                call.future = client.call_async(Trigger.Request())
                call.future.add_done_callback(partial(self._on_answer, action))
            elif time.monotonic() > call.until:
                del self._calls[action]
                if call.future is None:
                    self._say(action, "nobody offers this service: is the pipeline running?")
                else:
                    client.remove_pending_request(call.future)
                    self._say(action, f"no answer within {ANSWER_S:.0f} s")

    def _on_answer(self, action: Action, future: Future) -> None:
        if self._calls.pop(action, None) is None:
            return
        answer = future.result()
        if answer.success and action in (TAKE, GIVE_BACK):
            self._person_drives = action is TAKE  # the topic says so too, perhaps later
        self._say(action, answer.message if answer.success else f"refused: {answer.message}")
        self.tally("calls")

    def _say(self, action: Action, text: str) -> None:
        print(f"{action.keys[0]:6}{self._callers[action].srv_name}: {text}", flush=True)

    # -- the session ------------------------------------------------------------------------

    def _on_active(self, message: Bool) -> None:
        self._person_drives = message.data

    def _on_state(self, message: String) -> None:
        self._state = message.data
        if message.data in PROMPTS:
            print(PROMPTS[message.data], flush=True)

    def status(self):
        """Report the state of the session, as far as it has been heard."""
        values = {"state": self._state, "person_drives": str(self._person_drives)}
        return DiagnosticStatus.OK, "keys are read", values

    def close(self) -> None:
        """Put the terminal back as it was."""
        self._listener.stop()


def main(args=None) -> None:
    """Entry point of the executable."""
    if {"-h", "--help"} & set(sys.argv[1:] if args is None else args):
        print(USAGE + table())
        return
    run(KeyboardNode, args)


if __name__ == "__main__":
    main()
