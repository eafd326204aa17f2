"""The console in Chromium: what it shows, what its buttons do, and who is kept out."""

import contextlib
import http.client
import http.server
import signal
import socket
import threading

import pytest
from browser import Console, Proxy, Session, chromium, wait_until
from robot_graph import isolated
from sensor_msgs.msg import JointState
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from residual_smolvla_ros.robots.units import JOINT_NAMES

DOMAIN = 55
TOKEN = "a-token-of-the-tests"
PAN = "[data-jog=shoulder_pan][data-direction='1']"
BUTTONS = {
    "hold": "so101_bridge/hold",
    "release": "so101_bridge/release",
    "start": "episode/start",
    "stop": "episode/stop",
    "success": "episode/success",
    "failure": "episode/failure",
    "discard": "episode/discard",
    "scene": "reset_environment/done",
}
KEYS = {"s": "success", "f": "failure", "r": "discard", "ArrowLeft": "discard", "Escape": "stop",
        " ": "hold"}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def domain():
    with isolated(DOMAIN):
        yield


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """Consoles by what becomes of them, each in a folder of its own; started together."""
    changes = {
        "open": {},
        "guarded": {"token": TOKEN, "host": "0.0.0.0", "robot": "so101_sim",
                    "cameras": ["front"], "image_transport": "compressed"},
        "terminated": {},
        "without a token": {"host": "0.0.0.0"},
    }  # fmt: skip
    started = {}
    for name, change in changes.items():
        folder = tmp_path_factory.mktemp("console")
        started[name] = Console(folder, **change)
        started[name].folder = folder
    yield started
    codes = [console.stop(signal.SIGINT) for console in (started["open"], started["guarded"])]
    assert codes == [0, 0], [console.log for console in started.values()]


@pytest.fixture(scope="module")
def console(nodes):
    return nodes["open"]


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


@pytest.fixture(scope="module")
def shared(browser, console, running):
    with opened(browser, console.url) as page:
        yield page


@pytest.fixture
def page(shared, session):
    """The console's page on a desktop, connected; one for all tests that leave it as it was."""
    shared.wait_for_function("!document.body.classList.contains('is-lost')")
    return shared


@contextlib.contextmanager
def opened(browser, url, **settings):
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


def test_cameras_joints_rewards_and_the_learner_move_on_the_page(page, session):
    for camera in ("front", "wrist"):
        sources = set()
        wait_until(
            lambda camera=camera, sources=sources: sources.add(
                page.locator(f"[data-camera={camera}]").get_attribute("src")
            ) or len(sources - {None}) >= 3,
            f"frames of {camera}",
        )  # fmt: skip
        width = "element => element.naturalWidth"
        assert page.locator(f"[data-camera={camera}]").evaluate(width) == 320
    session.positions[0] = 0.25
    text_becomes(page, ".position", "14.3°")
    assert page.locator(".position").first.get_attribute("title") == "0.2500 rad"
    assert page.locator(".joint").all_inner_texts() == list(JOINT_NAMES)
    assert page.locator(".term").all_inner_texts() == ["reach", "smoothness"]
    text_becomes(page, ".reward-grid .number", "-0.100")
    text_becomes(page, ".metric .number", "0.012")
    text_becomes(page, ".chip", "training, episode 1")
    session.warn("images of front (none yet)")
    text_becomes(page, ".lines", "session: images of front (none yet)")


def test_the_time_the_count_and_the_curve_follow_the_episode(page, session):
    text_becomes(page, ".time", "of 10.0 s")
    session.event("end", reason="truncated", steps=300)
    session.say("unlabelled")
    page.wait_for_function("document.body.dataset.episode === 'unlabelled'")
    session.event("label", label="success")
    text_becomes(page, ".count", "1 of 1 (100 %)")
    text_becomes(page, ".learner .note", "300 control steps of training")
    series = "element => getElement(element.id.slice(1)).chart.getOption().series.map(s => s.data)"
    wait_until(
        lambda: page.locator(".chart").evaluate(series) == [[[0.3, 1]], [], [], []], "the curve"
    )
    session.event("prepare")
    session.say("running")


def test_a_camera_s_own_jpeg_is_passed_on_as_it_is(nodes, browser, session):
    with opened(browser, f"{nodes['guarded'].url}/?token={TOKEN}") as page:
        text_becomes(page, "figcaption", "Hz")
        read = "fetch('/camera/front').then(r => r.bytes()).then(b => Array.from(b))"
        assert bytes(page.evaluate(read)) == session.jpeg


def test_a_page_needs_no_other_host(page, console):
    hosts = {url.split("/")[2] for url in page.requested if not url.startswith("blob:")}
    assert hosts == {console.url.removeprefix("http://")}


@pytest.mark.parametrize("action", BUTTONS)
def test_a_button_calls_its_service_once_and_says_what_it_answered(page, session, action):
    page.click("#hold" if action == "hold" else f"[data-call={action}]")
    place = "#hold-said" if action == "hold" else ".q-notification"
    text_becomes(page, place, f"{BUTTONS[action]} is done")
    called(session, BUTTONS[action])


