"""The console's HTTP server, in a thread of its own: the page, camera frames, and buttons.

Buttons and frames are plain requests of their own: neither waits for the page's socket, which a
slow client can hold up.
"""

import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from nicegui import Client, ui

from residual_smolvla_ros.console.access import Access, check_host
from residual_smolvla_ros.console.layout import Layout
from residual_smolvla_ros.console.page import build_page
from residual_smolvla_ros.console.state import ConsoleState
from residual_smolvla_ros.errors import ConfigError

START_S = 20.0
STOP_S = 1.0


@dataclass(frozen=True)
class Picture:
    """A camera's frame as the browser takes it: `stamp` in ns, compressed `data`."""

    stamp: int
    data: bytes
    media_type: str = "image/jpeg"


class Backend(Protocol):
    """What the buttons and the cameras of the page lead to."""

    def picture(self, camera: str, seen: int) -> Picture | None:
        """Return a camera's newest frame if it is not the one of the stamp `seen`, in ns."""

    async def call(self, action: str) -> tuple[bool, str]:
        """Do what a button says; return success and what to tell the person."""

    def jog(self, joint: str, direction: int) -> None:
        """Move a joint for a moment; raise ValueError where that cannot be."""

    def look(self) -> None:
        """Take note that a page is being looked at."""


class ConsoleServer:
    """Serve the console until `stop`. Raises ConfigError where it may not or cannot listen."""

    def __init__(
        self,
        host: str,
        port: int,
        token: str,
        layout: Layout,
        state: ConsoleState,
        backend: Backend,
    ):
        check_host(host, token)
        self._socket = _listen(host, port)
        self.port = self._socket.getsockname()[1]
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        _add_routes(app, layout, backend)
        build_page(layout, state, backend.look)
        # Own styles do without Tailwind; dark follows the system; nothing is stored.
        ui.run_with(
            app,
            title="residual_smolvla_ros",
            dark=None,
            tailwind=False,
            binding_refresh_interval=None,
            show_welcome_message=False,
        )
        # Neither an access log, which would hold the token of an address, nor signal handlers:
        # uvicorn leaves those alone in a thread.
        config = uvicorn.Config(
            Access(app, token),
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=60,  # HOLD finds a connection open
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="console", daemon=True)

    @property
    def clients(self) -> int:
        """Pages that are connected now."""
        return sum(client.has_socket_connection for client in list(Client.instances.values()))

    def start(self) -> None:
        """Serve from a thread; return once it does."""
        self._thread.start()
        end = time.monotonic() + START_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > end:
                raise ConfigError("expected the page's server to start, found that it does not")
            time.sleep(0.01)

    def stop(self) -> None:
        """End all connections; return when the server has gone, or after STOP_S."""
        self._server.should_exit = True
        self._thread.join(STOP_S)

    def _run(self) -> None:
        self._server.run(sockets=[self._socket])


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise ConfigError(f"port: expected 0 to 65535, found {port}")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        raise ConfigError(
            f"host, port: expected a free port, found {host} {port}: {error.strerror}"
        ) from None
    return listener


def _add_routes(app: FastAPI, layout: Layout, backend: Backend) -> None:
    @app.get("/camera/{name}")
    def camera(name: str, seen: int = 0) -> Response:
        if name not in layout.cameras:
            raise HTTPException(404, f"no camera {name}")
        backend.look()
        headers = {"cache-control": "no-store"}
        try:
            picture = backend.picture(name, seen)
        except ValueError as error:
            raise HTTPException(502, str(error)) from None
        if picture is None:
            return Response(status_code=204, headers=headers)
        headers["x-stamp"] = str(picture.stamp)
        return Response(picture.data, headers=headers, media_type=picture.media_type)

    @app.post("/call/{action}")
    async def call(action: str) -> Response:
        if action not in layout.services:
            raise HTTPException(404, f"no action {action}")
        success, message = await backend.call(action)
        return JSONResponse({"success": success, "message": message})

    @app.post("/jog/{joint}/{direction}")
    async def jog(joint: str, direction: int) -> Response:
        try:
            backend.jog(joint, direction)
        except ValueError as error:
            return JSONResponse({"success": False, "message": str(error)})
        return JSONResponse({"success": True, "message": ""})

    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"), name="static")
