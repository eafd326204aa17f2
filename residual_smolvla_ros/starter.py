"""Start a pipeline's nodes as processes where no `launch` is installed: honcho supervises them."""

import ctypes
import functools
import json
import multiprocessing
import signal
import sys
import time
from collections import deque
from pathlib import Path

import honcho.manager
import honcho.process

from residual_smolvla_ros import respawning
from residual_smolvla_ros.pipeline import NodeSpec, Pipeline
from residual_smolvla_ros.security import enclave

LAST_WORDS = 12
PR_SET_PDEATHSIG = 1  # from linux/prctl.h


def _die_with_parent(signum: int) -> None:
    """Ask Linux for a signal when the parent process ends: nothing lives on after a kill -9."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signum))


class _ArgumentProcess(honcho.process.Process):
    """A honcho process that takes a list of arguments: no shell is built from parameters."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._child_ctor = functools.partial(
            honcho.process.Popen,
            shell=False,
            preexec_fn=functools.partial(_die_with_parent, signal.SIGTERM),
        )

    def run(self, *args, **kwargs) -> None:
        """Start the node from a process of honcho's own, which ignores SIGTERM."""
        _die_with_parent(signal.SIGKILL)
        super().run(*args, **kwargs)


class _Manager(honcho.manager.Manager):
    """Start nodes that died again, and kill each that was told to end once its time is over.

    `end_s` is that time, by name. `first` is the first node that ended for good; what had been
    told to end does not count.
    """

    def __init__(self, printer, end_s: dict[str, float], respawns: respawning.Respawning, show):
        super().__init__(printer)
        self._end_s = end_s
        self._respawns, self._show = respawns, show
        self._due: dict[str, float] = {}  # when a node is to be started again
        self._told: float | None = None
        self.first = ""
        # honcho keeps an exit code, not whose it was, and ends all once one has ended.
        self._get, self.events.get = self.events.get, self._next_event
        # Once it is over, `kill` is called again and again.
        honcho.manager.KILL_WAIT = min(end_s.values())

    def terminate(self) -> None:
        """Tell all nodes to end."""
        if self._told is None:
            self._told = time.monotonic()
        for name in self._due:  # they have ended, and stay so
            self._processes[name]["returncode"] = 0
        self._due.clear()
        super().terminate()

    def kill(self) -> None:
        """Kill the nodes whose time is over."""
        waited = time.monotonic() - self._told
        for name, process in self._processes.items():
            if "returncode" not in process and waited > self._end_s[name]:
                self._procmgr.kill(process["pid"])

    def _next_event(self, *args, **kwargs):
        """Return what a node has said or done; honcho does not hear of an end that is mended."""
        for name in [n for n, due in self._due.items() if time.monotonic() >= due]:
            del self._due[name]
            self._start_again(name)
        message = self._get(*args, **kwargs)
        if message.type == "start" and self._told is not None:
            self._procmgr.terminate(message.data["pid"])  # it had none yet when all were told
        if message.type != "stop" or self._told is not None:
            return message
        code = message.data["returncode"]
        if not self._respawns.respawns(message.name, code):
            self.first = self.first or message.name
            return message
        self._show(f"node {message.name} ended with exit code {code}: it is started again")
        self._due[message.name] = time.monotonic() + respawning.DELAY_S
        return message._replace(type="line", data="", name=honcho.manager.SYSTEM_PRINTER_NAME)

    def _start_again(self, name: str) -> None:
        process = self._processes[name]
        process["process"] = multiprocessing.Process(
            name=name, target=process["obj"].run, args=(self.events, True)
        )
        process["process"].start()


class _LogPrinter:
    """Write each node's output to `<run>/log/<node>.log`; show warnings and errors."""

    width = 0

    def __init__(self, folder: Path, show):
        self._folder = folder
        self._show = show
        self._folder.mkdir(parents=True, exist_ok=True)
        self.last_words: dict[str, deque[str]] = {}

    def write(self, message) -> None:
        """Take a line of a node, or of honcho itself ("system")."""
        text = message.data
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        text = text.rstrip("\n")
        if message.name == "system":
            return
        self.last_words.setdefault(message.name, deque(maxlen=LAST_WORDS)).append(text)
        with (self._folder / f"{message.name}.log").open("a") as stream:
            stream.write(text + "\n")
        if any(mark in text for mark in ("[WARN]", "[ERROR]", "[FATAL]", ": error: ")):
            self._show(text)


def command(node: NodeSpec, parameter_file: Path) -> list[str]:
    """Return the command line of a node."""
    files = [*node.parameter_files, str(parameter_file)]
    space = [("__ns", f"/{node.namespace}")] if node.namespace else []
    remappings = [("__node", node.name), *space, *node.remappings]
    remaps = [part for old, new in remappings for part in ("-r", f"{old}:={new}")]
    arguments = [part for file in files for part in ("--params-file", file)]
    secured = ["--enclave", enclave(node.executable)]
    return [sys.executable, "-m", node.module, "--ros-args", *secured, *arguments, *remaps]


def run(pipeline: Pipeline, show=print) -> int:
    """Run a pipeline until its `episode` node is done, or a fleet's `fleet`; return an exit code.

    A node that dies is started again where `respawn` says so, else it brings the rest down; its
    name and last words are shown. `show` prints a line to the person.
    """
    end_s = {node.full_name: node.end_s for node in pipeline.nodes}
    respawns = respawning.Respawning(pipeline.output, pipeline.values.get("respawn", False))
    manager = _Manager(_LogPrinter(pipeline.output / "log", show), end_s, respawns, show)
    manager._process_ctor = _ArgumentProcess
    for node in pipeline.nodes:
        file = _write_parameters(pipeline.output / "parameters", node)
        manager.add_process(node.full_name, command(node, file))
        log = pipeline.output / "log" / f"{node.full_name}.log"
        log.parent.mkdir(exist_ok=True)
        log.touch()
    try:
        manager.loop()
    except KeyboardInterrupt:
        manager.terminate()
        return 130
    # A child that was told to stop is silent: the first to stop by itself decides.
    name, code = manager.first, manager.returncode or 0
    if code in (130, 143):
        show("interrupted: stopped with the checkpoint of the last update")
    elif name and not respawns.is_complete(name, code):
        words = manager._printer.last_words.get(name, ())
        show(f"node {name} ended with exit code {code}; its last words:")
        for line in words:
            show(f"  {line}")
        return code if code > 0 else 1
    return code


def _write_parameters(folder: Path, node: NodeSpec) -> Path:
    """Write a node's parameters where ROS 2 reads them; JSON is YAML."""
    file = folder / f"{node.full_name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    # By its full name: a file's section `/**` is applied ahead of one for a single node.
    sections = {f"/{node.full_name}": {"ros__parameters": node.parameters}}
    file.write_text(json.dumps(sections, indent=1) + "\n")
    return file
