"""``farthing-admin entitlements``: passes and covered units, each an account that pays under a tariff of its own."""

from typing import Annotated

import typer

from farthing.v1 import directive_pb2, registry_pb2, registry_pb2_grpc
from farthing_cloud.admin.apply import put_entitlement
from farthing_cloud.admin.session import (
    CALL_TIMEOUT_S,
    DryRun,
    Json,
    Operator,
    Row,
    back_office,
    instant_us,
    show,
    show_one,
)

entitlements = typer.Typer(help="What payers may use under a tariff of its own.", no_args_is_help=True)

AnyOperator = Annotated[str, typer.Option("--operator", envvar="FARTHING_ADMIN_OPERATOR", help="Default: all.")]


@entitlements.command("list")
def list_entitlements(ctx: typer.Context, operator: AnyOperator = "", as_json: Json = False) -> None:
    """Whose they are, what pays, and for what; what is left of one is its account's (``accounts show``)."""
    with back_office(ctx) as channel:
        answer = registry_pb2_grpc.RegistryStub(channel).ListEntitlements(
            registry_pb2.ListEntitlementsRequest(operator_id=operator), timeout=CALL_TIMEOUT_S
        )
    rows: list[Row] = [
        {
            "entitlement_id": each.record.entitlement_id,
            "operator_id": each.operator_id,
            "account_id": each.record.account_id,
            "paid_by_account_id": each.record.paid_by_account_id,
            "tariff": f"{each.record.tariff_id} v{each.record.tariff_version}",
            "device_tariffs": list(each.record.device_tariff_ids),
            "unit": each.record.unit,
            "from_us": each.record.from_us,
            "until_us": each.record.until_us,
            "priority": each.record.priority,
            "sites": list(each.site_ids),
        }
        for each in answer.entitlements
    ]
    columns = (
        *("entitlement_id", "operator_id", "account_id", "paid_by_account_id", "tariff", "device_tariffs", "unit"),
        *("from_us", "until_us", "priority", "sites"),
    )
    show(rows, columns, as_json=as_json)


@entitlements.command("put")
def put_one_entitlement(
    ctx: typer.Context,
    operator: Operator,
    entitlement_id: Annotated[str, typer.Argument()],
    account: Annotated[str, typer.Option(help="Whose tokens it serves.")],
    paid_by: Annotated[str, typer.Option(help="The account that pays: funded with what the units are worth.")],
    tariff: Annotated[str, typer.Option(help="The tariff's id: what a covered unit takes from that account.")],
    until: Annotated[str, typer.Option(help="Uses that begin before, for example 2026-04-01T00:00:00+02:00.")],
    start: Annotated[str, typer.Option("--from", help="Uses that begin from here on.")],
    tariff_version: Annotated[int, typer.Option(min=1)] = 1,
    device_tariff: Annotated[
        list[str] | None, typer.Option(help="Covers devices under this tariff; may be repeated. None: under any.")
    ] = None,
    unit: Annotated[str, typer.Option(help='Covers registers of this unit, for example "Wh"; none: any.')] = "",
    site: Annotated[
        list[str] | None, typer.Option(help="A site whose gateways know it; may be repeated. None: all sites.")
    ] = None,
    priority: Annotated[int, typer.Option(min=0, help="The lowest is used first.")] = 0,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Entitle a payer, or change to what; with an end in the past it is over."""
    entitlement = registry_pb2.Entitlement(
        operator_id=operator,
        site_ids=site or (),
        record=directive_pb2.EntitlementRecord(
            entitlement_id=entitlement_id,
            account_id=account,
            paid_by_account_id=paid_by,
            tariff_id=tariff,
            tariff_version=tariff_version,
            device_tariff_ids=device_tariff or (),
            unit=unit,
            from_us=instant_us(start),
            until_us=instant_us(until),
            priority=priority,
        ),
    )
    step = put_entitlement(entitlement)
    with back_office(ctx) as channel:
        change, differences = step.run(channel, dry_run)
    show_one({"kind": step.kind, "id": step.id, "change": change, "differences": differences}, as_json=as_json)
