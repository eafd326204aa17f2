"""Write config/sros2_policy.xml from the code: what each node may publish, hear, offer and call.

Run: .venv/bin/python tools/reference/sros2.py
"""

from xml.etree import ElementTree

from interfaces import ROOT, Interface, read_nodes

from residual_smolvla_ros.node_spec import MANAGED
from residual_smolvla_ros.recording.session import RECORDED
from residual_smolvla_ros.security import enclave

FILE = ROOT / "config" / "sros2_policy.xml"
HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<!-- Written from the code by tools/reference/sros2.py; docs/security.md says how to use it.
     An enclave a node, each with no more than the node's own topics and services. -->
"""
# Plays whatever a bag holds: no file can say beforehand what that is.
WITHOUT = ("replay",)
# What rclpy gives each node, and each PipelineNode.
PUBLISHED_BY_ALL = ("/rosout", "/parameter_events", "/diagnostics")
OFFERED_BY_ALL = (
    "~/describe_parameters",
    "~/get_parameter_types",
    "~/get_parameters",
    "~/get_type_description",
    "~/list_parameters",
    "~/set_parameters",
    "~/set_parameters_atomically",
)
# And what it gives each managed node.
PUBLISHED_BY_MANAGED = {"~/transition_event"}
OFFERED_BY_MANAGED = {
    "~/change_state",
    "~/get_available_states",
    "~/get_available_transitions",
    "~/get_state",
    "~/get_transition_graph",
}
# What stands for several names in docs/reference.md. DDS compares as a shell does: * is any text.
SEVERAL = {
    "<topic of a session>": [name for name, _ in RECORDED if name != "session"]  # its own
    + ["*/image_raw", "*/image_raw/compressed"],
    "<topic of a term>": [],  # the user's own: docs/security.md
}
ROBOTS = ("so101_bridge", "so101_sim")
# A camera's node bears the camera's name.
NODE_NAMES = {"camera": "camera_*"}


def generate() -> str:
    """Return the file."""
    policy = ElementTree.Element("policy", version="0.2.0")
    enclaves = ElementTree.SubElement(policy, "enclaves")
    nodes = [node for node in read_nodes() if node.name not in WITHOUT]
    for node in [*nodes, caller(nodes)]:
        at = ElementTree.SubElement(enclaves, "enclave", path=enclave(node.name))
        profiles = ElementTree.SubElement(at, "profiles")
        name = NODE_NAMES.get(node.name, node.name)
        profile = ElementTree.SubElement(profiles, "profile", ns="/", node=name)
        for kind, of, may, names in (
            ("topic", "topics", "publish", published(node)),
            ("topic", "topics", "subscribe", expand(node.hears)),
            ("service", "services", "reply", offered(node)),
            ("service", "services", "request", expand(node.calls)),
        ):
            group = ElementTree.SubElement(profile, of, {may: "ALLOW"}) if names else None
            for one in sorted(names):
                ElementTree.SubElement(group, kind).text = one
    ElementTree.indent(policy)
    return HEAD + ElementTree.tostring(policy, "unicode") + "\n"


def published(node: Interface) -> set[str]:
    """Return what a node publishes; `residual-smolvla call` has no diagnostics."""
    of_all = set(PUBLISHED_BY_ALL) | (PUBLISHED_BY_MANAGED if node.name in MANAGED else set())
    return expand(node.publishes) | (of_all if node.name != "call" else of_all - {"/diagnostics"})


def offered(node: Interface) -> set[str]:
    """Return the services that a node offers."""
    managed = OFFERED_BY_MANAGED if node.name in MANAGED else set()
    return expand(node.offers) | set(OFFERED_BY_ALL) | managed


def caller(nodes: list[Interface]) -> Interface:
    """Return `residual-smolvla call`, which calls any service that a node offers."""
    every = {name.replace("~", node.name): "" for node in nodes for name in node.offers}
    return Interface("call", "", calls=every)


def expand(names) -> set[str]:
    """Return names as DDS compares them."""
    found = set()
    for name in names:
        if name in SEVERAL:
            found |= set(SEVERAL[name])
        elif name.startswith("<robot>"):
            found |= {name.replace("<robot>", robot) for robot in ROBOTS}
        else:
            found.add(name.replace("<camera>", "*").replace("<name>", "*").replace("<arm>", "*"))
    strange = [name for name in found if "<" in name]
    if strange:
        raise LookupError(f"expected names, found {strange}: add them to SEVERAL in {__file__}")
    return found


if __name__ == "__main__":
    FILE.write_text(generate())
    print(f"written: {FILE.relative_to(ROOT)}")
