"""What each node declares, offers and hears, read from the source of `residual_smolvla_ros/nodes`.

Names that the source computes are listed in COMPUTED and LOOPS; a name that neither the source nor
they tell is an error, so that nothing is left out without a word.
"""

import ast
import dataclasses
import importlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from residual_smolvla_ros.parameters import About, about

ROOT = Path(__file__).resolve().parents[2]
NODES = ROOT / "residual_smolvla_ros" / "nodes"
PARTS = "residual_smolvla_ros.nodes.parts"
NOT_NODES = {"__init__", "common", "call"}
RECORD_TYPE = "std_msgs/UInt8MultiArray"
# Calls of a node by what they make, with the type or its place, and the place of the name.
CALLS = {
    "create_publisher": ("publishes", 0, 1),
    "create_subscription": ("hears", 0, 1),
    "record_publisher": ("publishes", RECORD_TYPE, 0),
    "record_subscription": ("hears", RECORD_TYPE, 1),
    "create_service": ("offers", 0, 1),
    "create_client": ("calls", 0, 1),
}
IMAGES = "sensor_msgs/Image or CompressedImage"
# Names that are computed, by file and source text.
COMPUTED = {
    ("camera", "f'{name}/image_raw'"): ["<camera>/image_raw"],
    ("camera", "f'{name}/image_raw/compressed'"): ["<camera>/image_raw/compressed"],
    ("camera", "f'{name}/camera_info'"): ["<camera>/camera_info"],
    ("so101_sim", "f'{n}/image_raw'"): ["<camera>/image_raw", "spectator/image_raw"],
    ("so101_sim", "f'{n}/camera_info'"): ["<camera>/camera_info"],
    ("image_intake", "place"): ["<camera>/image_raw", "<camera>/image_raw/compressed"],
    ("console_images", "f'{name}/{self._topic}'"): [
        "<camera>/image_raw",
        "<camera>/image_raw/compressed",
    ],
    ("console", "f'policy/{kind}_action'"): ["policy/base_action", "policy/residual_action"],
    ("rerun_viewer", "f'{name}/{topic}'"): [
        "<camera>/image_raw",
        "<camera>/image_raw/compressed",
    ],
    ("reward", "f'reward/terms/{name}'"): ["reward/terms/<name>"],
    ("reward", "topic"): ["<topic of a term>"],
    ("replay", "track.name"): ["<topic of the bag>"],
    ("replay", "topic"): ["<answers>"],
    ("recorder", "source.topic"): ["<topic of a session>"],
    **{
        ("learner", f"f'{{place}}{topic}'"): [topic, f"<arm>/{topic}"]
        for topic in ("learner/weights", "episode/event", "policy/step", "reward")
    },
    ("learner", "topic"): ["executed_command", "<arm>/executed_command"],
    ("fleet", "f'{arm}/episode/plan'"): ["<arm>/episode/plan"],
    ("fleet", "f'{arm}/episode/request'"): ["<arm>/episode/request"],
}
TYPES = {
    "self._type": IMAGES,
    "message_type": "as published",
    "_type_of(track.kind)": "as recorded",
    "_type_of(kind)": "as recorded",
}


@dataclass
class Interface:
    """A node: names of parameters to (default, what is told of it); of the rest to types."""

    name: str
    summary: str
    parameters: dict[str, tuple[object, About]] = field(default_factory=dict)
    publishes: dict[str, str] = field(default_factory=dict)
    hears: dict[str, str] = field(default_factory=dict)
    offers: dict[str, str] = field(default_factory=dict)
    calls: dict[str, str] = field(default_factory=dict)


def read_nodes() -> list[Interface]:
    """Return the interfaces of all nodes."""
    names = sorted(f.stem for f in NODES.glob("*.py") if f.stem not in NOT_NODES)
    return [_read(name) for name in names]


def _read(name: str) -> Interface:
    module = importlib.import_module(f"residual_smolvla_ros.nodes.{name}")
    summary = module.__doc__.strip().splitlines()[0].partition(": ")[2]
    node = Interface(name, summary[:1].upper() + summary[1:])
    for part in _with_parts(module):
        _Reader(part, node).read()
    _loops(node)
    return node


def _with_parts(module) -> list:
    """Return a node's module, and those of `nodes/parts` that it imports."""
    found, waiting = [], [module.__name__]
    while waiting:
        name = waiting.pop(0)
        if name in [m.__name__ for m in found]:
            continue
        part = importlib.import_module(name)
        found.append(part)
        for statement in ast.walk(ast.parse(Path(part.__file__).read_text())):
            if not isinstance(statement, ast.ImportFrom):
                continue
            # A class declares and subscribes; functions and constants do not, but for join_*.
            names = [alias.name for alias in statement.names]
            has_class = any(re.match("[A-Z][a-z]|join_", name) for name in names)
            if (statement.module or "").startswith(PARTS) and has_class:
                waiting.append(statement.module)
    return found


