"""A run's report: summary.json, learning_curve.png, the clip and report.html."""

import base64
from pathlib import Path

import numpy as np
from jinja2 import Template
from scipy.stats import binomtest

from residual_smolvla_ros.learning.schedule import (
    BASE,
    CLIP_BASE,
    CLIP_RESIDUAL,
    HELD_OUT_SEED,
    RESIDUAL,
    TRAIN,
    TRAINING_PHASES,
    VALIDATION,
    WARMUP,
    Outcome,
)
from residual_smolvla_ros.reporting.plots import draw_learning_curve, write_clip
from residual_smolvla_ros.reporting.results import (
    UPDATES,
    load_frames,
    read_lines,
    read_outcomes,
    read_run,
    write_summary,
)
from residual_smolvla_ros.reporting.table import table_rows

# Training episodes that a point of the curve stands for where there was no validation.
RECENT = 10

_PAGE = Template((Path(__file__).parent / "report.html.j2").read_text(), autoescape=True)


def write_report(run: Path) -> dict:
    """Write the report into a run's folder from its `episodes.jsonl`; return the summary.

    Success is over held-out episodes, with Wilson's 95 % interval.
    """
    outcomes = read_outcomes(run)
    summary = summarise(run, outcomes)
    write_summary(run, summary)
    points, kind = validation_curve(outcomes), "validation seeds"
    if not points:
        points, kind = training_curve(outcomes), "training episodes at a time"
    curve = draw_learning_curve(run / "learning_curve.png", points, summary, kind)
    clip = write_clip(
        run / "clip.gif",
        [
            ("base alone", load_frames(run, CLIP_BASE)),
            ("base + residual", load_frames(run, CLIP_RESIDUAL)),
        ],
    )
    page = _PAGE.render(
        summary=summary,
        rows=table_rows(summary),
        curve=_embed(curve),
        clip=_embed(clip),
        clip_note=_clip_note(outcomes),
        run=run.name,
    )
    (run / "report.html").write_text(page)
    return summary


def summarise(run: Path, outcomes: list[Outcome]) -> dict:
    """Return the figures of a run.

    An evaluation that a person helped with is no success of what was evaluated.
    """
    training = [o for o in outcomes if o.phase in TRAINING_PHASES]
    updates = read_lines(run / UPDATES)
    helped = sum(o.intervened_steps > 0 for o in outcomes)
    base = {o.index: o.success and not o.intervened_steps for o in outcomes if o.phase == BASE}
    newest = max((o.weights_version for o in outcomes if o.phase == RESIDUAL), default=None)
    residual = {
        o.index: o.success and not o.intervened_steps
        for o in outcomes
        if o.phase == RESIDUAL and o.weights_version == newest
    }
    paired = sorted(base.keys() & residual.keys())
    env_steps = sum(o.steps for o in training)
    phase_wall = training_seconds(outcomes)
    summary = {
        "env_steps": env_steps,
        "episodes": len(training),
        "training_successes": sum(o.success for o in training),
        "helped_episodes": helped,
        "updates": max((u["version"] for u in updates), default=0),
        "wall_s": round(max((o.wall_s for o in outcomes), default=0.0), 1),
        "training_wall_s": round(phase_wall, 1),
        "steps_per_s": round(env_steps / phase_wall, 1) if phase_wall else 0.0,
        "eval_episodes": len(base),
        **_rate("base", base),
        **_rate("residual", residual),
        "solved_by_residual_only": sum(residual[i] and not base[i] for i in paired),
        "solved_by_base_only": sum(base[i] and not residual[i] for i in paired),
    }
    arms = sorted({o.arm for o in outcomes if o.arm})
    if arms:
        summary["arms"] = {arm: _of_arm([o for o in training if o.arm == arm]) for arm in arms}
    return summary | read_run(run)


def _of_arm(training: list[Outcome]) -> dict:
    return {
        "episodes": len(training),
        "env_steps": sum(o.steps for o in training),
        "training_successes": sum(o.success for o in training),
    }


def training_seconds(outcomes: list[Outcome]) -> float:
    """Return the wall time of training episodes and updates, evaluations left out, in s."""
    total, previous = 0.0, 0.0
    for outcome in sorted(outcomes, key=lambda o: o.wall_s):
        if outcome.phase in TRAINING_PHASES:
            total += outcome.wall_s - previous
        previous = outcome.wall_s
    return total


def validation_curve(outcomes: list[Outcome]) -> list[tuple[int, float, int]]:
    """Return (training steps so far, success, episodes) of each evaluation while training."""
    steps, points = 0, {}
    for outcome in sorted(outcomes, key=lambda o: o.episode):
        if outcome.phase in (WARMUP, TRAIN):
            steps += outcome.steps
        elif outcome.phase == VALIDATION:
            points.setdefault((outcome.weights_version, steps), []).append(outcome.success)
    return [(at, float(np.mean(s)), len(s)) for (_, at), s in sorted(points.items())]


def training_curve(outcomes: list[Outcome]) -> list[tuple[int, float, int]]:
    """Return (training steps so far, success, episodes) over the last RECENT training episodes."""
    steps, successes, points = 0, [], []
    for outcome in sorted(outcomes, key=lambda o: o.episode):
        if outcome.phase in TRAINING_PHASES:
            steps += outcome.steps
            successes.append(outcome.success)
            recent = successes[-RECENT:]
            points.append((steps, float(np.mean(recent)), len(recent)))
    return points


def _rate(key: str, successes: dict[int, bool]) -> dict:
    if not successes:
        return {f"success_{key}": None, f"success_{key}_ci95": None}
    result = binomtest(sum(successes.values()), len(successes))
    interval = result.proportion_ci(method="wilson")
    return {
        f"success_{key}": round(result.statistic, 4),
        f"success_{key}_ci95": [
            round(float(interval.low), 4),
            round(float(interval.high), 4),
        ],
    }


def _clip_note(outcomes: list[Outcome]) -> str:
    clip = max(
        (o for o in outcomes if o.phase == CLIP_BASE), key=lambda o: o.weights_version, default=None
    )
    if clip is None:
        return ""
    return (
        f"Held-out seed {HELD_OUT_SEED + clip.index}: the first that base + residual solved and "
        "the base alone did not, where there is one."
    )


def _embed(file: Path | None) -> str:
    if file is None:
        return ""
    kind = file.suffix.removeprefix(".")
    return f"data:image/{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
