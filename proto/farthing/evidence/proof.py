"""What follows from a bundle, and what does not: checked offline, from public keys alone.

Rule 1: device keys are believed by their certificates, which a CA of the verifier's own choice issued; everything else that a key signed
is the word of that key's owner, and named as such.
Rule 2: the first fault ends the check, and says where it is. What is merely missing is no fault: it stands under "not proven".
Rule 3: what it shows is P6 and no more: what a device measured, for which authorization, token commitment and tariff version, and that
this costs what was billed. Who stood there, and which quota or account paid, no device signs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cryptography import x509
from google.protobuf.message import DecodeError

from farthing.device.cose import VerifyingKey
from farthing.evidence import classes, merkle
from farthing.evidence.batches import BATCH_RECIPIENT, MAX_LEAVES, batch_hash
from farthing.evidence.bundle import Billed, Bundle, BundledBatch
from farthing.evidence.carried_proof import ProvenCarried, left_open, prove_carried, said_of
from farthing.evidence.continuity import BROKEN, Continuity, continuity, total
from farthing.evidence.detail import EvidenceError, VerifiedLeaf, verify_authorization
from farthing.evidence.keys import certified
from farthing.evidence.vouching import (
    BundleFacts,
    BundleFault,
    DeviceKey,
    published_lines,
    read_device,
    read_key,
    read_receipt,
    read_vouchers,
    receipts_vouched,
    shown_by,
    unpublished,
)
from farthing.money import format_micros
from farthing.tlog.entries import DeviceEntry
from farthing.tlog.note import NoteKey
from farthing.v1 import batch_pb2

__all__ = ["BundleFault", "DeviceKey", "Proof", "ProvenBatch", "prove"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenBatch:
    """A batch whose signature and leaves hold; a record is its leaves, one for each line it stands on."""

    batch: batch_pb2.Batch
    batch_hash: bytes
    key_id: bytes
    claim: batch_pb2.Claim
    #: The weakest of what it adds; below device-signed there are no records, as there is nothing to compute anew.
    evidence_class: int
    records: tuple[tuple[VerifiedLeaf, ...], ...]
    receipt: batch_pb2.Receipt | None

    @property
    def name(self) -> str:
        """Incarnation and sequence."""
        return f"{self.batch.incarnation}/{self.batch.sequence}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """A bundle without a fault: its chain, and in sentences what it proves and what it does not.

    ``carried`` where another gateway carried the last word; there are no other batches then.
    """

    bundle: Bundle
    devices: tuple[DeviceKey, ...]
    batches: tuple[ProvenBatch, ...]
    carried: ProvenCarried | None
    #: The weakest of what its batches add (farthing.evidence.classes).
    evidence_class: int
    proven: tuple[str, ...]
    not_proven: tuple[str, ...]


def prove(
    bundle: Bundle,
    *,
    roots: Sequence[x509.Certificate],
    gateway_key: VerifyingKey | None = None,
    receipt_key: VerifyingKey | None = None,
    log_keys: Sequence[NoteKey] = (),
) -> Proof:
    """Check everything in ``bundle``; raise ``BundleFault`` at the first fault.

    ``roots`` are the CAs that the verifier trusts to name devices; without any, the certificates are only read, and that is said.
    ``gateway_key`` and ``receipt_key`` are the gateway's batch key and the cloud's receipt key where the verifier has them from elsewhere; else
    the bundle's own are used, which are the operator's word, unless a certificate in the bundle, issued by one of ``roots``, says whose they are.
    ``log_keys`` are the verifier keys of public logs, where the verifier has them from elsewhere.
    """
    devices = tuple(
        read_device(bundle, number, certificate, roots) for number, certificate in enumerate(bundle.certificates)
    )
    facts = BundleFacts(bundle, devices)
    batch_key = read_key("gateway_key", bundle.gateway_key)
    if gateway_key is not None and gateway_key.spki != batch_key.spki:
        raise BundleFault("gateway_key", "another key than the one given for the gateway")
    batch_keys = {batch_key.key_id: batch_key}
    for spki in bundle.earlier_gateway_keys:
        earlier = read_key("earlier_gateway_keys", spki)
        batch_keys[earlier.key_id] = earlier
    receipt_keys = [read_key("receipt_keys", spki) for spki in bundle.receipt_keys]
    if receipt_key is not None:
        receipt_keys = [receipt_key]
    batches: list[ProvenBatch] = []
    carried: ProvenCarried | None = None
    if bundle.carried is not None:
        if bundle.batches:
            raise BundleFault("batches", "beside a word that was carried, which says all of the use")
        carried = prove_carried(bundle, bundle.carried, batch_key=batch_key, receipt_keys=receipt_keys, facts=facts)
        names = {carried.batch_hash: carried.name}
    else:
        for number, bundled in enumerate(bundle.batches):
            proven = _batch(bundle, number, bundled, batch_keys, receipt_keys, facts)
            if batches and not _position(batches[-1].batch) < _position(proven.batch):
                raise BundleFault(f"batch {proven.name}", "stands before or beside the batch in front of it")
            batches.append(proven)
        names = {proven.batch_hash: proven.name for proven in batches}
    rooted = bool(roots)
    evidence_class = max((proven.evidence_class for proven in batches), default=classes.DEVICE_SIGNED)
    signed = evidence_class == classes.DEVICE_SIGNED
    if carried is not None:
        shows, open_ = said_of(bundle, carried, rooted=rooted), left_open(bundle, carried)
        signed_with = {batch_key.spki}
    else:
        gaps = _check_stood(batches)
        highest = _highest(bundle.billed, batches)
        shows = (
            *(
                _proven(bundle, batches, highest, rooted=rooted)
                if signed
                else _attested(bundle, batches, highest, evidence_class)
            ),
            *_taken_over(batches),
        )
        open_ = (
            *_open(bundle.billed, batches, highest, signed=signed),
            *(
                f"that batch {each.name} was sealed while its key was the gateway's: another key followed it, and a batch says itself when it was sealed"
                for each in batches
                if each.key_id != batch_key.key_id
            ),
            *gaps,
        )
        signed_with = {batch_keys[each.key_id].spki for each in batches}
    vouchers = read_vouchers(bundle, roots)
    certain = set(certified(vouchers, roots, role="batch", owner=bundle.batched_by))
    vouched_gateway = signed_with <= certain
    if gateway_key is not None:
        certain.add(gateway_key.spki)
    vouched_cloud = receipts_vouched(bundle, certified(vouchers, roots, role="receipt", owner=""), receipt_keys)
    shown = shown_by(bundle, log_keys, certified(vouchers, roots, role="log", owner=""))
    return Proof(
        bundle=bundle,
        devices=devices,
        batches=tuple(batches),
        carried=carried,
        evidence_class=evidence_class,
        proven=(
            *shows,
            *(("the batch key is the gateway's: the root says so",) if vouched_gateway else ()),
            *(("the receipt key is the cloud's: the root says so",) if vouched_cloud else ()),
            *published_lines(bundle, names, shown),
        ),
        not_proven=(
            *classes.unsigned(evidence_class),
            *_always_open(
                signed=signed,
                rooted=rooted,
                gateway=signed_with <= certain,
                cloud=receipt_key is not None or vouched_cloud,
                logged=any(isinstance(each.entry, DeviceEntry) for each in shown),
            ),
            *open_,
            *unpublished(bundle, shown),
        ),
    )


# Batches ------------------------------------------------------------------------------------------------------------------


def _position(batch: batch_pb2.Batch) -> tuple[int, int]:
    return batch.incarnation, batch.sequence


def _batch(
    bundle: Bundle,
    number: int,
    bundled: BundledBatch,
    batch_keys: Mapping[bytes, VerifyingKey],
    receipt_keys: Sequence[VerifyingKey],
    facts: BundleFacts,
) -> ProvenBatch:
    where, sealed = f"batches[{number}]", bundled.batch
    batch_key = batch_keys.get(sealed.key_id)
    if batch_key is None:
        raise BundleFault(where, "signed with another key than the gateway's")
    if not batch_key.verify("batch", BATCH_RECIPIENT, sealed.body, sealed.signature):
        raise BundleFault(where, "the gateway's signature does not hold")
    try:
        batch = batch_pb2.Batch.FromString(sealed.body)
    except DecodeError as err:
        raise BundleFault(where, "signed bytes that are no batch") from err
    where = f"batch {batch.incarnation}/{batch.sequence}"
    if (batch.gateway_id, batch.operator_id) != (bundle.gateway, bundle.operator):
        raise BundleFault(where, "of another gateway or operator than the bundle")
    if batch.leaf_count > MAX_LEAVES:
        raise BundleFault(where, f"says it has more than {MAX_LEAVES} leaves")
    leaves: dict[int, bytes] = {}
    for placed in bundled.leaves:
        if placed.index in leaves:
            raise BundleFault(where, f"leaf {placed.index} stands here twice")
        if not merkle.verify_inclusion(placed.leaf, placed.index, batch.leaf_count, placed.path, batch.merkle_root):
            raise BundleFault(where, f"leaf {placed.index} is not in the batch: its path does not lead to the root")
        leaves[placed.index] = placed.leaf
    evidence_class = classes.class_of(batch, bundle.authorization)
    try:
        records = _records(batch, evidence_class, bundle, leaves, facts)
    except EvidenceError as err:
        raise BundleFault(where, str(err)) from err
    claims = [claim for claim in batch.claims if claim.authorization_id == bundle.authorization]
    if len(claims) != 1:
        raise BundleFault(where, f"the batch has {len(claims)} claims of the authorization, not one")
    if any(share.line >= len(batch.lines) for share in claims[0].shares):
        raise BundleFault(where, "a share of a line that is not there")
    return ProvenBatch(
        batch=batch,
        batch_hash=batch_hash(sealed.body),
        key_id=sealed.key_id,
        claim=claims[0],
        evidence_class=evidence_class,
        records=records,
        receipt=read_receipt(where, batch, bundled, receipt_keys),
    )


def _records(
    batch: batch_pb2.Batch, evidence_class: int, bundle: Bundle, leaves: Mapping[int, bytes], facts: BundleFacts
) -> tuple[tuple[VerifiedLeaf, ...], ...]:
    """What devices' statements show of the authorization; nothing below device-signed."""
    if evidence_class != classes.DEVICE_SIGNED:
        return ()
    records = verify_authorization(
        batch,
        bundle.authorization,
        leaves,
        device_key=facts.key,
        tariff=facts.tariff,
        register=facts.register,
        time_zone=bundle.time_zone,
    )
    return tuple(map(tuple, records))