class _Reader:
    """Read one module's calls into a node's interface."""

    def __init__(self, module, node: Interface):
        self._module, self._node = module, node
        self._file = module.__name__.rsplit(".", 1)[1]

    def read(self) -> None:
        for call in ast.walk(ast.parse(Path(self._module.__file__).read_text())):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
                continue
            if call.func.attr == "parameter":
                self._parameter(call)
            elif call.func.attr == "_names":
                told = about(self._value(call.args[1]))
                self._node.parameters[self._value(call.args[0])] = ([], told)
            elif call.func.attr == "group":
                prefix, told = (self._value(value) for value in call.args)
                self._node.parameters[f"{prefix}.*"] = (None, about(told))
            elif call.func.attr in CALLS:
                kind, of, name_place = CALLS[call.func.attr]
                type_name = of if isinstance(of, str) else self._type(call.args[of])
                for name in self._topics(call.args[name_place]):
                    getattr(self._node, kind)[name] = type_name
            elif re.fullmatch(r"(?!destroy|wait|_)\w+_(publisher|subscription|service|client)",
                              call.func.attr):  # fmt: skip
                raise LookupError(
                    f"{self._file}.py:{call.lineno}: expected one of {', '.join(CALLS)}, found "
                    f"{call.func.attr}: add it to {__file__}"
                )

    def _parameter(self, call: ast.Call) -> None:
        name, *rest = call.args
        if not isinstance(name, ast.Constant):
            return  # in a loop: see _loops
        default, told = (self._value(value) for value in rest)
        self._node.parameters[name.value] = (default, about(told))

    def _topics(self, name: ast.expr) -> list[str]:
        text = ast.unparse(name)
        if (self._file, text) in COMPUTED:
            return COMPUTED[self._file, text]
        if (self._file, text) in CALLED:
            return CALLED[self._file, text]()
        return [self._value(name)]

    def _type(self, kind: ast.expr) -> str:
        text = ast.unparse(kind)
        if text in TYPES:
            return TYPES[text]
        found = getattr(self._module, text)
        return f"{found.__module__.split('.')[0]}/{found.__name__}"

    def _value(self, expression: ast.expr):
        """Return the value of an expression of literals and names of its module."""
        text = ast.unparse(expression)
        try:
            return eval(text, dict(vars(self._module)))
        except NameError:
            raise LookupError(
                f"{self._file}.py:{expression.lineno}: expected a name that the source tells, "
                f"found {text}: add it to {__file__}"
            ) from None


def _loops(node: Interface) -> None:
    """Add the parameters that a node declares in a loop."""
    if node.name == "so101_bridge":
        from residual_smolvla_ros.nodes import so101_bridge as module

        for of in dataclasses.fields(module.ArmSettings):
            node.parameters[of.name] = (of.default, of.metadata["about"])
    if node.name in ("episode", "fleet"):
        from residual_smolvla_ros.nodes.parts.schedule_parameters import SCHEDULE

        node.parameters |= {n: (default, about(told)) for n, (default, told) in SCHEDULE.items()}
    if node.name == "learner":
        node.parameters |= _learner()
    if node.name == "policy":
        node.parameters |= _planning()


def _planning() -> dict[str, tuple[object, About]]:
    """Return what `make_planning` asks for."""
    from residual_smolvla_ros.planning import make_planning

    asked = {}

    def parameter(name, default, told):
        asked[name] = (default, about(told))
        return default

    make_planning(parameter)
    return asked


def _learner() -> dict[str, tuple[object, About]]:
    """Return what `make_learner` asks for, of each algorithm."""
    from residual_smolvla_ros.learning.settings import ALGORITHMS, make_learner
    from residual_smolvla_ros.robots.units import JOINT_NAMES

    asked: dict[str, dict] = {}
    for algorithm in ALGORITHMS:
        asked[algorithm] = {}

        def parameter(name, default, told, of=algorithm):
            asked[of][name] = (default, about(told))
            return of if name == "algorithm" else default

        make_learner(parameter, JOINT_NAMES, None, 0)
    every: dict[str, tuple[object, About]] = {}
    for name in dict.fromkeys(name for of in asked.values() for name in of):
        of = {a: values[name] for a, values in asked.items() if name in values}
        defaults = [default for default, _ in of.values()]
        told = next(iter(of.values()))[1]
        if len(of) < len(asked):
            pages = ", ".join(f"[{a}.md]({a}.md)" for a in of)
            told = dataclasses.replace(told, description=f"{told.description}: {pages}")
        same = all(default == defaults[0] for default in defaults)
        every[name] = (defaults[0] if same else dict(zip(of, defaults, strict=True)), told)
    return every


def _episode_services() -> list[str]:
    from residual_smolvla_ros.records import LABELS

    return [f"episode/{name}" for name in ("start", "stop", *LABELS)]


def _console_services() -> list[str]:
    from residual_smolvla_ros.console.layout import Layout

    return [*Layout((), "<robot>", 30.0).services.values(), "reset_environment/done"]


def _keyboard_services() -> list[str]:
    from residual_smolvla_ros.nodes.keyboard import ACTIONS

    return [action.service.format(robot="<robot>") for action in ACTIONS]


CALLED = {
    ("episode", "f'episode/{name}'"): _episode_services,
    ("console", "name"): _console_services,
    ("keyboard", "action.service.format(robot=robot)"): _keyboard_services,
}
