"""docs/reference.md is what the code says, and what the README says of topics is in it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def page(reference_tool):
    """The module that writes the page."""
    return reference_tool("page")


@pytest.fixture(scope="module")
def text(page) -> str:
    return page.generate()


def test_the_committed_page_is_what_the_code_generates(page, text):
    told = f"expected {page.PAGE}, found another: run .venv/bin/python tools/reference/page.py"
    assert page.PAGE.read_text() == text, told


def test_no_parameter_is_without_a_meaning(text):
    arguments_and_parameters = text.partition("## Topics")[0]
    rows = re.findall(r"^\| `(.+?)` \| .* \| (.*?) \|$", arguments_and_parameters, re.MULTILINE)
    assert len(rows) > 150
    assert [name for name, meaning in rows if not meaning] == []


def test_the_readmes_topics_are_those_of_the_nodes(text):
    section = README.partition("## Topics")[2].partition("\nServices ")[0]
    told = set(re.findall(r"`([^`|]+)`", " ".join(re.findall(r"^\| (.+?) \|", section, re.M))))
    found = set(
        re.findall(r"^\| `(.+?)` \|", text.partition("## Topics")[2].partition("\n## ")[0], re.M)
    )
    assert told <= found
    assert {
        n
        for n in found - told
        if not n.startswith(("<topic", "<answers", "<arm>", "/rosout", "/clock"))
    } == {
        "session",
        "spectator/image_raw",
    }


def test_a_name_that_the_source_does_not_tell_is_an_error(page, tmp_path):
    """A topic whose name is computed must not be left out of the page without a word."""
    import ast

    from interfaces import Interface, _Reader

    from residual_smolvla_ros.nodes import camera

    reader = _Reader(camera, Interface("camera", ""))
    call = ast.parse("self.create_publisher(Image, f'{unknown}/x', 1)").body[0].value
    with pytest.raises(LookupError, match="expected a name that the source tells"):
        reader._topics(call.args[1])


def test_a_call_that_makes_a_topic_and_is_not_known_is_an_error(page, monkeypatch):
    """What a new kind of subscription hears went from the page, and from the SROS 2 policy."""
    import interfaces

    monkeypatch.delitem(interfaces.CALLS, "record_subscription")
    with pytest.raises(LookupError, match="found record_subscription: add it"):
        interfaces._read("reward")
