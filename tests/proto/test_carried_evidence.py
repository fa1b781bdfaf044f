"""A carried end proves itself by the device's and the granting gateway's signatures, and by nothing the carrier says."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from carried_session import DEVICE, END, GRANT, GRANTER, INTENT, OCPI, READING, STRANGER, register, said

from farthing.clock import Instant
from farthing.device import messages as m
from farthing.evidence import carried
from farthing.evidence.detail import EvidenceError, RegisterFacts
from farthing.ids import GatewayId, standing_authorization_id
from farthing.tariff import parse

CHARGE = parse(OCPI)


def check(
    statements: list[bytes], grant: bytes, *, incarnation: int = 3, granted_by: str = "G1", modulus: int = 1_000_000
) -> carried.ProvenEnd:
    return carried.verify(
        GatewayId(granted_by),
        incarnation,
        statements,
        grant,
        grant_key=GRANTER.public,
        device_key=lambda device, key_id: DEVICE.public if (device, key_id) == ("dev", DEVICE.public.key_id) else None,
        tariff=lambda tariff_id, version: CHARGE if (tariff_id, version) == ("chg-3", 1) else None,
        register=lambda *name: RegisterFacts(unit="Wh", modulus=modulus) if name == ("dev", "c1", 0) else None,
        time_zone="Europe/Berlin",
    )


@pytest.mark.parametrize("between", [(), (READING,)])
def test_a_signed_end_with_its_signed_grant_says_what_is_due(between: tuple[Any, ...]) -> None:
    proven = check(*said(INTENT, *between, END))
    assert (proven.register_from, proven.register_to) == (1000, 5000)
    # 0.50 and 4 kWh at 0.25, and a fifth of tax.
    assert (proven.priced.net_micros, proven.priced.tax_micros) == (1_500_000, 300_000)
    assert (proven.grant.account, proven.grant.held[0].quota_id) == ("P", "q-1")


def test_a_count_that_returned_to_zero_is_unrolled() -> None:
    proven = check(*said(INTENT, replace(END, register=register(200))), modulus=2_000)
    assert (proven.register_from, proven.register_to) == (1000, 2200)


def test_an_end_without_width_bills_nothing() -> None:
    proven = check(*said(INTENT, replace(END, register=register(1000))))
    assert (proven.register_to, proven.priced.gross_micros) == (1000, 0)


OTHER_TOKEN = {"commitment": b"d" * 32}
OTHER_TARIFF = {"tariff": m.TariffVersion(tariff_id="chg-3", version=2)}
OTHER_RECIPIENT = {"recipient": GatewayId("G2")}

Forge = Callable[[], tuple[list[bytes], bytes]]


@pytest.mark.parametrize(
    ("forged", "rule"),
    [
        (lambda: ([], GRANTER.signed(GRANT)), "an intent, an end"),
        (lambda: said(END, END), "begin with its intent"),
        (lambda: said(INTENT, READING), "end with its end"),
        (lambda: said(INTENT, *[READING] * 20, END), "at most 16"),
        (lambda: said(INTENT, READING, READING, END), "in the order"),
        (lambda: said(INTENT, replace(READING, authorization=bytes(16)), END), "something else"),
        (lambda: ([b"x", b"y"], GRANTER.signed(GRANT)), "cannot be read"),
        (lambda: (said(INTENT, END)[0], b"no grant"), "grant cannot be read"),
        (lambda: (said(INTENT, END)[0], STRANGER.signed(GRANT)), "not the gateway's"),
        (lambda: (said(INTENT, END)[0], GRANTER.signed(GRANT, "batch")), "grant whose signature"),
        (lambda: said(INTENT, END, grant=replace(GRANT, gateway=GatewayId("G2"))), "another gateway or incarnation"),
        (lambda: said(replace(INTENT, **OTHER_RECIPIENT), END), "statement to another gateway"),
        (lambda: said(INTENT, END, grant=replace(GRANT, recipient="other")), "another device"),
        (lambda: ([DEVICE.signed(INTENT), STRANGER.signed(END)], GRANTER.signed(GRANT)), "not the device's"),
        (lambda: ([DEVICE.signed(INTENT), DEVICE.signed(END, "reading")], GRANTER.signed(GRANT)), "signature does not"),
        (lambda: said(INTENT, replace(END, register=register(5000, "c2"))), "another register"),
        (lambda: said(replace(INTENT, counter=4), END), "began another authorization"),
        (lambda: said(INTENT, END, grant=replace(GRANT, intent_counter=4)), "another intent"),
        (lambda: said(INTENT, END, grant=replace(GRANT, start=1001)), "another count"),
        (lambda: said(INTENT, replace(END, authorization=bytes(16))), "end names another authorization"),
        (lambda: said(INTENT, replace(END, **OTHER_TOKEN)), "different tokens"),
        (lambda: said(INTENT, END, grant=replace(GRANT, **OTHER_TOKEN)), "different tokens"),
        (lambda: said(INTENT, replace(END, **OTHER_TARIFF)), "another tariff version"),
        (lambda: said(replace(INTENT, **OTHER_TARIFF), END), "another tariff version"),
        (
            lambda: said(INTENT, replace(END, **OTHER_TARIFF), grant=replace(GRANT, **OTHER_TARIFF)),
            "tariff version that nobody knows",
        ),
        (lambda: said(INTENT, END, grant=replace(GRANT, currency="USD")), "another currency"),
    ],
)
def test_each_rule_is_named_when_it_is_broken(forged: Forge, rule: str) -> None:
    statements, grant = forged()
    with pytest.raises(EvidenceError, match=rule):
        check(statements, grant)


# A one-shot use: its yes is all there is ----------------------------------------------------------------------------

ONE_SHOT = replace(INTENT, one_shot=4000)


def test_a_one_shot_intent_with_its_yes_says_what_is_due() -> None:
    proven = check(*said(ONE_SHOT))
    assert (proven.register_from, proven.register_to) == (1000, 5000)
    assert (proven.priced.net_micros, proven.priced.tax_micros) == (1_500_000, 300_000)


@pytest.mark.parametrize(
    ("forged", "rule"),
    [
        (lambda: said(INTENT), "end with its end"),
        (lambda: said(ONE_SHOT, END), "no statement but its intent"),
        (lambda: said(replace(ONE_SHOT, one_shot=5001)), "for less than the one-shot use"),
        (lambda: said(replace(ONE_SHOT, counter=4)), "began another authorization"),
        (lambda: said(ONE_SHOT, grant=replace(GRANT, start=1001, limit=6001)), "another count"),
        (lambda: said(replace(ONE_SHOT, **OTHER_TOKEN)), "different tokens"),
        (lambda: ([STRANGER.signed(ONE_SHOT)], GRANTER.signed(GRANT)), "not the device's"),
    ],
)
def test_each_rule_of_a_one_shot_use_is_named(forged: Forge, rule: str) -> None:
    statements, grant = forged()
    with pytest.raises(EvidenceError, match=rule):
        check(statements, grant)


# A standing authorization: readings, and no grant ------------------------------------------------------------------

BEGAN = replace(READING, counter=2, at=INTENT.at, register=register(1000), commitment=None, authorization=None)
STANDS = replace(BEGAN, counter=8, at=END.at, register=register(5000))


def read(*statements: Any, tariffs: frozenset[str] = frozenset({"chg-3"})) -> carried.ProvenReading:
    return carried.verify_standing(
        GatewayId("G1"),
        [DEVICE.signed(statement) for statement in statements],
        device_key=lambda device, key_id: DEVICE.public if (device, key_id) == ("dev", DEVICE.public.key_id) else None,
        tariff=lambda tariff_id, version: CHARGE if (tariff_id, version) == ("chg-3", 1) else None,
        register=lambda *name: RegisterFacts(unit="Wh", modulus=1_000_000) if name == ("dev", "c1", 0) else None,
        standing=lambda device: tariffs if device == "dev" else frozenset(),
        time_zone="Europe/Berlin",
    )


def test_readings_of_a_standing_authorization_say_what_is_due_so_far() -> None:
    proven = read(BEGAN, STANDS)
    assert proven.authorization == standing_authorization_id("dev", 0, "c1", 0, GatewayId("G1"))
    assert (proven.register_from, proven.register_to) == (1000, 5000)
    assert (proven.priced.net_micros, proven.priced.tax_micros) == (1_500_000, 300_000)
    # A clock that went back takes nothing away.
    assert read(BEGAN, replace(STANDS, at=Instant(BEGAN.at - 1))).priced.gross_micros == 1_800_000


@pytest.mark.parametrize(
    ("statements", "rule"),
    [
        ((BEGAN,), "where it began, and how far"),
        ((BEGAN, END), "where it began, and how far"),
        ((STANDS, BEGAN), "in the order"),
        ((BEGAN, replace(STANDS, authorization=bytes(16))), "something else"),
        ((BEGAN, replace(STANDS, **OTHER_TARIFF)), "not of one standing"),
        ((replace(BEGAN, **OTHER_TARIFF), replace(STANDS, **OTHER_TARIFF)), "tariff version that nobody knows"),
        ((BEGAN, replace(STANDS, register=register(5000, "c2"))), "another register"),
        ((BEGAN, replace(STANDS, **OTHER_RECIPIENT)), "statement to another gateway"),
        ((BEGAN, replace(STANDS, device="other")), "not the device's"),
    ],
)
def test_each_rule_of_standing_readings_is_named(statements: tuple[Any, ...], rule: str) -> None:
    with pytest.raises(EvidenceError, match=rule):
        read(*statements)


def test_nobody_stands_who_was_never_told_yes() -> None:
    with pytest.raises(EvidenceError, match="never told yes"):
        read(BEGAN, STANDS, tariffs=frozenset({"another"}))


def test_a_grant_of_another_incarnation_than_is_said() -> None:
    with pytest.raises(EvidenceError, match="incarnation"):
        check(*said(INTENT, END), incarnation=2)


def test_a_register_that_went_back() -> None:
    with pytest.raises(EvidenceError, match="went back"):
        check(*said(INTENT, replace(END, register=register(10))), modulus=0)
