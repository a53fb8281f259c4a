"""The server: the owner's interface behind TLS, started and stopped inside an event loop that is already running.

uvicorn does the HTTP. It is kept from taking signals, configuring logs and choosing a loop, since the process around it
has its own. The socket is bound before anything else, so that a port of 0 gives a free one and a taken one is an
error with its address.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import uvicorn

from daitn.base.errors import UnavailableError
from daitn.node.http.api import OwnerApp

CONNECTIONS: Final = 1000
"""Connections and requests at a time; beyond it clients get 503 and come back."""

STOP_S: Final = 1
"""How long requests under way may take to end when the server stops. Streams end at once, an upload is resumed; clients
that idle in a kept connection do not answer the closing, so every stop with such clients takes this long."""

IDLE_S: Final = 30
"""How long an idle connection is kept: a new TLS handshake costs 2 ms of both sides."""


class OwnerServer:
    """One listening server. `certificate` and `key` are PEM files whose certificate names `host`."""

    def __init__(self, app: OwnerApp, *, certificate: Path, key: Path, host: str = "127.0.0.1", port: int = 0) -> None:
        self._app = app
        self._host, self._port = host, port
        self._certificate, self._key = certificate, key
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port that is listened on, once started."""
        return self._port

    async def start(self) -> int:
        """Listen; returns the port when requests are answered. UnavailableError if the address is taken."""
        listening = self._bind()
        config = uvicorn.Config(
            self._app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ssl_certfile=self._certificate,
            ssl_keyfile=self._key,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=IDLE_S,
            timeout_graceful_shutdown=STOP_S,
        )
        config.load()
        if config.ssl is not None:
            config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[listening]), name="owner server")
        ready = asyncio.create_task(self._server.ready.wait())
        await asyncio.wait({ready, self._task}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if self._task.done():
            listening.close()
            await self._task
            raise UnavailableError(f"the owner's server at {self._host}:{self._port} ended while starting")
        return self._port

    async def stop(self) -> None:
        """End streams, let requests under way finish, and close the socket. Stopping twice is no error."""
        self._app.closing.set()
        if self._server is not None:
            self._server.should_exit = True
        if self._task is not None:
            await self._task
            self._task = None

    def _bind(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        # The protocol must be named: asyncio switches Nagle's delay off only where it is, and answers took 40 ms.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((self._host, self._port))
            listening.setblocking(False)
        except OSError as error:
            listening.close()
            raise UnavailableError(
                f"{self._host}:{self._port} cannot be listened on: {error.strerror}", todo="choose another port"
            ) from None
        self._port = int(listening.getsockname()[1])
        return listening


class _Server(uvicorn.Server):
    """uvicorn without its hand on signals, and with an event when it answers."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals stay with the process."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does, and say when it is done."""
        await super().startup(sockets=sockets)
        self.ready.set()
