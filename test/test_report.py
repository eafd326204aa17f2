"""Summary, curve, clip and page, made from the lines that a run leaves."""

import base64
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from residual_smolvla_ros.learning.schedule import HELD_OUT_SEED, Outcome
from residual_smolvla_ros.reporting.report import (
    training_curve,
    validation_curve,
    write_report,
)
from residual_smolvla_ros.reporting.results import (
    EPISODES,
    UPDATES,
    append_outcome,
    last_episode,
    load_frames,
    read_outcomes,
    read_summary,
    save_frames,
    write_run,
)
from residual_smolvla_ros.reporting.table import format_table

# Wilson 1927, 95 %: the values that R's binom.confint(method = "wilson") prints.
WILSON = {(0, 10): (0.0, 0.2775), (4, 10): (0.1682, 0.6873), (10, 10): (0.7225, 1.0)}


def make_outcome(episode: int, phase: str, index: int, **changes) -> Outcome:
    outcome = Outcome(
        episode=episode,
        phase=phase,
        index=index,
        seed=0,
        weights_version=-1,
        steps=10,
        success=False,
        episode_return=1.0,
        reason="truncated",
        wall_s=float(episode),
    )
    return dataclasses.replace(outcome, **changes)


def make_outcomes(base: int = 4, residual: int = 9) -> list[Outcome]:
    """Ten held-out episodes, two updates of two episodes with a validation, ten held-out again.

    Of the held-out ones the base solves the first, the residual the last.
    """
    lines = [("base", i, -1, i < base) for i in range(10)]
    lines += [("warmup", i, 0, False) for i in (0, 1)]
    lines += [("validation", i, 1, i == 0) for i in (0, 1)]
    lines += [("train", i, 1, True) for i in (2, 3)]
    lines += [("residual", i, 2, i >= 10 - residual) for i in range(10)]
    lines += [("clip_base", 1, 2, False), ("clip_residual", 1, 2, True)]
    return [
        make_outcome(number, phase, index, weights_version=version, success=success)
        for number, (phase, index, version, success) in enumerate(lines, start=1)
    ]


def write(run: Path, outcomes: list[Outcome]) -> Path:
    write_run(run, {"seed": 3, "base_checkpoint": "some/base"})
    for outcome in outcomes:
        append_outcome(run, outcome)
    (run / UPDATES).write_text('{"version": 1}\n{"version": 2}\n')
    return run


def make_frames(number: int, value: int) -> list[np.ndarray]:
    return [np.full((12, 16, 3), value + i, np.uint8) for i in range(number)]


@pytest.fixture
def run(tmp_path) -> Path:
    run = write(tmp_path / "a_run", make_outcomes())
    save_frames(run, "clip_base", make_frames(2, 50))
    save_frames(run, "clip_residual", make_frames(4, 200))
    return run


def test_the_summary_has_the_promised_keys_and_figures(run):
    summary = write_report(run)
    assert read_summary(run) == json.loads((run / "summary.json").read_text()) == summary
    expected = {
        "env_steps": 40,
        "episodes": 4,
        "updates": 2,
        "wall_s": 28.0,
        # Training episodes 11, 12, 15 and 16 took a second each.
        "steps_per_s": 10.0,
        "success_base": 0.4,
        "success_residual": 0.9,
        "success_base_ci95": [0.1682, 0.6873],
        "success_residual_ci95": [0.5958, 0.9821],
        "eval_episodes": 10,
        "seed": 3,
        "base_checkpoint": "some/base",
        "solved_by_residual_only": 6,
        "solved_by_base_only": 1,
    }
    assert {key: summary.get(key) for key in expected} == expected


@pytest.mark.parametrize(("solved", "interval"), WILSON.items())
def test_intervals_are_wilsons(tmp_path, solved, interval):
    summary = write_report(write(tmp_path, make_outcomes(base=solved[0])[:10]))
    assert summary["success_base_ci95"] == pytest.approx(interval, abs=1e-4)


def test_a_run_without_training_has_no_curve_and_no_residual(tmp_path):
    summary = write_report(write(tmp_path, make_outcomes()[:10]))
    assert (summary["env_steps"], summary["steps_per_s"]) == (0, 0.0)
    assert summary["success_residual"] is None
    assert summary["success_residual_ci95"] is None
    assert not (tmp_path / "learning_curve.png").exists()
    assert not (tmp_path / "clip.gif").exists()
    assert "base alone" in (tmp_path / "report.html").read_text()


def test_curve_and_clip_are_pictures_and_the_page_holds_them(run):
    write_report(run)
    page = (run / "report.html").read_text()
    for name in ("learning_curve.png", "clip.gif"):
        content = (run / name).read_bytes()
        assert base64.b64encode(content).decode() in page, f"expected {name} in the page"
    with Image.open(run / "learning_curve.png") as curve:
        assert curve.format == "PNG"
        assert np.asarray(curve.convert("L")).std() > 5
    assert f"seed {HELD_OUT_SEED + 1}" in page
    assert "://" not in page, "expected a page that needs no network"


