"""What the cloud signed: directives, heads and receipts, checked before anything in them is believed.

Rule 1: a signature is over the bytes as they came, for this gateway; they are decoded after it held.
Rule 2: directives form one chain: version by version without a gap, each naming the hash of the one before. What breaks it
is not taken, and the connection with it ends.
"""

import hashlib
from collections.abc import Iterable

from google.protobuf.message import DecodeError, Message

from farthing.clock import Instant
from farthing.device.cose import VerifyingKey
from farthing.ids import GatewayId
from farthing.v1 import batch_pb2, directive_pb2
from farthing_edge.authorization.commands import DirectiveArrived, HeadArrived, ReceiptArrived

#: A tariff as its operator wrote it is the largest; a welcome after a lost journal names open claims at 100 bytes each.
MAX_DIRECTIVE_SIZE = 1024 * 1024
#: Parked lines are its only list.
MAX_RECEIPT_SIZE = 256 * 1024
HASH_SIZE = 32


class NotSigned(Exception):
    """Something from the cloud that the pinned keys did not sign, or not for this gateway, or not next."""


def check_directive(
    signed: directive_pb2.SignedDirective,
    *,
    key: VerifyingKey,
    gateway: GatewayId,
    version: int,
    previous_hash: bytes,
) -> DirectiveArrived | None:
    """The next directive after ``version``, whose hash is ``previous_hash``; None for one that is known; raise ``NotSigned``."""
    raw = signed.directive
    if len(raw) > MAX_DIRECTIVE_SIZE:
        raise NotSigned(f"a directive of {len(raw)} bytes")
    if signed.key_id != key.key_id:
        raise NotSigned(
            f"a directive signed with key {signed.key_id.hex()}, not the pinned one {key.key_id.hex()}: "
            "if the cloud has a new key, put its public half where directive_key_file points"
        )
    if not key.verify("directive", gateway, raw, signed.signature):
        raise NotSigned("a directive whose signature does not hold")
    body = directive_pb2.Directive()
    _decode(body, raw, "directive")
    if body.gateway_id != gateway:
        raise NotSigned(f"a directive for {body.gateway_id!r:.80}")
    if body.version <= version:
        return None
    if body.version != version + 1:
        raise NotSigned(f"directive {body.version} after {version}: there is a gap")
    if body.previous_hash != previous_hash:
        raise NotSigned(f"directive {body.version} does not follow the {version} that we know")
    return DirectiveArrived(body=body, raw=raw, signature=signed.signature, key_id=signed.key_id)


def check_head(
    signed: directive_pb2.SignedDirectiveHead,
    *,
    key: VerifyingKey,
    gateway: GatewayId,
    version: int,
    previous_hash: bytes,
) -> HeadArrived:
    """The signed end of the chain; where it is at our ``version``, its hash is ours. Raise ``NotSigned``."""
    if signed.key_id != key.key_id or not key.verify("directive-head", gateway, signed.head, signed.signature):
        raise NotSigned("a head whose signature does not hold")
    head = directive_pb2.DirectiveHead()
    _decode(head, signed.head, "head")
    if head.gateway_id != gateway:
        raise NotSigned(f"a head for {head.gateway_id!r:.80}")
    if head.version == version and version > 0 and head.hash != previous_hash:
        raise NotSigned(f"the cloud's directive {version} is another one than ours")
    return HeadArrived(version=head.version, at=Instant(head.at_us))


def check_receipt(
    signed: batch_pb2.SignedReceipt, *, keys: Iterable[VerifyingKey], gateway: GatewayId, incarnation: int
) -> ReceiptArrived:
    """A receipt for a batch of this incarnation, signed by one of the keys that Welcome named; raise ``NotSigned``."""
    raw = signed.receipt
    if len(raw) > MAX_RECEIPT_SIZE:
        raise NotSigned(f"a receipt of {len(raw)} bytes")
    key = next((key for key in keys if key.key_id == signed.key_id), None)
    if key is None:
        raise NotSigned(f"a receipt signed with key {signed.key_id.hex()}, which no welcome named")
    if not key.verify("receipt", gateway, raw, signed.signature):
        raise NotSigned("a receipt whose signature does not hold")
    receipt = batch_pb2.Receipt()
    _decode(receipt, raw, "receipt")
    if receipt.gateway_id != gateway:
        raise NotSigned(f"a receipt for {receipt.gateway_id!r:.80}")
    if receipt.incarnation != incarnation:
        raise NotSigned(f"a receipt for incarnation {receipt.incarnation}, not {incarnation}")
    if len(receipt.batch_hash) != HASH_SIZE:
        raise NotSigned("a receipt without a hash")
    return ReceiptArrived(receipt=receipt, raw=raw, signature=signed.signature, key_id=signed.key_id)


def directive_hash(raw: bytes) -> bytes:
    """What the directive after ``raw`` names."""
    return hashlib.sha256(raw).digest()


def _decode(message: Message, raw: bytes, what: str) -> None:
    try:
        message.ParseFromString(raw)
    except DecodeError as err:
        raise NotSigned(f"a {what} that does not decode") from err
