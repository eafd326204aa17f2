"""Write docs/reference.md from the code: commands, nodes, topics, services, records.

Run: .venv/bin/python tools/reference/page.py
"""

from interfaces import ROOT, Interface, read_nodes

from residual_smolvla_ros import arguments, cli, records
from residual_smolvla_ros.arguments import DEMO_CHECKPOINT
from residual_smolvla_ros.node_spec import MANAGED
from residual_smolvla_ros.recording.checks import command as replay

PAGE = ROOT / "docs" / "reference.md"
HEAD = """# Reference

Written from the code by `.venv/bin/python tools/reference/page.py`; a test compares. What topics
are for stands in the [README](../README.md#topics). A parameter is read at the start unless the
table says when a [change](parameters.md) counts; what parameters do stands in
[training.md](training.md), [ppo.md](ppo.md), [td3.md](td3.md), [rewards.md](rewards.md) and
[safety.md](safety.md).
"""
EVERY_NODES = ("/diagnostics", "/rosout")
RECORDS = {
    "policy/step": records.STEP,
    "reward": records.REWARD,
    "success/estimate": records.SUCCESS_ESTIMATE,
    "environment/state": records.ENVIRONMENT_STATE,
    "episode/event": records.EPISODE_EVENT,
    "episode/request": records.EPISODE_REQUEST,
    "episode/plan": records.EPISODE_PLAN,
    "learner/weights": records.WEIGHTS,
}


def generate() -> str:
    """Return the page."""
    nodes = read_nodes()
    sections = [HEAD, commands(), *map(node_section, nodes), topics(nodes), services(nodes)]
    return "\n".join([*sections, record_section()])


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    lines += ["| " + " | ".join(_escape(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _escape(cell: str) -> str:
    """Keep what is no code from being taken for a column or for HTML."""
    parts = cell.replace("|", "\\|").split("`")
    parts[::2] = [part.replace("<", "\\<") for part in parts[::2]]
    return "`".join(parts)


def shown(value) -> str:
    """Return a default as it is written in a parameter file."""
    if isinstance(value, dict):
        return ", ".join(f"{name}: {shown(of)}" for name, of in value.items())
    if isinstance(value, list | tuple):
        words = [str(word) for word in value if word != ""]
        return f"`[{', '.join(words)}]`" if words else ""
    if value is None or value == "" or type(value).__name__ == "Type":
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def commands() -> str:
    """Return the arguments of each command that takes name:=value."""
    both = (arguments.FINETUNE, arguments.EVALUATE)
    rows = [
        (f"`{a.name}`", default(a), a.help + ("" if a.modes == both else f" ({a.modes[0]} only)"))
        for a in arguments.ARGUMENTS
    ]
    text = (
        "## Commands\n\n### residual-smolvla finetune, evaluate\n\nAlso those of the launch files "
    )
    text += "of these names.\n\n" + table(("argument", "default", "meaning"), rows)
    for name, module in (cli.BATCH | {replay.REPLAY: replay}).items():
        rows = [(f"`{a.name}`", default(a), a.help) for a in module.ARGUMENTS]
        text += f"\n### residual-smolvla {name}\n\n" + table(
            ("argument", "default", "meaning"), rows
        )
    return text


def default(argument: arguments.Argument) -> str:
    """Return an argument's default; the demo's checkpoint is somewhere else on each machine."""
    return "the demo's" if argument.default == str(DEMO_CHECKPOINT) else shown(argument.default)


def node_section(node: Interface) -> str:
    """Return what one node declares, offers and hears."""
    text = f"## Node `{node.name}`\n\n{node.summary}\n\n"
    if node.name in MANAGED:
        text += "A [managed node](lifecycle.md).\n\n"
    for title, names in (
        ("Publishes", node.publishes),
        ("Hears", node.hears),
        ("Offers the services", node.offers),
        ("Calls the services", node.calls),
    ):
        if names:
            text += f"{title}: {', '.join(f'`{name}`' for name in names)}.\n\n"
    rows = [
        (f"`{name}`", shown(value), told.expected, told.live, told.description)
        for name, (value, told) in node.parameters.items()
    ]
    return text + table(
        ("parameter", "default", "expected", "change takes effect", "meaning"), rows
    )


def topics(nodes: list[Interface]) -> str:
    """Return who publishes and who hears each topic."""
    names = sorted({name for node in nodes for name in (*node.publishes, *node.hears)})
    rows = []
    for name in names:
        kinds = {k[name]: None for node in nodes for k in (node.publishes, node.hears) if name in k}
        sources = [node.name for node in nodes if name in node.publishes]
        sources = ["every node"] if name in EVERY_NODES else sources
        listeners = [node.name for node in nodes if name in node.hears]
        rows.append((f"`{name}`", next(iter(kinds)), ", ".join(sources), ", ".join(listeners)))
    return "## Topics\n\n" + table(("topic", "type", "published by", "heard by"), rows)


def services(nodes: list[Interface]) -> str:
    """Return who offers and who calls each service."""
    offered = {}
    for node in nodes:
        for name in node.offers:
            full = name.replace("~", node.name)
            offered.setdefault(full, []).append(node.name)
    rows = []
    for name, by in sorted(offered.items()):
        same = {name, name.replace("so101_bridge/", "<robot>/").replace("so101_sim/", "<robot>/")}
        callers = [node.name for node in nodes if same & node.calls.keys()]
        rows.append((f"`{name}`", ", ".join(by), ", ".join(callers)))
    return "## Services\n\nAll are std_srvs/Trigger.\n\n" + table(
        ("service", "offered by", "called by"), rows
    )


def record_section() -> str:
    """Return what each kind of record holds."""
    text = "## Records\n\nMessages of std_msgs/UInt8MultiArray: safetensors, all tensors float32; "
    text += "`residual_smolvla_ros/records.py` says what each means.\n\n"
    rows = []
    for topic, schema in RECORDS.items():
        tensors = [f"{name} {_shape(shape)}" for name, shape in schema.tensors.items()]
        tensors += ["the network's weights"] if schema.open_tensors else []
        rows.append((f"`{topic}`", ", ".join(tensors), ", ".join(schema.metadata)))
    return text + table(("topic", "tensors", "metadata"), rows)


def _shape(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("n" if size is None else str(size) for size in shape) + ")"


if __name__ == "__main__":
    PAGE.write_text(generate())
    print(f"written: {PAGE.relative_to(ROOT)}")
