"""What other services put on a gateway's chain, and what the ledger adds so that the gateway can obey it."""

from farthing.clock import Instant
from farthing.ids import AccountId, GatewayId
from farthing.v1 import directive_pb2
from farthing_cloud.ledger.core.directives import Body, account_record, link
from farthing_cloud.ledger.core.funds import UnknownName
from farthing_cloud.ledger.core.gateways import with_floor
from farthing_cloud.ledger.core.posting import DirectiveRow, Posting
from farthing_cloud.ledger.core.rows import View


def account_named(body: Body) -> AccountId | None:
    """The account that a gateway must know to obey ``body``."""
    if isinstance(body, directive_pb2.TokenRecord) and body.account_id:
        return AccountId(body.account_id)
    if isinstance(body, directive_pb2.DeviceRecord) and body.standing_account_id:
        return AccountId(body.standing_account_id)
    if isinstance(body, directive_pb2.EntitlementRecord):
        return AccountId(body.paid_by_account_id)
    return None


def issue(
    view: View, gateway_id: GatewayId, body: Body, *, idempotency_key: str, now: Instant
) -> tuple[Posting | None, int]:
    """Put ``body`` on the gateway's chain, once per key; also the version it has. The posting is None for a repeated wish."""
    if view.wish_version is not None:
        return None, view.wish_version
    gateway = view.gateways[gateway_id]
    rows: list[DirectiveRow] = []
    newly_told: tuple[tuple[GatewayId, AccountId], ...] = ()
    account_id = account_named(body)
    if account_id is not None:
        payer = view.payers.get(account_id)
        if payer is None:
            raise UnknownName(f"no account {account_id} in {view.currency}")
        if account_id not in view.told:
            gateway, row = link(gateway, account_record(payer, view.currency), dated_at=now)
            rows.append(row)
            newly_told = ((gateway_id, account_id),)
    if isinstance(body, directive_pb2.FloorPolicy):
        # What the gateway may give away without a quota counts against its exposure from now on.
        gateway = with_floor(view, gateway, body.all_tokens_micros)
    gateway, row = link(gateway, body, dated_at=now, idempotency_key=idempotency_key)
    rows.append(row)
    return (
        Posting(
            kind="directive",
            operator_id=view.operator_id,
            currency=view.currency,
            posted_at=now,
            business_at=now,
            gateways=(gateway,),
            directives=tuple(rows),
            told=newly_told,
        ),
        row.version,
    )
