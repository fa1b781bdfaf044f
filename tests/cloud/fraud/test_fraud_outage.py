"""P8: fraud's own database goes away under load; the outbox never waits, and fraud catches up by itself."""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from farthing_cloud.database import EmbeddedServer

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture
def own_server() -> Iterator[EmbeddedServer]:
    folder = Path(tempfile.mkdtemp(prefix="farthing-postgresql-", dir="/tmp"))
    folder.chmod(0o755)
    server = EmbeddedServer(folder / "data")
    asyncio.run(server.start())
    yield server
    asyncio.run(server.stop())
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def database_url(own_server: EmbeddedServer) -> str:
    """In the place of the session's server: one that this test may stop."""
    return own_server.url()


async def test_postgresql_stops_and_comes_back(
    own_server: EmbeddedServer, house: Any, elements: Any, running: Any, until: Any
) -> None:
    devices = [elements.Element(f"d{n}") for n in range(4)]
    for each in devices:
        house.registry.know(each)
    service = house.build()
    async with running(service):
        for each in devices:
            await house.outbox.evidence(each.device_id, each.sign(1))
        await until(lambda: service.consumer.state.handled == 4)

        await own_server.stop()
        for counter in range(2, 51):
            for each in devices:
                await house.outbox.evidence(each.device_id, each.sign(counter))
        await house.outbox.evidence("d2", devices[2].sign(30, gateway="gw-2"))
        await until(lambda: not service.consumer.state.connected)

        await own_server.start()
        await until(lambda: house.registry.blocked == ["d2"])
        await until(lambda: service.consumer.state.handled == len(house.outbox.rows))
    assert service.consumer.state.parked == 0
    assert service.consumer.state.repeated == 0
