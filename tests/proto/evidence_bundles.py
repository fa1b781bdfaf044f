"""A bundle of one charging session over two batches, with soft keys and a CA of its own; and certificates for whoever needs some."""

from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from evidence_scene import CHARGE, GATEWAY, NOON, PRIVATE_KEYS, REGISTERS, Scene, records, scene

from farthing.device import cose
from farthing.evidence import merkle
from farthing.evidence.batches import batch_hash
from farthing.evidence.bundle import Billed, Bundle, BundledBatch, NamedRegister, NamedTariff, PlacedLeaf, Sealed
from farthing.ids import AuthorizationId, DeviceId, GatewayId, OperatorId, RegisterId
from farthing.v1 import batch_pb2

CHG_3 = """{"id": "chg-3", "currency": "EUR", "elements": [{"price_components": [
    {"type": "FLAT", "price": 0.50, "vat": 20, "step_size": 1},
    {"type": "ENERGY", "price": 0.25, "vat": 20, "step_size": 100}]}]}"""

CA, STRANGE_CA, BATCH, RECEIPT = (ec.generate_private_key(ec.SECP256R1()) for _ in range(4))


def spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: ec.EllipticCurvePrivateKey = CA,
    *,
    ca: bool = False,
    uris: Sequence[str] = (),
) -> x509.Certificate:
    """``key`` is ``name``'s, says ``issuer``; a root says so of itself."""
    issuer_name = name if issuer is key else "root"
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer_name)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2040, 1, 1, tzinfo=UTC))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if uris:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(issuer, SHA256())


def der(one: x509.Certificate) -> bytes:
    return one.public_bytes(Encoding.DER)


ROOT = certificate("root", CA, ca=True)
STRANGE_ROOT = certificate("root", STRANGE_CA, STRANGE_CA, ca=True)


def sealed(key: ec.EllipticCurvePrivateKey, kind: cose.Kind, recipient: str, body: bytes) -> Sealed:
    r, s = decode_dss_signature(key.sign(cose.to_be_signed(kind, recipient, body), ec.ECDSA(SHA256())))
    signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    return Sealed(body=body, signature=signature, key_id=cose.key_id(spki(key)))


def receipted(batch: batch_pb2.Batch, body: bytes, **changes: object) -> Sealed:
    receipt = batch_pb2.Receipt(
        ledger_epoch=1,
        gateway_id=batch.gateway_id,
        incarnation=batch.incarnation,
        sequence=batch.sequence,
        batch_hash=batch_hash(body),
        posted_at_us=NOON,
    )
    for name, value in changes.items():
        setattr(receipt, name, value)
    return sealed(RECEIPT, "receipt", batch.gateway_id, receipt.SerializeToString(deterministic=True))


def bundled(it: Scene, authorization: bytes = CHARGE) -> BundledBatch:
    """The scene's batch, signed and receipted, with the leaves of one authorization."""
    body = it.batch.SerializeToString(deterministic=True)
    return BundledBatch(
        batch=sealed(BATCH, "batch", "cloud", body),
        receipt=receipted(it.batch, body),
        leaves=tuple(
            PlacedLeaf(index=index, leaf=raw, path=tuple(merkle.inclusion_proof(it.raw, index)))
            for index, (leaf, raw) in enumerate(zip(it.leaves, it.raw, strict=True))
            if leaf.authorization == authorization
        ),
    )


def two_batches() -> tuple[Scene, Scene]:
    """The session's reading, beside a passage and a meter; then its end alone."""
    read, done, toll, meter = records()
    first, second = scene([read, toll, meter]), scene([done])
    second.batch.sequence = 2
    for it in (first, second):
        it.batch.operator_id = "op"
    return first, second


def bundle(scenes: tuple[Scene, Scene] | None = None) -> Bundle:
    """Everything of the session."""
    facts = REGISTERS["charger", "c1", 0]
    return Bundle(
        operator=OperatorId("op"),
        gateway=GatewayId(GATEWAY),
        authorization=AuthorizationId(CHARGE),
        billed=Billed(
            device=DeviceId("charger"),
            register_id=RegisterId("c1"),
            register_epoch=0,
            register_from=998_000,
            register_to=1_000_450,
            net_micros=1_125_000,
            tax_micros=225_000,
            final=True,
            aside=False,
        ),
        time_zone="Europe/Berlin",
        gateway_key=spki(BATCH),
        receipt_keys=(spki(RECEIPT),),
        tariffs=(NamedTariff(tariff_id="chg-3", version=1, ocpi_json=CHG_3),),
        registers=(
            NamedRegister(
                device=DeviceId("charger"),
                register_id=RegisterId("c1"),
                register_epoch=0,
                unit=facts.unit,
                modulus=facts.modulus,
            ),
        ),
        certificates=(der(certificate("charger", PRIVATE_KEYS["charger"])),),
        batches=tuple(map(bundled, scenes or two_batches())),
    )
