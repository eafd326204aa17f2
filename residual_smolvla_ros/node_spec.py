"""A node of a pipeline, as plain data."""

from dataclasses import dataclass

PACKAGE = "residual_smolvla_ros"


# Nodes with a lifecycle, in the order in which a launch file configures and activates them.
MANAGED = ("camera", "so101_bridge", "policy", "learner")


@dataclass(frozen=True)
class NodeSpec:
    """A node to start: executable, parameter files, parameters that win over the files.

    `end_s` is how long it may take to end when it is told to.
    """

    executable: str
    parameters: dict
    parameter_files: tuple[str, ...] = ()
    remappings: tuple[tuple[str, str], ...] = ()
    node_name: str = ""
    end_s: int = 4  # and 1 s for what is killed then: Ctrl-C ends everything within 5 s
    namespace: str = ""  # of an arm of a fleet

    @property
    def name(self) -> str:
        """The node's name: by default the executable's."""
        return self.node_name or self.executable

    @property
    def full_name(self) -> str:
        """The node's name with its namespace, as `arm1/policy`."""
        return f"{self.namespace}/{self.name}".lstrip("/")

    @property
    def module(self) -> str:
        """Python module of the executable."""
        return f"{PACKAGE}.nodes.{self.executable}"
