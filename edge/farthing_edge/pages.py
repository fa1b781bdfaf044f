"""The three pages that ``http`` serves, and the server under them: a tenth of a gateway's imports, so loaded when they are served."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

#: More at once than that are told to come again.
MAX_CONCURRENCY = 32
#: A page under way when we are told to stop.
GRACE_S = 1


class _Server(uvicorn.Server):
    """uvicorn without signal handlers: the composition root has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(
    listening: socket.socket,
    backlog: int,
    status: Callable[[], dict[str, Any]],
    faults: Callable[[], list[str]],
    metrics: Callable[[], bytes],
) -> None:
    """Serve on a socket that listens, until cancelled; ``backlog`` connections wait to be accepted."""

    async def get_healthz(_: Request) -> Response:
        # Alive, and what it does without: a gateway without uplink or broker is what it is built for, not a reason to restart it.
        return JSONResponse({"ok": True, "faults": faults()})

    async def get_metrics(_: Request) -> Response:
        return Response(metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def get_status(_: Request) -> Response:
        return JSONResponse(status())

    app = Starlette(
        routes=[
            Route("/healthz", get_healthz),
            Route("/metrics", get_metrics),
            Route("/status", get_status),
        ]
    )
    server = _Server(
        uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            access_log=False,
            backlog=backlog,
            limit_concurrency=MAX_CONCURRENCY,
            timeout_graceful_shutdown=GRACE_S,
            server_header=False,
        )
    )
    await server.serve(sockets=[listening])
