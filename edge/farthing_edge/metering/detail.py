"""A sealed batch's leaves, again: from the journal's entries alone, as they were when it was sealed.

A usage record is one entry (granted in one step, or metered). It names where its authorization opened and where the device had
last been told a limit, so a batch is rebuilt from its own range of positions and those two entries a record.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from farthing.evidence.leaf import Stood
from farthing.ids import GatewayId
from farthing.v1 import batch_pb2
from farthing_edge.authorization.events import Adopted, BaselineTaken, Event, Granted, Metered, Settled
from farthing_edge.authorization.grants import grant_payload
from farthing_edge.authorization.opening import opened, told_by
from farthing_edge.authorization.state import Told
from farthing_edge.metering.sealing import Facts, facts_of, leaves_of, sheet_of


class DetailFault(Exception):
    """The journal does not have what a sealed record rests on: it is damaged."""


class Placed(NamedTuple):
    """An event and its position."""

    position: int
    event: Event


def billed_by(batch: bytes, entries: Iterable[Placed]) -> Iterator[Placed]:
    """Those of a batch's entries that it bills: of authorizations that it claims. A use that was set aside has entries and no claim."""
    claimed = {claim.authorization_id for claim in batch_pb2.Batch.FromString(batch).claims}
    return (
        each
        for each in entries
        if isinstance(each.event, Granted | Metered | Settled) and each.event.authorization in claimed
    )


def leaves_of_entries(
    billing: Iterable[Placed],
    *,
    gateway_id: GatewayId,
    event_at: Callable[[int], Event],
    start_id_at: Callable[[int], bytes],
) -> list[bytes]:
    """The leaves of a batch whose range of positions has the entries ``billing``, in order."""
    facts: list[Facts] = []
    for position, event in billing:
        if isinstance(event, Granted):
            if event.charges:
                facts.append(_facts_of_one_shot(position, event))
        elif isinstance(event, Metered | Settled) and event.charges:
            facts.append(_facts_of_metered(event, gateway_id, event_at, start_id_at))
    return leaves_of(
        facts, sheet_of((fact.account, fact.currency, fact.tariff, fact.charges, fact.at) for fact in facts)
    )


def _facts_of_one_shot(position: int, event: Granted) -> Facts:
    return facts_of(
        opened(event, position),
        register_from=event.start,
        register_to=event.used_to,
        charges=event.charges,
        net_micros=sum(charge.net_micros for charge in event.charges),
        tax_micros=sum(charge.tax_micros for charge in event.charges),
        closing=True,
        at=event.at,
        statement=event.statement,
        grant=None,
        traceparent=event.traceparent,
    )


def _facts_of_metered(
    event: Metered | Settled,
    gateway_id: GatewayId,
    event_at: Callable[[int], Event],
    start_id_at: Callable[[int], bytes],
) -> Facts:
    opening = event_at(event.opened_position)
    if not isinstance(opening, Granted | BaselineTaken | Adopted):
        raise DetailFault(f"position {event.opened_position} does not open an authorization")
    authorization = opened(opening, event.opened_position)
    grant: bytes | None = None
    if event.told_position:
        told = _told(event_at(event.told_position), event.told_position, start_id_at(event.told_position))
        grant = grant_payload(authorization, gateway_id, told)
    return facts_of(
        authorization,
        register_from=event.register_from,
        register_to=event.value,
        charges=event.charges,
        net_micros=event.net_before_micros + sum(charge.net_micros for charge in event.charges),
        tax_micros=event.tax_before_micros + sum(charge.tax_micros for charge in event.charges),
        closing=event.closing,
        at=event.at,
        statement=event.statement,
        grant=grant,
        traceparent=event.traceparent,
        tick=(event.tick_index, event.tick_preimage) if isinstance(event, Settled) and event.tick_index else None,
        latest=event.latest,
        stood=_stood(event, event_at),
    )


def _stood(event: Metered | Settled, event_at: Callable[[int], Event]) -> Stood | None:
    """Where the use stood before the record, as the entry before it says."""
    if not event.placed_position:
        return None
    before = event_at(event.placed_position)
    if not isinstance(before, Metered | Settled) or before.placed is None:
        raise DetailFault(f"position {event.placed_position} does not say where a use stood")
    return Stood(placed=before.placed, register_to=before.value, statement=before.statement)


def _told(event: Event, position: int, start_id: bytes) -> Told:
    if isinstance(event, Adopted):
        return told_by(event, position)
    if isinstance(event, Granted):
        before = (0, 0)
    elif isinstance(event, Metered | Settled):
        before = (event.net_before_micros, event.tax_before_micros)
    else:
        raise DetailFault(f"position {position} told no device anything")
    return Told(
        position=position,
        incarnation=event.incarnation,
        start_id=start_id,
        at=event.decided_at,
        limit=event.limit,
        holds=event.holds,
        net_micros=before[0] + sum(charge.net_micros for charge in event.charges),
        tax_micros=before[1] + sum(charge.tax_micros for charge in event.charges),
        readings_due=event.readings_due,
        lapses_at=event.lapses_at if isinstance(event, Granted) else None,
    )
