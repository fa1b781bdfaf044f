"""Gateways come to be, and what they may hold: open quotas + floor <= exposure (DESIGN 5.9).

Rule 1: what is billed beyond holds and not proven counts too (DESIGN 5.7), so whatever is given out fits beside it.
Rule 2: nothing that gives more (a quota, a higher floor) may break it. A lower exposure is a wish of the operator, who cannot take back
at once what a gateway holds: it stops what gives more, and recalls.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final

from farthing.clock import Instant
from farthing.ids import GatewayId, QuotaId
from farthing.money import format_micros
from farthing_cloud.ledger.core import keys, paths, quotas
from farthing_cloud.ledger.core.book import Book
from farthing_cloud.ledger.core.directives import link, welcome
from farthing_cloud.ledger.core.funds import LedgerRefusal, OtherContent
from farthing_cloud.ledger.core.keys import BatchKey
from farthing_cloud.ledger.core.posting import DirectiveRow, Posting, QuotaAfter
from farthing_cloud.ledger.core.rows import NEVER, Balances, EarlierGrantKey, Gateway, LedgerState, QuotaStatus, View
from farthing_cloud.ledger.core.waterfall import free_of

#: They stand in the gateway's row, which every posting reads: one a year, for longer than a gateway lives.
MAX_EARLIER_GRANT_KEYS: Final = 16


def put_gateway(
    view: View,
    gateway: Gateway,
    *,
    receipt_keys: list[bytes],
    batch_keys: Sequence[BatchKey] = (),
    revoked_keys: Collection[bytes] = (),
    now: Instant,
) -> Posting | None:
    """Create a gateway with its first incarnation, or change its exposure and keys; None when nothing changes.

    ``view`` has the gateway's live quotas. A lower exposure counts at once: what is open above it is recalled, the quotas that
    end last first, and until that has come back nothing more is granted.

    ``batch_keys`` are its keys so far. One in ``revoked_keys`` is good for nothing any more, for ever; a gateway whose present one it is has none.
    """
    before = view.gateways.get(gateway.gateway_id)
    after_keys = keys.settle(batch_keys, gateway.batch_key, revoked_keys, now=now)
    changed_keys = tuple(key for key in after_keys.values() if key not in batch_keys)
    present = keys.present_of(after_keys.values())
    # Revoked now; or before, and it was the present one.
    copied = any(key.revoked_at is not None for key in changed_keys) or (
        bool(batch_keys) and keys.present_of(batch_keys) is None
    )
    gateway = replace(gateway, batch_key=present.key if present is not None else b"")
    directives: tuple[DirectiveRow, ...] = ()
    epochs: tuple[tuple[GatewayId, int], ...] = ()
    recalled: tuple[QuotaAfter, ...] = ()
    if before is None:
        # Made while the ledger is restored it may have a past: it has to show it, or that it has none.
        epoch = view.epoch.number if view.epoch.state is LedgerState.OPEN else 0
        gateway, epochs = replace(gateway, epoch=epoch), ((gateway.gateway_id, epoch),)
        gateway, row = link(gateway, welcome(gateway, receipt_keys, []), dated_at=now)
        directives = (row,)
    else:
        if (before.operator_id, before.site_id, before.currency) != (
            gateway.operator_id,
            gateway.site_id,
            gateway.currency,
        ):
            raise OtherContent(f"gateway {gateway.gateway_id} belongs to another operator, site or currency")
        gateway = replace(
            before,
            exposure_micros=gateway.exposure_micros,
            batch_key=gateway.batch_key,
            grant_key=gateway.grant_key,
            earlier_grant_keys=_earlier_grant_keys(before, gateway.grant_key, copied=copied, now=now),
            time_zone=gateway.time_zone,
            least_class=gateway.least_class,
        )
        if gateway == before and not changed_keys:
            return None
        if gateway.exposure_micros < before.exposure_micros:
            ending = quotas.recall(
                replace(view, gateways={gateway.gateway_id: gateway}),
                _too_many(view, gateway),
                f"the gateway's exposure is now {format_micros(gateway.exposure_micros)}",
                now=now,
            )
            if ending is not None:
                (gateway,), directives, recalled = ending.gateways, ending.directives, ending.quotas
    return Posting(
        kind="gateway",
        operator_id=view.operator_id,
        currency=view.currency,
        posted_at=now,
        business_at=now,
        changes={paths.quota(gateway.gateway_id): Balances()},
        gateways=(gateway,),
        gateway_epochs=epochs,
        directives=directives,
        quotas=recalled,
        put=gateway,
        batch_keys=tuple((gateway.gateway_id, key) for key in changed_keys),
    )


def _earlier_grant_keys(before: Gateway, key: bytes, *, copied: bool, now: Instant) -> tuple[EarlierGrantKey, ...]:
    """What signed grants before ``key``. One that comes back is not an earlier one any more.

    ``copied``: a batch key of the same token may be in other hands. Then so is what lay beside it, which is known still, and believed for nothing.
    """
    earlier = before.earlier_grant_keys
    if key != before.grant_key and before.grant_key:
        others = tuple(each for each in earlier if each.key not in (key, before.grant_key))
        earlier = (*others, EarlierGrantKey(key=before.grant_key, until=now))[-MAX_EARLIER_GRANT_KEYS:]
    return tuple(replace(each, until=NEVER) for each in earlier) if copied else earlier


def revoke(view: View, gateway_id: GatewayId, *, now: Instant) -> Posting:
    """That a gateway may never connect again, as a link of the audit chain: who takes the row away is seen."""
    return Posting(
        kind="revoked",
        operator_id=view.operator_id,
        currency=view.currency,
        posted_at=now,
        business_at=now,
        revoked=gateway_id,
    )


def _too_many(view: View, gateway: Gateway) -> tuple[QuotaId, ...]:
    """Open quotas that have to come back for the rest to fit the exposure."""
    live = [quota for quota in view.quotas.values() if quota.gateway_id == gateway.gateway_id]
    # What was asked back, or froze, is on its way already.
    above = -free_of(Book(view), gateway) - sum(
        quota.held_micros for quota in live if quota.status is not QuotaStatus.OPEN
    )
    out = []
    for quota in sorted(live, key=lambda quota: (quota.spend_until, quota.quota_id), reverse=True):
        if above <= 0:
            break
        if quota.status is QuotaStatus.OPEN:
            out.append(quota.quota_id)
            above -= quota.held_micros
    return tuple(out)


def with_floor(view: View, gateway: Gateway, floor_micros: int) -> Gateway:
    """The gateway with another floor; raise ``LedgerRefusal`` for a higher one that has no room in its exposure."""
    higher = floor_micros - gateway.floor_micros
    if higher > max(0, free_of(Book(view), gateway)):
        raise LedgerRefusal(
            f"a floor of {format_micros(floor_micros)} is more than gateway {gateway.gateway_id} has room for: of its exposure of"
            f" {format_micros(gateway.exposure_micros)}, {format_micros(Book(view).open_with(gateway.gateway_id))} are held for quotas"
            f" and {format_micros(gateway.beyond_micros)} billed beyond them. Raise its exposure, or recall its quotas first"
        )
    return replace(gateway, floor_micros=floor_micros)
