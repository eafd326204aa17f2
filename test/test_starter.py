"""How the nodes of a pipeline are ended where no `launch` is installed."""

import sys

from residual_smolvla_ros import starter
from residual_smolvla_ros.pipeline import NodeSpec, Pipeline

# The two that go on say by a file that they are ready; then `episode` ends, which ends the others.
EPISODE = """
while len(list(folder.glob("*.up"))) < 2: time.sleep(0.05)
"""
HUNG = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
(folder / "hung.up").touch()
while True: time.sleep(0.1)
"""
SLOW = """
def end(*_):
    time.sleep(1.5)
    (folder / "written").touch()
    sys.exit()
signal.signal(signal.SIGTERM, end)
(folder / "slow.up").touch()
while True: time.sleep(0.1)
"""


def test_a_node_that_hangs_is_killed_while_another_takes_its_time(tmp_path, monkeypatch):
    """One time for all either killed the recorder of a dataset, or let a hung node live on."""
    scripts = {"episode": EPISODE, "hung": HUNG, "slow": SLOW}
    head = f"import pathlib, signal, sys, time\nfolder = pathlib.Path({str(tmp_path)!r})"
    monkeypatch.setattr(
        starter,
        "command",
        lambda node, file: [sys.executable, "-c", head + scripts[node.name]],
    )
    nodes = (NodeSpec("hung", {}, end_s=1), NodeSpec("slow", {}, end_s=60), NodeSpec("episode", {}))
    killed = []
    kill = starter.honcho.manager.ProcessManager.kill
    monkeypatch.setattr(
        starter.honcho.manager.ProcessManager,
        "kill",
        lambda self, pid: killed.append(pid) or kill(self, pid),
    )
    assert starter.run(Pipeline("finetune", tmp_path / "run", nodes)) == 0
    assert (tmp_path / "written").is_file()
    assert len(set(killed)) == 1
