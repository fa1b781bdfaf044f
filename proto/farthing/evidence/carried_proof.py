"""What follows from a word that another gateway carried up: the use as its device signed it, in the carrier's own batch.

Rule 1: the word is checked as the ledger checks it (:mod:`farthing.evidence.carried`): the whole use is priced here anew.
Rule 2: what was billed is what the word proves, no more and no less.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from farthing.device.cose import VerifyingKey
from farthing.device.messages import MessageError
from farthing.evidence import carried
from farthing.evidence.batches import BATCH_RECIPIENT, batch_hash
from farthing.evidence.bundle import Bundle, CarriedWord
from farthing.evidence.carried import ProvenEnd, ProvenReading
from farthing.evidence.detail import EvidenceError
from farthing.evidence.vouching import BundleFacts, BundleFault, read_receipt
from farthing.money import format_micros
from farthing.v1 import batch_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenCarried:
    """A carrier's batch whose signature holds, and the word in it that every rule holds for."""

    batch: batch_pb2.Batch
    batch_hash: bytes
    key_id: bytes
    word: ProvenEnd | ProvenReading
    statements: int
    receipt: batch_pb2.Receipt | None

    @property
    def name(self) -> str:
        """Incarnation and sequence."""
        return f"{self.batch.incarnation}/{self.batch.sequence}"

    @property
    def final(self) -> bool:
        """Whether nothing of the use can follow: readings are of a use that goes on."""
        return isinstance(self.word, ProvenEnd)


def prove_carried(
    bundle: Bundle,
    word: CarriedWord,
    *,
    batch_key: VerifyingKey,
    receipt_keys: Sequence[VerifyingKey],
    facts: BundleFacts,
) -> ProvenCarried:
    """Check the carrier's batch, and the word in it; raise ``BundleFault`` at the first fault."""
    where, sealed = "carried", word.batch.batch
    if word.carrier == bundle.gateway:
        raise BundleFault(where, "by the gateway that gave the authorization itself")
    if sealed.key_id != batch_key.key_id:
        raise BundleFault(where, "signed with another key than the carrier's")
    if not batch_key.verify("batch", BATCH_RECIPIENT, sealed.body, sealed.signature):
        raise BundleFault(where, "the carrier's signature does not hold")
    try:
        batch = batch_pb2.Batch.FromString(sealed.body)
    except DecodeError as err:
        raise BundleFault(where, "signed bytes that are no batch") from err
    where = f"batch {batch.incarnation}/{batch.sequence}"
    if (batch.gateway_id, batch.operator_id) != (word.carrier, bundle.operator):
        raise BundleFault(where, "of another gateway or operator than the bundle says")
    if word.batch.leaves:
        raise BundleFault(where, "leaves beside a word that was carried")
    found = [
        (end, _proven(bundle, word, end, facts, where))
        for end in batch.carried
        if end.granted_by == bundle.gateway
        and carried.authorization_of(bundle.gateway, end.statements) == bundle.authorization
    ]
    if not found:
        raise BundleFault(where, "carries no word of this authorization")
    end, proven = max(found, key=lambda one: one[1].register_to)
    done = ProvenCarried(
        batch=batch,
        batch_hash=batch_hash(sealed.body),
        key_id=sealed.key_id,
        word=proven,
        statements=len(end.statements),
        receipt=read_receipt(where, batch, word.batch, receipt_keys),
    )
    _check_billed(bundle, done)
    return done


def _proven(
    bundle: Bundle, word: CarriedWord, end: batch_pb2.CarriedEnd, facts: BundleFacts, where: str
) -> ProvenEnd | ProvenReading:
    try:
        if not end.grant:
            return carried.verify_standing(
                bundle.gateway,
                end.statements,
                device_key=facts.key,
                tariff=facts.tariff,
                register=facts.register,
                standing=lambda device: frozenset(word.standing_tariffs if device == bundle.billed.device else ()),
                time_zone=bundle.time_zone,
            )
        return carried.verify(
            bundle.gateway,
            end.granted_incarnation,
            end.statements,
            end.grant,
            grant_key=VerifyingKey.from_spki(word.grant_key),
            device_key=facts.key,
            tariff=facts.tariff,
            register=facts.register,
            time_zone=bundle.time_zone,
        )
    except EvidenceError as err:
        raise BundleFault(where, str(err)) from err
    except MessageError as err:
        raise BundleFault("grant_key", err.reason) from err


def _check_billed(bundle: Bundle, proven: ProvenCarried) -> None:
    billed, word = bundle.billed, proven.word
    shows = word.first.register
    said = (word.first.device, shows.register_id, shows.register_epoch, word.register_from, word.register_to)
    if said != (
        billed.device,
        billed.register_id,
        billed.register_epoch,
        billed.register_from,
        billed.register_to,
    ):
        raise BundleFault("billed", "what was carried is of another register or interval")
    net, tax = word.priced.net_micros, word.priced.tax_micros
    if (net, tax, proven.final) != (billed.net_micros, billed.tax_micros, billed.final):
        raise BundleFault(
            "billed",
            f"{format_micros(billed.net_micros)} and {format_micros(billed.tax_micros)} tax, what was carried costs"
            f" {format_micros(net)} and {format_micros(tax)}, {'final' if proven.final else 'not final'}",
        )


def said_of(bundle: Bundle, proven: ProvenCarried, *, rooted: bool) -> tuple[str, ...]:
    """What it proves, in sentences."""
    billed, word = bundle.billed, proven.word
    facts = next(each for each in bundle.registers if each.register_id == billed.register_id)
    named = ", named by a certificate of the CA given," if rooted else ""
    commitment = word.first.commitment
    token = f" and token commitment {commitment.hex()}" if commitment else ""
    tariff = word.grant.tariff if isinstance(word, ProvenEnd) else word.first.tariff
    net, tax = format_micros(billed.net_micros), format_micros(billed.tax_micros)
    said = [
        f"device {billed.device}{named} signed {proven.statements} statements for authorization {bundle.authorization.hex()}{token}",
        f"by them its register {billed.register_id} (epoch {billed.register_epoch}) counted from {word.register_from} to {word.register_to} {facts.unit}",
        f"under {tariff.tariff_id} version {tariff.version} that costs {net} and {tax} tax, computed again here: what was billed",
        f"gateway {proven.batch.gateway_id} carried them up in a batch that it signed, for gateway {bundle.gateway}",
    ]
    if isinstance(word, ProvenEnd):
        said.append(f"gateway {bundle.gateway} signed a grant for this use, up to {word.grant.limit}")
    if proven.receipt is not None:
        said.append("the ledger receipted that batch")
    return tuple(said)


def left_open(bundle: Bundle, proven: ProvenCarried) -> tuple[str, ...]:
    """What it does not prove, in sentences."""
    said = []
    if isinstance(proven.word, ProvenEnd):
        said.append(f"that the grant key is gateway {bundle.gateway}'s: it is the one that the ledger has on record")
    else:
        said.append("that the device was told yes once and for all under this tariff: that is the operator's word")
        said.append("that the use has ended: more may be billed")
    if bundle.billed.aside:
        said.append("that anybody pays it: the ledger has set it aside in a case")
    if proven.receipt is None:
        said.append(f"that the ledger took over batch {proven.name}: its receipt is not in the bundle")
    return tuple(said)
