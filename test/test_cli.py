"""The command line refuses bad input with one line, and writes nothing then."""

import json
import subprocess
import sys

import pytest

from residual_smolvla_ros import arguments


def command(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "residual_smolvla_ros.cli", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "expected", "found"),
    [
        (["finetun"], "finetune", "finetun"),
        (["finetune", "seed=3"], "name:=value", "seed=3"),
        (["finetune", "speed:=3"], "base_checkpoint", "speed"),
        (["finetune", "seed:=three"], "whole number", "three"),
        (["finetune", "sim:=maybe"], "true or false", "maybe"),
        (["finetune", "config:=none.yaml"], "parameter file", "none.yaml"),
        (["finetune", "base_checkpoint:=/nowhere"], "config.json", "no such folder"),
        (["finetune", "residual_checkpoint:=/nowhere"], "a folder", "no such folder"),
        (["evaluate", "total_steps:=5"], "eval_episodes", "total_steps"),
    ],
)
def test_bad_words_end_in_one_line_that_names_expected_and_found(words, expected, found, tmp_path):
    if "seed:=" in " ".join(words) or (words[0] == "finetune" and ":=" in words[-1]):
        words = [*words, f"output:={tmp_path / 'run'}"]
    result = command(*words)
    assert result.returncode != 0
    assert len(result.stderr.strip().splitlines()) == 1
    assert expected in result.stderr
    assert found in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_not_overwritten(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps({"precious": True}))
    result = command("finetune", f"output:={tmp_path}")
    assert result.returncode != 0
    assert "new or empty folder" in result.stderr
    assert json.loads((tmp_path / "summary.json").read_text()) == {"precious": True}


def test_resume_without_a_run_is_refused(tmp_path):
    result = command("finetune", f"output:={tmp_path}", "resume:=true")
    assert result.returncode != 0
    assert "expected a run" in result.stderr


@pytest.mark.parametrize("mode", [arguments.FINETUNE, arguments.EVALUATE])
def test_show_args_lists_every_argument_with_its_default(mode):
    text = command(mode, "--show-args").stdout
    for argument in arguments.arguments(mode):
        assert f"{argument.name}:" in text
        assert argument.default in text
