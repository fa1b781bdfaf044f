"""A batch with every kind of use proves itself; then each rule is broken in turn, and named."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from evidence_scene import (
    CHARGE_INTENT,
    DONE,
    END,
    GRANT,
    METER,
    NOON,
    PASSAGE,
    READ_Q1,
    READ_Q3,
    REGISTERS,
    TOLL,
    Scene,
    records,
    register,
    scene,
    signed,
)

from farthing.clock import Instant
from farthing.device import messages as m
from farthing.evidence import merkle
from farthing.evidence.detail import EvidenceError, RegisterFacts
from farthing.evidence.leaf import Leaf
from farthing.v1 import batch_pb2


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
