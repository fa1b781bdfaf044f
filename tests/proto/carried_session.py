"""A session that ended at another gateway than the one that gave it: device, grant and keys, signed for real."""

from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from farthing.clock import SECOND_US, Instant
from farthing.device import cose
from farthing.device import messages as m
from farthing.device.cose import VerifyingKey
from farthing.ids import GatewayId, authorization_id

NOON = Instant(1_700_000_000 * SECOND_US)
TARIFF = m.TariffVersion(tariff_id="chg-3", version=1)
OCPI = b"""{"id": "chg-3", "currency": "EUR", "elements": [{"price_components": [
    {"type": "FLAT", "price": 0.50, "vat": 20, "step_size": 1}, {"type": "ENERGY", "price": 0.25, "vat": 20, "step_size": 1}]}]}"""


class Key:
    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.spki = self._key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.public = VerifyingKey.from_spki(self.spki)

    def signed(self, message: Any, kind: str | None = None) -> bytes:
        payload = m.encode(message)
        data = cose.to_be_signed(kind or message.kind, message.recipient, payload)
        r, s = decode_dss_signature(self._key.sign(data, ec.ECDSA(SHA256())))
        return cose.encode_sign1(self.public.key_id, payload, r.to_bytes(32, "big") + s.to_bytes(32, "big"))


DEVICE, GRANTER, STRANGER = Key(), Key(), Key()


def register(value: int, name: str = "c1") -> m.RegisterValue:
    return m.RegisterValue(register_id=name, register_epoch=0, value=value)


INTENT = m.Intent(
    recipient=GatewayId("G1"),
    device="dev",
    device_epoch=0,
    counter=5,
    at=NOON,
    register=register(1000),
    commitment=b"c" * 32,
    incarnation=1,
)
AUTHORIZATION = authorization_id(INTENT.device, 0, 5, GatewayId("G1"))
READING = m.Reading(
    recipient=GatewayId("G1"),
    device="dev",
    device_epoch=0,
    counter=6,
    at=Instant(NOON + 600 * SECOND_US),
    register=register(2000),
    commitment=b"c" * 32,
    authorization=AUTHORIZATION,
    tariff=TARIFF,
)
END = m.End(
    recipient=GatewayId("G1"),
    device="dev",
    device_epoch=0,
    counter=9,
    at=Instant(NOON + 3600 * SECOND_US),
    register=register(5000),
    commitment=b"c" * 32,
    authorization=AUTHORIZATION,
    tariff=TARIFF,
)
GRANT = m.Grant(
    recipient="dev",
    gateway=GatewayId("G1"),
    witness=m.Witness(incarnation=3, start_id=b"s" * 16, position=7),
    at=NOON,
    authorization=AUTHORIZATION,
    intent_epoch=0,
    intent_counter=5,
    tariff=TARIFF,
    register_id="c1",
    register_epoch=0,
    start=1000,
    limit=6000,
    held=(m.Held(quota_id="q-1", amount_micros=2_000_000),),
    currency="EUR",
    net_micros=0,
    tax_micros=0,
    report_interval_s=600,
    commitment=b"c" * 32,
    account="P",
)


def said(*statements: Any, grant: Any = GRANT) -> tuple[list[bytes], bytes]:
    """The statements and the grant as they travel."""
    return [DEVICE.signed(statement) for statement in statements], GRANTER.signed(grant)
