"""A batch with every kind of use, sealed as a gateway does: what tests of evidence start from, and break."""

from collections import defaultdict
from dataclasses import dataclass, field, replace

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from farthing.clock import SECOND_US, Instant, quarter_of
from farthing.device import cose
from farthing.device import messages as m
from farthing.device.cose import VerifyingKey
from farthing.evidence import merkle
from farthing.evidence.detail import RegisterFacts, VerifiedLeaf, verify
from farthing.evidence.leaf import Leaf
from farthing.ids import authorization_id, standing_authorization_id
from farthing.money import cut
from farthing.tariff import Tariff, Use, parse, price
from farthing.v1 import batch_pb2

GATEWAY = "gw-1"
NOON = 1_700_000_000 * SECOND_US
MINUTE = 60 * SECOND_US
COMMITMENT = b"c" * 32

PRIVATE_KEYS = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("charger", "toll", "meter", "stranger")}
KEYS = {
    name: VerifyingKey.from_spki(private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    for name, private in PRIVATE_KEYS.items()
}
TARIFFS = {
    ("chg-3", 1): parse(
        b"""{"id": "chg-3", "currency": "EUR", "elements": [{"price_components": [
        {"type": "FLAT", "price": 0.50, "vat": 20, "step_size": 1},
        {"type": "ENERGY", "price": 0.25, "vat": 20, "step_size": 100}]}]}"""
    ),
    ("toll-1", 1): parse(
        b"""{"id": "toll-1", "currency": "EUR", "tax_included": true, "elements": [{"price_components": [
        {"type": "UNIT", "price": 1.20, "vat": 7, "step_size": 1}]}]}"""
    ),
    ("kwh", 2): parse(
        b"""{"id": "kwh", "currency": "EUR", "elements": [{"price_components": [
        {"type": "ENERGY", "price": 0.30, "vat": 20, "step_size": 1}]}]}"""
    ),
}
RATES = {"chg-3": 200_000, "toll-1": 70_000, "kwh": 200_000}
REGISTERS = {
    ("charger", "c1", 0): RegisterFacts(unit="Wh", modulus=1_000_000),
    ("toll", "x1", 0): RegisterFacts(unit="passage", modulus=1_000_000),
    ("meter", "m1", 3): RegisterFacts(unit="Wh", modulus=10_000),
}


def signed(statement: m.Statement | m.Grant, signer: str | None = None, *, recipient: str | None = None) -> bytes:
    name = signer or statement.device
    payload = m.encode(statement)
    to_be_signed = cose.to_be_signed(statement.kind, recipient or statement.recipient, payload)
    r, s = decode_dss_signature(PRIVATE_KEYS[name].sign(to_be_signed, ec.ECDSA(SHA256())))
    return cose.encode_sign1(KEYS[name].key_id, payload, r.to_bytes(32, "big") + s.to_bytes(32, "big"))


def register(register_id: str, value: int, epoch: int = 0) -> m.RegisterValue:
    return m.RegisterValue(register_id=register_id, register_epoch=epoch, value=value)


CHARGE_INTENT = m.Intent(
    recipient=GATEWAY,
    device="charger",
    device_epoch=1,
    counter=10,
    at=Instant(NOON),
    register=register("c1", 998_000),
    commitment=COMMITMENT,
    incarnation=1,
)
CHARGE = authorization_id("charger", 1, 10, GATEWAY)
CHG_3 = m.TariffVersion(tariff_id="chg-3", version=1)
READING = m.Reading(
    recipient=GATEWAY,
    device="charger",
    device_epoch=1,
    counter=11,
    at=Instant(NOON + 12 * MINUTE),
    register=register("c1", 999_137),
    commitment=COMMITMENT,
    authorization=CHARGE,
    tariff=CHG_3,
)
# The register returned to 0 at a million.
END = m.End(
    recipient=GATEWAY,
    device="charger",
    device_epoch=1,
    counter=13,
    at=Instant(NOON + 40 * MINUTE),
    register=register("c1", 450),
    commitment=COMMITMENT,
    authorization=CHARGE,
    tariff=CHG_3,
)
GRANT = m.Grant(
    recipient="charger",
    gateway=GATEWAY,
    witness=m.Witness(incarnation=1, start_id=bytes(16), position=7),
    at=Instant(NOON),
    authorization=CHARGE,
    intent_epoch=1,
    intent_counter=10,
    tariff=CHG_3,
    register_id="c1",
    register_epoch=0,
    start=998_000,
    limit=5_000,
    held=(m.Held(quota_id="q1", amount_micros=5),),
    currency="EUR",
    net_micros=0,
    tax_micros=0,
    report_interval_s=900,
    commitment=COMMITMENT,
)
PASSAGE = m.Intent(
    recipient=GATEWAY,
    device="toll",
    device_epoch=0,
    counter=4,
    at=Instant(NOON + MINUTE),
    register=register("x1", 41),
    commitment=COMMITMENT,
    incarnation=1,
    one_shot=1,
)
METER_FIRST = m.Reading(
    recipient=GATEWAY,
    device="meter",
    device_epoch=2,
    counter=100,
    at=Instant(NOON - 60 * MINUTE),
    register=register("m1", 9_000, 3),
    tariff=m.TariffVersion(tariff_id="kwh", version=2),
)
METER_LAST = replace(METER_FIRST, counter=104, at=Instant(NOON), register=register("m1", 9_500, 3))


@dataclass
class Record:
    """A usage record as a gateway bills it."""

    first: m.Statement
    last: m.Statement
    tariff: m.TariffVersion
    authorization: bytes
    register_from: int
    register_to: int
    closing: bool
    before: tuple[int, int]
    grant: m.Grant | None = None
    funding: tuple[tuple[str, int], ...] = (("q1", 10**12),)

    def leaves_by_line(self) -> list[tuple[tuple[object, ...], Leaf]]:
        facts = REGISTERS[self.last.device, self.last.register.register_id, self.last.register.register_epoch]
        use = Use(
            unit=facts.unit,
            start=self.first.register.value,
            end=self.register_to,
            started_at=self.first.at,
            ended_at=self.last.at,
        )
        total = price(TARIFFS[self.tariff.tariff_id, self.tariff.version], use, closing=self.closing)
        net, tax = total.net_micros - self.before[0], total.tax_micros - self.before[1]
        statements = (signed(self.first),) if self.first is self.last else (signed(self.first), signed(self.last))
        found = []
        for quota, room in self.funding:
            part = cut(net, tax, min(room, net + tax))
            net, tax = net - part[0], tax - part[1]
            found.append(
                (
                    (quota, self.tariff.tariff_id, self.tariff.version, quarter_of(self.last.at)),
                    Leaf(
                        authorization=self.authorization,
                        line=0,
                        device=self.last.device,
                        register_id=self.last.register.register_id,
                        register_epoch=self.last.register.register_epoch,
                        register_from=self.register_from,
                        register_to=self.register_to,
                        net_micros=part[0],
                        tax_micros=part[1],
                        total_net_micros=total.net_micros,
                        total_tax_micros=total.tax_micros,
                        closing=self.closing,
                        tariff=self.tariff,
                        at=self.last.at,
                        statements=statements,
                        grant=None if self.grant is None else m.encode(self.grant),
                        traceparent=None,
                    ),
                )
            )
        assert net == tax == 0
        return found


def records() -> list[Record]:
    read = Record(
        CHARGE_INTENT, READING, CHG_3, CHARGE, 998_000, 999_137, False, (0, 0), GRANT,
        funding=(("q1", 200_000), ("q3", 10**12)),
    )  # fmt: skip
    done = Record(CHARGE_INTENT, END, CHG_3, CHARGE, 999_137, 1_000_450, True, (784_250, 156_850), GRANT)
    toll = Record(
        PASSAGE, PASSAGE, m.TariffVersion(tariff_id="toll-1", version=1), authorization_id("toll", 0, 4, GATEWAY),
        41, 42, True, (0, 0),
    )  # fmt: skip
    meter = Record(
        METER_FIRST, METER_LAST, METER_FIRST.tariff, standing_authorization_id("meter", 2, "m1", 3, GATEWAY),
        9_000, 9_500, False, (0, 0),
    )  # fmt: skip
    return [read, done, toll, meter]


@dataclass
class Scene:
    batch: batch_pb2.Batch
    leaves: list[Leaf]
    raw: list[bytes] = field(default_factory=list)

    def seal(self) -> "Scene":
        """Root and sums follow from the leaves again."""
        self.raw = [leaf.encode() for leaf in self.leaves]
        self.batch.leaf_count = len(self.raw)
        self.batch.merkle_root = merkle.root(self.raw)
        return self

    def change(self, index: int, **changes: object) -> "Scene":
        self.leaves[index] = replace(self.leaves[index], **changes)
        return self.seal()

    def verify(
        self,
        *,
        keys: dict[str, VerifyingKey] | None = None,
        tariffs: dict[tuple[str, int], Tariff] | None = None,
        registers: dict[tuple[str, str, int], RegisterFacts] | None = None,
    ) -> tuple[VerifiedLeaf, ...]:
        known = KEYS if keys is None else keys
        return verify(
            self.batch,
            self.raw,
            device_key=lambda device, _kid: known.get(device),
            tariff=lambda name, version: (TARIFFS if tariffs is None else tariffs).get((name, version)),
            register=lambda *name: (REGISTERS if registers is None else registers).get(name),
        )


def scene(of: list[Record] | None = None) -> Scene:
    """Seal records as a gateway does: lines in order of first use, leaves in line order, one claim each authorization."""
    billed = records() if of is None else of
    lines: defaultdict[tuple[object, ...], list[Leaf]] = defaultdict(list)
    for record in billed:
        for key, leaf in record.leaves_by_line():
            lines[key].append(leaf)
    batch = batch_pb2.Batch(gateway_id=GATEWAY, incarnation=1, sequence=1)
    leaves: list[Leaf] = []
    shares: defaultdict[bytes, list[batch_pb2.Share]] = defaultdict(list)
    for number, ((quota, tariff_id, version, quarter), members) in enumerate(lines.items()):
        batch.lines.add(
            account_id="P",
            currency="EUR",
            quota_id=quota,
            tariff_id=tariff_id,
            tariff_version=version,
            tax_rate_ppm=RATES[str(tariff_id)],
            evidence_class=batch_pb2.EVIDENCE_CLASS_DEVICE_SIGNED,
            quarter=quarter,
            net_micros=sum(leaf.net_micros for leaf in members),
            tax_micros=sum(leaf.tax_micros for leaf in members),
            first_leaf=len(leaves),
            leaf_count=len(members),
        )
        for leaf in members:
            leaves.append(replace(leaf, line=number))
            shares[leaf.authorization].append(
                batch_pb2.Share(line=number, net_micros=leaf.net_micros, tax_micros=leaf.tax_micros)
            )
    last: dict[bytes, Leaf] = {}
    first: dict[bytes, Record] = {}
    for record in billed:
        last[record.authorization] = record.leaves_by_line()[-1][1]
        first.setdefault(record.authorization, record)
    for authorization, leaf in last.items():
        batch.claims.add(
            authorization_id=authorization,
            device_id=leaf.device,
            register_id=leaf.register_id,
            register_epoch=leaf.register_epoch,
            register_from=first[authorization].first.register.value,
            register_to=leaf.register_to,
            net_micros=leaf.total_net_micros,
            tax_micros=leaf.total_tax_micros,
            final=leaf.closing,
            shares=shares[authorization],
        )
    if leaves:
        batch.totals.add(
            currency="EUR",
            net_micros=sum(leaf.net_micros for leaf in leaves),
            tax_micros=sum(leaf.tax_micros for leaf in leaves),
        )
    return Scene(batch, leaves).seal()


READ_Q1, READ_Q3, DONE, TOLL, METER = 0, 1, 2, 3, 4
