"""ament_pep257, as ROS's build farm runs it, with the rules that pyproject.toml has for ruff."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# D213 is the opposite of D212; the others would restyle docstrings, or misread names in them.
LEFT_OUT = ["D213", "D401", "D402", "D403"]
FOLDERS = ["benchmarks", "examples", "launch", "residual_smolvla_ros", "test", "tools"]


@pytest.mark.linter
@pytest.mark.pep257
def test_pep257(monkeypatch):
    main = pytest.importorskip("ament_pep257.main", reason="ament_lint is not installed")
    monkeypatch.chdir(ROOT)
    assert main.main(argv=[*FOLDERS, "setup.py", "--add-ignore", *LEFT_OUT]) == 0
