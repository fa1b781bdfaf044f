"""The registry's calls, from the outside: what they answer, and what gateways hear of it."""

from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from back_office_parts import (
    CHARGE,
    FRAUD,
    PERSON,
    BackOffice,
    device,
    gateway,
    operator,
    register_all,
    site,
    tariff,
)

from farthing.device.cose import key_id
from farthing.v1 import batch_pb2, directive_pb2, registry_pb2

pytestmark = pytest.mark.real


async def refused(call: grpc.aio.UnaryUnaryCall[object, object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def test_a_gateway_is_told_everything_once_and_in_order(back_office: BackOffice, parties: Path) -> None:
    await register_all(back_office, parties)
    ledger = back_office.ledger
    assert ledger.gateways["gw-1"].time_zone == "Europe/Berlin"
    assert ledger.gateways["gw-1"].currency == "EUR"
    assert ledger.kinds("gw-1") == ["floor", "seal", "site_key", "tariff", "device"]
    record = ledger.chains["gw-1"][-1].device
    assert record.status == directive_pb2.DEVICE_STATUS_ACTIVE
    assert record.device_epoch == 1

    await register_all(back_office, parties)
    assert len(ledger.chains["gw-1"]) == 5

    # A gateway that comes later hears what the one before it heard.
    await back_office.registry.PutGateway(registry_pb2.PutGatewayRequest(gateway=gateway(parties, "gw-2")))
    assert ledger.kinds("gw-2") == ["floor", "seal", "tariff", "device", "site_key"]


async def test_put_says_what_it_changes_and_a_dry_run_changes_nothing(back_office: BackOffice) -> None:
    put = back_office.registry.PutOperator
    dry = await put(registry_pb2.PutOperatorRequest(operator=operator(), dry_run=True))
    assert dry.change == registry_pb2.CHANGE_CREATED
    assert not (await back_office.registry.ListOperators(registry_pb2.ListOperatorsRequest())).operators
    made = await put(registry_pb2.PutOperatorRequest(operator=operator()))
    assert list(made.differences) == list(dry.differences)
    renamed = await put(registry_pb2.PutOperatorRequest(operator=operator(name="Town"), dry_run=True))
    assert renamed.change == registry_pb2.CHANGE_UPDATED
    assert list(renamed.differences) == ["name: City -> Town"]
    assert (await put(registry_pb2.PutOperatorRequest(operator=operator()))).change == registry_pb2.CHANGE_NONE


async def test_a_dry_run_takes_what_it_names_as_coming(back_office: BackOffice, parties: Path) -> None:
    answer = await back_office.registry.PutDevice(registry_pb2.PutDeviceRequest(device=device(parties), dry_run=True))
    assert answer.change == registry_pb2.CHANGE_CREATED
    code, details = await refused(back_office.registry.PutDevice(registry_pb2.PutDeviceRequest(device=device(parties))))
    assert (code, details) == (grpc.StatusCode.FAILED_PRECONDITION, "no operator 'city': put it first")


@pytest.mark.parametrize("served", range(6))
async def test_whatever_step_the_ledger_fails_at_putting_again_heals_it(
    back_office: BackOffice, parties: Path, served: int
) -> None:
    put = back_office.registry
    await put.PutOperator(registry_pb2.PutOperatorRequest(operator=operator()))
    await put.PutSite(registry_pb2.PutSiteRequest(site=site()))
    await put.PutTariff(registry_pb2.PutTariffRequest(tariff=tariff()))
    await put.PutDevice(registry_pb2.PutDeviceRequest(device=device(parties)))
    back_office.ledger.calls_until_away = served

    request = registry_pb2.PutGatewayRequest(gateway=gateway(parties))
    code, details = await refused(put.PutGateway(request))
    assert code == grpc.StatusCode.UNAVAILABLE
    assert "applying again is safe" in details

    back_office.ledger.calls_until_away = None
    assert (await put.PutGateway(request)).change == registry_pb2.CHANGE_NONE
    assert back_office.ledger.kinds("gw-1") == ["floor", "seal", "tariff", "device", "site_key"]


async def test_what_is_refused_is_parked_and_tried_again_with_the_next_put(
    back_office: BackOffice, parties: Path
) -> None:
    await register_all(back_office, parties)
    back_office.ledger.gateways.clear()
    moved = site(seal=directive_pb2.SealPolicy(amount_micros=1, records=1, age_s=1))
    code, details = await refused(back_office.registry.PutSite(registry_pb2.PutSiteRequest(site=moved)))
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert "no gateway gw-1" in details

    back_office.ledger.gateways["gw-1"] = gateway_request()
    await back_office.registry.PutSite(registry_pb2.PutSiteRequest(site=moved))
    assert back_office.ledger.chains["gw-1"][-1].seal.amount_micros == 1


def gateway_request() -> object:
    from farthing.v1 import ledger_pb2

    return ledger_pb2.CreateGatewayRequest(gateway_id="gw-1")


async def test_site_policy_reaches_the_site_s_gateways(back_office: BackOffice, parties: Path) -> None:
    await register_all(back_office, parties)
    changed = site(floor=directive_pb2.FloorPolicy(per_token_micros=1, per_account_micros=2, all_tokens_micros=3))
    answer = await back_office.registry.PutSite(registry_pb2.PutSiteRequest(site=changed))
    assert "floor.per_token_micros: - -> 1" in answer.differences
    assert back_office.ledger.chains["gw-1"][-1].floor == directive_pb2.FloorPolicy(
        currency="EUR", per_token_micros=1, per_account_micros=2, all_tokens_micros=3
    )
    code, details = await refused(
        back_office.registry.PutSite(registry_pb2.PutSiteRequest(site=site(time_zone="Europe/Paris")))
    )
    assert (code, "for ever" in details) == (grpc.StatusCode.FAILED_PRECONDITION, True)


async def test_the_ledger_hears_the_least_evidence_class_of_a_gateways_site(
    back_office: BackOffice, parties: Path
) -> None:
    await register_all(back_office, parties)
    told = back_office.ledger.gateways
    assert told["gw-1"].least_evidence_class == batch_pb2.EVIDENCE_CLASS_UNSPECIFIED
    directives = len(back_office.ledger.chains["gw-1"])
    lower = site(least_evidence_class=batch_pb2.EVIDENCE_CLASS_STATION_ATTESTED)
    answer = await back_office.registry.PutSite(registry_pb2.PutSiteRequest(site=lower))
    assert list(answer.differences) == ["least_evidence_class: - -> EVIDENCE_CLASS_STATION_ATTESTED"]
    assert told["gw-1"].least_evidence_class == batch_pb2.EVIDENCE_CLASS_STATION_ATTESTED
    # A gateway that is registered later, and what gateways hear: nothing, as what they bill is device-signed.
    await back_office.registry.PutGateway(registry_pb2.PutGatewayRequest(gateway=gateway(parties, "gw-2")))
    assert told["gw-2"].least_evidence_class == batch_pb2.EVIDENCE_CLASS_STATION_ATTESTED
    assert len(back_office.ledger.chains["gw-1"]) == directives
    code, details = await refused(
        back_office.registry.PutSite(registry_pb2.PutSiteRequest(site=site(least_evidence_class=4)))
    )
    assert (code, details) == (grpc.StatusCode.INVALID_ARGUMENT, "least_evidence_class: no evidence class 4")


async def test_every_policy_of_a_site_is_a_directive_of_its_own(back_office: BackOffice, parties: Path) -> None:
    await register_all(back_office, parties)
    policies = {
        "usage_limits": directive_pb2.UsageLimits(token_day_count=3),
        "place": directive_pb2.PlacePolicy(travel_distance_m=500, travel_speed_m_per_h=120_000),
        "scorecard": directive_pb2.Scorecard(
            version=1, tiers=[directive_pb2.ScoreTier(action=directive_pb2.RISK_ACTION_ALLOW)]
        ),
        "online_check": directive_pb2.OnlineCheck(share_ppm=10_000),
    }
    told = back_office.ledger.chains["gw-1"]
    before = len(told)
    answer = await back_office.registry.PutSite(registry_pb2.PutSiteRequest(site=site(**policies)))
    assert "usage_limits.token_day_count: - -> 3" in answer.differences
    assert [(each.WhichOneof("body"), getattr(each, each.WhichOneof("body"))) for each in told[before:]] == list(
        policies.items()
    )
    # A gateway that comes later hears them too; and what is taken away is told as nothing.
    await back_office.registry.PutGateway(registry_pb2.PutGatewayRequest(gateway=gateway(parties, "gw-2")))
    assert set(policies) < set(back_office.ledger.kinds("gw-2"))
    await back_office.registry.PutSite(registry_pb2.PutSiteRequest(site=site()))
    assert [each.WhichOneof("body") for each in told[-4:]] == list(policies)
    assert told[-4].usage_limits == directive_pb2.UsageLimits()


async def test_floors_give_one_account_no_more_than_the_operator_allows(back_office: BackOffice, parties: Path) -> None:
    await register_all(back_office, parties)
    put = back_office.registry
    bounded = operator(floor_per_account_micros=5)
    await put.PutOperator(registry_pb2.PutOperatorRequest(operator=bounded))
    floor = directive_pb2.FloorPolicy(per_token_micros=3, per_account_micros=3, all_tokens_micros=3)
    await put.PutSite(registry_pb2.PutSiteRequest(site=site(floor=floor)))
    # A second gateway would have a share of its own.
    code, details = await refused(put.PutGateway(registry_pb2.PutGatewayRequest(gateway=gateway(parties, "gw-2"))))
    assert (code, "would have 6" in details) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    floor.per_account_micros = 6
    code, _ = await refused(put.PutSite(registry_pb2.PutSiteRequest(site=site(floor=floor))))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    bounded.floor_per_account_micros = 2
    code, _ = await refused(put.PutOperator(registry_pb2.PutOperatorRequest(operator=bounded)))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    bounded.floor_per_account_micros = 6
    await put.PutOperator(registry_pb2.PutOperatorRequest(operator=bounded))
    await put.PutGateway(registry_pb2.PutGatewayRequest(gateway=gateway(parties, "gw-2")))


async def test_a_floor_fits_the_exposure_of_each_gateway_of_its_site(back_office: BackOffice, parties: Path) -> None:
    await register_all(back_office, parties)
    put, most = back_office.registry, gateway(parties).exposure_micros
    floor = directive_pb2.FloorPolicy(per_token_micros=1, per_account_micros=1, all_tokens_micros=most + 1)
    code, details = await refused(put.PutSite(registry_pb2.PutSiteRequest(site=site(floor=floor))))
    assert (code, "gateway gw-1 has an exposure" in details) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    floor.all_tokens_micros = most
    await put.PutSite(registry_pb2.PutSiteRequest(site=site(floor=floor)))
    # Nor does an exposure go below it, at one that is there or one that comes.
    for name in ("gw-1", "gw-2"):
        lower = gateway(parties, name, exposure_micros=most - 1)
        code, details = await refused(put.PutGateway(registry_pb2.PutGatewayRequest(gateway=lower)))
        assert (code, f"gateway {name} has an exposure" in details) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    # A revoked one is given nothing any more, so it bounds nothing.
    revoke = registry_pb2.SetGatewayStatusRequest(
        gateway_id="gw-1", status=registry_pb2.GATEWAY_STATUS_REVOKED, reason="stolen"
    )
    await put.SetGatewayStatus(revoke)
    floor.all_tokens_micros = most + 1
    await put.PutSite(registry_pb2.PutSiteRequest(site=site(floor=floor)))


async def test_a_version_of_a_tariff_never_changes(back_office: BackOffice, parties: Path) -> None:
    await register_all(back_office, parties)
    other = CHARGE.replace(b"0.39", b"0.40")
    code, details = await refused(
        back_office.registry.PutTariff(registry_pb2.PutTariffRequest(tariff=tariff(1, other)))
    )
    assert (code, "version 2" in details) == (grpc.StatusCode.ALREADY_EXISTS, True)
    await back_office.registry.PutTariff(registry_pb2.PutTariffRequest(tariff=tariff(2, other)))
    assert [each.tariff.version for each in back_office.ledger.chains["gw-1"] if each.HasField("tariff")] == [1, 2]


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"{", "ocpi_json"),
        (CHARGE.replace(b'"ENERGY"', b'"SESSION_TIME"'), "SESSION_TIME"),
        (CHARGE.replace(b'"EUR"', b'"USD"'), "USD"),
        (CHARGE.replace(b'"charge"', b'"other"'), "other"),
    ],
)
async def test_what_cannot_be_priced_is_not_a_tariff(back_office: BackOffice, content: bytes, word: str) -> None:
    await back_office.registry.PutOperator(registry_pb2.PutOperatorRequest(operator=operator()))
    code, details = await refused(
        back_office.registry.PutTariff(registry_pb2.PutTariffRequest(tariff=tariff(1, content)))
    )
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert word in details


