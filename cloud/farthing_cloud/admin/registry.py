"""``farthing-admin operators``, ``sites``, ``gateways`` and ``devices``."""

from pathlib import Path
from typing import Annotated, Final

import typer
from pydantic import ValidationError

from farthing.configuration import ConfigError
from farthing.device.cose import key_id
from farthing.evidence.classes import least_of, name_of
from farthing.v1 import directive_pb2, registry_pb2, registry_pb2_grpc
from farthing_cloud.admin.apply import (
    Step,
    put_device,
    put_gateway,
    put_operator,
    put_site,
)
from farthing_cloud.admin.decisions import forced_void, give_up, incarnation, list_cases
from farthing_cloud.admin.document import PROFILE_NAMES, PROFILES, Device, Gateway, Register
from farthing_cloud.admin.imports import review
from farthing_cloud.admin.parked import list_parked
from farthing_cloud.admin.session import (
    CALL_TIMEOUT_S,
    DryRun,
    Json,
    Operator,
    Row,
    amount_micros,
    back_office,
    fail,
    show,
    show_one,
)
from farthing_cloud.admin.site_policy import EVIDENCE_CLASSES, Place

#: What a site may say beside floor and seal (registry.proto).
SITE_POLICIES: Final = ("usage_limits", "place", "scorecard", "online_check")

operators = typer.Typer(help="Who runs devices and gateways.", no_args_is_help=True)
sites = typer.Typer(help="Places.", no_args_is_help=True)
gateways = typer.Typer(help="Edge daemons, and whether they may connect.", no_args_is_help=True)
devices = typer.Typer(help="Meters, chargers, transponders.", no_args_is_help=True)

gateways.add_typer(incarnation, name="incarnation")
gateways.add_typer(forced_void, name="forced-void")
gateways.add_typer(give_up, name="give-up")
gateways.add_typer(review, name="review")
gateways.command("cases")(list_cases)
devices.command("parked")(list_parked)

AnyOperator = Annotated[str, typer.Option("--operator", envvar="FARTHING_ADMIN_OPERATOR", help="Default: all.")]
Reason = Annotated[str, typer.Option(help="Why; kept for ever.")]
Amount = Annotated[str, typer.Option(help="A decimal such as 12.50, exact.")]
PartyFolder = Annotated[Path, typer.Option(help="The party's folder: its public half is read.")]


def _put(ctx: typer.Context, step: Step, *, dry_run: bool, as_json: bool) -> None:
    with back_office(ctx) as channel:
        change, differences = step.run(channel, dry_run)
    show_one({"kind": step.kind, "id": step.id, "change": change, "differences": differences}, as_json=as_json)


# --- operators --------------------------------------------------------------------------------------------------------


@operators.command("list")
def list_operators(ctx: typer.Context, as_json: Json = False) -> None:
    """All of them."""
    with back_office(ctx) as channel:
        answer = registry_pb2_grpc.RegistryStub(channel).ListOperators(
            registry_pb2.ListOperatorsRequest(), timeout=CALL_TIMEOUT_S
        )
    rows: list[Row] = [
        {
            "operator_id": each.operator_id,
            "name": each.name,
            "currency": each.currency,
            "floor_per_account_micros": each.floor_per_account_micros,
        }
        for each in answer.operators
    ]
    show(rows, ("operator_id", "name", "currency", "floor_per_account_micros"), as_json=as_json)


