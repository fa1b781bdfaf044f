"""What gateways were told, held against the rows that decide what they are granted and what of a floor comes back (part of ``verify``).

A directive is signed, and in a chain that its gateway keeps: what a row says instead is what somebody made of it.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import psycopg
from psycopg.rows import TupleRow

from farthing.v1 import directive_pb2
from farthing_cloud.database import sentence
from farthing_cloud.ledger.store.gone import Gone
from farthing_cloud.ledger.store.interface import Read
from farthing_cloud.ledger.store.paying import Paying

_PACKAGE: Final = "farthing_cloud.ledger"
_TOLD: Final = sentence(_PACKAGE, "list_told")
#: A directive is at most a tariff's few kilobytes.
_TOLD_PAGE: Final = 1_000
_GATEWAYS: Final = sentence(_PACKAGE, "list_told_gateways")
_FLOORS: Final = sentence(_PACKAGE, "list_floors_spent")


@dataclass(slots=True)
class _Gateway:
    """What one gateway's chain says of it; micros."""

    incarnation: int = 0
    floor_micros: int = 0
    #: The incarnations that were told to authorize no more.
    stopped: set[int] = field(default_factory=set)
    #: By account: room of the floor that was given back.
    resolved: dict[str, int] = field(default_factory=dict)


class _Told:
    """What all chains say. Mutable only while they are read."""

    def __init__(self) -> None:
        self.gateways: dict[str, _Gateway] = {}
        self._tariffs: dict[tuple[str, str, int], tuple[str, bytes]] = {}
        #: By operator, device, device epoch and ledger epoch: a registry that was restored may not know which key it had given out.
        self._keys: dict[tuple[str, str, int, int], tuple[str, bytes]] = {}
        self.gone = Gone()
        self.paying = Paying()

    def read(self, operator_id: str, gateway_id: str, raw: bytes, service: str, place: int | None) -> str:
        """A fault, or nothing. In the order of each chain; ``service`` wished for it, at this place among its wishes."""
        directive = directive_pb2.Directive.FromString(raw)
        self.gone.read(operator_id, directive, service)
        self.paying.read(operator_id, directive, place if service == "vault" else None)
        gateway = self.gateways.setdefault(gateway_id, _Gateway())
        match directive.WhichOneof("body"):
            case "welcome":
                gateway.incarnation = max(gateway.incarnation, directive.welcome.incarnation)
            case "authorizing_stopped":
                gateway.stopped.add(directive.authorizing_stopped.incarnation)
            case "floor":
                gateway.floor_micros = directive.floor.all_tokens_micros
            case "floor_resolved":
                resolved = directive.floor_resolved
                gateway.resolved[resolved.account_id] = (
                    gateway.resolved.get(resolved.account_id, 0) + resolved.amount_micros
                )
            case "tariff" if service == "registry":
                return self._tariff_fault(operator_id, gateway_id, directive.tariff)
            case "device" if service == "registry":
                return self._key_fault(operator_id, directive)
        return ""

    def _tariff_fault(self, operator_id: str, gateway_id: str, tariff: directive_pb2.TariffRecord) -> str:
        """A version of a tariff has one content: what one gateway was told of it is what every other was told."""
        content = hashlib.sha256(tariff.SerializeToString(deterministic=True)).digest()
        first, before = self._tariffs.setdefault((operator_id, tariff.tariff_id, tariff.version), (gateway_id, content))
        if before != content:
            return f"tariff {tariff.tariff_id} version {tariff.version} of {operator_id}: {gateway_id} was told other terms than {first}"
        return ""

    def _key_fault(self, operator_id: str, directive: directive_pb2.Directive) -> str:
        """A device's key changes with its epoch only, so a statement that is good at one gateway is good at every other."""
        record, gateway_id = directive.device, directive.gateway_id
        name = (operator_id, record.device_id, record.device_epoch, directive.ledger_epoch)
        first, key = self._keys.setdefault(name, (gateway_id, record.statement_key))
        if key != record.statement_key:
            return f"device {record.device_id} of {operator_id}: {gateway_id} was told another key of epoch {record.device_epoch} than {first}"
        return ""

    def gateway_fault(self, gateway_id: str, incarnation: int, quarantined: bool, floor_micros: int) -> str:
        """What a gateway's row says, which decides what it is granted next."""
        told = self.gateways.get(gateway_id, _Gateway())
        if incarnation != told.incarnation:
            return f"gateway {gateway_id}: it is in incarnation {incarnation}, and was told {told.incarnation}"
        if quarantined != (incarnation in told.stopped):
            said = "that it authorizes no more" if quarantined else "that it may authorize"
            return f"gateway {gateway_id}: its row says {said}, and its directives do not"
        if floor_micros != told.floor_micros:
            return f"gateway {gateway_id}: {floor_micros} of its exposure are kept for its floor, and it was told {told.floor_micros}"
        return ""

    def floor_fault(self, gateway_id: str, account_id: str, proven: int, waiting: int, written_off: bool) -> str:
        """What waits of an account's spending on a gateway's floor: what was proven, without what was given back."""
        gateway = self.gateways.get(gateway_id, _Gateway())
        left = proven - gateway.resolved.get(account_id, 0)
        # What the operator bore waits for nothing any more: less may wait then, never more.
        if waiting > left or (waiting < left and not written_off):
            return f"floor of {gateway_id}: {waiting} of account {account_id} wait for its debt, what was proven and given back leaves {left}"
        return ""


async def told_fault(connection: psycopg.AsyncConnection[TupleRow], read: Read) -> str:
    """The first row that says something else than the directives, in the snapshot of the transaction under way; empty for none."""
    told = _Told()
    async with connection.cursor(name="told") as directives:
        # Parameters (none) make psycopg read %% as %.
        await directives.execute(_TOLD, {})
        while rows := await directives.fetchmany(_TOLD_PAGE):
            if fault := _first(told.read(*row) for row in rows):
                return fault
            await read(len(rows))
    if fault := told.gone.fault() or told.paying.fault():
        return fault
    gateways = await (await connection.execute(_GATEWAYS)).fetchall()
    if fault := _first(told.gateway_fault(*row) for row in gateways):
        return fault
    async with connection.cursor(name="floors") as floors:
        await floors.execute(_FLOORS)
        while rows := await floors.fetchmany(_TOLD_PAGE):
            if fault := _first(told.floor_fault(*row) for row in rows):
                return fault
    return ""


def _first(faults: Iterable[str]) -> str:
    return next((fault for fault in faults if fault), "")