async def test_a_device_without_a_price_for_what_it_counts_is_refused(back_office: BackOffice, parties: Path) -> None:
    await register_all(back_office, parties)
    minutes = directive_pb2.RegisterRecord(
        register_id="1", register_epoch=1, unit="s", modulus=10**9, rated_per_hour=3_600
    )
    code, details = await refused(
        back_office.registry.PutDevice(
            registry_pb2.PutDeviceRequest(device=device(parties, "toll-1", registers=[minutes]))
        )
    )
    assert (code, "no price" in details) == (grpc.StatusCode.INVALID_ARGUMENT, True)


async def test_what_a_register_counts_changes_with_its_epoch_alone(back_office: BackOffice, parties: Path) -> None:
    """Statements, claims and detail name the epoch: what was counted before would be priced as something else."""
    await register_all(back_office, parties)

    def put(epoch: int, **changes: Any) -> Any:
        fields: dict[str, Any] = {"unit": "Wh", "modulus": 10**9, "rated_per_hour": 22_000, **changes}
        counted = directive_pb2.RegisterRecord(register_id="1", register_epoch=epoch, **fields)
        return back_office.registry.PutDevice(
            registry_pb2.PutDeviceRequest(device=device(parties, registers=[counted]))
        )

    await put(1, rated_per_hour=11_000)
    code, details = await refused(put(1, modulus=10**6))
    assert (code, "counts Wh up to 1000000000 in epoch 1" in details) == (grpc.StatusCode.FAILED_PRECONDITION, True)
    await put(2, modulus=10**6)
    code, details = await refused(put(1))
    assert (code, "never goes back" in details) == (grpc.StatusCode.FAILED_PRECONDITION, True)


