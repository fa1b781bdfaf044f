"""Entitlements in conversation: what covers a use, what is used first, what happens when the cover ends, and what proves it."""

import json

import cbor2
import pytest
from edge_playbook import TARIFFS, Gateway, M, Meter, Policy, clock, fund
from signed_uses import Site

from farthing.clock import SECOND_US, Instant
from farthing.device.messages import AnswerStatus, TariffVersion
from farthing.refusal import Refusal
from farthing.v1 import directive_pb2, gateway_sync_pb2
from farthing_edge.authorization import commands
from farthing_edge.authorization.events import QuotaRequested
from farthing_edge.authorization.state import MAX_ENTITLEMENTS, Authorization
from farthing_edge.journal.graph import state_from_bytes, state_to_bytes

#: What a covered kilowatt-hour was sold for, tax in it.
PASS_KWH = {
    "id": "pass-kwh",
    "currency": "EUR",
    "tax_included": True,
    "elements": [{"price_components": [{"type": "ENERGY", "price": 0.20, "vat": 20.0, "step_size": 1}]}],
}
#: A month of charging, paid when it was sold: a use costs nothing more.
MONTH = {
    "id": "month",
    "currency": "EUR",
    "elements": [{"price_components": [{"type": "ENERGY", "price": 0.0, "vat": 20.0, "step_size": 1}]}],
}
#: Ten passages.
RIDES = {
    "id": "rides",
    "currency": "EUR",
    "tax_included": True,
    "elements": [{"price_components": [{"type": "UNIT", "price": 1.00, "vat": 7.0, "step_size": 1}]}],
}
WH_MICROS = 200
#: What twelve minutes at 22 kW use, and cost by the device's own tariff.
FULL_WH = 22_000 * 720 // 3600
FULL_MICROS = 1_920_000


def told_tariff(gateway: Gateway, document: dict) -> None:
    gateway.told(
        tariff=directive_pb2.TariffRecord(
            tariff_id=document["id"], version=1, currency=document["currency"], ocpi_json=json.dumps(document).encode()
        )
    )


def entitle(gateway: Gateway, name: str, tariff: str, **changes: object) -> None:
    fields: dict[str, object] = {
        "account_id": "P",
        "paid_by_account_id": f"pass-{name}",
        "tariff_id": tariff,
        "tariff_version": 1,
        "from_us": clock("00:00"),
        "until_us": clock("22:00"),
        **changes,
    }
    gateway.told(entitlement=directive_pb2.EntitlementRecord(entitlement_id=name, **fields))


@pytest.fixture
def site() -> Gateway:
    gateway = Gateway("G1", "S1", at=clock("10:00"))
    gateway.told(tariff=Policy.tariff("chg-3"))
    gateway.told(tariff=Policy.tariff("toll-1"))
    for document in (PASS_KWH, MONTH, RIDES):
        told_tariff(gateway, document)
    fund(gateway, "P", "card")
    for number in range(1, 5):
        gateway.told(device=Policy.device(f"c{number}"))
    gateway.told(device=Policy.device("t1", profile="one-shot", tariff_id="toll-1", unit="passage"))
    gateway.told(quota_granted=Policy.quota("money", "P", 50 * M, clock("20:00")))
    for name in ("a", "b"):
        gateway.told(account=Policy.account(f"pass-{name}"))
    return gateway


def units(gateway: Gateway, name: str, wh: int, quota: str = "") -> None:
    """A quota that is worth so many covered watt-hours."""
    gateway.told(quota_granted=Policy.quota(quota or f"units-{name}", f"pass-{name}", wh * WH_MICROS, clock("20:00")))


def begin(gateway: Gateway, device: str = "c1", **changes: object) -> tuple[Meter, Authorization | None]:
    meter = Meter(device, 0)
    known = gateway.state.devices[device]
    meter.counter, meter.value = max(0, known.highest), max(0, known.registers["r1"].last_value)
    reply = gateway.say(meter.intent(gateway, **changes), "card")
    assert reply is not None
    if reply.grant_of is None:
        return meter, None
    authorization = gateway.state.authorizations[reply.grant_of]
    meter.authorization, meter.tariff = reply.grant_of, authorization.tariff.tariff_id
    return meter, authorization


def later(gateway: Gateway, seconds: int) -> Gateway:
    gateway.at = Instant(gateway.at + seconds * SECOND_US)
    return gateway


# Cover ----------------------------------------------------------------------------------------------------------------


