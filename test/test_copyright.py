"""One licence for the whole package, in LICENSE, as package.xml and setup.py name it.

ament_copyright accepts nothing but 13 lines of licence at the top of each file; they are left out
here, as by the test that `ros2 pkg create` writes. What it can say of LICENSE is asked.
"""

from pathlib import Path

import pytest

LICENSE = Path(__file__).resolve().parents[1] / "LICENSE"


@pytest.mark.copyright
@pytest.mark.linter
def test_license_is_the_text_that_ament_copyright_knows():
    parser = pytest.importorskip("ament_copyright.parser", reason="ament_lint is not installed")
    licence = parser.parse_file(str(LICENSE))
    assert licence.license_identifier == "apache2"


@pytest.mark.skip(reason="one LICENSE instead of a licence at the top of each file")
@pytest.mark.copyright
@pytest.mark.linter
def test_copyright():
    pass
