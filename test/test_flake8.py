"""ament_flake8, as ROS's build farm runs it, with the project's style instead of its own."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.flake8
@pytest.mark.linter
def test_flake8(monkeypatch):
    main = pytest.importorskip("ament_flake8.main", reason="ament_lint is not installed")
    monkeypatch.chdir(ROOT)
    rc, errors = main.main_with_errors(argv=["--config", "setup.cfg"])
    assert rc == 0, "\n".join(errors)