def test_a_session_is_held_and_billed_in_what_it_covers(site: Gateway) -> None:
    entitle(site, "a", "pass-kwh")
    units(site, "a", 10_000)
    meter, use = begin(site)
    assert use is not None
    assert (use.account_id, use.tariff.tariff_id) == ("pass-a", "pass-kwh")
    assert use.holds == {"units-a": FULL_WH * WH_MICROS}
    assert site.grant_of(site.say(meter.reading(later(site, 600), 3_000))).tariff.tariff_id == "pass-kwh"
    site.say(meter.end(later(site, 60), 3_500))
    assert site.state.quotas["units-a"].spent_micros == 3_500 * WH_MICROS
    assert site.state.quotas["units-a"].held_micros == 0
    # No cent of the payer's.
    assert site.state.quotas["money"].spent_micros == 0
    batch = site.seal()
    assert batch is not None
    assert [(line.account_id, line.quota_id, line.tariff_id) for line in batch.lines] == [
        ("pass-a", "units-a", "pass-kwh")
    ]
    assert batch.claims[0].net_micros + batch.claims[0].tax_micros == 3_500 * WH_MICROS


def test_a_passage_takes_one_ride_and_the_eleventh_is_paid(site: Gateway) -> None:
    entitle(site, "a", "rides", unit="passage")
    site.told(quota_granted=Policy.quota("rides", "pass-a", 10 * M, clock("20:00")))
    paid_by = []
    for _ in range(11):
        _, use = begin(site, "t1", one_shot=1)
        assert use is not None
        paid_by.append(use.account_id)
    assert paid_by == ["pass-a"] * 10 + ["P"]
    assert site.state.quotas["rides"].free_micros == 0
    assert site.state.quotas["money"].spent_micros == 1_200_000


def test_a_month_costs_nothing_more_and_needs_no_quota(site: Gateway) -> None:
    entitle(site, "a", "month")
    meter, use = begin(site)
    assert use is not None
    assert (use.tariff.tariff_id, use.holds, use.told.limit) == ("month", {}, FULL_WH)
    site.say(meter.end(later(site, 700), 4_000))
    batch = site.seal()
    assert batch is not None
    (claim,) = batch.claims
    assert (claim.register_to, claim.net_micros, claim.final) == (4_000, 0, True)
    assert list(batch.lines) == []
    site.at = clock("22:00")
    _, use = begin(site)
    assert use is None


def test_a_cover_that_runs_out_ends_at_a_signed_limit_and_money_pays_the_next(site: Gateway) -> None:
    entitle(site, "a", "pass-kwh")
    units(site, "a", 1_000)
    meter, use = begin(site)
    assert use is not None
    assert use.told.limit == 1_000
    site.say(meter.end(later(site, 300), 1_000))
    assert site.state.quotas["units-a"].free_micros == 0
    _, use = begin(site)
    assert use is not None
    assert (use.account_id, use.tariff.tariff_id, use.start) == ("P", "chg-3", 1_000)


def test_what_cannot_be_cut_is_covered_whole_or_paid(site: Gateway) -> None:
    site.told(device=Policy.device("c1", stoppable=False))
    entitle(site, "a", "pass-kwh")
    units(site, "a", FULL_WH - 1)
    _, use = begin(site)
    assert use is not None
    assert use.account_id == "P"
    units(site, "a", 1, "one-more")
    site.told(device=Policy.device("c2", stoppable=False))
    _, use = begin(site, "c2")
    assert use is not None
    assert use.holds == {"units-a": (FULL_WH - 1) * WH_MICROS, "one-more": WH_MICROS}


# Which ----------------------------------------------------------------------------------------------------------------


def test_the_lowest_priority_number_is_used_first_then_what_ends_first(site: Gateway) -> None:
    entitle(site, "a", "pass-kwh", priority=2)
    entitle(site, "b", "pass-kwh", priority=1)
    for name in ("a", "b"):
        units(site, name, 10_000)
    assert begin(site, "c1")[1].account_id == "pass-b"
    entitle(site, "b", "pass-kwh", priority=2, until_us=clock("23:00"))
    assert begin(site, "c2")[1].account_id == "pass-a"
    # The second covers what the first has not enough for.
    site.told(quota_recalled=directive_pb2.QuotaRecalled(quota_id="units-a", reason="test"))
    assert begin(site, "c3")[1].account_id == "pass-b"


