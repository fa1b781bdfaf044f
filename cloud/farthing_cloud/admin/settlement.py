"""``farthing-admin settlement``, ``split-rules`` and ``agencies``."""

from collections.abc import Sequence
from typing import Annotated

import typer

from farthing.v1 import ledger_pb2, registry_pb2, settlement_pb2, settlement_pb2_grpc
from farthing_cloud.admin.session import (
    CALL_TIMEOUT_S,
    DryRun,
    Json,
    Operator,
    Row,
    back_office,
    instant_us,
    share_ppm,
    show,
    show_one,
)

settlement = typer.Typer(help="Close windows and plan payouts.", no_args_is_help=True)
split_rules = typer.Typer(help="How sites' revenue is divided.", no_args_is_help=True)
agencies = typer.Typer(help="Who gets a share.", no_args_is_help=True)


@settlement.command()
def close(
    ctx: typer.Context,
    operator: Operator,
    window: Annotated[str, typer.Option(help="The window to close; default: the open one.")] = "",
    as_json: Json = False,
) -> None:
    """Close a window: what was proven is divided by the rules in force, the rest is carried over."""
    with back_office(ctx) as channel:
        answer = settlement_pb2_grpc.SettlementStub(channel).Close(
            settlement_pb2.CloseRequest(operator_id=operator, window=window), timeout=CALL_TIMEOUT_S
        )
    rows: list[Row] = [
        {
            "closed_window": answer.closed_window,
            "next_window": answer.next_window,
            "site_id": site.site_id,
            "path": result.path,
            "amount_micros": result.amount_micros,
            "split_micros": site.split_micros,
            "carried_micros": site.carried_micros,
        }
        for site in answer.sites
        for result in site.results or (ledger_pb2.SplitResult(path="-"),)
    ]
    if not as_json:
        typer.echo(f"closed {answer.closed_window}, open is {answer.next_window}")
    show(rows, ("site_id", "path", "amount_micros", "split_micros", "carried_micros"), as_json=as_json)


@settlement.command()
def plan(
    ctx: typer.Context,
    operator: Operator,
    window: Annotated[str, typer.Option(help="A closed window; default: the one closed last.")] = "",
    as_json: Json = False,
) -> None:
    """Plan what is paid for a closed window; the same window gives the same plan again."""
    with back_office(ctx) as channel:
        answer = settlement_pb2_grpc.SettlementStub(channel).Plan(
            settlement_pb2.PlanRequest(operator_id=operator, window=window), timeout=CALL_TIMEOUT_S
        )
    _show_plan(answer.plan, as_json=as_json)


@settlement.command("show")
def show_plan(ctx: typer.Context, plan_id: Annotated[str, typer.Argument()], as_json: Json = False) -> None:
    """A plan made before."""
    with back_office(ctx) as channel:
        answer = settlement_pb2_grpc.SettlementStub(channel).ShowPlan(
            settlement_pb2.ShowPlanRequest(plan_id=plan_id), timeout=CALL_TIMEOUT_S
        )
    _show_plan(answer.plan, as_json=as_json)


def _show_plan(made: settlement_pb2.PayoutPlan, *, as_json: bool) -> None:
    head: Row = {
        "plan_id": made.plan_id,
        "operator_id": made.operator_id,
        "window": made.window,
        "currency": made.currency,
        "total_micros": made.total_micros,
        "cleared_cash_micros": made.cleared_cash_micros,
        "content_hash": made.content_hash,
    }
    payouts: list[Row] = [
        {
            "plan_id": made.plan_id,
            "path": payout.path,
            "owed_micros": payout.owed_micros,
            "planned_micros": payout.planned_micros,
            "stays_micros": payout.stays_micros,
        }
        for payout in made.payouts
    ]
    if as_json:
        show([{**head, **payout} for payout in payouts], (), as_json=True)
        return
    show_one(head, as_json=False)
    show(payouts, ("path", "owed_micros", "planned_micros", "stays_micros"), as_json=False)


