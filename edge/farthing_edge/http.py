"""/healthz, /metrics and /status on a listener of their own, for this host's operators. Nothing can be changed here."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from farthing.configuration import split_address

#: Connections waiting to be accepted: a scraper, a person, a load balancer's probe.
BACKLOG = 16
#: More at once than that are told to come again.
MAX_CONCURRENCY = 32
#: A page under way when we are told to stop.
GRACE_S = 1


class ListenError(Exception):
    """The address cannot be listened on; the message says what to do."""


class _Server(uvicorn.Server):
    """uvicorn without signal handlers: the composition root has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpListener:
    """Serves three pages until cancelled."""

    def __init__(
        self,
        *,
        listen: str,
        status: Callable[[], dict[str, Any]],
        faults: Callable[[], list[str]],
        metrics: Callable[[], bytes],
    ) -> None:
        self._listen = listen
        self._status = status
        self._faults = faults
        self._metrics = metrics
        self._socket: socket.socket | None = None
        self.address = listen

    def start(self) -> None:
        """Bind; ``address`` says where. Raise ``ListenError`` if the port is taken."""
        host, port = split_address(self._listen)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host, port))
            # From here on a connection waits instead of being refused.
            bound.listen(BACKLOG)
        except OSError as err:
            bound.close()
            raise ListenError(
                f"http.listen: cannot listen on {host}:{port} ({err.strerror}): "
                "stop what uses it, or write another port (0: any free one)"
            ) from err
        self._socket = bound
        shown = f"[{host}]" if ":" in host else host
        self.address = f"{shown}:{bound.getsockname()[1]}"

    async def run(self) -> None:
        """Serve until cancelled."""
        assert self._socket is not None, "start() comes first"
        app = Starlette(
            routes=[
                Route("/healthz", self._get_healthz),
                Route("/metrics", self._get_metrics),
                Route("/status", self._get_status),
            ]
        )
        server = _Server(
            uvicorn.Config(
                app,
                lifespan="off",
                log_config=None,
                access_log=False,
                backlog=BACKLOG,
                limit_concurrency=MAX_CONCURRENCY,
                timeout_graceful_shutdown=GRACE_S,
                server_header=False,
            )
        )
        with self._socket:
            await server.serve(sockets=[self._socket])

    async def _get_healthz(self, _: Request) -> Response:
        # Alive, and what it does without: a gateway without uplink or broker is what it is built for, not a reason to restart it.
        return JSONResponse({"ok": True, "faults": self._faults()})

    async def _get_metrics(self, _: Request) -> Response:
        return Response(self._metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _get_status(self, _: Request) -> Response:
        return JSONResponse(self._status())