@pytest.mark.parametrize(
    "changes",
    [
        {"until_us": clock("10:00")},
        {"from_us": clock("10:01")},
        {"unit": "s"},
        {"device_tariff_ids": ["toll-1"]},
        {"account_id": "Q"},
        {"tariff_version": 2},
        {"tariff_id": "rides"},
        {"paid_by_account_id": "nobody"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_an_entitlement_does_not_speak_of_is_paid(site: Gateway, changes: dict[str, object]) -> None:
    entitle(site, "a", "pass-kwh", **changes)
    units(site, "a", 10_000)
    assert begin(site)[1].account_id == "P"
    entitle(site, "a", "pass-kwh", device_tariff_ids=["toll-1", "chg-3"], unit="Wh")
    assert begin(site, "c2")[1].account_id == "pass-a"


def test_a_suspended_pass_covers_nothing(site: Gateway) -> None:
    entitle(site, "a", "pass-kwh")
    units(site, "a", 10_000)
    site.told(account=Policy.account("pass-a", status=directive_pb2.ACCOUNT_STATUS_SUSPENDED))
    assert begin(site)[1].account_id == "P"


def test_a_payer_who_was_shown_the_device_s_price_pays_it(site: Gateway) -> None:
    entitle(site, "a", "pass-kwh")
    units(site, "a", 10_000)
    assert begin(site, tariff=TariffVersion(tariff_id="chg-3", version=1))[1].account_id == "P"


def test_a_device_for_entitled_tokens_refuses_all_others(site: Gateway) -> None:
    site.told(device=Policy.device("c1", entitled_only=True))
    meter = Meter("c1", 0)
    intent = meter.intent(site)
    assert site.say(intent, "card").refusal is Refusal.NOT_ENTITLED
    entitle(site, "a", "pass-kwh")
    # A no stays; the next intent hears that it is entitled, and that the pass has nothing here.
    assert site.say(intent, "card").refusal is Refusal.NOT_ENTITLED
    assert site.say(meter.intent(site), "card").refusal is Refusal.NO_QUOTA
    units(site, "a", 10_000)
    assert site.say(meter.intent(site), "card").status is AnswerStatus.GRANTED
    assert site.state.quotas["money"].held_micros == 0


def test_an_entitlement_never_stands_on_the_floor(site: Gateway) -> None:
    site.told(device=Policy.device("c1", entitled_only=True))
    site.told(
        floor=directive_pb2.FloorPolicy(
            currency="EUR", per_token_micros=5 * M, per_account_micros=5 * M, all_tokens_micros=5 * M
        )
    )
    entitle(site, "a", "pass-kwh")
    meter = Meter("c1", 0)
    assert site.say(meter.intent(site), "card").refusal is Refusal.NO_QUOTA
    units(site, "a", 10_000)
    assert begin(site)[1].account_id == "pass-a"
    assert site.state.floor.total_micros == 0


def test_what_its_device_uses_beyond_a_pass_is_overrun_and_not_lent(site: Gateway) -> None:
    site.told(device=Policy.device("c1", stoppable=False))
    site.told(
        floor=directive_pb2.FloorPolicy(
            currency="EUR", per_token_micros=5 * M, per_account_micros=5 * M, all_tokens_micros=5 * M
        )
    )
    entitle(site, "a", "pass-kwh")
    units(site, "a", FULL_WH)
    meter, use = begin(site)
    assert use.account_id == "pass-a"
    site.say(meter.end(later(site, 1_200), FULL_WH + 500))
    assert site.state.floor.total_micros == 0
    batch = site.seal()
    assert {(line.quota_id, line.net_micros + line.tax_micros) for line in batch.lines} == {
        ("units-a", FULL_WH * WH_MICROS),
        ("", 500 * WH_MICROS),
    }


def test_directives_that_are_too_old_may_have_withdrawn_it(site: Gateway) -> None:
    site.told(device=Policy.device("c1", entitled_only=True))
    entitle(site, "a", "pass-kwh", until_us=clock("10:00") + 2 * site.settings.directive_max_age_us)
    site.told(quota_granted=Policy.quota("long", "pass-a", 10 * M, Instant(clock("10:00") + 10**13)))
    floor = directive_pb2.FloorPolicy(
        currency="EUR", per_token_micros=5 * M, per_account_micros=5 * M, all_tokens_micros=5 * M
    )
    site.told(floor=floor)
    site.at = Instant(site.at + site.settings.directive_max_age_us + 1)
    assert site.say(Meter("c1", 0).intent(site), "card").refusal is Refusal.DIRECTIVES_TOO_OLD
    # The floor is the payer's own.
    _, use = begin(site, "c2")
    assert use is not None
    assert (use.account_id, use.tariff.tariff_id) == ("P", "chg-3")
    assert site.state.floor.by_account == {"P": FULL_MICROS}
    assert site.state.quotas["long"].held_micros == 0


def test_with_an_uplink_a_pass_without_units_is_asked_for_once(site: Gateway) -> None:
    entitle(site, "a", "pass-kwh")
    site.do(commands.UplinkChanged(online=True))
    intent = Meter("c1", 0).intent(site)
    assert site.say(intent, "card") is None
    assert site.last.wait is not None
    (asked,) = site.last.events
    assert isinstance(asked, QuotaRequested)
    assert (asked.account, asked.wanted_micros) == ("pass-a", FULL_WH * WH_MICROS)
    # The cloud had nothing: the payer's own money, and nobody waits again for what was just said.
    no = gateway_sync_pb2.QUOTA_ANSWER_NOTHING_AVAILABLE
    site.do(commands.QuotaAnswered(counter=asked.counter, answer=no))
    reply = site.say(intent, "card", may_wait=False)
    assert site.state.authorizations[reply.grant_of].account_id == "P"
    assert begin(site, "c2")[1].account_id == "P"


# Directives -----------------------------------------------------------------------------------------------------------


def test_the_same_id_takes_the_place_of_what_was_said_and_nothing_between_withdraws_it(site: Gateway) -> None:
    entitle(site, "a", "pass-kwh", priority=4)
    entitle(site, "a", "pass-kwh", priority=3)
    assert [each.priority for each in site.state.entitlements["P"]] == [3]
    assert site.state.entitles
    entitle(site, "a", "pass-kwh", until_us=clock("00:00"))
    assert site.state.entitlements == {}
    assert not site.state.entitles
    assert site.replayed().entitlements == {}


def test_entitlements_of_one_payer_are_few_and_those_that_are_over_go(site: Gateway) -> None:
    for number in range(MAX_ENTITLEMENTS + 1):
        entitle(site, f"e{number}", "pass-kwh")
    assert len(site.state.entitlements["P"]) == MAX_ENTITLEMENTS
    assert "32 others" in site.state.directive_faults[-1][1]
    site.at = clock("23:00")
    site.do(commands.HeadArrived(version=site.state.directive_version, at=site.at))
    entitle(site, "late", "pass-kwh", until_us=clock("23:30"))
    assert [each.id for each in site.state.entitlements["P"]] == ["late"]
    assert site.replayed().entitlements == site.state.entitlements


def test_what_makes_no_sense_is_a_fault_for_people(site: Gateway) -> None:
    entitle(site, "a", "pass-kwh", paid_by_account_id="P")
    entitle(site, "b", "pass-kwh", unit="kilo watt hours")
    entitle(site, "c", "pass-kwh", until_us=1, from_us=2)
    assert [fault.split(":")[1].strip() for _, fault in site.state.directive_faults] == [
        "paid_by_account_id",
        "unit",
        "until_us",
    ]
    assert site.state.entitlements == {}


def test_a_snapshot_keeps_them_and_one_of_an_older_program_has_none(site: Gateway) -> None:
    older, lacking = state_from_bytes(without_entitlements(state_to_bytes(site.state)), site.settings)
    assert lacking
    assert (older.entitles, older.entitlements, older.devices["c1"].entitled_only) == (False, {}, False)
    entitle(site, "a", "pass-kwh")
    units(site, "a", 10_000)
    site.state, lacking = state_from_bytes(state_to_bytes(site.state), site.settings)
    assert not lacking
    assert begin(site)[1].account_id == "pass-a"


def without_entitlements(data: bytes) -> bytes:
    document = cbor2.loads(data)
    del document["root"]["entitlements"], document["root"]["entitles"]
    for table in document["tables"]:
        if table[0] == "Device":
            table[2] = [each for each in table[2] if each[0] != "entitled_only"]
    return cbor2.dumps(document)


# Evidence -------------------------------------------------------------------------------------------------------------


def test_anyone_can_recompute_what_a_covered_use_took_from_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the device's statements and the entitlement's tariff alone; under the device's own tariff it does not prove itself."""
    monkeypatch.setitem(TARIFFS, "pass-kwh", PASS_KWH)
    site = Site()
    told_tariff(site.gateway, PASS_KWH)
    site.gateway.told(account=Policy.account("pass-a"))
    entitle(site.gateway, "a", "pass-kwh")
    units(site.gateway, "a", 1_000)
    use = site.begin(0)
    site.device.tariff = site.tariff = use.tariff.tariff_id
    site.wait(300)
    site.read(300)
    site.wait(300)
    site.end(700)
    site.seal()
    (leaves,) = site.proven
    assert [leaf.leaf.tariff.tariff_id for leaf in leaves] == ["pass-kwh", "pass-kwh"]
    assert leaves[-1].leaf.total_net_micros + leaves[-1].leaf.total_tax_micros == 700 * WH_MICROS


def test_a_gateway_that_names_another_tariff_for_a_covered_use_is_not_believed(site: Gateway) -> None:
    entitle(site, "a", "pass-kwh")
    units(site, "a", 10_000)
    meter, _ = begin(site)
    # The device goes by its grant: a statement under the tariff of before fits nothing.
    reply = site.say(meter.end(later(site, 60), 100, tariff=TariffVersion(tariff_id="chg-3", version=1)))
    assert reply.refusal is Refusal.TARIFF_MISSING
    assert site.state.parked == 1