@split_rules.command("list")
def list_rules(ctx: typer.Context, operator: Operator, as_json: Json = False) -> None:
    """All versions of all sites."""
    with back_office(ctx) as channel:
        answer = settlement_pb2_grpc.SettlementStub(channel).ListSplitRules(
            settlement_pb2.ListSplitRulesRequest(operator_id=operator), timeout=CALL_TIMEOUT_S
        )
    rows: list[Row] = [
        {
            "site_id": rule.site_id,
            "version": rule.version,
            "path": part.path,
            "share_ppm": part.share_ppm,
            "percent": _percent(part.share_ppm),
            "remainder": part.path == rule.remainder_path,
            "effective_from_us": rule.effective_from_us,
        }
        for rule in answer.rules
        for part in rule.parts
    ]
    show(rows, ("site_id", "version", "path", "percent", "remainder", "effective_from_us"), as_json=as_json)


def _percent(ppm: int) -> str:
    whole, rest = divmod(ppm, 10_000)
    return f"{whole}.{rest:04d}".rstrip("0").rstrip(".") + " %"


@split_rules.command("put")
def put_rule(
    ctx: typer.Context,
    operator: Operator,
    site: Annotated[str, typer.Option(help="The site's id.")],
    version: Annotated[int, typer.Option(min=1, help="One more than the last one; versions never change.")],
    part: Annotated[list[str], typer.Option(help="PATH=PERCENT, for example agency/A=60; together 100.")],
    remainder: Annotated[str, typer.Option(help="The part that gets what rounding leaves.")],
    effective_from: Annotated[
        str, typer.Option(help="Default: the first version from the beginning, a later one from now.")
    ] = "",
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Add a version of a site's split rule."""
    rule = settlement_pb2.SplitRule(
        operator_id=operator,
        site_id=site,
        version=version,
        parts=_parts(part),
        remainder_path=remainder,
        effective_from_us=instant_us(effective_from) if effective_from else 0,
    )
    with back_office(ctx) as channel:
        answer = settlement_pb2_grpc.SettlementStub(channel).PutSplitRule(
            settlement_pb2.PutSplitRuleRequest(rule=rule, dry_run=dry_run), timeout=CALL_TIMEOUT_S
        )
    _show_change(f"split rule {site} version {version}", answer, as_json=as_json)


def _parts(texts: Sequence[str]) -> list[ledger_pb2.SplitPart]:
    parts = []
    for text in texts:
        path, equals, percentage = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"{text!r} is not a part: write for example agency/A=60")
        parts.append(ledger_pb2.SplitPart(path=path, share_ppm=share_ppm(percentage)))
    return parts


@agencies.command("list")
def list_agencies(ctx: typer.Context, operator: Operator, as_json: Json = False) -> None:
    """Agencies of an operator."""
    with back_office(ctx) as channel:
        answer = settlement_pb2_grpc.SettlementStub(channel).ListAgencies(
            settlement_pb2.ListAgenciesRequest(operator_id=operator), timeout=CALL_TIMEOUT_S
        )
    rows: list[Row] = [
        {"agency_id": agency.agency_id, "operator_id": agency.operator_id, "name": agency.name}
        for agency in answer.agencies
    ]
    show(rows, ("agency_id", "name"), as_json=as_json)


@agencies.command("put")
def put_agency(
    ctx: typer.Context,
    operator: Operator,
    agency_id: Annotated[str, typer.Argument()],
    name: Annotated[str, typer.Option(help="For people.")],
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Name an agency, or rename it."""
    agency = settlement_pb2.Agency(agency_id=agency_id, operator_id=operator, name=name)
    with back_office(ctx) as channel:
        answer = settlement_pb2_grpc.SettlementStub(channel).PutAgency(
            settlement_pb2.PutAgencyRequest(agency=agency, dry_run=dry_run), timeout=CALL_TIMEOUT_S
        )
    _show_change(f"agency {agency_id}", answer, as_json=as_json)


def _show_change(what: str, answer: registry_pb2.PutResponse, *, as_json: bool) -> None:
    change = registry_pb2.Change.Name(answer.change).removeprefix("CHANGE_").lower()
    show_one({"what": what, "change": change, "differences": list(answer.differences)}, as_json=as_json)
