"""Start a pipeline's nodes as processes where no `launch` is installed: honcho supervises them."""

import ctypes
import functools
import json
import signal
import sys
import time
from collections import deque
from pathlib import Path

import honcho.manager
import honcho.process

from residual_smolvla_ros.pipeline import NodeSpec, Pipeline
from residual_smolvla_ros.security import enclave

LAST_WORDS = 12
ENDS = ("episode", "fleet")  # what a run is complete with
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
    """Kill each node that was told to end once its own time is over, `end_s` by name."""

    def __init__(self, printer, end_s: dict[str, float]):
        super().__init__(printer)
        self._end_s = end_s
        self._told: float | None = None
        # Once it is over, `kill` is called again and again.
        honcho.manager.KILL_WAIT = min(end_s.values())

    def terminate(self) -> None:
        """Tell all nodes to end."""
        if self._told is None:
            self._told = time.monotonic()
        super().terminate()

    def kill(self) -> None:
        """Kill the nodes whose time is over."""
        waited = time.monotonic() - self._told
        for name, process in self._processes.items():
            if "returncode" not in process and waited > self._end_s[name]:
                self._procmgr.kill(process["pid"])


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

    A node that dies brings the rest down; its name and last words are shown. `show` prints a
    line to the person.
    """
    end_s = {node.full_name: node.end_s for node in pipeline.nodes}
    ends = {node.full_name for node in pipeline.nodes if node.executable in ENDS}
    manager = _Manager(_LogPrinter(pipeline.output / "log", show), end_s)
    manager._process_ctor = _ArgumentProcess
    # A child that was told to stop is silent: the first to stop by itself decides.
    first: list[str] = []
    for node in pipeline.nodes:
        file = _write_parameters(pipeline.output / "parameters", node)
        manager.add_process(node.full_name, command(node, file))
        log = pipeline.output / "log" / f"{node.full_name}.log"
        log.parent.mkdir(exist_ok=True)
        log.touch()
    _remember_first_stop(manager, first)
    try:
        manager.loop()
    except KeyboardInterrupt:
        manager.terminate()
        return 130
    name = first[0] if first else ""
    code = manager.returncode or 0
    if code in (130, 143):
        show("interrupted: stopped with the checkpoint of the last update")
    elif name and (code != 0 or name not in ends):
        words = manager._printer.last_words.get(name, ())
        show(f"node {name} ended with exit code {code}; its last words:")
        for line in words:
            show(f"  {line}")
        return code if code > 0 else 1
    return code


def _remember_first_stop(manager: honcho.manager.Manager, first: list[str]) -> None:
    """Note which process stopped first: honcho keeps its exit code, not its name."""
    get = manager.events.get

    def noting(*args, **kwargs):
        message = get(*args, **kwargs)
        if message.type == "stop":
            first.append(message.name)
        return message

    manager.events.get = noting


def _write_parameters(folder: Path, node: NodeSpec) -> Path:
    """Write a node's parameters where ROS 2 reads them; JSON is YAML."""
    file = folder / f"{node.full_name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    # By its full name: a file's section `/**` is applied ahead of one for a single node.
    sections = {f"/{node.full_name}": {"ros__parameters": node.parameters}}
    file.write_text(json.dumps(sections, indent=1) + "\n")
    return file
