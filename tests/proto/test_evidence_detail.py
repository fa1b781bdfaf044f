"""A batch with every kind of use proves itself; then each rule is broken in turn, and named."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from farthing.clock import SECOND_US, Instant, quarter_of
from farthing.device import cose
from farthing.device import messages as m
from farthing.device.cose import VerifyingKey
from farthing.evidence import merkle
from farthing.evidence.detail import EvidenceError, RegisterFacts, VerifiedLeaf, verify
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


def test_every_kind_of_use_proves_itself() -> None:
    verified = scene().verify()
    assert [item.index for item in verified] == [0, 1, 2, 3, 4]
    assert [type(item.last).__name__ for item in verified] == ["Reading", "Reading", "End", "Intent", "Reading"]
    assert verified[READ_Q1].first == verified[DONE].first == CHARGE_INTENT
    assert verified[TOLL].first is verified[TOLL].last
    # The first record stands on two lines, and the sum of both is what it bills.
    assert verified[READ_Q1].leaf.net_micros + verified[READ_Q3].leaf.net_micros == 784_250


def test_an_intent_may_sign_the_tariff_that_was_shown() -> None:
    it = scene()
    passage_said(tariff=it.leaves[TOLL].tariff)(it)
    it.verify()


def test_a_batch_without_lines_has_nothing_to_prove() -> None:
    assert scene([]).verify() == ()


def test_a_session_goes_on_in_the_next_batch() -> None:
    """What was billed before stands in an earlier batch: only the difference is checked, against the totals."""
    assert len(scene(records()[1:2]).verify()) == 1


def test_an_end_that_adds_width_but_no_price_leaves_no_leaf() -> None:
    it = scene(records()[:1])
    it.batch.claims[0].final = True
    it.batch.claims[0].register_to += 1
    it.verify()


def without_claim(it: Scene) -> None:
    del it.batch.claims[1]


def claims_twice(it: Scene) -> None:
    it.batch.claims.append(it.batch.claims[1])


def swap_lines(it: Scene) -> None:
    it.batch.lines[0].first_leaf, it.batch.lines[1].first_leaf = 1, 0


def forged(leaf: Leaf, statement: m.Statement, at: int = 1, **how: object) -> dict[str, object]:
    statements = list(leaf.statements)
    statements[at] = signed(statement, **how)
    return {"statements": tuple(statements)}


def last_said(**changes: object) -> Callable[[Scene], None]:
    """The device itself signed something else."""

    def break_it(it: Scene) -> None:
        it.change(DONE, **forged(it.leaves[DONE], replace(END, **changes)))

    return break_it


def first_said(**changes: object) -> Callable[[Scene], None]:
    def break_it(it: Scene) -> None:
        it.change(DONE, **forged(it.leaves[DONE], replace(CHARGE_INTENT, **changes), 0))

    return break_it


def passage_said(**changes: object) -> Callable[[Scene], None]:
    def break_it(it: Scene) -> None:
        it.change(TOLL, **forged(it.leaves[TOLL], replace(PASSAGE, **changes), 0))

    return break_it


def disclaimed(it: Scene) -> None:
    head = {name: getattr(END, name) for name in ("recipient", "device", "device_epoch", "counter", "at", "register")}
    it.change(DONE, **forged(it.leaves[DONE], m.Disclaimer(**head, authorization=END.authorization)))


def leaf_says(index: int, **changes: object) -> Callable[[Scene], None]:
    return lambda it: it.change(index, **changes) and None


def grant_says(**changes: object) -> Callable[[Scene], None]:
    return lambda it: it.change(DONE, grant=m.encode(replace(GRANT, **changes))) and None


def line_says(index: int, **changes: object) -> Callable[[Scene], None]:
    def break_it(it: Scene) -> None:
        for name, value in changes.items():
            setattr(it.batch.lines[index], name, value)

    return break_it


def claim_says(index: int, **changes: object) -> Callable[[Scene], None]:
    def break_it(it: Scene) -> None:
        for name, value in changes.items():
            setattr(it.batch.claims[index], name, value)

    return break_it


def another_signer(it: Scene) -> None:
    it.change(DONE, **forged(it.leaves[DONE], END, signer="stranger"))


def another_recipient_signed(it: Scene) -> None:
    it.change(DONE, **forged(it.leaves[DONE], END, recipient="gw-2"))


def moved_money_between_leaves(it: Scene) -> None:
    """Lines and totals stay; one record bills a micro less and the other more."""
    it.batch.lines[0].net_micros += 1
    it.batch.lines[2].net_micros -= 1
    for claim in it.batch.claims:
        for share in claim.shares:
            share.net_micros += {0: 1, 2: -1}.get(share.line, 0)
    it.leaves[READ_Q1] = replace(it.leaves[READ_Q1], net_micros=it.leaves[READ_Q1].net_micros + 1)
    it.change(DONE, net_micros=it.leaves[DONE].net_micros - 1)


def shares_moved(it: Scene) -> None:
    shares = it.batch.claims[0].shares
    shares[0].net_micros -= 1
    shares[1].net_micros += 1


def truncated(it: Scene) -> None:
    it.raw.pop()


def garbled(it: Scene) -> None:
    it.raw[2] = b"\xff"
    it.batch.merkle_root = merkle.root(it.raw)


BROKEN = [
    # The batch and its tree.
    (truncated, None, "leaves, the detail"),
    (lambda it: it.raw.__setitem__(0, it.raw[1]), None, "Merkle root"),
    (garbled, 2, "not a leaf"),
    (swap_lines, None, "does not name the leaves that follow"),
    (line_says(0, leaf_count=0), None, "does not name the leaves"),
    (line_says(3, leaf_count=2**31), None, "more leaves than there are"),
    (lambda it: it.batch.lines.pop(), None, "no line names"),
    # Lines.
    (leaf_says(READ_Q1, line=1), 0, "another line's range"),
    (line_says(0, evidence_class=batch_pb2.EVIDENCE_CLASS_STATION_ATTESTED), 0, "not device-signed"),
    (line_says(0, tariff_version=9), 0, "another tariff version than its line"),
    (line_says(0, quarter=1), 0, "another quarter"),
    (line_says(0, net_micros=1), None, "line 0 is not the sum"),
    (line_says(0, currency="USD"), 0, "another currency"),
    (line_says(0, tax_rate_ppm=70_000), 0, "tax rate"),
    (lambda it: it.batch.totals.pop(), None, "totals are not"),
    (lambda it: it.batch.totals.append(it.batch.totals[0]), None, "totals are not"),
    # Statements.
    (leaf_says(DONE, statements=(b"rubbish", b"rubbish")), 2, "cannot be read"),
    (another_signer, 2, "key that is not the device's"),
    (another_recipient_signed, 2, "signature does not hold"),
    (last_said(device="stranger"), 2, "another device"),
    (last_said(recipient="gw-2"), 2, "another gateway"),
    (last_said(register=register("c2", 450)), 2, "another register"),
    (last_said(register=register("c1", 450, 1)), 2, "another register"),
    (last_said(authorization=bytes(16)), 2, "another authorization"),
    (last_said(commitment=bytes(32)), 2, "different tokens"),
    (last_said(tariff=None), 2, "another tariff"),
    (last_said(counter=10), 2, "not made after"),
    (last_said(device_epoch=2), 2, "not made after"),
    (last_said(at=Instant(NOON)), 2, "another time"),
    (last_said(register=register("c1", 451)), 2, "ends elsewhere"),
    (disclaimed, 2, "bills nothing"),
    (first_said(tariff=m.TariffVersion(tariff_id="chg-3", version=2)), 2, "was shown another"),
    (passage_said(tariff=m.TariffVersion(tariff_id="toll-1", version=2)), 3, "was shown another"),
    (first_said(counter=9), 2, "began another authorization"),
    (first_said(one_shot=1), 2, "no later statement"),
    (first_said(register=register("c1", 999_999)), 2, "from another count"),
    (leaf_says(METER, device="charger"), 4, "another device"),
    (leaf_says(METER, authorization=bytes(16)), 4, "began another authorization"),
    (leaf_says(DONE, closing=False), 2, "closing is what an end does"),
    (leaf_says(READ_Q1, closing=True), 0, "closing is what an end does"),
    (leaf_says(TOLL, closing=False), 3, "closes at once"),
    (lambda it: it.change(TOLL, statements=it.leaves[TOLL].statements * 2) and None, 3, "only a one-shot"),
    (lambda it: it.change(METER, statements=it.leaves[METER].statements[:1]) and None, 4, "another time"),
    (lambda it: it.change(DONE, statements=it.leaves[DONE].statements[::-1]) and None, 2, "begins with neither"),
    # Grants.
    (leaf_says(DONE, grant=None), 2, "without the grant"),
    (leaf_says(DONE, grant=b"rubbish"), 2, "grant cannot be read"),
    (grant_says(gateway="gw-2"), 2, "between others"),
    (grant_says(recipient="toll"), 2, "between others"),
    (grant_says(authorization=bytes(16)), 2, "another authorization"),
    (grant_says(tariff=m.TariffVersion(tariff_id="chg-3", version=2)), 2, "another authorization or tariff"),
    (grant_says(intent_counter=11), 2, "another intent"),
    (grant_says(start=998_001), 2, "from another count"),
    (grant_says(commitment=None), 2, "another token"),
    # Interval and price.
    (leaf_says(DONE, register_to=1_000_451), 2, "ends elsewhere"),
    (leaf_says(DONE, register_from=997_999), 2, "begins outside"),
    (leaf_says(DONE, total_net_micros=1), 2, "price of the interval"),
    (leaf_says(DONE, total_tax_micros=1), 2, "price of the interval"),
    # Claims.
    (without_claim, 3, "without a claim"),
    (claims_twice, None, "two claims"),
    (shares_moved, 0, "shares of claim"),
    (moved_money_between_leaves, 0, "another amount than the growth"),
    (leaf_says(DONE, register_from=999_000), 2, "bills what the record before"),
    (claim_says(0, net_micros=5), 2, "other totals"),
    (claim_says(0, final=False), 2, "not final"),
    (claim_says(0, register_to=1_000_451), 2, "ends elsewhere than its last record"),
    (claim_says(0, register_from=998_001), 2, "begins elsewhere"),
    (claim_says(0, device_id="toll"), 2, "another register"),
    (claim_says(2, register_to=9_501), 4, "ends elsewhere than its last record"),
    (leaf_says(READ_Q3, grant=m.encode(replace(GRANT, limit=1))), 1, "told in two ways"),
]


@pytest.mark.parametrize(("break_it", "leaf", "rule"), BROKEN, ids=[f"{n}: {row[2]}" for n, row in enumerate(BROKEN)])
def test_a_broken_rule_is_named(break_it: Callable[[Scene], object], leaf: int | None, rule: str) -> None:
    it = scene()
    break_it(it)
    with pytest.raises(EvidenceError, match=rule) as raised:
        it.verify()
    assert raised.value.leaf == leaf


def test_what_nobody_knows_proves_nothing() -> None:
    with pytest.raises(EvidenceError, match="key that is not"):
        scene().verify(keys={})
    with pytest.raises(EvidenceError, match="tariff version that nobody knows"):
        scene().verify(tariffs={})
    with pytest.raises(EvidenceError, match="register that nobody knows"):
        scene().verify(registers={})
    wrong_unit = REGISTERS | {("charger", "c1", 0): RegisterFacts(unit="passage", modulus=1_000_000)}
    with pytest.raises(EvidenceError, match="does not price"):
        scene().verify(registers=wrong_unit)
    no_rollover = REGISTERS | {("charger", "c1", 0): RegisterFacts(unit="Wh", modulus=0)}
    with pytest.raises(EvidenceError, match="went back"):
        scene().verify(registers=no_rollover)


def test_a_first_record_bills_all_that_it_shows() -> None:
    """A micro hidden before the first record of an authorization is seen."""
    short = records()[:1]
    short[0].before = (1, 0)
    with pytest.raises(EvidenceError, match="another amount than the growth"):
        scene(short).verify()
