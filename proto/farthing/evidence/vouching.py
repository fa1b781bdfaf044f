"""Whose keys a bundle's are, what its operator says of tariffs and registers, and what public logs and receipts say of its batches.

Rule: a key is believed by a certificate that a CA of the verifier's own choice issued, or because the verifier had it from elsewhere; else it
is its operator's word.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from google.protobuf.message import DecodeError

from farthing.device.cose import VerifyingKey
from farthing.device.messages import MessageError
from farthing.evidence.batches import batch_hash
from farthing.evidence.bundle import Bundle, BundledBatch
from farthing.evidence.detail import RegisterFacts
from farthing.evidence.keys import issued, read_certificate, uris_of
from farthing.evidence.published import PublishedFault, Shown, check_batch, show
from farthing.evidence.published import log_keys as raw_log_keys
from farthing.tariff import Tariff, TariffError, parse
from farthing.tlog.entries import BatchEntry, DeviceEntry
from farthing.tlog.note import NoteKey
from farthing.v1 import batch_pb2


class BundleFault(ValueError):
    """The first thing in a bundle that does not hold; ``where`` names the part ("batch 1/4", "certificate 0")."""

    def __init__(self, where: str, rule: str) -> None:
        super().__init__(f"{where}: {rule}")
        self.where = where
        self.rule = rule


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceKey:
    """A device's statement key with the certificate that says whose it is."""

    key: VerifyingKey
    certificate: x509.Certificate


# Keys and what the operator says ------------------------------------------------------------------------------------------


