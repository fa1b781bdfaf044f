"""How one service reaches another: over the back-office listener, like any other client, with a certificate that names it."""

from collections.abc import Mapping

import grpc
import grpc.aio

#: A black hole (a cut without a reset) is noticed within interval + timeout.
KEEPALIVE_INTERVAL_MS = 10_000
KEEPALIVE_TIMEOUT_MS = 5_000
#: gRPC's own growth reaches two minutes; a service that is back must be used within seconds.
MAX_RECONNECT_BACKOFF_MS = 2_000
MIN_RECONNECT_BACKOFF_MS = 200
#: Largest message either way: a batch is bounded below this, evidence is sent one batch a message.
MAX_MESSAGE_SIZE = 32 * 1024 * 1024

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


def open_channel(addresses: Mapping[str, str], credentials: grpc.ChannelCredentials) -> BackOfficeChannel:
    """Channels to ``addresses`` (service → host:port), one per address, inside a running event loop."""
    by_address = {
        address: grpc.aio.secure_channel(address, credentials, options=CHANNEL_OPTIONS)
        for address in set(addresses.values())
    }
    return BackOfficeChannel({service: by_address[address] for service, address in addresses.items()})
