"""Keys of a real terminal and the services that they call, between real processes."""

import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from functools import partial

import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from robot_graph import isolated
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger

from residual_smolvla_ros.nodes.common import LATCHED_QOS

DOMAIN = 47
TIMEOUT_S = 30.0
COMMAND = [sys.executable, "-m", "residual_smolvla_ros.nodes.keyboard"]
LEFT, RIGHT, ESC, ENTER, CTRL_C = "\x1b[D", "\x1bOC", "\x1b", "\r", "\x03"
AT_ONCE = {
    "s": "episode/success",
    "f": "episode/failure",
    "q": "episode/failure",
    "r": "episode/discard",
    "S": "episode/success",
    LEFT: "episode/discard",
    ESC: "episode/stop",
    " ": "so101_bridge/hold",
    "t": "intervention/start",
    "\t": "intervention/start",
}
WITH_ENTER = {
    "g": "episode/start",
    "n": "reset_environment/done",
    RIGHT: "reset_environment/done",
    "u": "so101_bridge/release",
}
SERVICES = {*AT_ONCE.values(), *WITH_ENTER.values(), "intervention/stop"}


class Terminal:
    """The node `keyboard` in a terminal of its own; `screen` is what that shows."""

    def __init__(self, robot: str):
        self._master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.screen = ""
        self.process = subprocess.Popen(
            [*COMMAND, "--ros-args", "-p", f"robot:={robot}"],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            start_new_session=True,
            # Its controlling terminal, so that Ctrl-C is a signal.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def read(self) -> str:
        """Return the screen as it is now."""
        while select.select([self._master], [], [], 0)[0]:
            self.screen += os.read(self._master, 4096).decode().replace("\r\n", "\n")
        return self.screen

    def is_ready(self) -> bool:
        """Tell whether keys are read, one by one."""
        return not termios.tcgetattr(self.slave)[3] & (termios.ICANON | termios.ECHO)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self.slave)


class Session:
    """A node that offers the services of a session and says its state."""

    def __init__(self):
        self._context = Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node("session", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._state = self._node.create_publisher(String, "episode/state", LATCHED_QOS)
        self._active = self._node.create_publisher(Bool, "intervention/active", LATCHED_QOS)
        self.calls: list[str] = []
        self.refusal = ""
        for name in SERVICES:
            self._node.create_service(Trigger, name, partial(self._on_call, name))

    def _on_call(self, name: str, request: Trigger.Request, response: Trigger.Response):
        self.calls.append(name)
        if name == "intervention/start":
            self._active.publish(Bool(data=True))
        if name == "intervention/stop":
            self._active.publish(Bool(data=False))
        response.success = not self.refusal
        response.message = self.refusal or f"call {len(self.calls)}"
        return response

    def say(self, state: str) -> None:
        self._state.publish(String(data=state))

    def until(self, condition) -> None:
        """Answer calls until a condition holds."""
        end = time.monotonic() + TIMEOUT_S
        while not condition():
            assert time.monotonic() < end, self.calls
            self._executor.spin_once(timeout_sec=0.02)

    def close(self) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()


@pytest.fixture(scope="module", autouse=True)
def domain():
    with isolated(DOMAIN):
        yield


@pytest.fixture(scope="module")
def session():
    session = Session()
    yield session
    session.close()


@pytest.fixture(scope="module")
def terminals():
    """Two, started together: each takes seconds to begin."""
    terminals = [Terminal("so101_bridge"), Terminal("elsewhere")]
    yield terminals
    for terminal in terminals:
        terminal.close()


@pytest.fixture
def terminal(terminals, session):
    session.until(terminals[0].is_ready)
    session.calls.clear()
    session.refusal = ""
    return terminals[0]


def press(terminal: Terminal, session: Session, keys: str) -> str:
    """Type keys that end in one call; return its line on the screen."""
    shown, count = len(terminal.read()), len(session.calls)
    terminal.type(keys)
    answer = f": {session.refusal or f'call {count + 1}'}\n"
    session.until(lambda: answer in terminal.read()[shown:])
    assert len(session.calls) == count + 1
    return terminal.screen[shown:].splitlines()[-1]


def test_each_key_calls_its_service_once_and_prints_the_answer(terminal, session):
    for key, service in AT_ONCE.items():
        line = press(terminal, session, key)
        assert session.calls[-1] == service
        assert f"{service}: call {len(session.calls)}" in line
        if service == "intervention/start":
            assert press(terminal, session, key + ENTER).startswith("t     intervention/stop")
    session.refusal = "no episode is running"
    line = press(terminal, session, "s")
    assert line == "s     episode/success: refused: no episode is running"


def test_what_could_move_a_resting_arm_waits_for_enter(terminal, session):
    for key, service in WITH_ENTER.items():
        assert press(terminal, session, key + ENTER).endswith(f" {service}: call 1")
        session.calls.clear()
        # Not with another key between; space is answered after them, and so tells the end.
        press(terminal, session, key + "x" + ENTER + " ")
        assert session.calls == ["so101_bridge/hold"]
        session.calls.clear()


def test_a_label_that_lets_the_next_reset_begin_waits_for_enter(terminal, session):
    session.say("unlabelled")
    session.until(lambda: "waits for its label" in terminal.read())
    press(terminal, session, "s ")
    assert session.calls == ["so101_bridge/hold"]
    assert press(terminal, session, "s" + ENTER).endswith(" episode/success: call 2")
    session.say("paused")
    session.until(lambda: "g, then Enter, goes on" in terminal.read())
    assert press(terminal, session, "s").endswith(" episode/success: call 3")


def test_keys_that_mean_nothing_do_nothing(terminal, session):
    """Among them what terminals send for other keys: Home, F5, Alt-S, Ctrl-Right."""
    press(terminal, session, "xyz01" + ENTER + "\x1b[H\x1b[15~\x1bs\x1b[1;5C\x04 ")
    assert session.calls == ["so101_bridge/hold"]


def test_a_service_that_nobody_offers_is_told(terminals, session):
    session.until(terminals[1].is_ready)
    terminals[1].type(" ")
    session.until(lambda: "space elsewhere/hold: nobody offers" in terminals[1].read())


@pytest.mark.parametrize("way", ["Ctrl-C", "SIGTERM"])
def test_the_terminal_is_as_before_whichever_way_it_ends(terminals, session, way):
    terminal = terminals[way == "SIGTERM"]
    session.until(terminal.is_ready)
    if way == "Ctrl-C":
        terminal.type(CTRL_C)
    else:
        terminal.process.send_signal(signal.SIGTERM)
    assert terminal.process.wait(timeout=TIMEOUT_S) == 0
    assert termios.tcgetattr(terminal.slave) == terminal.before
    assert "Traceback" not in terminal.read()


def test_without_a_terminal_it_ends_with_one_line():
    found = subprocess.run(
        COMMAND, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert found.returncode == 1
    assert found.stderr == "keyboard: error: expected a terminal to read keys from, found none\n"


def test_help_lists_the_keys():
    found = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert found.returncode == 0
    assert "g + Enter" in found.stdout
