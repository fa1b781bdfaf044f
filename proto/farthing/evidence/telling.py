"""A proof in words: the chain from what was billed down to the device's signatures, and what it does and does not prove."""

from collections.abc import Iterator
from datetime import UTC, datetime

from farthing.clock import SECOND_US
from farthing.device.messages import Chain, Intent, Reading, Statement
from farthing.evidence.carried import ProvenEnd
from farthing.evidence.carried_proof import ProvenCarried
from farthing.evidence.classes import name_of
from farthing.evidence.detail import VerifiedLeaf
from farthing.evidence.proof import Proof, ProvenBatch
from farthing.money import format_micros
from farthing.v1 import batch_pb2


def verdict(proof: Proof) -> Iterator[str]:
    """What is proven and what is not, a line each."""
    yield "proven:"
    yield from (f"  - {sentence}" for sentence in proof.proven)
    yield "not proven:"
    yield from (f"  - {sentence}" for sentence in proof.not_proven)


def chain(proof: Proof) -> Iterator[str]:
    """The chain, a line each: claim, device keys, batches with their records, statements and receipts."""
    bundle, billed = proof.bundle, proof.bundle.billed
    yield f"authorization {bundle.authorization.hex()} given by gateway {bundle.gateway} of {bundle.operator}"
    yield (
        f"billed        {format_micros(billed.net_micros)} and {format_micros(billed.tax_micros)} tax for register"
        f" {billed.register_id} (epoch {billed.register_epoch}) of device {billed.device},"
        f" {billed.register_from} to {billed.register_to}, {'final' if billed.final else 'still open'}"
    )
    yield f"evidence      {name_of(proof.evidence_class)}"
    for device in proof.devices:
        certificate = device.certificate
        yield (
            f"device key    {device.key.key_id.hex()}, certificate {certificate.serial_number:x} by {certificate.issuer.rfc4514_string()},"
            f" {certificate.not_valid_before_utc:%Y-%m-%d} to {certificate.not_valid_after_utc:%Y-%m-%d}"
        )
    for proven in proof.batches:
        yield from _batch(proven)
    if proof.carried is not None:
        yield from _carried(proof.carried)


def _carried(proven: ProvenCarried) -> Iterator[str]:
    word = proven.word
    yield f"batch {proven.name}   {proven.batch_hash.hex()}, of gateway {proven.batch.gateway_id}, which carried the last word"
    yield f"  sealed      {_time(proven.batch.sealed_at_us)}, signed by batch key {proven.key_id.hex()}"
    yield (
        f"  carried     {word.register_from} to {word.register_to}, {format_micros(word.priced.net_micros)} and"
        f" {format_micros(word.priced.tax_micros)} tax in all{', the last word' if proven.final else ''}"
    )
    yield f"    began     {_statement(word.first)}"
    if word.last is not word.first:
        yield f"    ends      {_statement(word.last)}"
    if isinstance(word, ProvenEnd):
        yield f"    grant     of gateway {word.grant.gateway}, from {word.grant.start} to {word.grant.limit}"
    if proven.receipt is not None:
        yield f"  receipt     posted {_time(proven.receipt.posted_at_us)}, ledger epoch {proven.receipt.ledger_epoch}"


def _batch(proven: ProvenBatch) -> Iterator[str]:
    batch, claim = proven.batch, proven.claim
    yield f"batch {proven.name}   {proven.batch_hash.hex()}"
    yield f"  sealed      {_time(batch.sealed_at_us)}, signed by batch key {proven.key_id.hex()}"
    yield (
        f"  claim       {claim.register_from} to {claim.register_to}, {format_micros(claim.net_micros)} and"
        f" {format_micros(claim.tax_micros)} tax so far{', final' if claim.final else ''}"
        + (f", closed by {claim.closed_by!r}" if claim.closed_by else "")
    )
    for record in proven.records:
        yield from _record(batch, record)
    if proven.receipt is not None:
        receipt = proven.receipt
        yield f"  receipt     posted {_time(receipt.posted_at_us)}, ledger epoch {receipt.ledger_epoch}"


def _record(batch: batch_pb2.Batch, record: tuple[VerifiedLeaf, ...]) -> Iterator[str]:
    first = record[0]
    item = first.leaf
    yield (
        f"  record      {item.register_from} to {item.register_to}, {_time(item.at)}, tariff {item.tariff.tariff_id}"
        f" version {item.tariff.version}, {format_micros(item.total_net_micros)} and {format_micros(item.total_tax_micros)} tax so far"
        f"{', closing' if item.closing else ''}"
    )
    for part in record:
        line = batch.lines[part.leaf.line]
        yield (
            f"    leaf {part.index}    of {batch.leaf_count}, in the tree; line {part.leaf.line}: {format_micros(part.leaf.net_micros)} and"
            f" {format_micros(part.leaf.tax_micros)} tax {line.currency}, account {line.account_id or '-'}, {_funding(line)}"
        )
    yield f"    began     {_statement(first.first)}"
    if first.previous is not None:
        yield f"    before    {_statement(first.previous)}"
    if first.last is not first.first:
        yield f"    ends      {_statement(first.last)}"
    if item.tick is not None:
        yield f"    tick      {item.tick[0]}, preimage {item.tick[1].hex()}"
    if item.grant is not None:
        yield f"    grant     told before it, {len(item.grant)} bytes, of the same use"


def _funding(line: batch_pb2.Line) -> str:
    match line.WhichOneof("funding"):
        case "quota_id":
            return f"quota {line.quota_id}"
        case None:
            return "nothing named"
        case other:
            return other


def _statement(statement: Statement) -> str:
    shows = statement.register
    said = f"{statement.kind} {statement.device_epoch}/{statement.counter} at {_time(statement.at)}: {shows.register_id} shows {shows.value}"
    if shows.turns:
        said += f" after {shows.turns} turns"
    if isinstance(statement, Intent) and statement.one_shot is not None:
        said += f", uses {statement.one_shot}"
    if isinstance(statement, Chain):
        said += f", {statement.length} ticks of {statement.unit_per_tick}"
    if isinstance(statement, (Intent, Reading)) and statement.tariff is not None:
        said += f", tariff {statement.tariff.tariff_id} version {statement.tariff.version}"
    return said + ", device-signed"


def _time(at_us: int) -> str:
    seconds, rest_us = divmod(at_us, SECOND_US)
    try:
        at = datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest_us)
    except (OverflowError, ValueError, OSError):
        return f"{at_us} µs"
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")
