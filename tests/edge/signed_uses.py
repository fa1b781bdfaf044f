"""Uses whose statements are really signed, and whose evidence is checked as anyone would: from public keys alone."""

import json
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from edge_playbook import TARIFFS, Gateway, Meter, Policy, clock, commitment, fund

from farthing.device.cose import VerifyingKey, encode_sign1, key_id, to_be_signed
from farthing.device.messages import AnswerStatus, Chain, RegisterValue, Statement, TariffVersion, encode
from farthing.evidence import payword
from farthing.evidence.detail import RegisterFacts, VerifiedLeaf, verify
from farthing.tariff import parse
from farthing.v1 import batch_pb2
from farthing_edge.authorization import commands
from farthing_edge.authorization.commands import Reply
from farthing_edge.authorization.events import KIND_OF
from farthing_edge.authorization.state import Authorization
from farthing_edge.metering.detail import Placed, billed_by, leaves_of_entries

M = 1_000_000
_KEY = ec.generate_private_key(ec.SECP256R1())
_SPKI = _KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def signed(statement: Statement) -> bytes:
    payload = encode(statement)
    der = _KEY.sign(to_be_signed(statement.kind, statement.recipient, payload), ec.ECDSA(SHA256()))
    r, s = decode_dss_signature(der)
    return encode_sign1(key_id(_SPKI), payload, r.to_bytes(32, "big") + s.to_bytes(32, "big"))


@dataclass
class Site:
    """A gateway with one device, its money, and every batch it has sealed."""

    modulus: int = 10**9
    rated_per_hour: int = 6_000
    report_interval_s: int = 600
    tariff: str = "chg-3"
    unit: str = "Wh"
    gateway: Gateway = field(init=False)
    device: Meter = field(init=False)
    batches: list[batch_pb2.Batch] = field(default_factory=list)
    #: The leaves of each batch that proved what they say.
    proven: list[tuple[VerifiedLeaf, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gateway = Gateway("G1", "S1", at=clock("10:00"))
        self.gateway.told(tariff=Policy.tariff(self.tariff))
        fund(self.gateway, "P", "card")
        self.describe()
        self.gateway.told(quota_granted=Policy.quota("q1", "P", 500 * M, clock("23:00")))
        self.device = Meter("d1", 0, tariff=self.tariff)

    def describe(self, **changes: object) -> None:
        fields = {
            "modulus": self.modulus,
            "rated_per_hour": self.rated_per_hour,
            "report_interval_s": self.report_interval_s,
            "tariff_id": self.tariff,
            "unit": self.unit,
            **changes,
        }
        self.gateway.told(device=Policy.device("d1", **fields))

    def wait(self, seconds: float) -> None:
        self.gateway.at += int(seconds * 1_000_000)

    def step(self, seconds: int) -> None:
        """The gateway's clock is put on, or back."""
        self.wait(seconds)
        self.gateway.do(
            commands.ClockRead(
                boot_id="", real_us=self.gateway.at, monotonic_us=0, stepped_us=seconds * 1_000_000, synchronised=False
            )
        )

    def say(self, statement: Statement, token: str | None = None) -> Reply:
        reply = self.gateway.say(statement, token, cose=signed(statement))
        assert reply is not None
        return reply

    def begin(self, shown: int | None = None, **changes: object) -> Authorization:
        if shown is not None:
            self.device.value = shown
        reply = self.say(self.device.intent(self.gateway, **changes), "card")
        assert reply.status is AnswerStatus.GRANTED, reply.refusal
        self.device.authorization = reply.grant_of
        return self.gateway.state.authorizations[reply.grant_of]

    def read(self, shown: int, **changes: object) -> Reply:
        return self.say(self.device.reading(self.gateway, shown, **changes))

    def end(self, shown: int, **changes: object) -> Reply:
        return self.say(self.device.end(self.gateway, shown, **changes))

    def register(self, value: int, turns: int) -> RegisterValue:
        return RegisterValue(
            register_id=self.device.register_id,
            register_epoch=self.device.register_epoch,
            value=value,
            turns=turns,
        )

    def chain(self, shown: int, secret: bytes, *, length: int = 1_000, unit: int = 1) -> Chain:
        return Chain(
            **self.device.head(self.gateway, shown),
            commitment=commitment(self.device.token),
            authorization=self.device.authorization,
            tariff=TariffVersion(tariff_id=self.tariff, version=1),
            unit_per_tick=unit,
            length=length,
            anchor=payword.word(secret, length, 0),
        )

    def tick(self, *shown: tuple[int, bytes]) -> Reply | None:
        return self.gateway.do(
            commands.TicksArrived(device="d1", authorization=self.device.authorization, shown=shown)
        ).reply

    def seal(self) -> batch_pb2.Batch | None:
        """Seal; what was sealed is shown again from the journal alone, and proves itself."""
        while self.gateway.state.due:
            self.gateway.do(commands.Tick())
        batch = self.gateway.seal()
        if batch is None:
            return None
        self.batches.append(batch)
        durable = [event for event in self.gateway.journal if type(event) in KIND_OF]
        leaves = leaves_of_entries(
            billed_by(
                batch.SerializeToString(deterministic=True),
                (
                    Placed(position, durable[position - 1])
                    for position in range(batch.first_position, batch.last_position + 1)
                ),
            ),
            gateway_id="G1",
            event_at=lambda position: durable[position - 1],
            start_id_at=lambda _: bytes(16),
        )
        tariff = parse(json.dumps(TARIFFS[self.tariff]).encode())
        key = VerifyingKey.from_spki(_SPKI)
        self.proven.append(
            verify(
                batch,
                leaves,
                device_key=lambda _device, _kid: key,
                tariff=lambda _id, _version: tariff,
                register=lambda _device, _register, _epoch: RegisterFacts(unit=self.unit, modulus=self.modulus),
            )
        )
        return batch

    def claims(self) -> dict[bytes, batch_pb2.Claim]:
        """The last claim of each authorization, over all batches."""
        return {claim.authorization_id: claim for batch in self.batches for claim in batch.claims}