@operators.command("put")
def put_one_operator(
    ctx: typer.Context,
    operator_id: Annotated[str, typer.Argument()],
    name: Annotated[str, typer.Option(help="For people.")],
    currency: Annotated[str, typer.Option(help="ISO 4217, for example EUR; never changes.")],
    floor_per_account: Annotated[
        str, typer.Option(help="The most that floors may give one account over all gateways; 0.00: no such bound.")
    ] = "0.00",
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Register an operator, rename it, or bound its floors."""
    operator = registry_pb2.Operator(
        operator_id=operator_id,
        name=name,
        currency=currency,
        floor_per_account_micros=amount_micros(floor_per_account),
    )
    _put(ctx, put_operator(operator), dry_run=dry_run, as_json=as_json)


# --- sites ------------------------------------------------------------------------------------------------------------


@sites.command("list")
def list_sites(ctx: typer.Context, operator: AnyOperator = "", as_json: Json = False) -> None:
    """With what may be used offline without a quota, and when batches are sealed."""
    with back_office(ctx) as channel:
        answer = registry_pb2_grpc.RegistryStub(channel).ListSites(
            registry_pb2.ListSitesRequest(operator_id=operator), timeout=CALL_TIMEOUT_S
        )
    rows: list[Row] = [
        {
            "site_id": site.site_id,
            "operator_id": site.operator_id,
            "time_zone": site.time_zone,
            "floor_per_token_micros": site.floor.per_token_micros,
            "floor_per_account_micros": site.floor.per_account_micros,
            "floor_all_tokens_micros": site.floor.all_tokens_micros,
            "seal_amount_micros": site.seal.amount_micros,
            "seal_records": site.seal.records,
            "seal_age_s": site.seal.age_s,
            "policies": tuple(name for name in SITE_POLICIES if site.HasField(name)),
            "least_evidence_class": name_of(least_of(site.least_evidence_class)),
        }
        for site in answer.sites
    ]
    show(
        rows,
        (
            "site_id",
            "operator_id",
            "time_zone",
            "floor_per_token_micros",
            "floor_per_account_micros",
            "floor_all_tokens_micros",
            "seal_amount_micros",
            "seal_records",
            "seal_age_s",
            "policies",
            "least_evidence_class",
        ),
        as_json=as_json,
    )


@sites.command("put")
def put_one_site(
    ctx: typer.Context,
    operator: Operator,
    site_id: Annotated[str, typer.Argument()],
    time_zone: Annotated[str, typer.Option(help="IANA name, for example Europe/Berlin.")],
    seal_amount: Amount,
    seal_records: Annotated[int, typer.Option(min=1, help="Usage records.")],
    seal_age: Annotated[int, typer.Option(min=1, help="Seconds.")],
    floor_per_token: Amount = "0.00",  # noqa: S107 an amount, not a secret
    floor_per_account: Amount = "0.00",
    floor_all_tokens: Amount = "0.00",
    least_evidence_class: Annotated[
        str, typer.Option(help=f"{', '.join(EVIDENCE_CLASSES)}: below it nothing is billed unseen. Not said: as it is.")
    ] = "",
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Register a site, or change its floor, seal and least evidence class; limits, places and scorecard stay (``apply`` sets them)."""
    if least_evidence_class not in ("", *EVIDENCE_CLASSES):
        fail(f"no evidence class {least_evidence_class}: there are {', '.join(EVIDENCE_CLASSES)}")
    site = registry_pb2.Site(
        site_id=site_id,
        operator_id=operator,
        time_zone=time_zone,
        floor=directive_pb2.FloorPolicy(
            per_token_micros=amount_micros(floor_per_token),
            per_account_micros=amount_micros(floor_per_account),
            all_tokens_micros=amount_micros(floor_all_tokens),
        ),
        seal=directive_pb2.SealPolicy(amount_micros=amount_micros(seal_amount), records=seal_records, age_s=seal_age),
    )
    with back_office(ctx) as channel:
        known = registry_pb2_grpc.RegistryStub(channel).ListSites(
            registry_pb2.ListSitesRequest(operator_id=operator), timeout=CALL_TIMEOUT_S
        )
    for before in known.sites:
        if before.site_id == site_id:
            site.least_evidence_class = before.least_evidence_class
            for name in SITE_POLICIES:
                if before.HasField(name):
                    getattr(site, name).CopyFrom(getattr(before, name))
    for name, number in EVIDENCE_CLASSES.items():
        if name == least_evidence_class:
            site.least_evidence_class = number
    _put(ctx, put_site(site), dry_run=dry_run, as_json=as_json)


# --- gateways ---------------------------------------------------------------------------------------------------------


@gateways.command("list")
def list_gateways(ctx: typer.Context, operator: AnyOperator = "", as_json: Json = False) -> None:
    """With the most that each may cost."""
    with back_office(ctx) as channel:
        answer = registry_pb2_grpc.RegistryStub(channel).ListGateways(
            registry_pb2.ListGatewaysRequest(operator_id=operator), timeout=CALL_TIMEOUT_S
        )
    rows: list[Row] = [
        {
            "gateway_id": gateway.gateway_id,
            "operator_id": gateway.operator_id,
            "site_id": gateway.site_id,
            "status": _gateway_status(gateway.status),
            "exposure_micros": gateway.exposure_micros,
            "batch_key": key_id(gateway.batch_key).hex(),
            "earlier_batch_keys": [
                key_id(each.batch_key).hex() + (" revoked" if each.revoked else "")
                for each in gateway.earlier_batch_keys
            ],
        }
        for gateway in answer.gateways
    ]
    columns = ("gateway_id", "operator_id", "site_id", "status", "exposure_micros", "batch_key", "earlier_batch_keys")
    show(rows, columns, as_json=as_json)


@gateways.command("put")
def put_one_gateway(
    ctx: typer.Context,
    operator: Operator,
    gateway_id: Annotated[str, typer.Argument()],
    site: Annotated[str, typer.Option(help="The site's id; gateways do not move.")],
    exposure: Amount,
    party: PartyFolder,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Register a gateway, or change its exposure."""
    gateway = Gateway.model_construct(
        id=gateway_id, operator=operator, site=site, exposure=amount_micros(exposure), party=str(party)
    )
    try:
        message = gateway.message(Path.cwd())
    except ConfigError as err:
        fail(str(err))
    _put(ctx, put_gateway(message), dry_run=dry_run, as_json=as_json)


def _set_gateway(
    ctx: typer.Context, gateway_id: str, status: registry_pb2.GatewayStatus.ValueType, reason: str, *, as_json: bool
) -> None:
    with back_office(ctx) as channel:
        answer = registry_pb2_grpc.RegistryStub(channel).SetGatewayStatus(
            registry_pb2.SetGatewayStatusRequest(gateway_id=gateway_id, status=status, reason=reason),
            timeout=CALL_TIMEOUT_S,
        )
    _show_status(gateway_id, _gateway_status(status), answer, as_json=as_json)


@gateways.command("suspend")
def suspend_gateway(
    ctx: typer.Context, gateway_id: Annotated[str, typer.Argument()], reason: Reason, as_json: Json = False
) -> None:
    """It may not connect until it is resumed."""
    _set_gateway(ctx, gateway_id, registry_pb2.GATEWAY_STATUS_SUSPENDED, reason, as_json=as_json)


@gateways.command("resume")
def resume_gateway(
    ctx: typer.Context, gateway_id: Annotated[str, typer.Argument()], reason: Reason, as_json: Json = False
) -> None:
    """It may connect again."""
    _set_gateway(ctx, gateway_id, registry_pb2.GATEWAY_STATUS_ACTIVE, reason, as_json=as_json)


@gateways.command("revoke")
def revoke_gateway(
    ctx: typer.Context, gateway_id: Annotated[str, typer.Argument()], reason: Reason, as_json: Json = False
) -> None:
    """It may never connect again."""
    _set_gateway(ctx, gateway_id, registry_pb2.GATEWAY_STATUS_REVOKED, reason, as_json=as_json)


@gateways.command("revoke-key")
def revoke_batch_key(
    ctx: typer.Context,
    gateway_id: Annotated[str, typer.Argument()],
    key: Annotated[str, typer.Option(help="The batch key's id, 16 hexadecimal digits ('gateways list').")],
    reason: Reason,
    as_json: Json = False,
) -> None:
    """One of its batch keys was copied: it is good for nothing any more. (Another one: 'gateways put' with the party's folder.)"""
    try:
        named = bytes.fromhex(key)
    except ValueError as err:
        raise typer.BadParameter(f"{key!r} is not hexadecimal", param_hint="--key") from err
    with back_office(ctx) as channel:
        answer = registry_pb2_grpc.RegistryStub(channel).RevokeBatchKey(
            registry_pb2.RevokeBatchKeyRequest(gateway_id=gateway_id, key_id=named, reason=reason),
            timeout=CALL_TIMEOUT_S,
        )
    _show_status(gateway_id, f"batch key {named.hex()} revoked", answer, as_json=as_json)


def _gateway_status(status: registry_pb2.GatewayStatus.ValueType) -> str:
    return registry_pb2.GatewayStatus.Name(status).removeprefix("GATEWAY_STATUS_").lower()


# --- devices ----------------------------------------------------------------------------------------------------------


@devices.command("list")
def list_devices(ctx: typer.Context, operator: AnyOperator = "", as_json: Json = False) -> None:
    """With their sites, tariffs and registers."""
    with back_office(ctx) as channel:
        answer = registry_pb2_grpc.RegistryStub(channel).ListDevices(
            registry_pb2.ListDevicesRequest(operator_id=operator), timeout=CALL_TIMEOUT_S
        )
    rows: list[Row] = [
        {
            "device_id": device.record.device_id,
            "operator_id": device.operator_id,
            "status": _device_status(device.record.status),
            "profile": PROFILE_NAMES.get(device.record.profile, "unspecified"),
            "sites": list(device.site_ids),
            "tariff": f"{device.record.tariff_id} v{device.record.tariff_version}",
            "registers": [
                f"{register.register_id}#{register.register_epoch} {register.unit}"
                for register in device.record.registers
            ],
            "standing_account_id": device.record.standing_account_id,
            "report_interval_s": device.record.report_interval_s,
            "stoppable": device.record.stoppable,
            "entitled_only": device.record.entitled_only,
        }
        for device in answer.devices
    ]
    show(rows, ("device_id", "operator_id", "status", "profile", "sites", "tariff", "registers"), as_json=as_json)


@devices.command("put")
def put_one_device(
    ctx: typer.Context,
    operator: Operator,
    device_id: Annotated[str, typer.Argument()],
    party: PartyFolder,
    site: Annotated[list[str], typer.Option(help="A site whose gateways know it; may be repeated.")],
    profile: Annotated[str, typer.Option(help=", ".join(PROFILES))],
    tariff: Annotated[str, typer.Option(help="The tariff's id.")],
    register: Annotated[
        list[str], typer.Option(help="ID:EPOCH:UNIT:MODULUS:RATED_PER_HOUR, for example 1:1:Wh:1000000000:22000.")
    ],
    tariff_version: Annotated[int, typer.Option(min=1)] = 1,
    report_interval: Annotated[int, typer.Option(min=1, help="Seconds between readings while used.")] = 60,
    stoppable: Annotated[bool, typer.Option(help="Whether use ends when we say so.")] = True,
    standing_account: Annotated[str, typer.Option(help="Only for profile standing: who pays.")] = "",
    entitled_only: Annotated[bool, typer.Option(help="Whether it serves only what an entitlement covers.")] = False,
    position: Annotated[str, typer.Option(help="Where it stands, LATITUDE,LONGITUDE in degrees; none: it moves.")] = "",
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Register a device, or change where it is and what it costs."""
    if profile not in PROFILES:
        fail(f"no profile {profile}: there are {', '.join(PROFILES)}")
    device = Device.model_construct(
        id=device_id,
        operator=operator,
        sites=tuple(site),
        party=str(party),
        profile=profile,
        tariff=tariff,
        tariff_version=tariff_version,
        report_interval_s=report_interval,
        stoppable=stoppable,
        entitled_only=entitled_only,
        standing_account=standing_account or None,
        device_epoch=1,
        position=_place(position),
        registers=tuple(_register(text) for text in register),
    )
    try:
        message = device.message(Path.cwd())
    except ConfigError as err:
        fail(str(err))
    _put(ctx, put_device(message), dry_run=dry_run, as_json=as_json)


def _place(text: str) -> Place | None:
    if not text:
        return None
    latitude, _, longitude = text.partition(",")
    try:
        return Place.model_validate({"latitude": latitude, "longitude": longitude})
    except ValidationError as err:
        raise typer.BadParameter(f"{text!r} is no place: write for example 52.520008,13.404954") from err


def _register(text: str) -> Register:
    parts = text.split(":")
    try:
        register_id, epoch, unit, modulus, rated_per_hour = parts
        return Register(
            id=register_id, epoch=int(epoch), unit=unit, modulus=int(modulus), rated_per_hour=int(rated_per_hour)
        )
    except ValueError as err:
        raise typer.BadParameter(
            f"{text!r} is not a register: write ID:EPOCH:UNIT:MODULUS:RATED_PER_HOUR, for example 1:1:Wh:1000000000:22000"
        ) from err


def _set_device(
    ctx: typer.Context, device_id: str, status: directive_pb2.DeviceStatus.ValueType, reason: str, *, as_json: bool
) -> None:
    with back_office(ctx) as channel:
        answer = registry_pb2_grpc.RegistryStub(channel).SetDeviceStatus(
            registry_pb2.SetDeviceStatusRequest(device_id=device_id, status=status, reason=reason),
            timeout=CALL_TIMEOUT_S,
        )
    _show_status(device_id, _device_status(status), answer, as_json=as_json)


DeviceId = Annotated[str, typer.Argument()]


@devices.command("suspend")
def suspend_device(ctx: typer.Context, device_id: DeviceId, reason: Reason, as_json: Json = False) -> None:
    """Gateways refuse it until it is resumed."""
    _set_device(ctx, device_id, directive_pb2.DEVICE_STATUS_SUSPENDED, reason, as_json=as_json)


@devices.command("resume")
def resume_device(ctx: typer.Context, device_id: DeviceId, reason: Reason, as_json: Json = False) -> None:
    """Gateways serve it again; also lifts a block."""
    _set_device(ctx, device_id, directive_pb2.DEVICE_STATUS_ACTIVE, reason, as_json=as_json)


@devices.command("block")
def block_device(ctx: typer.Context, device_id: DeviceId, reason: Reason, as_json: Json = False) -> None:
    """Gateways refuse it because something is wrong with it."""
    _set_device(ctx, device_id, directive_pb2.DEVICE_STATUS_BLOCKED, reason, as_json=as_json)


@devices.command("decommission")
def decommission_device(ctx: typer.Context, device_id: DeviceId, reason: Reason, as_json: Json = False) -> None:
    """Gateways refuse it for ever."""
    _set_device(ctx, device_id, directive_pb2.DEVICE_STATUS_DECOMMISSIONED, reason, as_json=as_json)


@devices.command("close-use")
def close_use(
    ctx: typer.Context,
    device_id: DeviceId,
    reason: Reason,
    authorization: Annotated[str, typer.Option(help="In hex; default: every open use of the device.")] = "",
    as_json: Json = False,
) -> None:
    """The device does not end its use, or is gone: close it at the last value it signed, bill it, release its hold."""
    try:
        name = bytes.fromhex(authorization)
    except ValueError:
        fail(
            f"{authorization!r:.80} is no authorization: 32 hexadecimal digits, as `farthing-edge status --json` shows"
        )
    with back_office(ctx) as channel:
        answer = registry_pb2_grpc.RegistryStub(channel).CloseUse(
            registry_pb2.CloseUseRequest(device_id=device_id, authorization_id=name, reason=reason),
            timeout=CALL_TIMEOUT_S,
        )
    show_one({"id": device_id, "authorization": authorization, "told": list(answer.gateway_ids)}, as_json=as_json)


Counter = Annotated[int, typer.Argument(help="The statement's, as `farthing-edge parked` shows it.")]
DeviceEpoch = Annotated[int, typer.Option(min=1)]


def _decide_parked(
    ctx: typer.Context, device_id: str, device_epoch: int, counter: int, reason: str, *, accept: bool, as_json: bool
) -> None:
    with back_office(ctx) as channel:
        answer = registry_pb2_grpc.RegistryStub(channel).DecideParked(
            registry_pb2.DecideParkedRequest(
                device_id=device_id, device_epoch=device_epoch, counter=counter, accept=accept, reason=reason
            ),
            timeout=CALL_TIMEOUT_S,
        )
    show_one({"id": device_id, "counter": counter, "told": list(answer.gateway_ids)}, as_json=as_json)


@devices.command("believe")
def believe(
    ctx: typer.Context,
    device_id: DeviceId,
    counter: Counter,
    reason: Reason,
    device_epoch: DeviceEpoch = 1,
    as_json: Json = False,
) -> None:
    """A statement that a gateway parked is right: bill it as the device signed it."""
    _decide_parked(ctx, device_id, device_epoch, counter, reason, accept=True, as_json=as_json)


@devices.command("dismiss")
def dismiss(
    ctx: typer.Context,
    device_id: DeviceId,
    counter: Counter,
    reason: Reason,
    device_epoch: DeviceEpoch = 1,
    as_json: Json = False,
) -> None:
    """A statement that a gateway parked is not believed: it stays evidence, and bills nothing."""
    _decide_parked(ctx, device_id, device_epoch, counter, reason, accept=False, as_json=as_json)


def _device_status(status: directive_pb2.DeviceStatus.ValueType) -> str:
    return directive_pb2.DeviceStatus.Name(status).removeprefix("DEVICE_STATUS_").lower()


def _show_status(thing_id: str, status: str, answer: registry_pb2.PutResponse, *, as_json: bool) -> None:
    changed = answer.change != registry_pb2.CHANGE_NONE
    show_one({"id": thing_id, "status": status, "changed": changed}, as_json=as_json)
