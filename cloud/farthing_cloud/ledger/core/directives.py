"""One chain of directives per gateway: gapless versions from 1, each naming the hash of the one before."""

import hashlib
from dataclasses import replace
from typing import TypeAlias

from farthing.clock import Instant
from farthing.v1 import batch_pb2, directive_pb2
from farthing_cloud.ledger.core.posting import DirectiveRow
from farthing_cloud.ledger.core.rows import AccountStatus, Gateway, Payer, Quota

Body: TypeAlias = (
    directive_pb2.Welcome
    | directive_pb2.SiteKey
    | directive_pb2.TariffRecord
    | directive_pb2.DeviceRecord
    | directive_pb2.AccountRecord
    | directive_pb2.TokenRecord
    | directive_pb2.TokenDenied
    | directive_pb2.QuotaGranted
    | directive_pb2.QuotaRecalled
    | directive_pb2.FloorPolicy
    | directive_pb2.SealPolicy
    | directive_pb2.FloorResolved
    | directive_pb2.UsageLimits
    | directive_pb2.PlacePolicy
    | directive_pb2.Scorecard
    | directive_pb2.OnlineCheck
    | directive_pb2.EntitlementRecord
    | directive_pb2.EndCarried
    | directive_pb2.AuthorizingStopped
    | directive_pb2.UseClosed
    | directive_pb2.ParkedDecided
    | directive_pb2.LedgerRestored
    | directive_pb2.AuditDrawn
)

_FIELDS = {
    directive_pb2.Welcome: "welcome",
    directive_pb2.SiteKey: "site_key",
    directive_pb2.TariffRecord: "tariff",
    directive_pb2.DeviceRecord: "device",
    directive_pb2.AccountRecord: "account",
    directive_pb2.TokenRecord: "token",
    directive_pb2.TokenDenied: "token_denied",
    directive_pb2.QuotaGranted: "quota_granted",
    directive_pb2.QuotaRecalled: "quota_recalled",
    directive_pb2.FloorPolicy: "floor",
    directive_pb2.SealPolicy: "seal",
    directive_pb2.FloorResolved: "floor_resolved",
    directive_pb2.UsageLimits: "usage_limits",
    directive_pb2.PlacePolicy: "place",
    directive_pb2.Scorecard: "scorecard",
    directive_pb2.OnlineCheck: "online_check",
    directive_pb2.EntitlementRecord: "entitlement",
    directive_pb2.EndCarried: "end_carried",
    directive_pb2.AuthorizingStopped: "authorizing_stopped",
    directive_pb2.UseClosed: "use_closed",
    directive_pb2.ParkedDecided: "parked_decided",
    directive_pb2.LedgerRestored: "ledger_restored",
    directive_pb2.AuditDrawn: "audit_drawn",
}
_BODIES = {field: body for body, field in _FIELDS.items()}


def link(gateway: Gateway, body: Body, *, dated_at: Instant, idempotency_key: str = "") -> tuple[Gateway, DirectiveRow]:
    """The next directive of ``gateway``'s chain, and the gateway after it."""
    directive = directive_pb2.Directive(
        gateway_id=gateway.gateway_id,
        version=gateway.directive_version + 1,
        previous_hash=gateway.directive_hash,
        dated_at_us=dated_at,
        # The first epoch's are as they were before there was another.
        ledger_epoch=gateway.epoch if gateway.epoch > 1 else 0,
    )
    getattr(directive, _FIELDS[type(body)]).CopyFrom(body)
    raw = directive.SerializeToString(deterministic=True)
    row = DirectiveRow(
        gateway_id=gateway.gateway_id,
        version=directive.version,
        previous_hash=gateway.directive_hash,
        body=raw,
        body_hash=hashlib.sha256(raw).digest(),
        idempotency_key=idempotency_key,
    )
    return replace(gateway, directive_version=row.version, directive_hash=row.body_hash), row


def welcome(gateway: Gateway, receipt_keys: list[bytes], open_claims: list[batch_pb2.Claim]) -> directive_pb2.Welcome:
    """The first directive of an incarnation."""
    return directive_pb2.Welcome(
        operator_id=gateway.operator_id,
        site_id=gateway.site_id,
        incarnation=gateway.incarnation,
        receipt_keys=receipt_keys,
        time_zone=gateway.time_zone,
        open_claims=open_claims,
    )


def quota_granted(quota: Quota, currency: str) -> directive_pb2.QuotaGranted:
    """What tells a gateway that it may spend."""
    return directive_pb2.QuotaGranted(
        quota_id=quota.quota_id,
        account_id=quota.account_id,
        currency=currency,
        amount_micros=quota.amount_micros,
        spend_until_us=quota.spend_until,
        report_until_us=quota.report_until,
        incarnation=quota.incarnation,
        request_counter=quota.request_counter,
    )


def account_record(payer: Payer, currency: str) -> directive_pb2.AccountRecord:
    """What a gateway must know of who pays."""
    status = {
        AccountStatus.ACTIVE: directive_pb2.ACCOUNT_STATUS_ACTIVE,
        AccountStatus.SUSPENDED: directive_pb2.ACCOUNT_STATUS_SUSPENDED,
        AccountStatus.CLOSED: directive_pb2.ACCOUNT_STATUS_SUSPENDED,
    }[payer.status]
    return directive_pb2.AccountRecord(
        account_id=payer.account_id, currency=currency, status=status, preload_micros=payer.preload_micros
    )


def body_of(directive: directive_pb2.Directive) -> Body | None:
    """What a directive says; None for a kind that this program does not know."""
    kind = directive.WhichOneof("body")
    body: Body | None = getattr(directive, kind) if kind in _BODIES else None
    return body
