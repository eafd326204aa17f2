"""Run `ros2 launch` on the repository's launch files, with executables that a test chooses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import graph

from residual_smolvla_ros import arguments, pipeline

LAUNCH_FILES = Path(__file__).parents[1] / "launch"

# The robot of config/so101.yaml, with a base that is there.
ROBOT = {"sim": "false", "base_checkpoint": str(arguments.DEMO_CHECKPOINT)}

# As colcon installs them.
NODE = """#!{python}
from residual_smolvla_ros.nodes.{name} import main
main()
"""

# Writes down what it was started with. `episode` ends once the others have, or runs on where a
# node is to die; the node that PROBE_DIES names dies with exit code 3.
PROBE = """#!{python}
import json, os, sys
from pathlib import Path
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node

folder = Path(os.environ["PROBE_FOLDER"])
names = os.environ["PROBE_NODES"].split()
rclpy.init()
node = Node("probe", automatically_declare_parameters_from_overrides=True)
seen = {{
    "node": node.get_fully_qualified_name(),
    "parameters": {{n: p.value for n, p in node.get_parameters_by_prefix("").items()}},
    "environment": dict(os.environ),
}}
partial = folder / f"{{node.get_name()}}.partial"
partial.write_text(json.dumps(seen, default=list))
partial.rename(folder / f"{{node.get_name()}}.json")
dies = os.environ.get("PROBE_DIES")
def watch():
    if dies == "{name}":
        os._exit(3)
    complete = all((folder / f"{{n}}.json").is_file() for n in names)
    if not dies and "{name}" == "episode" and complete:
        os._exit(0)
node.create_timer(0.05, watch)
try:
    rclpy.spin(node)
except (KeyboardInterrupt, ExternalShutdownException):
    pass
"""


def install(prefix: Path, template: str) -> Path:
    """Make an ament prefix whose package has executables of a template; return it."""
    index = prefix / "share" / "ament_index" / "resource_index" / "packages"
    executables = prefix / "lib" / pipeline.PACKAGE
    index.mkdir(parents=True)
    executables.mkdir(parents=True)
    (index / pipeline.PACKAGE).touch()
    for given in ({}, ROBOT):
        described = pipeline.build(arguments.FINETUNE, given | {"output": str(prefix / "none")})
        for spec in described.nodes:
            file = executables / spec.executable
            file.write_text(template.format(python=sys.executable, name=spec.executable))
            file.chmod(0o755)
    return prefix


def ros2_launch(
    file: str | Path, *words: str, prefix: Path, environment: dict[str, str] | None = None
) -> tuple[int, str]:
    """Run `ros2 launch <file> <words>` to its end, with the package found in an ament prefix.

    Return exit code and output.
    """
    prefixes = [str(prefix), *os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)]
    added = {
        "AMENT_PREFIX_PATH": os.pathsep.join(p for p in prefixes if p),
        "ROS_LOG_DIR": str(prefix / "log"),
        # For the parameter files that launch_ros leaves behind.
        "TMPDIR": str(prefix),
    }
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; from ros2cli.cli import main; sys.exit(main())",
         "launch", str(LAUNCH_FILES / file), *words],
        env=os.environ | added | (environment or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=240)
    finally:
        graph.stop(process)
    return process.returncode, output


def read_probes(folder: Path) -> dict[str, dict]:
    """Return what each probe wrote down."""
    return {file.stem: json.loads(file.read_text()) for file in folder.glob("*.json")}