def _check_stood(batches: Sequence[ProvenBatch]) -> list[str]:
    """Where a use stood before a batch's first record follows from an earlier one; what is not there to follow from, in sentences.

    Only a tariff that places asks: any other total is the price from the first statement on.
    """
    gaps: list[str] = []
    earlier: list[VerifiedLeaf] = []
    for proven in batches:
        for number, record in enumerate(proven.records):
            if number:
                continue
            found = continuity(earlier, record[0])
            if found is Continuity.UNKNOWN:
                gaps.append(
                    f"how the use came to stand where it did before batch {proven.name}: the records before it are not in the bundle"
                )
            elif found is Continuity.BROKEN:
                raise BundleFault(f"batch {proven.name}", f"leaf {record[0].index}: {BROKEN}")
        earlier.extend(record[0] for record in proven.records)
    return gaps


def _highest(billed: Billed, batches: Sequence[ProvenBatch]) -> batch_pb2.Claim:
    """The claim that says what was billed; a record has to show its amounts."""
    if not batches:
        raise BundleFault("batches", "there are none: nothing is shown")
    highest = max(
        (proven.claim for proven in batches),
        key=lambda claim: (claim.register_to, claim.net_micros + claim.tax_micros, claim.final),
    )
    said = (highest.device_id, highest.register_id, highest.register_epoch, highest.register_from, highest.register_to)
    if said != (
        billed.device,
        billed.register_id,
        billed.register_epoch,
        billed.register_from,
        billed.register_to,
    ):
        raise BundleFault("billed", "the highest signed claim is of another register or interval")
    if (highest.net_micros, highest.tax_micros, highest.final) != (billed.net_micros, billed.tax_micros, billed.final):
        raise BundleFault(
            "billed",
            f"{format_micros(billed.net_micros)} and {format_micros(billed.tax_micros)} tax,"
            f" the highest signed claim says {format_micros(highest.net_micros)} and {format_micros(highest.tax_micros)},"
            f" {'final' if highest.final else 'not final'}",
        )
    shown = [total(record[0]) for proven in batches for record in proven.records]
    signed = all(proven.evidence_class == classes.DEVICE_SIGNED for proven in batches)
    if signed and (highest.net_micros, highest.tax_micros) not in shown:
        raise BundleFault("billed", "no record shows the amounts of the highest claim")
    return highest


