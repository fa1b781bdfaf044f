"""/healthz, /metrics and /status on a listener of their own, for this host's operators. Nothing can be changed here.

The address is taken at the start; what serves the pages (``pages``) is loaded beside the loop once devices are answered, and who asks
earlier waits in the backlog.
"""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from farthing.configuration import split_address

#: Connections waiting to be accepted: a scraper, a person, a load balancer's probe.
BACKLOG = 16


class ListenError(Exception):
    """The address cannot be listened on; the message says what to do."""


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
        serve = await asyncio.to_thread(_load_pages)
        with self._socket:
            await serve(self._socket, BACKLOG, self._status, self._faults, self._metrics)


def _load_pages() -> Callable[
    [socket.socket, int, Callable[[], dict[str, Any]], Callable[[], list[str]], Callable[[], bytes]],
    Coroutine[Any, Any, None],
]:
    from farthing_edge.pages import serve

    return serve
