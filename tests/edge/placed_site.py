"""A gateway under one tariff that places what is used in time, a charger, and everything sealed there."""

import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from edge_playbook import Gateway, M, Meter, Policy, clock, fund

from farthing.device import cose
from farthing.device.cose import VerifyingKey
from farthing.device.messages import Statement, encode
from farthing.evidence import merkle
from farthing.evidence.detail import RegisterFacts, VerifiedLeaf, verify
from farthing.tariff import parse
from farthing.v1 import batch_pb2, directive_pb2
from farthing_edge.metering.detail import Placed, leaves_of_entries

PRIVATE = ec.generate_private_key(ec.SECP256R1())
KEY = VerifyingKey.from_spki(PRIVATE.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def element(kind: str, price: float, *, step: int = 1, vat: float = 20, **restrictions: Any) -> dict[str, Any]:
    component = {"type": kind, "price": price, "step_size": step, "vat": vat}
    return {"price_components": [component], "restrictions": restrictions}


#: The site is in Berlin: on this day in summer time, 12:00 there is 10:00 UTC.
MORNING = [
    element("ENERGY", 0.30, end_time="12:00"),
    element("ENERGY", 0.10, step=100, start_time="12:00"),
    element("PARKING_TIME", 6, step=300, min_duration=1_800),
]


def signed(statement: Statement) -> bytes:
    payload = encode(statement)
    to_be_signed = cose.to_be_signed(statement.kind, statement.recipient, payload)
    r, s = decode_dss_signature(PRIVATE.sign(to_be_signed, ec.ECDSA(SHA256())))
    return cose.encode_sign1(KEY.key_id, payload, r.to_bytes(32, "big") + s.to_bytes(32, "big"))


class Site:
    """A gateway under one tariff, a charger, and everything sealed there."""

    def __init__(self, elements: list[dict[str, Any]], at: str = "09:30", **more: Any) -> None:
        self.gateway = Gateway("G1", "S1", at=clock(at))
        self.documents: dict[int, bytes] = {}
        self.put(1, elements, **more)
        fund(self.gateway, "P", "card")
        self.gateway.told(device=Policy.device("c1", tariff_id="day", report_interval_s=3_600))
        self.gateway.told(quota_granted=Policy.quota("q1", "P", 100 * M, clock("23:00")))
        self.meter = Meter("c1", 1_000, tariff="day")
        self.leaves: list[VerifiedLeaf] = []

    def put(self, version: int, elements: list[dict[str, Any]], **more: Any) -> None:
        self.documents[version] = json.dumps({"id": "day", "currency": "EUR", "elements": elements} | more).encode()
        self.gateway.told(
            tariff=directive_pb2.TariffRecord(
                tariff_id="day", version=version, currency="EUR", ocpi_json=self.documents[version]
            )
        )

    def begin(self, **changes: Any) -> Any:
        intent = self.meter.intent(self.gateway, **changes)
        reply = self.gateway.say(intent, self.meter.token, cose=signed(intent))
        self.meter.authorization = reply.grant_of
        return reply

    def read(self, at: str, value: int, **changes: Any) -> Any:
        self.gateway.at = clock(at)
        return self.say(self.meter.reading(self.gateway, value, **changes))

    def end(self, at: str, value: int, **changes: Any) -> Any:
        self.gateway.at = clock(at)
        return self.say(self.meter.end(self.gateway, value, **changes))

    def say(self, statement: Statement) -> Any:
        return self.gateway.say(statement, cose=signed(statement))

    @property
    def billed(self) -> tuple[int, int]:
        authorization = self.gateway.state.authorizations[self.meter.authorization]
        return authorization.net_micros, authorization.tax_micros

    def seal(self) -> tuple[batch_pb2.Batch, list[bytes]]:
        """The batch and its leaves, shown again from the journal."""
        batch = self.gateway.seal()
        assert batch is not None
        journal = self.gateway.journal
        leaves = leaves_of_entries(
            (Placed(at, journal[at - 1]) for at in range(batch.first_position, batch.last_position + 1)),
            gateway_id="G1",
            event_at=lambda position: journal[position - 1],
            start_id_at=lambda _: bytes(16),
        )
        assert merkle.root(leaves) == batch.merkle_root
        return batch, leaves

    def proven(
        self, batch: batch_pb2.Batch, leaves: list[bytes], time_zone: str = "Europe/Berlin"
    ) -> list[VerifiedLeaf]:
        return list(
            verify(
                batch,
                leaves,
                device_key=lambda _device, _key: KEY,
                tariff=lambda _tariff, version: parse(self.documents[version]),
                register=lambda _device, _register, _epoch: RegisterFacts(unit="Wh", modulus=10**9),
                time_zone=time_zone,
            )
        )