async def test_a_device_s_status_reaches_its_gateways_again_and_again(back_office: BackOffice, parties: Path) -> None:
    await register_all(back_office, parties)
    for status in (
        directive_pb2.DEVICE_STATUS_SUSPENDED,
        directive_pb2.DEVICE_STATUS_ACTIVE,
        directive_pb2.DEVICE_STATUS_SUSPENDED,
        directive_pb2.DEVICE_STATUS_SUSPENDED,
    ):
        await back_office.registry.SetDeviceStatus(
            registry_pb2.SetDeviceStatusRequest(device_id="chg-1", status=status, reason="seen")
        )
    sent = [each.device.status for each in back_office.ledger.chains["gw-1"] if each.HasField("device")]
    assert sent == [
        directive_pb2.DEVICE_STATUS_ACTIVE,
        directive_pb2.DEVICE_STATUS_SUSPENDED,
        directive_pb2.DEVICE_STATUS_ACTIVE,
        directive_pb2.DEVICE_STATUS_SUSPENDED,
    ]
    # Putting the device again does not bring it back.
    answer = await back_office.registry.PutDevice(registry_pb2.PutDeviceRequest(device=device(parties)))
    assert answer.change == registry_pb2.CHANGE_NONE


async def test_a_decision_about_a_use_is_recorded_and_reaches_the_gateways_that_know_its_device(
    back_office: BackOffice, parties: Path
) -> None:
    await register_all(back_office, parties)
    told = await back_office.registry.CloseUse(
        registry_pb2.CloseUseRequest(device_id="chg-1", authorization_id=bytes(16), reason="run over by a bus")
    )
    await back_office.registry.DecideParked(
        registry_pb2.DecideParkedRequest(
            device_id="chg-1", device_epoch=1, counter=7, accept=True, reason="seen on site"
        )
    )
    closed, decided = back_office.ledger.chains["gw-1"][-2:]
    assert "gw-1" in told.gateway_ids
    assert (closed.use_closed.device_id, closed.use_closed.authorization_id) == ("chg-1", bytes(16))
    # Who decided is part of the decision, wherever it is shown.
    assert closed.use_closed.decision.startswith("run over by a bus (spiffe://farthing/")
    assert (decided.parked_decided.counter, decided.parked_decided.accept) == (7, True)
    for request, code in (
        (registry_pb2.CloseUseRequest(device_id="chg-1", reason=""), grpc.StatusCode.INVALID_ARGUMENT),
        (registry_pb2.CloseUseRequest(device_id="chg-9", reason="gone"), grpc.StatusCode.NOT_FOUND),
        (
            registry_pb2.CloseUseRequest(device_id="chg-1", authorization_id=b"short", reason="gone"),
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
    ):
        assert (await refused(back_office.registry.CloseUse(request)))[0] == code


async def test_fraud_may_only_reduce(back_office: BackOffice, parties: Path) -> None:
    await register_all(back_office, parties)
    block = registry_pb2.SetDeviceStatusRequest(
        device_id="chg-1", status=directive_pb2.DEVICE_STATUS_BLOCKED, reason="clone"
    )
    lift = registry_pb2.SetDeviceStatusRequest(
        device_id="chg-1", status=directive_pb2.DEVICE_STATUS_ACTIVE, reason="sorry"
    )
    back_office.speak_as(FRAUD)
    await back_office.registry.SetDeviceStatus(block)
    code, details = await refused(back_office.registry.SetDeviceStatus(lift))
    assert (code, "only a person" in details) == (grpc.StatusCode.FAILED_PRECONDITION, True)
    back_office.speak_as(PERSON)
    await back_office.registry.SetDeviceStatus(lift)


async def test_decommissioned_is_for_ever(back_office: BackOffice, parties: Path) -> None:
    await register_all(back_office, parties)
    gone = registry_pb2.SetDeviceStatusRequest(
        device_id="chg-1", status=directive_pb2.DEVICE_STATUS_DECOMMISSIONED, reason="scrapped"
    )
    await back_office.registry.SetDeviceStatus(gone)
    before = len(back_office.ledger.chains["gw-1"])
    back = registry_pb2.SetDeviceStatusRequest(
        device_id="chg-1", status=directive_pb2.DEVICE_STATUS_ACTIVE, reason="found"
    )
    assert (await refused(back_office.registry.SetDeviceStatus(back)))[0] == grpc.StatusCode.FAILED_PRECONDITION
    changed = device(parties, report_interval_s=30)
    code, _ = await refused(back_office.registry.PutDevice(registry_pb2.PutDeviceRequest(device=changed)))
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert len(back_office.ledger.chains["gw-1"]) == before


async def test_a_device_that_moves_stops_working_where_it_was(back_office: BackOffice, parties: Path) -> None:
    await register_all(back_office, parties)
    await back_office.registry.PutSite(registry_pb2.PutSiteRequest(site=site(site_id="S2")))
    await back_office.registry.PutGateway(
        registry_pb2.PutGatewayRequest(gateway=gateway(parties, "gw-2", site_id="S2"))
    )
    await back_office.registry.PutDevice(registry_pb2.PutDeviceRequest(device=device(parties, site_ids=("S2",))))
    assert back_office.ledger.chains["gw-1"][-1].device.status == directive_pb2.DEVICE_STATUS_SUSPENDED
    assert back_office.ledger.chains["gw-2"][-1].device.status == directive_pb2.DEVICE_STATUS_ACTIVE


async def test_gateways_do_not_move_and_a_revoked_one_stays_revoked(back_office: BackOffice, parties: Path) -> None:
    await register_all(back_office, parties)
    await back_office.registry.PutSite(registry_pb2.PutSiteRequest(site=site(site_id="S2")))
    code, details = await refused(
        back_office.registry.PutGateway(registry_pb2.PutGatewayRequest(gateway=gateway(parties, site_id="S2")))
    )
    assert (code, "do not move" in details) == (grpc.StatusCode.FAILED_PRECONDITION, True)

    def step(status: registry_pb2.GatewayStatus.ValueType) -> registry_pb2.SetGatewayStatusRequest:
        return registry_pb2.SetGatewayStatusRequest(gateway_id="gw-1", status=status, reason="stolen")

    await back_office.registry.SetGatewayStatus(step(registry_pb2.GATEWAY_STATUS_SUSPENDED))
    assert not back_office.ledger.gateways["gw-1"].revoked
    back_office.ledger.calls_until_away = 0
    await back_office.registry.SetGatewayStatus(step(registry_pb2.GATEWAY_STATUS_REVOKED))
    # The ledger was away: it hears of it with whatever is put next.
    assert not back_office.ledger.gateways["gw-1"].revoked
    back_office.ledger.calls_until_away = None
    await back_office.registry.SetGatewayStatus(step(registry_pb2.GATEWAY_STATUS_REVOKED))
    assert back_office.ledger.gateways["gw-1"].revoked
    code, _ = await refused(back_office.registry.SetGatewayStatus(step(registry_pb2.GATEWAY_STATUS_ACTIVE)))
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    listed = await back_office.registry.ListGateways(registry_pb2.ListGatewaysRequest(operator_id="city"))
    assert [each.status for each in listed.gateways] == [registry_pb2.GATEWAY_STATUS_REVOKED]


async def test_lists_name_what_there_is(back_office: BackOffice, parties: Path) -> None:
    await register_all(back_office, parties)
    stub = back_office.registry
    assert [each.operator_id for each in (await stub.ListOperators(registry_pb2.ListOperatorsRequest())).operators] == [
        "city"
    ]
    assert [each.site_id for each in (await stub.ListSites(registry_pb2.ListSitesRequest())).sites] == ["S1"]
    assert [
        each.tariff.tariff_id
        for each in (await stub.ListTariffs(registry_pb2.ListTariffsRequest(operator_id="city"))).tariffs
    ] == ["charge"]
    listed = (await stub.ListDevices(registry_pb2.ListDevicesRequest(operator_id="city"))).devices
    assert [each.record.device_id for each in listed] == ["chg-1"]
    assert listed[0].record.status == directive_pb2.DEVICE_STATUS_ACTIVE
    assert not (await stub.ListDevices(registry_pb2.ListDevicesRequest(operator_id="other"))).devices


def entitlement(**changes: object) -> registry_pb2.PutEntitlementRequest:
    sites = changes.pop("site_ids", ("S1",))
    fields: dict[str, object] = {
        "entitlement_id": "pass-1",
        "account_id": "acme",
        "paid_by_account_id": "acme-pass",
        "tariff_id": "charge",
        "tariff_version": 1,
        "unit": "Wh",
        "from_us": 1,
        "until_us": 2**52,
        **changes,
    }
    record = directive_pb2.EntitlementRecord(**fields)
    return registry_pb2.PutEntitlementRequest(
        entitlement=registry_pb2.Entitlement(operator_id="city", site_ids=sites, record=record)
    )


async def test_an_entitlement_reaches_its_sites_gateways_and_those_that_come_later(
    back_office: BackOffice, parties: Path
) -> None:
    await register_all(back_office, parties)
    put, told = back_office.registry.PutEntitlement, back_office.ledger.chains
    assert (await put(entitlement())).change == registry_pb2.CHANGE_CREATED
    assert told["gw-1"][-1].entitlement == entitlement().entitlement.record
    known = len(told["gw-1"])
    assert (await put(entitlement())).change == registry_pb2.CHANGE_NONE
    assert len(told["gw-1"]) == known

    await put(entitlement(entitlement_id="over", until_us=1))
    await back_office.registry.PutGateway(registry_pb2.PutGatewayRequest(gateway=gateway(parties, "gw-2")))
    heard = [each.entitlement.entitlement_id for each in told["gw-2"] if each.HasField("entitlement")]
    assert heard == ["pass-1"]

    # Another end, and another site: who knew it hears that there is nothing any more.
    assert (await put(entitlement(until_us=2**51))).change == registry_pb2.CHANGE_UPDATED
    assert [told[name][-1].entitlement.until_us for name in ("gw-1", "gw-2")] == [2**51, 2**51]
    await back_office.registry.PutSite(registry_pb2.PutSiteRequest(site=site(site_id="S2")))
    await put(entitlement(site_ids=("S2",)))
    assert [told[name][-1].entitlement.until_us for name in ("gw-1", "gw-2")] == [1, 1]
    await put(entitlement(site_ids=()))
    assert [told[name][-1].entitlement.until_us for name in ("gw-1", "gw-2")] == [2**52, 2**52]
    listed = (
        await back_office.registry.ListEntitlements(registry_pb2.ListEntitlementsRequest(operator_id="city"))
    ).entitlements
    assert [each.record.entitlement_id for each in listed] == ["over", "pass-1"]


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"paid_by_account_id": "acme"}, grpc.StatusCode.INVALID_ARGUMENT, "account of its own"),
        ({"until_us": 0}, grpc.StatusCode.INVALID_ARGUMENT, "until_us"),
        ({"site_ids": ("S1", "S1")}, grpc.StatusCode.INVALID_ARGUMENT, "twice"),
        ({"tariff_version": 2}, grpc.StatusCode.FAILED_PRECONDITION, "no tariff charge version 2"),
        ({"site_ids": ("S9",)}, grpc.StatusCode.FAILED_PRECONDITION, "no site"),
        ({"account_id": "other"}, grpc.StatusCode.FAILED_PRECONDITION, "another payer"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_an_entitlement_that_makes_no_sense_is_refused(
    back_office: BackOffice, parties: Path, changes: dict[str, object], code: grpc.StatusCode, words: str
) -> None:
    await register_all(back_office, parties)
    await back_office.registry.PutEntitlement(entitlement())
    known = len(back_office.ledger.chains["gw-1"])
    found, details = await refused(back_office.registry.PutEntitlement(entitlement(**changes)))
    assert (found, words in details) == (code, True), details
    assert len(back_office.ledger.chains["gw-1"]) == known


async def test_a_key_that_was_copied_is_revoked_and_the_ledger_hears_of_it(
    back_office: BackOffice, parties: Path
) -> None:
    await register_all(back_office, parties)
    first, second = gateway(parties), gateway(parties)
    second.batch_key = bytes(gateway(parties, "gw-2").batch_key)
    await back_office.registry.PutGateway(registry_pb2.PutGatewayRequest(gateway=second))
    assert list(back_office.ledger.gateways["gw-1"].revoked_batch_keys) == []  # replaced, not revoked

    def revoke(key: bytes) -> registry_pb2.RevokeBatchKeyRequest:
        return registry_pb2.RevokeBatchKeyRequest(gateway_id="gw-1", key_id=key_id(key), reason="its token was copied")

    code, _ = await refused(back_office.registry.RevokeBatchKey(revoke(first.grant_key)))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    answer = await back_office.registry.RevokeBatchKey(revoke(first.batch_key))
    assert list(answer.differences) == ["earlier_batch_keys[0].revoked: - -> True"]
    assert (await back_office.registry.RevokeBatchKey(revoke(first.batch_key))).change == registry_pb2.CHANGE_NONE
    told = back_office.ledger.gateways["gw-1"]
    assert (told.batch_key, list(told.revoked_batch_keys)) == (second.batch_key, [first.batch_key])
    code, details = await refused(
        back_office.registry.PutGateway(registry_pb2.PutGatewayRequest(gateway=gateway(parties)))
    )
    assert (code, details) == (grpc.StatusCode.FAILED_PRECONDITION, "batch_key: it is revoked, for ever")