def test_the_clip_shows_both_side_by_side_and_the_shorter_stands_still(run):
    write_report(run)
    with Image.open(run / "clip.gif") as clip:
        assert clip.n_frames == 4
        assert clip.size[0] == 2 * 16
        clip.seek(3)
        last = np.asarray(clip.convert("L"))[-6:].astype(int)
    # The base was over after two frames, of 50 and 51; the residual's fourth frame is 203.
    np.testing.assert_allclose(last[:, :16], 51, atol=2)
    np.testing.assert_allclose(last[:, 16:], 203, atol=2)


def test_frames_of_an_older_longer_clip_are_not_mixed_in(tmp_path):
    save_frames(tmp_path, "clip_base", make_frames(5, 10))
    save_frames(tmp_path, "clip_base", make_frames(2, 100))
    assert [int(frame.mean()) for frame in load_frames(tmp_path, "clip_base")] == [100, 101]


def test_the_note_names_the_seed_of_the_newest_clip(run):
    """A finished run that went on for more steps has a second clip, perhaps of another seed."""
    for name in ("clip_base", "clip_residual"):
        append_outcome(run, make_outcome(40, name, 7, weights_version=4))
    write_report(run)
    assert f"seed {HELD_OUT_SEED + 7}" in (run / "report.html").read_text()


def test_the_curve_counts_only_the_steps_of_training():
    assert validation_curve(make_outcomes()) == [(20, 0.5, 2)]


def test_a_run_that_went_on_is_judged_by_its_newest_weights_alone(run):
    """Stopped within the second evaluation: five failures, where the older weights solved nine."""
    for index in range(5):
        append_outcome(run, make_outcome(50 + index, "residual", index, weights_version=4))
    assert write_report(run)["success_residual"] == 0.0


def test_an_episode_played_again_after_a_resume_counts_once(run):
    """The training episodes after the last checkpoint are lost, and played once more."""
    for index in (2, 3):
        again = make_outcome(40 + index, "train", index, weights_version=1, steps=7)
        append_outcome(run, again)
    summary = write_report(run)
    assert summary["episodes"] == 4
    assert summary["env_steps"] == 2 * 10 + 2 * 7


def test_a_resume_leaves_out_the_training_after_its_checkpoint(run):
    outcomes = read_outcomes(run, training_episodes=2)
    assert [o.index for o in outcomes if o.phase == "warmup"] == [0, 1]
    assert not [o for o in outcomes if o.phase == "train"]
    assert len([o for o in outcomes if o.phase == "base"]) == 10


def test_a_line_cut_short_by_a_kill_is_left_out(run):
    with (run / EPISODES).open("a") as stream:
        stream.write('{"episode": 29, "phase": "tra')
    assert read_outcomes(run) == make_outcomes()


def test_the_line_after_one_cut_short_is_not_lost(run):
    with (run / EPISODES).open("a") as stream:
        stream.write('{"episode": 29, "phase": "tra')
    again = make_outcome(29, "train", 4, weights_version=2)
    append_outcome(run, again)
    assert read_outcomes(run) == [*make_outcomes(), again]


def test_the_table_in_the_terminal_has_both_rates_and_their_intervals(run):
    text = format_table(write_report(run))
    for words in ("10 held-out seeds", "0.400   0.168 to 0.687", "0.900   0.596 to 0.982"):
        assert words in text
    assert "40 control steps in 4 episodes, 2 updates" in text


def test_a_run_without_an_episode_is_reported_all_the_same(tmp_path):
    write_run(tmp_path, {"seed": 0, "base_checkpoint": ""})
    assert write_report(tmp_path)["eval_episodes"] == 0
    assert (tmp_path / "report.html").is_file()


def test_a_session_without_evaluation_tells_the_successes_of_its_training(tmp_path):
    outcomes = [make_outcome(n, "train", n, success=n > 1) for n in (1, 2, 3)]
    run = write(tmp_path, outcomes)
    assert training_curve(outcomes) == [(10, 0.0, 1), (20, 0.5, 2), (30, pytest.approx(2 / 3), 3)]
    text = format_table(write_report(run))
    assert (run / "learning_curve.png").is_file()
    assert "success while training: 2 of 3 episodes" in text
    assert "held-out" not in text
    page = (run / "report.html").read_text()
    assert "Success while training: 2 of 3" in page
    assert "held-out" not in page


def test_what_a_person_helped_with_is_no_success_of_what_was_evaluated(tmp_path):
    outcomes = make_outcomes(base=4)[:10]
    outcomes[0] = dataclasses.replace(outcomes[0], intervened_steps=5)
    summary = write_report(write(tmp_path, outcomes))
    assert (summary["success_base"], summary["helped_episodes"]) == (0.3, 1)
    assert "helped by a person: 1 episodes" in format_table(summary)


def test_discarded_episodes_are_in_the_file_and_not_in_the_figures(tmp_path):
    outcomes = make_outcomes(base=4)[:10]
    spoilt = make_outcome(11, "base", 0, label="discard")
    run = write(tmp_path, [*outcomes, spoilt])
    assert write_report(run)["success_base"] == 0.4
    assert last_episode(run) == 11
