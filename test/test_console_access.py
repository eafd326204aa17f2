"""Who may open the console, request by request."""

import asyncio
import socket

import pytest

from residual_smolvla_ros.console.access import Access, check_host
from residual_smolvla_ros.console.layout import Layout
from residual_smolvla_ros.console.server import ConsoleServer
from residual_smolvla_ros.errors import ConfigError

TOKEN = "correct-horse-battery"
HERE = {"host": "127.0.0.1:8080"}
OWN = HERE | {"origin": "http://127.0.0.1:8080"}


async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"in"})


def ask(headers: dict, kind="http", method="GET", query="", token="") -> tuple[int, dict]:
    """Return status and headers of the answer; a refused socket is a 403 as well."""
    sent = []

    async def send(message):
        sent.append(message)

    scope = {
        "type": kind, "path": "/", "query_string": query.encode(), "server": ("127.0.0.1", 8080),
        "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
    }  # fmt: skip
    if kind == "http":
        scope["method"] = method
    asyncio.run(Access(app, token)(scope, None, send))
    if kind == "websocket":
        return (200 if sent[0]["type"] == "websocket.accept" else 403), {}
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], found


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost:9000", "[::1]:8080"])
def test_this_machine_is_let_in_by_each_of_its_names(host):
    assert ask({"host": host})[0] == 200
    assert ask({"host": host, "origin": f"http://{host}"}, method="POST")[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[", "192.0.2.1"])
def test_a_foreign_name_that_resolves_to_this_machine_is_refused(host):
    assert ask({"host": host})[0] == 403
    assert ask({"host": host, "origin": f"http://{host}"}, kind="websocket")[0] == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "http://127.0.0.1:3000"},  # another server of this machine
        {"origin": "null"},
        {},
        {"origin": "http://127.0.0.1:8080", "sec-fetch-site": "cross-site"},
    ],
)
@pytest.mark.parametrize(("kind", "method"), [("http", "POST"), ("websocket", "")])
def test_what_acts_must_come_from_a_page_of_the_console(headers, kind, method):
    assert ask(HERE | headers, kind, method)[0] == 403


def test_another_page_may_link_to_the_console_but_not_read_or_embed_it():
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    status, headers = ask(HERE | link)
    assert status == 200
    assert headers["x-frame-options"] == "DENY"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert ask(HERE | link | {"sec-fetch-mode": "no-cors"})[0] == 403
    assert ask(HERE | {"origin": "https://evil.example"})[0] == 403
    assert ask(HERE | link, method="POST")[0] == 403


def test_the_token_given_once_becomes_a_cookie_that_scripts_and_other_sites_do_not_get():
    status, headers = ask(HERE, query=f"token={TOKEN}", token=TOKEN)
    cookie, *rest = headers["set-cookie"].split("; ")
    assert (status, rest) == (200, ["Path=/", "HttpOnly", "SameSite=Strict"])
    assert TOKEN not in cookie
    jar = {"cookie": f"other={{1}}; {cookie}"}
    assert ask(HERE | jar, token=TOKEN)[0] == 200
    assert ask(OWN | jar, method="POST", token=TOKEN)[0] == 200
    assert ask(OWN | jar, kind="websocket", token=TOKEN)[0] == 200


@pytest.mark.parametrize("query", ["", "token=", "token=wrong", f"token={TOKEN}x", "token=%ff"])
@pytest.mark.parametrize("cookie", ["", "console_8080=", "console_8080=0123", "console_8080=ü"])
def test_without_the_right_token_nothing_is_served(query, cookie):
    headers = OWN | {"cookie": cookie.encode().decode("latin-1")}
    assert ask(headers, query=query, token=TOKEN)[0] == 403
    assert ask(headers, method="POST", query=query, token=TOKEN)[0] == 403
    assert ask(headers, kind="websocket", query=query, token=TOKEN)[0] == 403


def test_a_token_opens_the_console_under_any_name_but_to_no_other_page():
    cookie = ask(HERE, query=f"token={TOKEN}", token=TOKEN)[1]["set-cookie"].split(";")[0]
    there = {"host": "robot.local:8080", "cookie": cookie}
    assert ask(there | {"origin": "http://robot.local:8080"}, method="POST", token=TOKEN)[0] == 200
    assert ask(there | {"origin": "http://robot.local:3000"}, method="POST", token=TOKEN)[0] == 403


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "robot.local", ""])
def test_a_host_that_others_reach_needs_a_token(host):
    with pytest.raises(ConfigError, match="token: expected one"):
        check_host(host, "")
    check_host(host, TOKEN)


def test_a_token_that_can_be_guessed_is_refused():
    with pytest.raises(ConfigError, match="at least 8 characters, found 4") as error:
        check_host("0.0.0.0", "abcd")
    assert "abcd" not in str(error.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_this_machine_alone_needs_none(host):
    check_host(host, "")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "no.such.host.invalid"])
def test_a_port_that_is_taken_and_a_host_that_is_not_here_are_named(host):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"expected a free port, found {host} {port}: "):
            ConsoleServer(host, port, TOKEN, Layout((), "so101_sim", 30.0), None, None)
