"""The console in Chromium: pages side by side, who is kept out, and how it ends."""

import contextlib
import http.client
import http.server
import signal
import socket
import threading

import pytest
from browser import wait_until
from console_pages import TOKEN, called, opened, start, text_becomes
from robot_graph import isolated
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

pytest_plugins = ["console_pages"]  # for its fixtures
DOMAIN = 117


@pytest.fixture(scope="module", autouse=True)
def domain():
    with isolated(DOMAIN):
        yield


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """Consoles of which two end by themselves, or by a test."""
    started = start(tmp_path_factory, "guarded", "terminated", "without a token")
    yield started
    assert started["guarded"].stop(signal.SIGINT) == 0, started["guarded"].log


@pytest.fixture(scope="module")
def console(nodes):
    return nodes["terminated"]


def test_two_pages_work_side_by_side_and_leave_nothing_when_they_go(browser, nodes, session):
    console = nodes["terminated"]
    port = console.port

    def reports(**values: str) -> bool:
        return values.items() <= session.consoles.get(port, {}).items()

    with opened(browser, console.url) as first:
        with opened(browser, console.url) as second:
            wait_until(lambda: reports(clients="2", in_view="True"), "two pages")
            session.positions[0] = -0.25
            for page in (first, second):
                text_becomes(page, ".position", "-14.3°")
        first.click("[data-call=success]")
        called(session, "episode/success")
        wait_until(lambda: reports(clients="1", in_view="True"), "one page")
    wait_until(lambda: reports(clients="0", in_view="False", images="0"), "no page")


def test_a_page_of_another_server_cannot_act(browser, console, session):
    """It may try a fetch, a form, an image and a socket: none of them gets through."""
    tries = f"""<form method=post action="{console.url}/call/start"></form>
<img src="{console.url}/camera/front"><script>
addEventListener("load", async () => {{
  const results = [];
  for (const mode of ["cors", "no-cors"]) {{
    await fetch("{console.url}/call/start", {{method: "POST", mode}}).catch(() => {{}});
  }}
  const path = "/_nicegui_ws/socket.io/?EIO=4&transport=";
  const read = await fetch("{console.url}" + path + "polling").then(r => r.text(), () => "");
  const ws = new WebSocket("{console.url}".replace("http", "ws") + path + "websocket");
  const socket = await new Promise(done => {{ ws.onopen = () => done("open");
                                             ws.onerror = () => done("refused"); }});
  document.title = "tried: " + socket + " " + read + document.images[0].naturalWidth;
}});</script>"""
    with served(tries) as url:
        page = browser.new_page()
        page.goto(url)
        wait_until(lambda: page.title().startswith("tried"), "all tries")
        assert page.title() == "tried: refused 0"
        page.evaluate("document.forms[0].submit()")
        page.get_by_text("403").wait_for()
        page.close()
    assert session.calls == []


@contextlib.contextmanager
def served(content: str):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(content.encode())

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://localhost:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def status(port: int, path: str, method: str = "GET", **headers) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    own = {"Origin": f"http://127.0.0.1:{port}"}
    connection.request(method, path, headers=own | headers)
    try:
        return connection.getresponse().status
    finally:
        connection.close()


SOCKET = "/_nicegui_ws/socket.io/?EIO=4&transport="


@pytest.mark.parametrize("cookie", ["", "console=wrong"])
def test_without_the_token_nothing_of_the_console_is_served(nodes, session, cookie):
    port = nodes["guarded"].port
    for path in ("/", "/?token=wrong-token", "/static/console.js", "/camera/front",
                 SOCKET + "polling", "/favicon.ico", "/nowhere"):  # fmt: skip
        assert status(port, path, Cookie=cookie) == 403, path
    for path in ("/call/hold", "/jog/gripper/1", SOCKET + "polling"):
        assert status(port, path, "POST", Cookie=cookie) == 403, path
    with pytest.raises(InvalidStatus, match="403"):
        connect(f"ws://127.0.0.1:{port}{SOCKET}websocket", origin=f"http://127.0.0.1:{port}",
                additional_headers={"Cookie": cookie})  # fmt: skip
    assert session.calls == []


def test_the_token_opens_the_page_and_stays_neither_in_its_address_nor_in_the_log(
    nodes, browser, session
):
    guarded = nodes["guarded"]
    with opened(browser, f"{guarded.url}/?token={TOKEN}") as page:
        assert page.url == f"{guarded.url}/"
        assert page.evaluate("document.cookie") == ""
        page.click("[data-call=success]")
        called(session, "episode/success")
        page.reload()
        page.locator(".position").first.wait_for()
    assert TOKEN not in guarded.log


def test_a_console_that_others_reach_without_a_token_says_so_in_one_line_and_ends(nodes):
    refused = nodes["without a token"]
    assert refused.wait() == 1
    errors = [line for line in refused.log.splitlines() if "error" in line]
    assert len(errors) == 1
    assert "token: expected one for a host other than 127.0.0.1, found none" in errors[0]
    assert "Traceback" not in refused.log


def test_a_signal_ends_it_under_an_open_page_and_leaves_no_file(nodes, browser, session):
    ending = nodes["terminated"]
    with opened(browser, ending.url) as page:
        assert ending.stop(signal.SIGTERM) == 0
        page.locator("#lost").wait_for()
    assert "Traceback" not in ending.log
    assert {path.suffix for path in ending.folder.iterdir()} == {".yaml"}
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", ending.port))