def read_device(bundle: Bundle, number: int, der: bytes, roots: Sequence[x509.Certificate]) -> DeviceKey:
    """A certificate of the bundle's device."""
    where = f"certificate {number}"
    try:
        certificate = x509.load_der_x509_certificate(der)
        spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        names = [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        uris = uris_of(certificate)
    except (ValueError, UnsupportedAlgorithm) as err:
        raise BundleFault(where, "not an X.509 certificate in DER") from err
    if roots and not any(issued(certificate, root) for root in roots):
        raise BundleFault(where, "none of the CAs given issued it")
    # The same CA names gateways and people, by a URI; their names may be a device's.
    if names != [bundle.billed.device] or uris:
        raise BundleFault(
            where, f"it names {', '.join((*names, *uris)) or 'nobody'}, not device {bundle.billed.device}"
        )
    return DeviceKey(key=read_key(where, spki), certificate=certificate)


def read_key(where: str, spki: bytes) -> VerifyingKey:
    """A public key of the bundle."""
    try:
        return VerifyingKey.from_spki(spki)
    except MessageError as err:
        raise BundleFault(where, err.reason) from err


class BundleFacts:
    """Device keys, tariffs and registers of a bundle, as evidence is checked against them."""

    def __init__(self, bundle: Bundle, devices: Sequence[DeviceKey]) -> None:
        self._keys: dict[tuple[str, bytes], VerifyingKey] = {
            (bundle.billed.device, device.key.key_id): device.key for device in devices
        }
        self._tariffs: dict[tuple[str, int], Tariff] = {}
        for named in bundle.tariffs:
            where, name = f"tariff {named.tariff_id} {named.version}", (named.tariff_id, named.version)
            try:
                tariff = parse(named.ocpi_json.encode())
            except (TariffError, UnicodeEncodeError) as err:
                raise BundleFault(where, f"cannot be read: {err}") from err
            if tariff.id != named.tariff_id or name in self._tariffs:
                raise BundleFault(where, "is another one, or stands here twice")
            self._tariffs[name] = tariff
        self._registers: dict[tuple[str, str, int], RegisterFacts] = {}
        for register in bundle.registers:
            key = (register.device, register.register_id, register.register_epoch)
            if key in self._registers:
                raise BundleFault(f"register {register.register_id}", "stands here twice")
            self._registers[key] = RegisterFacts(unit=register.unit, modulus=register.modulus)

    def key(self, device: str, key_id: bytes) -> VerifyingKey | None:
        """The device's key of that id."""
        return self._keys.get((device, key_id))

    def tariff(self, tariff_id: str, version: int) -> Tariff | None:
        """A version of a tariff."""
        return self._tariffs.get((tariff_id, version))

    def register(self, device: str, register_id: str, epoch: int) -> RegisterFacts | None:
        """Unit and modulus of a register."""
        return self._registers.get((device, register_id, epoch))


# Certificates of keys, and the public logs -------------------------------------------------------------------------------


def read_vouchers(bundle: Bundle, roots: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    """The certificates of keys other than the device's."""
    vouchers = []
    for number, der in enumerate(bundle.key_certificates):
        try:
            certificate = read_certificate(der)
        except ValueError as err:
            raise BundleFault(f"key certificate {number}", "not an X.509 certificate in DER") from err
        if roots and not any(issued(certificate, root) for root in roots):
            raise BundleFault(f"key certificate {number}", "none of the CAs given issued it")
        vouchers.append(certificate)
    return vouchers


def receipts_vouched(bundle: Bundle, vouched: Sequence[bytes], keys: Sequence[VerifyingKey]) -> bool:
    """Whether all receipts are signed with keys that a root vouches for."""
    ids = {key.key_id for key in keys if key.spki in vouched}
    used = {batch.receipt.key_id for batch in bundle.signed_batches if batch.receipt is not None}
    return bool(used) and used <= ids


def shown_by(bundle: Bundle, given: Sequence[NoteKey], vouched: Sequence[bytes]) -> list[Shown]:
    """What the public logs say, checked: of this device, and of these batches with their receipts."""
    receipts = {
        batch_hash(bundled.batch.body): None if bundled.receipt is None else bundled.receipt.body
        for bundled in bundle.signed_batches
    }
    certificates = {hashlib.sha256(der).digest() for der in bundle.certificates}
    raw = raw_log_keys(vouched)
    shown = []
    for number, entry in enumerate(bundle.published):
        where = f"published[{number}]"
        try:
            found = show(entry, given=given, vouched=raw)
            if found is None:
                continue
            if isinstance(found.entry, BatchEntry):
                if check_batch(found.entry, receipts):
                    shown.append(found)
                continue
        except PublishedFault as err:
            raise BundleFault(where, str(err)) from err
        if found.entry.device != bundle.billed.device:
            raise BundleFault(where, f"of device {found.entry.device}, not {bundle.billed.device}")
        # Earlier and later keys of the device stand in the log too; they say nothing of this one.
        if found.entry.certificate_hash in certificates:
            shown.append(found)
    return shown


def published_lines(bundle: Bundle, names: Mapping[bytes, str], shown: Sequence[Shown]) -> list[str]:
    """What the logs say, in sentences; ``names`` of batches by their hash."""
    lines = [
        f"batch {names[each.entry.batch_hash]} and its receipt stand in the public log {each.checkpoint.origin}: entry {each.index} of {each.checkpoint.size}"
        for each in shown
        if isinstance(each.entry, BatchEntry)
    ]
    devices = [each for each in shown if isinstance(each.entry, DeviceEntry)]
    if devices:
        last = max(devices, key=lambda each: each.index)
        assert isinstance(last.entry, DeviceEntry)
        lines.append(
            f"the certificate of {bundle.billed.device} stands in the public log {last.checkpoint.origin}: entry {last.index} of"
            f" {last.checkpoint.size}, then {last.entry.status}"
        )
    return lines


def unpublished(bundle: Bundle, shown: Sequence[Shown]) -> list[str]:
    """What they leave open, in sentences."""
    if len(shown) < len(bundle.published) and not shown:
        return ["what the public logs say: neither was a log's key given, nor does a root vouch for one"]
    return []


# Receipts --------------------------------------------------------------------------------------------------------------


def read_receipt(
    where: str, batch: batch_pb2.Batch, bundled: BundledBatch, keys: Sequence[VerifyingKey]
) -> batch_pb2.Receipt | None:
    """What the ledger signed for a batch; None where the bundle has no receipt of it."""
    sealed = bundled.receipt
    if sealed is None:
        return None
    key = next((key for key in keys if key.key_id == sealed.key_id), None)
    if key is None:
        raise BundleFault(where, "its receipt is signed with another key than the cloud's")
    if not key.verify("receipt", batch.gateway_id, sealed.body, sealed.signature):
        raise BundleFault(where, "the signature of its receipt does not hold")
    try:
        receipt = batch_pb2.Receipt.FromString(sealed.body)
    except DecodeError as err:
        raise BundleFault(where, "signed bytes that are no receipt") from err
    names = (receipt.gateway_id, receipt.incarnation, receipt.sequence, receipt.batch_hash)
    if names != (batch.gateway_id, batch.incarnation, batch.sequence, batch_hash(bundled.batch.body)):
        raise BundleFault(where, "a receipt of another batch")
    return receipt
