"""A log's files over HTTP (C2SP tlog-tiles), for who has no web server to show them: ``GET /<log>/checkpoint`` and ``/<log>/tile/...``.

Rule 1: a path is one that the format has, spelled as the format spells it, or it is not there: nothing else of the disk can be named.
Rule 2: a checkpoint is of now and a tile is for ever; a partial tile may go when the full one has come, and readers fall back to that.
"""

import re
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from farthing.tlog.entries import LOG_NAMES
from farthing.tlog.tiles import CHECKPOINT, TILE_WIDTH

#: tlog-tiles: level 0 to 63 without leading zeros, or "entries"; the index in threes; the width of a partial one.
_TILE: Final = re.compile(
    r"tile/(?:entries|[0-9]|[1-5][0-9]|6[0-3])/(?P<index>(?:x[0-9]{3}/)*[0-9]{3})(?:\.p/(?P<width>[1-9][0-9]{0,2}))?\Z"
)
#: 2^63 leaves have that many groups of three digits.
_MAX_GROUPS: Final = 7
#: A checkpoint is asked for again soon; a tile never changes.
_FRESH: Final = "no-cache"
_FOR_EVER: Final = "public, max-age=31536000, immutable"


def routes(directory: Path) -> list[Route]:
    """The logs below ``directory``; each is a folder of its name."""

    async def answer(request: Request) -> Response:
        log, path = request.path_params["log"], request.path_params["path"]
        # As it was sent: what is escaped is another spelling, and no other spelling is there.
        if log not in LOG_NAMES or request.scope["raw_path"] != f"/{log}/{path}".encode() or not _is_there(path):
            return Response("not found\n", status_code=404, media_type="text/plain")
        file = directory / log / path
        if not file.is_file():
            return Response("not found\n", status_code=404, media_type="text/plain")
        if path == CHECKPOINT:
            # Read whole: it is replaced, and its length with it.
            return Response(
                file.read_bytes(), media_type="text/plain; charset=utf-8", headers={"Cache-Control": _FRESH}
            )
        return FileResponse(file, media_type="application/octet-stream", headers={"Cache-Control": _FOR_EVER})

    return [Route("/{log}/{path:path}", answer, methods=["GET", "HEAD"])]


def _is_there(path: str) -> bool:
    """Whether the format has such a path."""
    if path == CHECKPOINT:
        return True
    match = _TILE.match(path)
    if match is None:
        return False
    groups, width = match["index"].split("/"), match["width"]
    # No group in front that says nothing.
    spelled = len(groups) <= _MAX_GROUPS and (len(groups) == 1 or groups[0] != "x000")
    return spelled and (width is None or int(width) < TILE_WIDTH)
