"""Pages on a listener of their own: /healthz and /metrics, a public log's files. Nothing can be changed here."""

import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from farthing_cloud.listeners import ListenError

#: Connections waiting to be accepted: a scraper, a person, a load balancer's probe, the web server before a public log.
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
    """Serves some routes until cancelled."""

    def __init__(self, *, section: str, listen: str, routes: Sequence[Route]) -> None:
        """``section`` of the configuration that ``listen`` stands in, for who has to change it."""
        self._section = section
        self._listen = listen
        self._routes = tuple(routes)
        self._socket: socket.socket | None = None
        self._server: _Server | None = None
        self.address = listen

    def start(self) -> None:
        """Listen; ``address`` says where. Raise ``ListenError`` if the port is taken. Who comes before ``run`` waits for it."""
        host, _, port = self._listen.rpartition(":")
        bare = host.strip("[]")
        bound = socket.socket(socket.AF_INET6 if ":" in bare else socket.AF_INET, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((bare, int(port)))
            bound.listen(BACKLOG)
        except OSError as err:
            bound.close()
            raise ListenError(
                f"[{self._section}] listen: cannot listen on {self._listen} ({err.strerror}): stop what uses it, or write another"
                " port (0: any free one)"
            ) from err
        self._socket = bound
        self.address = f"{host}:{bound.getsockname()[1]}"

    async def run(self) -> None:
        """Serve until ``stop`` or cancelled."""
        assert self._socket is not None, "start() comes first"
        config = uvicorn.Config(
            Starlette(routes=self._routes),
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


def health_and_metrics(*, faults: Callable[[], list[str]], registry: CollectorRegistry) -> list[Route]:
    """``faults`` says what is wrong now, in sentences; empty: healthy."""

    async def healthz(_request: Request) -> Response:
        found = faults()
        return JSONResponse({"ok": not found, "faults": found}, status_code=503 if found else 200)

    async def metrics(_request: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return [Route("/healthz", healthz), Route("/metrics", metrics)]
