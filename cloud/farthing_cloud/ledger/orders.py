"""Corrections on the wire: what is asked for, and what was posted."""

import re

from farthing.ids import AccountId, AuthorizationId, GatewayId, OperatorId, parse_id
from farthing.money import Currency
from farthing.v1 import ledger_pb2
from farthing_cloud.ledger.core.corrections import MAX_TEXT, Order
from farthing_cloud.ledger.core.rows import Correction, CorrectionKind
from farthing_cloud.ledger.refusals import malformed

#: The ids of what executes a plan.
_OF_A_PLAN = re.compile(r"p-[0-9a-f]{16}-[0-9]+\Z")
#: An authorization's id, bytes.
AUTHORIZATION_SIZE = 16
#: SHA-256, bytes.
HASH_SIZE = 32


def order_of(content: ledger_pb2.CorrectionContent) -> Order:
    """What a caller asks for. Raises ``Refused``, ``IdError``, ``MoneyError`` or ``LedgerRefusal`` for what cannot be meant."""
    try:
        kind = CorrectionKind(content.kind)
    except ValueError as err:
        raise malformed(f"a correction is one of {', '.join(CorrectionKind)}") from err
    if content.authorization_id and len(content.authorization_id) != AUTHORIZATION_SIZE:
        raise malformed(f"an authorization_id has {AUTHORIZATION_SIZE} bytes")
    if content.plan_hash or content.plan_item or _OF_A_PLAN.match(content.correction_id):
        raise malformed("what executes a plan is made by the ledger: execute the plan")
    if content.approved_hash and len(content.approved_hash) != HASH_SIZE:
        raise malformed(f"an approved_hash has {HASH_SIZE} bytes")
    if len(content.payment_id) > MAX_TEXT:
        raise malformed(f"a payment_id has at most {MAX_TEXT} characters")
    for name in (content.account_id, content.gateway_id, content.dispute_id, content.payback_id):
        if name:
            parse_id(name)
    return Order(
        operator_id=OperatorId(parse_id(content.operator_id)),
        correction_id=content.correction_id,
        kind=kind,
        reason=content.reason,
        account_id=AccountId(content.account_id),
        authorization_id=AuthorizationId(content.authorization_id),
        gateway_id=GatewayId(content.gateway_id),
        payment_id=content.payment_id,
        dispute_id=content.dispute_id,
        payback_id=content.payback_id,
        path=content.path,
        amount_micros=content.amount_micros,
        approved_hash=content.approved_hash,
    )


def message_of(currency: Currency, correction: Correction) -> ledger_pb2.Correction:
    """What was posted, with the content that was asked for."""
    return ledger_pb2.Correction(
        content=ledger_pb2.CorrectionContent.FromString(correction.content),
        amount_micros=correction.amount_micros,
        currency=currency,
        person=correction.person,
        posted_at_us=correction.at,
    )
