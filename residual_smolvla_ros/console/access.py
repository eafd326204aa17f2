"""Who may open the console: a token where the network can reach it, no foreign web page ever.

A browser sends a page's requests with its cookies wherever they go, and a name can be made to
resolve to 127.0.0.1. So each request must name this console as its host, and each one that can do
something must come from a page of the console itself.
"""

import hashlib
import hmac
import ipaddress
from urllib.parse import parse_qs, urlsplit

from starlette.requests import cookie_parser

from residual_smolvla_ros.errors import ConfigError

MIN_TOKEN = 8
# The page's address bar forgets the token. No redirect: a browser withholds a strict cookie from
# one that another site's link began.
_WELCOME = b"""<!doctype html><meta charset="utf-8"><title>console</title>
<script>location.replace("/")</script><noscript><a href="/">console</a></noscript>"""
_HEADERS = (
    # NiceGUI evaluates its own templates. Nothing comes from, or goes to, another host.
    (b"content-security-policy",
     b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
     b"style-src 'self' 'unsafe-inline'; img-src 'self' blob: data:; font-src 'self' data:; "
     b"frame-ancestors 'none'; base-uri 'none'; form-action 'none'; object-src 'none'"),
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)  # fmt: skip


def check_host(host: str, token: str) -> None:
    """Raise ConfigError where the network could reach a console without a token."""
    if token and len(token) < MIN_TOKEN:
        raise ConfigError(f"token: expected at least {MIN_TOKEN} characters, found {len(token)}")
    if not token and not is_loopback(host):
        raise ConfigError(f"token: expected one for a host other than 127.0.0.1, found none for "
                          f"host {host!r}")  # fmt: skip


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address is this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Access:
    """ASGI middleware around everything that the console serves, sockets included."""

    def __init__(self, app, token: str = ""):
        self._app = app
        self._token = token.encode()
        self._cookie = hmac.new(self._token, b"console", hashlib.sha256).hexdigest()

    async def __call__(self, scope, receive, send) -> None:
        """Pass a request on, or answer 403."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1")
                   for name, value in scope["headers"]}  # fmt: skip
        cookie = f"console_{(scope.get('server') or ('', 0))[1]}"
        reason = self._foreign(scope, headers)
        if not reason and self._token:
            given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[-1]
            if scope["type"] == "http" and given and self._is_token(given):
                await _answer(send, 200, _WELCOME, cookie=f"{cookie}={self._cookie}")
                return
            if given or not self._is_cookie(headers.get("cookie", ""), cookie):
                reason = "expected the console's token: open its address with ?token=..."
        if not reason:
            await self._app(scope, receive, _with_headers(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await _answer(send, 403, f"403: {reason}\n".encode())

    def _foreign(self, scope, headers: dict[str, str]) -> str:
        """Return why a request is not one of the console's own pages, or nothing."""
        host = headers.get("host", "")
        # With a token any name of this machine will do: a page that got its address by another
        # name has no cookie for it.
        if not self._token and not is_loopback(_hostname(host)):
            return f"expected a host of this machine, found {host!r}"
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return f"expected a request of the console's own page, found one of {origin!r}"
        acts = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD")
        if acts and origin is None:
            return "expected a request of the console's own page, found none"
        site = headers.get("sec-fetch-site", "none")
        navigates = headers.get("sec-fetch-mode") == "navigate" and not acts
        if site not in ("same-origin", "none") and not navigates:
            return f"expected a request of the console's own page, found a {site} one"
        return ""

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token)

    def _is_cookie(self, header: str, name: str) -> bool:
        given = cookie_parser(header).get(name, "")
        return hmac.compare_digest(given.encode(), self._cookie.encode())


def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _with_headers(send):
    async def sending(message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *_HEADERS]
        await send(message)

    return sending


async def _answer(send, status: int, body: bytes, cookie: str = "") -> None:
    kind = b"text/html; charset=utf-8" if status == 200 else b"text/plain; charset=utf-8"
    headers = [(b"content-type", kind), (b"cache-control", b"no-store"), *_HEADERS]
    if cookie:
        value = f"{cookie}; Path=/; HttpOnly; SameSite=Strict"
        headers.append((b"set-cookie", value.encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
