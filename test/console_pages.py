"""Consoles of their own processes, and their pages in Chromium, for the tests of both."""

import contextlib
from collections.abc import Iterator

import pytest
from browser import Console, Session, chromium, wait_until

TOKEN = "a-token-of-the-tests"
# Consoles by what becomes of them.
CHANGES = {
    "open": {},
    "guarded": {"token": TOKEN, "host": "0.0.0.0", "robot": "so101_sim",
                "cameras": ["front"], "image_transport": "compressed"},
    "terminated": {},
    "without a token": {"host": "0.0.0.0"},
}  # fmt: skip


def start(tmp_path_factory, *names: str) -> dict[str, Console]:
    """Start consoles by name, each in a folder of its own, together."""
    started = {}
    for name in names:
        folder = tmp_path_factory.mktemp("console")
        started[name] = Console(folder, **CHANGES[name])
        started[name].folder = folder
    return started


@contextlib.contextmanager
def opened(browser, url, **settings) -> Iterator:
    """Open a page of a console in a context of its own, and wait until it is filled."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}} | settings)
    page = context.new_page()
    page.requested = []
    page.on("request", lambda request: page.requested.append(request.url))
    try:
        page.goto(url)
        page.wait_for_selector(".position")
        yield page
    finally:
        context.close()


def text_becomes(page, selector: str, text: str) -> None:
    page.locator(selector, has_text=text).first.wait_for()


def called(session, *services) -> None:
    wait_until(lambda: len(session.calls) >= len(services), f"calls of {services}")
    assert session.calls == list(services)


@pytest.fixture(scope="module")
def running():
    session = Session()
    yield session
    session.close()


@pytest.fixture
def session(running):
    """The session, with no call of a test before."""
    running.calls.clear()
    running.refusals.clear()
    running.targets.clear()
    return running


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started
