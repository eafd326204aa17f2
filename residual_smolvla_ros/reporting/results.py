"""The files of a run's folder that hold its results."""

import dataclasses
import json
from pathlib import Path

import numpy as np
from PIL import Image

from residual_smolvla_ros.learning.schedule import TRAINING_PHASES, Outcome
from residual_smolvla_ros.records import DISCARD

EPISODES, UPDATES = "episodes.jsonl", "updates.jsonl"
RUN, SUMMARY = "run.json", "summary.json"


def append_outcome(run: Path, outcome: Outcome) -> None:
    """Add a line to `episodes.jsonl`."""
    run.mkdir(parents=True, exist_ok=True)
    with (run / EPISODES).open("a+b") as stream:
        if stream.tell():
            stream.seek(-1, 2)
            if stream.read(1) != b"\n":  # a line that a kill cut short
                stream.write(b"\n")
        stream.write((json.dumps(dataclasses.asdict(outcome)) + "\n").encode())


def read_lines(path: Path) -> list[dict]:
    """Return the objects of a JSON-lines file; a last line cut short by a kill is left out."""
    rows = []
    if path.is_file():
        for line in path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
    return rows


def read_outcomes(
    run: Path, training_episodes: int | None = None, up_to: int | None = None
) -> list[Outcome]:
    """Return the run's outcomes, the last one where an episode was played twice.

    Discarded ones are left out.
    With `training_episodes` those trained after it, which a resume plays again, are left out;
    with `up_to` only those of them whose number is that at most.
    """
    latest: dict[tuple, Outcome] = {}
    for row in read_lines(run / EPISODES):
        outcome = Outcome(**row)
        training = outcome.phase in TRAINING_PHASES
        if outcome.label == DISCARD:
            continue
        again = training_episodes is not None and outcome.index >= training_episodes
        if training and again and (up_to is None or outcome.episode <= up_to):
            continue
        latest[(training or outcome.phase, outcome.index, outcome.weights_version)] = outcome
    return list(latest.values())


def last_episode(run: Path) -> int:
    """Return the highest number of an episode so far, discarded ones included."""
    return max((row["episode"] for row in read_lines(run / EPISODES)), default=0)


def save_frames(run: Path, phase: str, frames: list[np.ndarray]) -> None:
    """Write the frames of a clip as `clip/<phase>_NNN.png`."""
    folder = run / "clip"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{phase}_*.png"):
        old.unlink()
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{phase}_{index:03d}.png")


def load_frames(run: Path, phase: str) -> list[np.ndarray]:
    """Return the frames that `save_frames` wrote, also into the folder of an arm of a fleet."""
    files = sorted((run / "clip").glob(f"{phase}_*.png"))
    return [np.asarray(Image.open(p)) for p in files or sorted(run.glob(f"*/clip/{phase}_*.png"))]


def write_run(run: Path, settings: dict) -> None:
    """Note what the run was started with in `run.json`."""
    run.mkdir(parents=True, exist_ok=True)
    (run / RUN).write_text(json.dumps(settings, indent=1) + "\n")


def read_run(run: Path) -> dict:
    """Return what `write_run` noted."""
    return json.loads((run / RUN).read_text()) if (run / RUN).is_file() else {}


def write_summary(run: Path, summary: dict) -> None:
    """Write `summary.json`."""
    (run / SUMMARY).write_text(json.dumps(summary, indent=1) + "\n")


def read_summary(run: Path) -> dict:
    """Return `summary.json`, empty where there is none."""
    return json.loads((run / SUMMARY).read_text()) if (run / SUMMARY).is_file() else {}
