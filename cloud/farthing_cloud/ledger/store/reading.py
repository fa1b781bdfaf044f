"""Rows of the ledger's tables as values."""

from psycopg.rows import TupleRow

from farthing.clock import Instant
from farthing.ids import AccountId, AuthorizationId, GatewayId, OperatorId, QuotaId, SiteId
from farthing.money import Currency
from farthing_cloud.ledger.core.posting import Cause, Transfer, TransferKind
from farthing_cloud.ledger.core.rows import (
    Aside,
    Balances,
    Chain,
    Claimed,
    Decision,
    DecisionKind,
    EarlierGrantKey,
    Gateway,
    Quota,
    QuotaStatus,
    RegisterKey,
)
from farthing_cloud.ledger.store.interface import ReceiptContent, StoredDirective


def gateway_of(row: TupleRow) -> Gateway:
    """A row of ``gateways``: the columns of ``take_gateways``."""
    return Gateway(
        gateway_id=GatewayId(row[0]),
        operator_id=OperatorId(row[1]),
        site_id=SiteId(row[2]),
        currency=Currency(row[3]),
        exposure_micros=row[4],
        beyond_micros=int(row[5]),
        floor_micros=row[6],
        incarnation=row[7],
        adopted=row[8],
        quarantined=row[9],
        directive_version=row[10],
        directive_hash=row[11],
        time_zone=row[12],
        batch_key=row[13],
        grant_key=row[14],
        witness_start_id=row[15],
        witness_position=row[16],
        contact_at=Instant(row[17]),
        sealed_sequence=row[18],
        late_micros=int(row[19]),
        waits_because=row[20],
        waits_start_id=row[21],
        epoch=row[22],
        least_class=row[23],
        earlier_grant_keys=tuple(
            EarlierGrantKey(key=key, until=Instant(until_us)) for key, until_us in zip(row[24], row[25], strict=True)
        ),
    )


def quota_of(row: TupleRow) -> Quota:
    """A row of ``quotas``: the columns of ``read_quotas``."""
    return Quota(
        quota_id=QuotaId(row[0]),
        gateway_id=GatewayId(row[1]),
        incarnation=row[2],
        account_id=AccountId(row[3]),
        amount_micros=row[4],
        posted_micros=row[5],
        voided_micros=row[6],
        status=QuotaStatus(row[7]),
        spend_until=Instant(row[8]),
        report_until=Instant(row[9]),
        request_counter=row[10],
        in_use_at=Instant(row[11]) if row[11] is not None else None,
    )


def claimed_of(row: TupleRow) -> Claimed:
    """A row of ``claims`` with its register: the columns of ``read_claims``."""
    return Claimed(
        authorization_id=AuthorizationId(row[0]),
        register=RegisterKey(device_id=row[1], register_id=row[2], register_epoch=row[3]),
        register_from=int(row[4]),
        register_to=int(row[5]),
        net_micros=row[6],
        tax_micros=row[7],
        final=row[8],
        aside=row[9],
        gateway_id=GatewayId(row[10]),
        incarnation=row[11],
        sequence=row[12],
        raised_by=GatewayId(row[13]) if row[13] is not None else None,
    )


def decision_of(row: TupleRow) -> Decision:
    """A row of ``decisions``."""
    return Decision(
        decision_id=row[0],
        kind=DecisionKind(row[1]),
        gateway_id=GatewayId(row[2]),
        incarnation=row[3],
        reason=row[4],
        content=row[5],
        content_hash=row[6],
        proposed_by=row[7],
        proposed_at=Instant(row[8]),
        approved_by=row[9],
        approved_at=Instant(row[10]) if row[9] else None,
    )


def balances_of(row: TupleRow) -> Balances:
    """Four balances."""
    return Balances(
        debits_pending=int(row[0]), debits_posted=int(row[1]), credits_pending=int(row[2]), credits_posted=int(row[3])
    )


def directive_of(row: TupleRow) -> StoredDirective:
    """A row of ``directives``."""
    return StoredDirective(
        gateway_id=GatewayId(row[0]),
        version=row[1],
        body=row[2],
        body_hash=row[3],
        signature=row[4],
        key_id=row[5],
    )


def chain_of(incarnation: int, row: TupleRow | None) -> Chain:
    """A row of ``chains``; None: the chain has not begun."""
    if row is None:
        return Chain(incarnation=incarnation)
    return Chain(incarnation=incarnation, sequence=row[0], head_hash=row[1], proven_sequence=row[2])


def aside_of(row: TupleRow) -> Aside:
    """A row of ``asides``."""
    return Aside(
        gateway_id=GatewayId(row[0]),
        incarnation=row[1],
        sequence=row[2],
        line=row[3],
        account_id=AccountId(row[4]),
        site_id=SiteId(row[5]),
        rate_ppm=row[6],
        net_micros=row[7],
        tax_micros=row[8],
    )


def transfer_of(row: TupleRow) -> Transfer:
    """A transfer with the names of its accounts and quota."""
    return Transfer(
        TransferKind(row[0]),
        row[1],
        row[2],
        row[3],
        QuotaId(row[4]) if row[4] else None,
        Cause(row[5]),
        row[6],
        row[7],
    )


def receipt_of(row: TupleRow) -> ReceiptContent:
    """What a posted batch's receipt says: the first columns of ``read_receipts`` and ``list_all_receipts``."""
    return ReceiptContent(
        ledger_epoch=row[4],
        gateway_id=GatewayId(row[0]),
        incarnation=row[1],
        sequence=row[2],
        batch_hash=row[3],
        posted_at=Instant(row[5]),
        parked=tuple((line, reason) for line, reason in row[7]),
        audit_head=row[6],
    )
