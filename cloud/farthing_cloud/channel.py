"""How one service reaches another: over the back-office listener, like any other client, with a certificate that names it."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import grpc
import grpc.aio

from farthing_cloud.tracing import ForwardTrace

#: A black hole (a cut without a reset) is noticed within interval + timeout.
KEEPALIVE_INTERVAL_MS = 10_000
KEEPALIVE_TIMEOUT_MS = 5_000
#: gRPC's own growth reaches two minutes; a service that is back must be used within seconds.
MAX_RECONNECT_BACKOFF_MS = 2_000
MIN_RECONNECT_BACKOFF_MS = 200
#: Largest message either way: a batch is bounded below this, evidence is sent one batch a message.
MAX_MESSAGE_SIZE = 32 * 1024 * 1024
#: A channel whose certificate was replaced ends when its calls have had this long.
REPLACED_GRACE_S = 60.0

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", KEEPALIVE_INTERVAL_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.initial_reconnect_backoff_ms", MIN_RECONNECT_BACKOFF_MS),
    ("grpc.min_reconnect_backoff_ms", MIN_RECONNECT_BACKOFF_MS),
    ("grpc.max_reconnect_backoff_ms", MAX_RECONNECT_BACKOFF_MS),
    ("grpc.max_receive_message_length", MAX_MESSAGE_SIZE),
    ("grpc.max_send_message_length", MAX_MESSAGE_SIZE),
)

# The stubs know an interceptor for calls of one type only.
_INTERCEPTORS: list[Any] = [ForwardTrace()]


class ClientIdentity(Protocol):
    """Where a channel's certificate comes from."""

    @property
    def due(self) -> bool:
        """Whether new credentials should be used for new connections."""

    def client_credentials(self) -> grpc.ChannelCredentials:
        """Credentials that are good for the next hours."""


class RenewingChannel(grpc.aio.Channel):
    """A channel that changes its certificate while stubs go on using it.

    A certificate lasts a day and a channel as long as the process: at the first call after the certificate is due, a new
    connection takes over; calls under way end on the old one.
    """

    def __init__(self, address: str, identity: ClientIdentity) -> None:
        self._address = address
        self._identity = identity
        self._channel: grpc.aio.Channel | None = None
        self._generation = 0
        self._retiring: set[asyncio.Task[None]] = set()

    def _current(self) -> grpc.aio.Channel:
        if self._channel is None or self._identity.due:
            replaced = self._channel
            self._channel = grpc.aio.secure_channel(
                self._address,
                # Blocks for one signature of the token, twice a day.
                self._identity.client_credentials(),
                options=CHANNEL_OPTIONS,
                interceptors=_INTERCEPTORS,
            )
            self._generation += 1
            if replaced is not None:
                task = asyncio.create_task(replaced.close(REPLACED_GRACE_S))
                self._retiring.add(task)
                task.add_done_callback(self._retiring.discard)
        return self._channel

    def _callable(self, kind: str, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        made: tuple[int, Callable[..., Any]] | None = None

        def call(*call_args: Any, **call_kwargs: Any) -> Any:
            nonlocal made
            channel = self._current()
            if made is None or made[0] != self._generation:
                made = (self._generation, getattr(channel, kind)(*args, **kwargs))
            return made[1](*call_args, **call_kwargs)

        return call

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        """See ``grpc.aio.Channel``."""
        return self._callable("unary_unary", *args, **kwargs)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        """See ``grpc.aio.Channel``."""
        return self._callable("unary_stream", *args, **kwargs)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        """See ``grpc.aio.Channel``."""
        return self._callable("stream_unary", *args, **kwargs)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        """See ``grpc.aio.Channel``."""
        return self._callable("stream_stream", *args, **kwargs)

    async def __aenter__(self) -> "RenewingChannel":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close(None)

    async def close(self, grace: float | None = None) -> None:
        """End it; calls under way get ``grace`` seconds."""
        for task in self._retiring:
            task.cancel()
        if self._channel is not None:
            await self._channel.close(grace)
            self._channel = None

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """See ``grpc.aio.Channel``."""
        return self._current().get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """See ``grpc.aio.Channel``."""
        await self._current().wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """See ``grpc.aio.Channel``."""
        await self._current().channel_ready()


class BackOfficeChannel:
    """Channels of one service to its peers: ``LedgerStub(channel.to("ledger"))``.

    ``to`` may be called in ``build``: a channel connects at its first call, and again by itself.
    """

    def __init__(self, channels: Mapping[str, grpc.aio.Channel]) -> None:
        self._channels = channels

    def to(self, service: str) -> grpc.aio.Channel:
        """The channel to ``service`` ("registry", "ledger", "vault", "settlement", "fraud")."""
        return self._channels[service]

    async def close(self) -> None:
        """End all channels; calls under way fail."""
        for channel in {id(each): each for each in self._channels.values()}.values():
            await channel.close(grace=None)


def open_channel(addresses: Mapping[str, str], identity: ClientIdentity) -> BackOfficeChannel:
    """Channels to ``addresses`` (service → host:port), one per address, for use inside one event loop."""
    by_address = {address: RenewingChannel(address, identity) for address in set(addresses.values())}
    return BackOfficeChannel({service: by_address[address] for service, address in addresses.items()})
