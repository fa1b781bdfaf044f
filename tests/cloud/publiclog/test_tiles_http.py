"""A log's files over HTTP: what a witness reads from a folder it reads from the listener, and there is nothing else to read."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from log_parts import KEY, append, batches, opened, sequencer
from starlette.applications import Starlette

from farthing.tlog.checkpoint import open_checkpoint
from farthing.tlog.places import fetch_from
from farthing.tlog.tiles import CHECKPOINT, MissingTile, TileReader
from farthing_cloud.http import HttpListener
from farthing_cloud.listeners import ListenError
from farthing_cloud.publiclog import tiles_http


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Of a folder with files that the format has, and some that it has not."""
    for name in ("checkpoint", "tile/0/000", "tile/0/x001/234.p/7", "tile/entries/000.p/3", "tile/8/x000/001"):
        file = tmp_path / "batches" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "batches" / "key").write_text("secret")
    app = Starlette(routes=tiles_http.routes(tmp_path))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://log", follow_redirects=True
    ) as opened_client:
        yield opened_client


async def test_a_checkpoint_is_of_now_and_a_tile_for_ever(client: httpx.AsyncClient) -> None:
    checkpoint = await client.get("/batches/checkpoint")
    assert (checkpoint.text, checkpoint.headers["cache-control"]) == ("checkpoint", "no-cache")
    assert checkpoint.headers["content-type"] == "text/plain; charset=utf-8"
    for name in ("tile/0/000", "tile/0/x001/234.p/7", "tile/entries/000.p/3"):
        tile = await client.get(f"/batches/{name}")
        assert (tile.status_code, tile.text, tile.headers["content-type"]) == (200, name, "application/octet-stream")
        assert "immutable" in tile.headers["cache-control"]
        assert (await client.head(f"/batches/{name}")).headers["content-length"] == str(len(name))
    assert (await client.post("/batches/checkpoint")).status_code == 405


@pytest.mark.parametrize(
    "path",
    [
        "batches",
        "batches/",
        "secret",
        "batches/key",
        "batches/../secret",
        "batches/%2e%2e/secret",
        "batches/tile/0/../../key",
        "batches/tile%2f0/000",
        "batches/tile/0/%30%30%30",
        "batches//checkpoint",
        "batches/checkpoint/",
        "batches/tile",
        "batches/tile/00/000",
        "batches/tile/64/000",
        # Spelled in another way than the format does, though the file is there.
        "batches/tile/8/x000/001",
        "batches/tile/0/000.p/256",
        "batches/tile/0/000.p/07",
        "batches/tile/0/" + "x001/" * 7 + "001",
        "batches/tile/0/000%0a",
        # Not there (yet): a reader falls back to the full tile.
        "batches/tile/0/000.p/5",
        "devices/checkpoint",
        "else/checkpoint",
    ],
)
async def test_nothing_else_is_there(client: httpx.AsyncClient, path: str) -> None:
    url = httpx.URL("http://log/").copy_with(raw_path=b"/" + path.encode())
    answer = await client.get(url)
    assert answer.status_code == 404
    assert "secret" not in answer.text


@pytest.mark.real
async def test_a_log_is_read_and_believed_over_http(database_url: str, tmp_path: Path) -> None:
    async with opened(database_url) as pool:
        log = sequencer(pool, tmp_path / "batches")
        await append(log, pool, batches(0, 300))
        await log.publish()
        listener = HttpListener(section="publiclog", listen="127.0.0.1:0", routes=tiles_http.routes(tmp_path))
        listener.start()
        # Who comes before it serves waits for it; nobody else has the port.
        host, _, port = listener.address.rpartition(":")
        _, early = await asyncio.open_connection(host, int(port))
        early.close()
        with pytest.raises(ListenError, match=r"\[http\] listen: cannot listen on"):
            HttpListener(section="http", listen=listener.address, routes=()).start()
        serving = asyncio.create_task(listener.run())

        def read() -> list[bytes]:
            fetch = fetch_from(f"http://{listener.address}/batches")
            checkpoint, _ = open_checkpoint(fetch(CHECKPOINT, 10_000), KEY)
            with pytest.raises(MissingTile):
                fetch("tile/0/999", 10_000)
            return list(TileReader(size=checkpoint.size, root=checkpoint.root, fetch=fetch).entries(0, checkpoint.size))

        assert await asyncio.to_thread(read) == [leaf.entry for leaf in batches(0, 300)]
        listener.stop()
        await serving
