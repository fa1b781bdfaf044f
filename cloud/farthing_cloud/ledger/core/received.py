"""A batch as it was received, parsed once: what cannot be a batch at all raises, a line that makes no sense is parked.

A refused batch would stop its gateway's chain for ever, so only what no correct program can send is refused here.
"""

import hashlib
from dataclasses import dataclass
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from farthing.clock import Instant, is_date
from farthing.evidence.carried import MAX_STATEMENTS
from farthing.ids import (
    AUTHORIZATION_ID_SIZE,
    START_ID_SIZE,
    AuthorizationId,
    GatewayId,
    IdError,
    OperatorId,
    QuotaId,
    SiteId,
    parse_bytes,
    parse_id,
)
from farthing.money import MAX_AMOUNT_MICROS, MAX_TAX_RATE_PPM
from farthing.v1 import batch_pb2
from farthing_cloud.ledger.core.rows import RegisterKey

#: A gateway seals after hundreds of records; forty times that is a mistake, and 4 MiB is gRPC's own limit of a message.
MAX_LINES: Final = 20_000
MAX_CLAIMS: Final = 20_000
#: An authorization adds to few lines in one batch: quarters × quotas. A week of quarters from several quotas.
MAX_SHARES: Final = 4_096
MAX_BATCH_SIZE: Final = 4 * 1024 * 1024
HASH_SIZE: Final = 32
#: A gateway carries ends of devices that failed over to it; sixty-four between two seals is an outage of a whole neighbour.
MAX_CARRIED: Final = 64
#: Statements that a gateway could not take as they stand: it tells devices "later" beyond so many between two seals.
MAX_PARKED: Final = 64
#: COSE_Sign1 bytes of a statement and of a grant (statements.cddl, envelope and answer).
MAX_STATEMENT_SIZE: Final = 768
MAX_GRANT_SIZE: Final = 2176
#: What a batch bills in all, and what its claims have billed so far: the ledger's sums of both fit into 64 bits.
MAX_BATCH_MICROS: Final = 2**61


#: Makes a named tuple from a tuple: thousands of times, at a third of what its own constructor takes.
_new: Final = tuple.__new__


class BatchError(ValueError):
    """Bytes that are no batch; the sentence names the field."""


class Line(NamedTuple):
    """A line; ``fault`` is why it cannot be understood, empty when it can. (A tuple: a batch holds thousands.)"""

    account_id: str
    #: The quota that paid, else None.
    quota_id: QuotaId | None
    #: "quota", "floor" or "overrun".
    funding: str
    rate_ppm: int
    net_micros: int
    tax_micros: int
    evidence_class: int
    fault: str


class Share(NamedTuple):
    """What one claim adds to one line, micros. (A tuple: a batch holds thousands.)"""

    line: int
    net_micros: int
    tax_micros: int


