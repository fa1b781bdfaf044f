"""What a device shows beside a statement: the grant it was given, and what its authorization began with.

Rule 1: everything shown is signed, the grant by a gateway and the first statement by this very device; what does not verify is
refused with the statement it came with.
Rule 2: a last word may be another gateway's (its payload and its signature name that one): an end, a one-shot intent with its yes, a
standing reading with the one it began with. Then it is carried, not decided, and this gateway asks of the grant only that it can be
read: the cloud knows every gateway's key.
"""

from farthing.device.cose import VerifyingKey, decode_sign1
from farthing.device.messages import (
    Disclaimer,
    End,
    Envelope,
    Grant,
    Intent,
    MessageError,
    Reading,
    Statement,
    decode_grant,
    decode_statement,
)
from farthing.ids import GatewayId
from farthing.refusal import Refusal
from farthing_edge.authorization.commands import Shown


def is_carried(envelope: Envelope, statement: Statement, gateway: GatewayId) -> bool:
    """Whether this is a last word on another gateway's authorization, with what proves it."""
    if statement.recipient == gateway or envelope.first is None:
        return False
    if isinstance(statement, Reading):
        return statement.authorization is None and envelope.grant is None
    return envelope.grant is not None and (isinstance(statement, End) or is_shown_use(envelope, statement))


def is_shown_use(envelope: Envelope, statement: Statement) -> bool:
    """Whether this is a one-shot intent that was answered before: with its grant, and without a token, which has done its work."""
    return (
        isinstance(statement, Intent)
        and statement.one_shot is not None
        and envelope.grant is not None
        and envelope.first == envelope.statement
    )


def read_shown(
    envelope: Envelope, statement: Statement, *, device_key: VerifyingKey, grant_key: VerifyingKey | None
) -> Shown | Refusal | None:
    """What ``envelope`` shows beside ``statement``; None when it shows nothing.

    ``grant_key`` verifies the grant; None where the grant is another gateway's, whose key is not known here.
    """
    if envelope.first is None:
        return None if envelope.grant is None else Refusal.MALFORMED
    if isinstance(statement, Disclaimer):
        return Refusal.MALFORMED
    if isinstance(statement, Intent) and not is_shown_use(envelope, statement):
        return Refusal.MALFORMED
    try:
        sign1 = decode_sign1(envelope.first)
        first = decode_statement(sign1.payload)
        grant = None if envelope.grant is None else _grant(envelope.grant, statement, grant_key)
    except MessageError as err:
        return err.refusal
    if not isinstance(first, Intent | Reading):
        return Refusal.MALFORMED
    if (first.device, first.recipient) != (statement.device, statement.recipient):
        return Refusal.MALFORMED
    if sign1.kid != device_key.key_id or not device_key.verify(
        first.kind, first.recipient, sign1.payload, sign1.signature
    ):
        return Refusal.SIGNATURE_INVALID
    return Shown(
        grant=grant,
        grant_cose=envelope.grant or b"",
        first=first,
        first_cose=envelope.first,
        first_payload=sign1.payload,
    )


def _grant(cose: bytes, statement: Statement, key: VerifyingKey | None) -> Grant:
    signed = decode_sign1(cose)
    grant = decode_grant(signed.payload)
    if key is not None and (
        signed.kid != key.key_id or not key.verify("grant", statement.device, signed.payload, signed.signature)
    ):
        raise MessageError("a grant that this gateway did not sign", Refusal.SIGNATURE_INVALID)
    return grant
