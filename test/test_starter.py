"""How the nodes of a pipeline are ended where no `launch` is installed.

    python test_starter.py FOLDER

starts nodes of the names below, in a process of its own: the starter takes over its signals.
"""

import subprocess
import sys
from pathlib import Path

from residual_smolvla_ros import starter
from residual_smolvla_ros.pipeline import NodeSpec, Pipeline

# The two that go on say by a file that they are ready; then `episode` ends, which ends the others.
SCRIPTS = {
    "episode": """
while len(list(folder.glob("*.up"))) < 2: time.sleep(0.05)
""",
    "hung": """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
(folder / "hung.up").write_text(str(os.getpid()))
while True: time.sleep(0.1)
""",
    "slow": """
def end(*_):
    time.sleep(1.5)
    was_killed = not pathlib.Path("/proc", (folder / "hung.up").read_text()).exists()
    (folder / "written").write_text(str(was_killed))
    sys.exit()
signal.signal(signal.SIGTERM, end)
(folder / "slow.up").touch()
while True: time.sleep(0.1)
""",
}


def test_a_node_that_hangs_is_killed_while_another_takes_its_time(tmp_path):
    """One time for all either killed the recorder of a dataset, or let a hung node live on."""
    subprocess.run([sys.executable, __file__, tmp_path], check=True, timeout=60)
    assert (tmp_path / "written").read_text() == "True"


def main(folder: Path) -> int:
    """Run the nodes, and return what the starter does."""
    head = f"import os, pathlib, signal, sys, time\nfolder = pathlib.Path({str(folder)!r})"
    starter.command = lambda node, file: [sys.executable, "-c", head + SCRIPTS[node.name]]
    times = {"hung": 0.5, "slow": 60, "episode": 4}
    nodes = tuple(NodeSpec(name, {}, end_s=end_s) for name, end_s in times.items())
    return starter.run(Pipeline("finetune", folder / "run", nodes))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
