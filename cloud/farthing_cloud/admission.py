"""Which gateways may connect: the registry's word, asked again every second, and at once for one that is not known."""

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

import grpc
import grpc.aio

from farthing.v1 import registry_pb2, registry_pb2_grpc

#: A revocation ends live streams at most this long after the registry knows it.
REFRESH_INTERVAL_S = 1.0
#: Strangers may make us ask the registry at most this often.
MIN_REFRESH_PAUSE_S = 0.2
REFRESH_TIMEOUT_S = 3.0

_log = logging.getLogger(__name__)


class AdmissionUnknown(Exception):
    """The registry has not answered yet, so nobody can be let in."""


class Admission(Protocol):
    """Who of the gateways may call."""

    async def admits(self, gateway_id: str) -> bool:
        """Whether the gateway is known and active; raise ``AdmissionUnknown`` where nobody can say."""

    def watch(self, gateway_id: str, leave: Callable[[], object]) -> Callable[[], None]:
        """Call ``leave`` once when the gateway may no longer call; returns what ends the watch."""


class RegistryAdmission:
    """Asks the registry over the back office. While it is out of reach, what it said last holds (P8)."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._registry = registry_pb2_grpc.RegistryStub(channel)
        self._active: frozenset[str] | None = None
        self._asked_at_s = float("-inf")
        self._asking = asyncio.Lock()
        #: Whether it was logged that the registry does not answer: once, not each second.
        self._silent = False
        self._watches: dict[object, tuple[str, Callable[[], object]]] = {}

    async def admits(self, gateway_id: str) -> bool:
        """See ``Admission``."""
        if self._active is None or gateway_id not in self._active:
            await self._refresh()
        if self._active is None:
            raise AdmissionUnknown("the registry does not answer, so this gateway cannot be let in yet; try again")
        return gateway_id in self._active

    def watch(self, gateway_id: str, leave: Callable[[], object]) -> Callable[[], None]:
        """See ``Admission``."""
        key = object()
        self._watches[key] = (gateway_id, leave)
        return lambda: self._watches.pop(key, None) and None

    async def run(self) -> None:
        """Keep asking, until cancelled."""
        while True:
            await self._refresh()
            await asyncio.sleep(REFRESH_INTERVAL_S)

    async def _refresh(self) -> None:
        async with self._asking:
            now_s = asyncio.get_running_loop().time()
            if now_s - self._asked_at_s < MIN_REFRESH_PAUSE_S:
                return
            self._asked_at_s = now_s
            try:
                answer = await self._registry.ListGateways(
                    registry_pb2.ListGatewaysRequest(), timeout=REFRESH_TIMEOUT_S
                )
            except grpc.aio.AioRpcError as err:
                if not self._silent:
                    _log.warning("the registry does not say which gateways may connect: %s", err.details())
                self._silent = True
                return
            self._silent = False
            self._active = frozenset(
                gateway.gateway_id
                for gateway in answer.gateways
                if gateway.status == registry_pb2.GATEWAY_STATUS_ACTIVE
            )
            for key, (gateway_id, leave) in list(self._watches.items()):
                if gateway_id not in self._active:
                    del self._watches[key]
                    leave()