# What it says -------------------------------------------------------------------------------------------------------------


def _proven(
    bundle: Bundle,
    batches: Sequence[ProvenBatch],
    highest: batch_pb2.Claim,
    *,
    rooted: bool,
) -> tuple[str, ...]:
    records = [record[0] for proven in batches for record in proven.records]
    statements = {
        (said.device_epoch, said.counter)
        for item in records
        for said in (item.first, item.last, item.previous)
        if said is not None
    }
    tariffs = sorted({f"{item.leaf.tariff.tariff_id} version {item.leaf.tariff.version}" for item in records})
    billed = bundle.billed
    unit = next(
        register.unit
        for register in bundle.registers
        if (register.device, register.register_id, register.register_epoch)
        == (billed.device, billed.register_id, billed.register_epoch)
    )
    reached = max(item.leaf.register_to for item in records)
    (first, *_) = records
    currency = batches[0].batch.lines[records[0].leaf.line].currency
    named = ", named by a certificate of the CA given," if rooted else ""
    token = f" and token commitment {first.first.commitment.hex()}" if first.first.commitment else ""
    net, tax = format_micros(highest.net_micros), format_micros(highest.tax_micros)
    return (
        f"device {billed.device}{named} signed {len(statements)} statements for authorization {bundle.authorization.hex()}{token}",
        f"by them its register {billed.register_id} (epoch {billed.register_epoch}) counted from {highest.register_from} to {reached} {unit}",
        f"under {', '.join(tariffs)} that costs {net} and {tax} tax {currency}, computed again here: what was billed",
        f"gateway {bundle.gateway} signed {len(batches)} {'batch' if len(batches) == 1 else 'batches'} that bill it",
    )


