"""The console in Chromium: what it shows, and what its buttons do."""

import signal

import pytest
from browser import Proxy, wait_until
from console_pages import TOKEN, called, opened, start, text_becomes
from robot_graph import isolated
from sensor_msgs.msg import JointState

from residual_smolvla_ros.robots.units import JOINT_NAMES

pytest_plugins = ["console_pages"]  # for its fixtures
DOMAIN = 55
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
    """A console for everybody, and one with a token that lacks a robot."""
    started = start(tmp_path_factory, "open", "guarded")
    yield started
    codes = [console.stop(signal.SIGINT) for console in started.values()]
    assert codes == [0, 0], [console.log for console in started.values()]


@pytest.fixture(scope="module")
def console(nodes):
    return nodes["open"]


@pytest.fixture(scope="module")
def shared(browser, console, running):
    with opened(browser, console.url) as page:
        yield page


@pytest.fixture
def page(shared, session):
    """The console's page on a desktop, connected; one for all tests that leave it as it was."""
    shared.wait_for_function("!document.body.classList.contains('is-lost')")
    return shared


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


@pytest.mark.realtime
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


@pytest.mark.realtime
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