class Claim(NamedTuple):
    """What one authorization bills so far, and what this batch adds. (A tuple: a batch holds thousands.)"""

    authorization_id: AuthorizationId
    register: RegisterKey
    register_from: int
    register_to: int
    net_micros: int
    tax_micros: int
    final: bool
    shares: tuple[Share, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedEnd:
    """An end of another gateway's authorization, as it was carried: nothing of it is verified yet."""

    granted_by: GatewayId
    granted_incarnation: int
    statements: tuple[bytes, ...]
    grant: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedBatch:
    """A batch and the bytes it was parsed from; ``batch_hash`` is its identity."""

    operator_id: OperatorId
    site_id: SiteId
    gateway_id: GatewayId
    incarnation: int
    start_id: bytes
    sequence: int
    previous_hash: bytes
    first_position: int
    last_position: int
    directive_version: int
    sealed_at: Instant
    merkle_root: bytes
    leaf_count: int
    lines: tuple[Line, ...]
    claims: tuple[Claim, ...]
    stopped: tuple[tuple[QuotaId, int], ...]
    closed: tuple[QuotaId, ...]
    carried: tuple[ReceivedEnd, ...]
    #: Statements that the gateway could not take, as its bytes have them: kept with the batch, and for people.
    parked_count: int
    granted_online: int
    granted_offline: int
    batch_hash: bytes
    batch: bytes
    signature: bytes
    key_id: bytes


def receive(batch: bytes, *, signature: bytes, key_id: bytes, currency: str) -> ReceivedBatch:
    """Parse the bytes of a batch whose signature was verified; ``currency`` is its gateway's.

    Raises ``BatchError``: not a batch, an id, amount or size out of bounds, a share of a line that is not there.
    """
    if len(batch) > MAX_BATCH_SIZE:
        raise BatchError(f"a batch is at most {MAX_BATCH_SIZE} bytes")
    try:
        message = batch_pb2.Batch.FromString(batch)
    except DecodeError as err:
        raise BatchError("not a batch") from err
    if len(message.lines) > MAX_LINES or len(message.claims) > MAX_CLAIMS:
        raise BatchError(f"more than {MAX_LINES} lines or {MAX_CLAIMS} claims")
    if message.sequence < 1 or message.incarnation < 1:
        raise BatchError("sequence and incarnation count from 1")
    if not is_date(message.sealed_at_us):
        # It is the business date of what it bills: reports and payers' statements write it down.
        raise BatchError(f"sealed at {message.sealed_at_us}, which is no date")
    try:
        claims, nets, taxes = _claims(message)
        head = ReceivedBatch(
            operator_id=OperatorId(parse_id(message.operator_id)),
            site_id=SiteId(parse_id(message.site_id)),
            gateway_id=GatewayId(parse_id(message.gateway_id)),
            incarnation=message.incarnation,
            start_id=parse_bytes(message.start_id, START_ID_SIZE),
            sequence=message.sequence,
            previous_hash=parse_bytes(message.previous_hash, HASH_SIZE),
            first_position=message.first_position,
            last_position=message.last_position,
            directive_version=message.directive_version,
            sealed_at=Instant(message.sealed_at_us),
            merkle_root=parse_bytes(message.merkle_root, HASH_SIZE),
            leaf_count=message.leaf_count,
            lines=_lines(message, nets, taxes, currency),
            claims=claims,
            stopped=tuple((QuotaId(parse_id(s.quota_id)), _amount(s.still_held_micros)) for s in message.stopped),
            closed=tuple(QuotaId(parse_id(quota_id)) for quota_id in message.closed_quota_ids),
            carried=_carried(message),
            parked_count=len(message.parked),
            granted_online=message.statistics.granted_online,
            granted_offline=message.statistics.granted_offline,
            batch_hash=hashlib.sha256(batch).digest(),
            batch=batch,
            signature=signature,
            key_id=key_id,
        )
    except IdError as err:
        raise BatchError(str(err)) from err
    if len(message.parked) > MAX_PARKED or any(len(each.statement) > MAX_STATEMENT_SIZE for each in message.parked):
        raise BatchError(f"more than {MAX_PARKED} parked statements, or one of more than {MAX_STATEMENT_SIZE} bytes")
    billed = [line.net_micros + line.tax_micros for line in head.lines]
    if max(billed, default=0) > MAX_AMOUNT_MICROS:
        raise BatchError(f"a line of more than {MAX_AMOUNT_MICROS} micros")
    if max(sum(billed), sum(claim.net_micros + claim.tax_micros for claim in claims)) > MAX_BATCH_MICROS:
        raise BatchError(f"a batch of more than {MAX_BATCH_MICROS} micros")
    if len({claim.authorization_id for claim in claims}) != len(claims):
        raise BatchError("two claims of one authorization")
    if any(position >= 2**63 for position in (head.last_position, head.incarnation, head.sequence)):
        raise BatchError("a position, incarnation or sequence above 2^63 - 1")
    return head


def _carried(message: batch_pb2.Batch) -> tuple[ReceivedEnd, ...]:
    if len(message.carried) > MAX_CARRIED:
        raise BatchError(f"more than {MAX_CARRIED} carried ends")
    for end in message.carried:
        if len(end.statements) > MAX_STATEMENTS or max(map(len, end.statements), default=0) > MAX_STATEMENT_SIZE:
            raise BatchError(f"a carried end of more than {MAX_STATEMENTS} statements of {MAX_STATEMENT_SIZE} bytes")
        if len(end.grant) > MAX_GRANT_SIZE:
            raise BatchError(f"a grant of more than {MAX_GRANT_SIZE} bytes")
    return tuple(
        ReceivedEnd(
            granted_by=GatewayId(parse_id(end.granted_by)),
            granted_incarnation=end.granted_incarnation,
            statements=tuple(end.statements),
            grant=end.grant,
        )
        for end in message.carried
    )


def _amount(micros: int) -> int:
    if not 0 <= micros <= MAX_AMOUNT_MICROS:
        raise BatchError(f"amount out of range: {micros}")
    return micros


def _claims(message: batch_pb2.Batch) -> tuple[tuple[Claim, ...], list[int], list[int]]:
    """The claims, and what their shares make of each line: net and tax, micros."""
    count = len(message.lines)
    nets, taxes = [0] * count, [0] * count
    gateway_id = message.gateway_id
    # A batch names the same registers again and again.
    registers: dict[tuple[str, str, int], RegisterKey] = {}
    ids: set[str] = set()
    claims = []
    # Thousands of times: each field is read once (it costs as much as a small function), and nothing is called that is not needed.
    for claim in message.claims:
        if (granted_by := claim.granted_by) and granted_by != gateway_id:
            raise BatchError("a claim on another gateway's authorization: its end is carried, not claimed")
        start, end = claim.register_from, claim.register_to
        if end < start:
            raise BatchError("a claim whose register went back")
        shares = []
        if len(its_shares := claim.shares) > MAX_SHARES:
            raise BatchError(f"more than {MAX_SHARES} shares of one claim")
        for share in its_shares:
            line, net, tax = share.line, share.net_micros, share.tax_micros
            if line >= count:
                raise BatchError(f"a share of line {line}, which is not there")
            if not (0 <= net <= MAX_AMOUNT_MICROS and 0 <= tax <= MAX_AMOUNT_MICROS):
                raise BatchError(f"amount out of range in a share of line {line}")
            nets[line] += net
            taxes[line] += tax
            shares.append(_new(Share, (line, net, tax)))
        name = claim.device_id, claim.register_id, claim.register_epoch
        register = registers.get(name)
        if register is None:
            ids.update([parse_id(each) for each in name[:2] if each not in ids])
            register = registers[name] = _new(RegisterKey, name)
        if len(authorization_id := claim.authorization_id) != AUTHORIZATION_ID_SIZE:
            parse_bytes(authorization_id, AUTHORIZATION_ID_SIZE)
        net, tax = claim.net_micros, claim.tax_micros
        if not (0 <= net <= MAX_AMOUNT_MICROS and 0 <= tax <= MAX_AMOUNT_MICROS):
            raise BatchError(f"amount out of range: {net} and {tax}")
        claims.append(_new(Claim, (authorization_id, register, start, end, net, tax, claim.final, tuple(shares))))
    return tuple(claims), nets, taxes


_CLASSES: Final = frozenset(batch_pb2.EvidenceClass.values()) - {batch_pb2.EVIDENCE_CLASS_UNSPECIFIED}


def _lines(message: batch_pb2.Batch, nets: list[int], taxes: list[int], currency: str) -> tuple[Line, ...]:
    """The lines; ``nets`` and ``taxes`` are what the claims' shares make of them, micros."""
    # A batch names the same accounts and quotas again and again.
    names: set[str] = set()
    lines = []
    # Thousands of times, as above.
    for line, net, tax in zip(message.lines, nets, taxes, strict=True):
        account_id, quota_id, rate_ppm = line.account_id, line.quota_id, line.tax_rate_ppm
        evidence_class = line.evidence_class
        funding = "quota" if quota_id else _other_funding(line)
        fault = ""
        if line.net_micros != net or line.tax_micros != tax:
            fault = "its shares do not add up to it"
        elif line.currency != currency:
            fault = f"its currency is not {currency}"
        elif not 0 <= rate_ppm <= MAX_TAX_RATE_PPM:
            fault = "its tax rate is above 100 %"
        elif evidence_class not in _CLASSES:
            fault = "its evidence class is unknown"
        elif not funding:
            fault = "it does not say what paid it"
        elif not account_id and quota_id:
            fault = "a quota, but no account"
        try:
            if account_id and account_id not in names:
                names.add(parse_id(account_id))
            if funding == "quota" and quota_id not in names:
                names.add(parse_id(quota_id))
        except IdError:
            fault, quota_id = fault or "its account or quota is no id", ""
        values = (
            "" if fault else account_id, quota_id or None, funding, rate_ppm, net, tax, evidence_class, fault,
        )  # fmt: skip
        lines.append(_new(Line, values))
    return tuple(lines)


def _other_funding(line: batch_pb2.Line) -> str:
    """What paid a line that names no quota; empty where it does not say. (A quota without a name is no id, and says so.)"""
    funding = line.WhichOneof("funding")
    if funding == "quota_id":
        return "quota"
    return funding if funding is not None and getattr(line, funding) else ""
