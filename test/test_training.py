"""Training without ROS: the same bits however it is interrupted or shared, and clear ends."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import graph
import psutil
import pytest

from residual_smolvla_ros import cli
from residual_smolvla_ros.arguments import DEMO_CHECKPOINT
from residual_smolvla_ros.learning.run import LearnerRun
from residual_smolvla_ros.training.cohort import Cohort
from residual_smolvla_ros.training.settings import CohortMaker, learner_from, schedule_from
from residual_smolvla_ros.training.trainer import Trainer

TASK = "Lift the red cube"
TOTAL_STEPS = 1000


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    return graph.write_config(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="module")
def cohort(sim, base, config):
    """One arm."""
    made = Cohort(base, TASK, 1, CohortMaker(config, DEMO_CHECKPOINT, "cpu", TASK).reward, sim)
    yield made
    made.close()


def train(output: Path, config: Path, cohort: Cohort, episodes: int, resume: bool = False) -> Path:
    """Do what the command does, in this process and on the tests' simulator."""
    values = {"seed": 0, "eval_episodes": 2, "total_steps": TOTAL_STEPS, "episodes": episodes}
    learner = learner_from(config, DEMO_CHECKPOINT, 0, TOTAL_STEPS)
    run = LearnerRun(output, learner, {}, resume)
    trainer = Trainer(output, schedule_from(config, values, learner), run, cohort, print)
    if resume:
        trainer.restore()
    trainer.train()
    run.close()
    return output


@pytest.fixture(scope="module")
def finished(tmp_path_factory, config, cohort) -> Path:
    """A run of three updates, from base evaluation to clips."""
    return train(tmp_path_factory.mktemp("run") / "a", config, cohort, episodes=6)


def start(output: Path, config: Path, *words: str):
    """Start the command on two arms, in a process group of its own as in a terminal."""
    words = [f"config:={config}", f"output:={output}", "num_envs:=2", *words]
    return psutil.Popen(
        [sys.executable, "-m", "residual_smolvla_ros.cli", "train", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def played(run: Path, phases: tuple[str, ...]) -> list[dict]:
    """Return a run's episodes of some phases, without their numbers and times."""
    file = run / "episodes.jsonl"
    text = file.read_text() if file.is_file() else ""
    # A line that is being written is not there yet.
    lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    # A resumed run has played more before it.
    return [line | {"wall_s": 0, "episode": 0} for line in lines if line["phase"] in phases]


def weights(run: Path) -> dict[str, bytes]:
    newest = max((run / "checkpoints").iterdir(), key=lambda p: p.name)
    return {p.name: p.read_bytes() for p in newest.iterdir() if p.suffix == ".safetensors"}


def test_an_interrupted_run_ends_in_the_same_bits(finished, tmp_path, config, cohort):
    run = train(tmp_path / "b", config, cohort, episodes=4)
    assert weights(run) != weights(finished)
    train(run, config, cohort, episodes=6, resume=True)
    assert weights(run) == weights(finished)
    phases = ("base", "warmup", "train")
    assert played(run, phases) == played(finished, phases)


def workers(process: psutil.Popen) -> list[psutil.Process]:
    """Return the processes that simulate."""
    alive = [c for c in process.children() if c.status() != psutil.STATUS_ZOMBIE]
    return [child for child in alive if "spawn_main" in " ".join(child.cmdline())]


def test_processes_play_what_one_does_and_ctrl_c_ends_them(finished, tmp_path, config):
    phases = ("base", "warmup", "train")
    expected = played(finished, phases)
    run = tmp_path / "c"
    process = start(run, config, "workers:=2", "eval_episodes:=2")
    try:
        graph.wait_until(lambda: len(played(run, phases)) >= len(expected), process)
        simulating = workers(process)
        os.killpg(process.pid, signal.SIGINT)
        process.wait(timeout=30)
    finally:
        text = graph.stop(process)
    assert played(run, phases)[: len(expected)] == expected
    assert process.returncode == 130, text
    assert "Traceback" not in text
    assert f"resume:=true output:={run}" in text.splitlines()[-1]
    assert len(simulating) == 2
    assert not any(worker.is_running() for worker in simulating)
    assert weights(run).keys() == {"residual.safetensors", "training.safetensors"}


def test_a_simulating_process_that_dies_ends_the_run(tmp_path, config, capsys):
    run, here = tmp_path / "d", psutil.Process()
    found = []

    def kill() -> None:
        while len(found) < 2:
            found[:] = workers(here)
            time.sleep(0.01)
        found[0].kill()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", f"config:={config}", f"output:={run}", "num_envs:=2", "workers:=2"])
    killer.join(timeout=10)
    assert ended.value.code == 1
    assert "a simulating process ended unexpectedly" in capsys.readouterr().err.splitlines()[-1]
    assert not any(worker.is_running() for worker in found)
    assert (run / "checkpoints" / "000000" / "state.json").is_file()


SECTIONS = {
    "an unknown parameter": ("learner", {"epoch": 3}, "epoch"),
    "a wrong type": ("learner", {"epochs": "many"}, "epochs"),
    "a wrong value": ("learner", {"epochs": 0}, "epochs"),
    "another section's parameter": ("episode", {"epochs": 3}, "epochs"),
    "episodes without a step": ("episode", {"max_steps": 0}, "max_steps"),
    "a term that needs images": (
        "reward",
        {"terms": {"cube": {"type": "image_distance", "weight": 1.0, "camera": "front",
                            "hsv_lower": [0, 0, 0], "hsv_upper": [9, 9, 9]}}},
        "cube",
    ),
}  # fmt: skip


def refused(capsys, output: Path, *words: str) -> str:
    """Return the one line with which the command ended; nothing may have been written."""
    before = sorted(output.parent.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", f"output:={output}", *words])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "expected" in line
    assert "found" in line
    assert sorted(output.parent.rglob("*")) == before
    return line


@pytest.mark.parametrize(
    "word",
    ["sim:=false", "num_envs:=0", "workers:=none", "config:=none.yaml", "arms:=3",
     "base_checkpoint:=/nowhere", "residual_checkpoint:=/nowhere", "resume:=true"],
)  # fmt: skip
def test_a_wrong_word_is_refused_with_one_line(capsys, tmp_path, word):
    assert word.split(":=")[0] in refused(capsys, tmp_path / "run", word).replace(" ", "_")


@pytest.mark.parametrize("case", SECTIONS)
def test_a_wrong_config_is_refused_with_one_line(capsys, tmp_path, case):
    node, values, named = SECTIONS[case]
    config = graph.write_config(tmp_path, **{node: values})
    assert named in refused(capsys, tmp_path / "run", f"config:={config}")


def test_a_folder_with_files_is_not_written_over(capsys, tmp_path):
    (tmp_path / "summary.json").write_text("precious")
    refused(capsys, tmp_path)
    assert (tmp_path / "summary.json").read_text() == "precious"
