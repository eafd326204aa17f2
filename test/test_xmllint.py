"""ament_xmllint, as ROS's build farm runs it: it reads package.xml's schema over the network."""

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.linter
@pytest.mark.xmllint
def test_xmllint(monkeypatch):
    main = pytest.importorskip("ament_xmllint.main", reason="ament_lint is not installed")
    if shutil.which("xmllint") is None:
        pytest.skip("xmllint is not installed (libxml2-utils)")
    monkeypatch.chdir(ROOT)
    assert main.main(argv=["package.xml", "config"]) == 0
