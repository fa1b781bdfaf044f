"""What a device needs of a transport: a channel to one gateway that comes and goes."""

from collections.abc import Callable
from typing import Protocol, TypeAlias

#: Bytes that came from the gateway.
Deliver: TypeAlias = Callable[[bytes], None]
#: The channel is there (again).
Connected: TypeAlias = Callable[[], None]


class LinkDown(Exception):
    """The message did not leave, or nothing came back; the device repeats it."""


class Link(Protocol):
    """A channel of one device to one gateway."""

    async def run(self) -> None:
        """Keep the channel up until cancelled."""

    async def send(self, data: bytes) -> None:
        """Send an envelope; what comes back is delivered. Raise ``LinkDown`` if it did not get through."""

    async def send_tick(self, data: bytes) -> None:
        """Send a tick; mostly nothing comes back. Raise ``LinkDown`` if it did not leave."""