def test_keys_label_stop_and_hold_and_no_other_key_does_anything(page, session):
    for key, action in KEYS.items():
        session.calls.clear()
        page.keyboard.press(key)
        called(session, BUTTONS[action])
    session.calls.clear()
    page.click("[data-call=start]")  # has the focus of a mouse: neither Enter nor space press it
    for key in ("Enter", *"abcdeghijklmnopqtuvwxyz0123456789", "ArrowRight", "Control+s", "S"):
        page.keyboard.press(key)
    page.keyboard.press(" ")
    called(session, "episode/start", "so101_bridge/hold")


def test_space_holds_even_where_a_button_has_the_focus(page, session):
    page.focus("[data-call=release]")
    page.keyboard.press(" ")
    called(session, "so101_bridge/hold")


def test_a_refusal_and_a_missing_service_are_said(page, session, browser, nodes):
    session.refusals["episode/success"] = "no episode is running"
    page.click("[data-call=success]")
    text_becomes(page, ".q-notification", "no episode is running")
    with opened(browser, f"{nodes['guarded'].url}/?token={TOKEN}") as other:
        assert not other.locator("[data-call=scene]").count()
        other.click("#hold")
        text_becomes(other, "#hold-said", "expected a service so101_sim/hold, found none")


@pytest.mark.parametrize("fault", ["stall", "cut"])
def test_hold_goes_out_past_a_socket_that_is_stuck_or_gone(browser, console, session, fault):
    proxy = Proxy(console.port)
    try:
        with opened(browser, f"http://127.0.0.1:{proxy.port}") as page:
            getattr(proxy, fault)()
            page.locator("#lost").wait_for()
            page.click("#hold")
            text_becomes(page, "#hold-said", "so101_bridge/hold is done")
            called(session, "so101_bridge/hold")
    finally:
        proxy.close()


def test_a_hold_that_does_not_get_through_is_said_and_tried_until_it_does(page, session):
    page.context.set_offline(True)
    page.click("#hold")
    text_becomes(page, "#hold-said", "use the power switch")
    assert session.calls == []
    page.context.set_offline(False)
    text_becomes(page, "#hold-said", "so101_bridge/hold is done")
    called(session, "so101_bridge/hold")


def test_hold_is_in_view_on_a_phone_and_nothing_lies_on_it(browser, console, session):
    size = {"width": 390, "height": 844}
    with opened(browser, console.url, viewport=size, has_touch=True, is_mobile=True) as page:
        assert page.evaluate("document.scrollingElement.scrollWidth") == size["width"]
        page.evaluate("scrollTo(0, 1e6)")
        box = page.locator("#hold").bounding_box()
        assert 0 <= box["y"] <= size["height"] - box["height"]
        page.tap("#hold")
        called(session, "so101_bridge/hold")


def test_everything_fits_on_a_desktop(page):
    assert page.evaluate("document.scrollingElement.scrollHeight") <= 800
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 1280


def take_over(page, session) -> None:
    page.click("[data-call=takeover]")
    page.locator("[data-call=giveback]").wait_for()
    called(session, "intervention/start")


def test_a_takeover_starts_where_the_joints_are_and_moves_what_is_pressed(page, session):
    before = list(session.positions)
    take_over(page, session)
    assert list(session.targets[0].position) == before
    page.locator(PAN).hover()
    page.mouse.down()
    wait_until(lambda: session.positions[0] > before[0] + 0.1, "a movement")
    page.mouse.up()
    page.click("[data-call=giveback]")
    page.locator("[data-call=takeover]").wait_for()
    assert session.positions[1:] == before[1:]
    steps = [b.position[0] - a.position[0] for a, b in zip(session.targets, session.targets[1:],
                                                           strict=False)]  # fmt: skip
    assert max(steps) <= 0.3 * 0.1 + 1e-9
    wait_until(lambda: not session.node.count_publishers("intervention/command"), "no targets")


def test_a_joint_stops_when_the_page_that_moves_it_is_closed(browser, console, session):
    with opened(browser, console.url) as page:
        take_over(page, session)
        before = session.positions[0]
        page.locator(PAN).hover()
        page.mouse.down()
        wait_until(lambda: session.positions[0] > before + 0.05, "a movement")
    came = len(session.targets)
    wait_until(lambda: len(session.targets) > came + 30, "targets without a page")
    last = [target.position[0] for target in session.targets[-10:]]
    assert max(last) == min(last)
    session.end_intervention()
    wait_until(lambda: not session.node.count_publishers("intervention/command"), "no targets")


def test_the_console_sends_no_targets_beside_a_leader_arm(page, session):
    leader = session.node.create_publisher(JointState, "intervention/command", 1)
    try:
        page.click("[data-call=takeover]")
        page.locator("[data-call=giveback]").wait_for()
        page.locator(PAN).hover()
        page.mouse.down()
        text_becomes(page, ".q-notification", "expected the console to drive")
        page.mouse.up()
        assert session.targets == []
        page.click("[data-call=giveback]")
        page.locator("[data-call=takeover]").wait_for()
    finally:
        session.node.destroy_publisher(leader)


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
