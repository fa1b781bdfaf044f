"""/healthz and /metrics on a listener of their own. Nothing can be changed here."""

import contextlib
import socket
from collections.abc import Callable, Iterator

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from farthing_cloud.listeners import ListenError

#: Connections waiting to be accepted: a scraper, a person, a load balancer's probe.
BACKLOG = 16
#: More at once than that are told to come again.
MAX_CONCURRENCY = 32
#: A page under way when we are told to stop.
GRACE_S = 1


class _Server(uvicorn.Server):
    """uvicorn without signal handlers: the composition root has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpListener:
    """Serves two pages until cancelled."""

    def __init__(self, *, listen: str, faults: Callable[[], list[str]], registry: CollectorRegistry) -> None:
        """``faults`` says what is wrong now, in sentences; empty: healthy."""
        self._listen = listen
        self._faults = faults
        self._registry = registry
        self._socket: socket.socket | None = None
        self._server: _Server | None = None
        self.address = listen

    def start(self) -> None:
        """Bind; ``address`` says where. Raise ``ListenError`` if the port is taken."""
        host, _, port = self._listen.rpartition(":")
        bare = host.strip("[]")
        bound = socket.socket(socket.AF_INET6 if ":" in bare else socket.AF_INET, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((bare, int(port)))
        except OSError as err:
            bound.close()
            raise ListenError(
                f"[http] listen: cannot listen on {self._listen} ({err.strerror}): stop what uses it, or write another"
                " port (0: any free one)"
            ) from err
        self._socket = bound
        self.address = f"{host}:{bound.getsockname()[1]}"

    async def run(self) -> None:
        """Serve until ``stop`` or cancelled."""
        assert self._socket is not None, "start() comes first"
        app = Starlette(routes=[Route("/healthz", self._get_healthz), Route("/metrics", self._get_metrics)])
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            backlog=BACKLOG,
            limit_concurrency=MAX_CONCURRENCY,
            timeout_graceful_shutdown=GRACE_S,
        )
        self._server = _Server(config)
        await self._server.serve(sockets=[self._socket])

    def stop(self) -> None:
        """Take no more requests and let ``run`` return."""
        if self._server is not None:
            self._server.should_exit = True

    async def _get_healthz(self, _request: Request) -> Response:
        faults = self._faults()
        return JSONResponse({"ok": not faults, "faults": faults}, status_code=503 if faults else 200)

    async def _get_metrics(self, _request: Request) -> Response:
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)