def _attested(
    bundle: Bundle, batches: Sequence[ProvenBatch], highest: batch_pb2.Claim, evidence_class: int
) -> tuple[str, ...]:
    """What is shown where no device signed: who says it, and what he says."""
    billed, net, tax = bundle.billed, format_micros(highest.net_micros), format_micros(highest.tax_micros)
    last = batches[-1]
    currencies = sorted({last.batch.lines[share.line].currency for share in last.claim.shares})
    count = "1 batch" if len(batches) == 1 else f"{len(batches)} batches"
    name = classes.name_of(evidence_class)
    bills = f"gateway {bundle.gateway} signed {count} that bill authorization {bundle.authorization.hex()}, {name}"
    costs = (
        f"it says that register {billed.register_id} (epoch {billed.register_epoch}) of device {billed.device} counted from"
        f" {highest.register_from} to {highest.register_to}, and that this costs {net} and {tax} tax"
    )
    return bills, " ".join((costs, *currencies))


def _taken_over(batches: Sequence[ProvenBatch]) -> tuple[str, ...]:
    receipted = [proven for proven in batches if proven.receipt is not None]
    return (f"the ledger receipted {len(receipted)} of them",) if receipted else ()


def _always_open(*, signed: bool, rooted: bool, gateway: bool, cloud: bool, logged: bool) -> tuple[str, ...]:
    return (
        "that the payer stood there: only a token that signs could show it",
        "which account and quota paid: that is the gateway's word",
        "that nothing was given back since: refunds stand in the ledger, not here",
        "that this is the tariff's text and the register's unit: that is the operator's word, to be compared with what it published",
        *(
            (
                "that the device's certificate was not revoked"
                + ("" if logged else ", and stands in the published device log"),
            )
            if signed
            else ()
        ),
        *(() if rooted or not signed else ("that the device's key is a device's: no CA was given",)),
        *(() if gateway else ("that the batch key is the gateway's: it is the one that the ledger has on record",)),
        *(() if cloud else ("that the receipt key is the cloud's: it is the one that the ledger names",)),
    )


def _open(billed: Billed, batches: Sequence[ProvenBatch], highest: batch_pb2.Claim, *, signed: bool) -> list[str]:
    said = []
    records = [record[0].leaf for proven in batches for record in proven.records]
    # Where no device signed, nothing of the count is shown at all, and that is said already.
    reached = max((item.register_to for item in records), default=0) if signed else highest.register_to
    if highest.register_to > reached:
        said.append(f"the count from {reached} to {highest.register_to}: it cost nothing more, and has no record")
    if highest.closed_by:
        said.append(f"that the device ended the use: a decision did ({highest.closed_by!r})")
    if not highest.final:
        said.append("that the use has ended: more may be billed")
    if billed.aside:
        said.append("that anybody pays it: the ledger has set it aside in a case")
    for proven in batches:
        if proven.receipt is None:
            said.append(f"that the ledger took over batch {proven.name}: its receipt is not in the bundle")
            continue
        mine = {part.leaf.line for record in proven.records for part in record}
        mine.update(() if proven.records else (share.line for share in proven.claim.shares))
        said.extend(
            f"that line {parked.line} of batch {proven.name} was billed: the ledger parked it ({parked.reason})"
            for parked in proven.receipt.parked
            if parked.line in mine
        )
    return said
