"""How the nodes of a pipeline are ended, and started again, where no `launch` is installed.

    python test_starter.py FOLDER NODE...

starts nodes of the names below, in a process of its own: the starter takes over its signals.
"""

import subprocess
import sys
from pathlib import Path

from residual_smolvla_ros import respawning, starter
from residual_smolvla_ros.pipeline import NodeSpec, Pipeline

# The two that go on say by a file that they are ready; then `episode` ends, which ends the others.
SCRIPTS = {
    "episode": """
while len(list(folder.glob("*.up"))) < 2: time.sleep(0.05)
(folder / "run" / "summary.json").touch()
""",
    # Is killed in its first life, and ready in its second.
    "killed": """
begun = folder / "killed.begun"
if not begun.exists():
    begun.touch()
    os.kill(os.getpid(), signal.SIGKILL)
(folder / "killed.up").touch()
while True: time.sleep(0.1)
""",
    "refuses": """
with (folder / "lives").open("a") as stream: print("one", file=stream)
sys.exit("refuses: error: expected more")
""",
    "dies": """
with (folder / "lives").open("a") as stream: print("one", file=stream)
print("its last words", flush=True)
os.abort()
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
    code, _ = run(tmp_path, "hung", "slow", "episode")
    assert code == 0
    assert (tmp_path / "written").read_text() == "True"


def test_a_node_that_was_killed_is_started_again_and_ended_with_the_others(tmp_path):
    code, text = run(tmp_path, "hung", "killed", "episode")
    assert code == 0, text
    assert text.count("node killed ended with exit code -9: it is started again") == 1


def test_a_node_that_refuses_what_it_was_given_is_not_started_again(tmp_path):
    code, text = run(tmp_path, "hung", "refuses")
    assert code == 1
    assert "refuses: error: expected more" in text
    assert (tmp_path / "lives").read_text() == "one\n"


def test_a_node_that_dies_again_and_again_brings_the_rest_down_with_its_last_words(tmp_path):
    code, text = run(tmp_path, "hung", "dies")
    assert code == 1
    assert text.rstrip().endswith("its last words")
    assert (tmp_path / "lives").read_text() == "one\n" * respawning.TRIES


def run(folder: Path, *names: str) -> tuple[int, str]:
    """Run nodes under a starter of their own; return its exit code, and what it showed."""
    done = subprocess.run([sys.executable, __file__, folder, *names], check=False, timeout=60,
                          capture_output=True, text=True)  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def main(folder: Path, names: list[str]) -> int:
    """Run the nodes, and return what the starter does."""
    respawning.DELAY_S = 0.05
    head = f"import os, pathlib, signal, sys, time\nfolder = pathlib.Path({str(folder)!r})"
    starter.command = lambda node, file: [sys.executable, "-c", head + SCRIPTS[node.name]]
    times = {"hung": 0.5, "slow": 60}
    nodes = tuple(NodeSpec(name, {}, end_s=times.get(name, 4)) for name in names)
    return starter.run(Pipeline("finetune", folder / "run", nodes, values={"respawn": True}))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
