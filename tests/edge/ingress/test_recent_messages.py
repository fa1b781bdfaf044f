"""A flood of message ids over UDP is remembered up to a bound, and a repeat is still answered once and the same."""

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiocoap
import pytest
from aiocoap.resource import Resource, Site

from farthing_edge.ingress.coap import drop_what_is_no_text
from farthing_edge.ingress.recent import RecentMessages, bound_memory

MOST = 64


class Counting(Resource):  # type: ignore[misc]  # aiocoap ships no types
    """Answers with how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    async def render_get(self, request: Any) -> Any:  # noqa: ARG002 aiocoap's signature
        self.asked += 1
        return aiocoap.Message(payload=str(self.asked).encode())


@dataclass
class Client(asyncio.DatagramProtocol):
    """A bare UDP socket."""

    heard: "asyncio.Queue[bytes]" = field(default_factory=asyncio.Queue)

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002 asyncio's signature
        self.heard.put_nowait(data)


@dataclass
class Served:
    """A listener whose memory is small, and somebody who speaks to it in bytes."""

    recent: RecentMessages
    resource: Counting
    client: Client
    transport: asyncio.DatagramTransport
    now_s: list[float]
    unreadable: list[int]

    async def ask(self, mid: int) -> bytes:
        """A confirmable GET /count with message id ``mid`` (RFC 7252, section 3); the answer's bytes."""
        self.transport.sendto(b"\x40\x01" + mid.to_bytes(2, "big") + b"\xb5count")
        return await asyncio.wait_for(self.client.heard.get(), 10)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    resource, site = Counting(), Site()
    site.add_resource(("count",), resource)
    context = await aiocoap.Context.create_server_context(
        site, bind=("127.0.0.1", port), transports=["simplesocketserver"]
    )
    now_s = [0.0]
    (recent,) = bound_memory(context, most=MOST, clock_s=lambda: now_s[0])
    unreadable: list[int] = []
    assert drop_what_is_no_text(context, lambda: unreadable.append(1)) == 1
    transport, client = await asyncio.get_running_loop().create_datagram_endpoint(
        Client, remote_addr=("127.0.0.1", port)
    )
    yield Served(
        recent=recent, resource=resource, client=client, transport=transport, now_s=now_s, unreadable=unreadable
    )
    transport.close()
    await context.shutdown()


async def test_a_flood_of_message_ids_is_forgotten_oldest_first(served: Served) -> None:
    loop: Any = asyncio.get_running_loop()
    for mid in range(2 * MOST):
        await served.ask(mid)
    timers = len(loop._scheduled)
    for mid in range(2 * MOST, 8 * MOST):
        await served.ask(mid)
    assert len(served.recent.answers) <= MOST + 1
    # aiocoap alone would hold a timer for each of the messages.
    assert len(loop._scheduled) <= timers + 8
    # What is remembered is answered as before, what is forgotten anew.
    asked = served.resource.asked
    await served.ask(8 * MOST - 1)
    assert served.resource.asked == asked
    await served.ask(0)
    assert served.resource.asked == asked + 1


async def test_a_repeat_hears_the_first_answer_until_its_time_is_over(served: Served) -> None:
    first = await served.ask(7)
    assert await served.ask(7) == first
    assert served.resource.asked == 1
    served.now_s[0] = 246.0
    assert await served.ask(7) == first
    # EXCHANGE_LIFETIME (RFC 7252, section 4.8.2): 247 s.
    served.now_s[0] = 248.0
    await served.ask(8)
    assert await served.ask(7) != first
    assert served.resource.asked == 3


async def test_text_that_is_none_is_dropped_and_counted_and_traces_nothing(served: Served) -> None:
    """It is said without protection, by anybody: a page of the log for eight bytes of theirs would fill its disk."""
    traced: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: traced.append(context))
    for mid in range(20):
        served.transport.sendto(b"\x40\x01" + mid.to_bytes(2, "big") + b"\xb2\xff\xfe")
    # Datagrams of one socket to another on this host keep their order: what came before was read.
    assert (await served.ask(100)).endswith(b"1")
    assert (len(served.unreadable), traced) == (20, [])
