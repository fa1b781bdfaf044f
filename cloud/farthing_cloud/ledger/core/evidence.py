"""A batch whose detail was verified is proven: its spending no longer counts against its gateway's exposure.

Room of the floor returns by directive only: at once for an account that owes nothing, else when its debt is settled. What the
operator bore in the end (risk, what was set aside or parked) gives no room back by itself: else who cannot pay could use for ever.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from farthing.clock import Instant
from farthing.ids import AccountId, GatewayId
from farthing.v1 import directive_pb2
from farthing_cloud.ledger.core.book import Book
from farthing_cloud.ledger.core.directives import link
from farthing_cloud.ledger.core.posting import BatchProven, DirectiveRow, Event, Posting
from farthing_cloud.ledger.core.rows import Gateway, View


def prove(
    view: View,
    gateway_id: GatewayId,
    incarnation: int,
    sequence: int,
    *,
    beyond_micros: int,
    floor: Mapping[AccountId, int],
    events: tuple[Event, ...],
    now: Instant,
) -> Posting | None:
    """Mark a posted batch as proven; None when it was proven before.

    ``beyond_micros`` is what it billed beyond holds, ``floor`` what accounts paid, or owe, of what it billed on the floor.
    """
    assert view.batch is not None
    if view.batch.proven:
        return None
    gateway = view.gateways[gateway_id]
    gateway = replace(gateway, beyond_micros=max(0, gateway.beyond_micros - beyond_micros))
    spent = {account: view.floors.get((gateway_id, account), 0) + micros for account, micros in floor.items()}
    gateway, directives, floors = _resolve(view, gateway, spent.items(), now=now)
    return Posting(
        kind="proven",
        operator_id=view.operator_id,
        currency=view.currency,
        posted_at=now,
        business_at=now,
        gateways=(gateway,),
        proven=BatchProven(gateway_id=gateway_id, incarnation=incarnation, sequence=sequence),
        directives=directives,
        floors=floors,
        events=events,
    )


def resolve(view: View, gateway_id: GatewayId, *, now: Instant) -> Posting | None:
    """Give room back for spending whose account owes nothing any more; None when there is none."""
    waiting = [
        (account, micros) for (where, account), micros in view.floors.items() if where == gateway_id and micros > 0
    ]
    gateway, directives, floors = _resolve(view, view.gateways[gateway_id], waiting, now=now)
    if not directives:
        return None
    return Posting(
        kind="floor",
        operator_id=view.operator_id,
        currency=view.currency,
        posted_at=now,
        business_at=now,
        gateways=(gateway,),
        directives=directives,
        floors=floors,
    )


def _resolve(
    view: View, gateway: Gateway, spent: Iterable[tuple[AccountId, int]], *, now: Instant
) -> tuple[Gateway, tuple[DirectiveRow, ...], tuple[tuple[GatewayId, AccountId, int], ...]]:
    book = Book(view)
    directives, floors = [], []
    for account_id, micros in spent:
        if micros <= 0:
            # A restored ledger had resolved as much before it was proven again.
            floors.append((gateway.gateway_id, account_id, micros))
            continue
        owes = book.debt(account_id) > 0
        if not owes:
            body = directive_pb2.FloorResolved(account_id=account_id, amount_micros=micros)
            gateway, row = link(gateway, body, dated_at=now)
            directives.append(row)
        floors.append((gateway.gateway_id, account_id, micros if owes else 0))
    return gateway, tuple(directives), tuple(floors)
