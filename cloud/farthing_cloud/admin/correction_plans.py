"""``farthing-admin corrections plan`` and what follows: many uses were priced by the wrong tariff.

One person plans, another approves what ``show`` shows by its hash, and anybody executes; executed again, it changes nothing.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from farthing.v1 import ledger_pb2, ledger_pb2_grpc, registry_pb2, registry_pb2_grpc
from farthing_cloud.admin.session import (
    CALL_TIMEOUT_S,
    Json,
    Operator,
    Row,
    back_office,
    content_hash_of,
    fail,
    instant_us,
    print_json,
    show,
    show_one,
)

#: Every affected use is read and priced again: some milliseconds each.
PLAN_TIMEOUT_S = 600.0

PlanId = Annotated[str, typer.Argument(help="As in 'plans'.", show_default=False)]


def plan(
    ctx: typer.Context,
    operator: Operator,
    site: Annotated[str, typer.Option(help="The site's id.")],
    tariff: Annotated[str, typer.Option(help="The tariff that the uses were priced by.")],
    start: Annotated[str, typer.Option("--from", help="Uses billed from then on, on a quarter of an hour.")],
    end: Annotated[str, typer.Option("--to", help="... and before then.")],
    reason: Annotated[str, typer.Option(help="Why; it is kept with each correction.")],
    version: Annotated[list[int] | None, typer.Option("--version", help="Only this version of it; repeatable.")] = None,
    by_tariff: Annotated[
        Path | None, typer.Option("--by-tariff", help="Price them by this OCPI tariff (JSON).", show_default=False)
    ] = None,
    by_version: Annotated[
        int, typer.Option("--by-version", help="Price them by this registered version; without both: the newest one.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Look at every affected use, price it again from its proven detail, and keep what would go back; nothing is posted.

    A wrong tax rate alone is not mended by this: where one rate should have been less and another more, the use is left out by name, since
    nothing is billed afterwards. What of it a person wants to give back goes by 'corrections refund', use by use.
    """
    if by_tariff is not None and by_version:
        raise typer.BadParameter("--by-tariff or --by-version, not both")
    with back_office(ctx) as channel:
        if by_tariff is not None:
            name, ocpi_json = by_tariff.name, _read(by_tariff)
        else:
            stub = registry_pb2_grpc.RegistryStub(channel)
            request = registry_pb2.ListTariffsRequest(operator_id=operator)
            name, ocpi_json = _registered(stub.ListTariffs(request, timeout=CALL_TIMEOUT_S), tariff, by_version)
        answer = ledger_pb2_grpc.LedgerStub(channel).PlanCorrections(
            ledger_pb2.PlanCorrectionsRequest(
                operator_id=operator,
                site_id=site,
                tariff_id=tariff,
                tariff_versions=version or [],
                from_us=instant_us(start),
                to_us=instant_us(end),
                by_ocpi_json=ocpi_json,
                by_name=name,
                reason=reason,
            ),
            timeout=PLAN_TIMEOUT_S,
        )
    show_one(_row(answer.plan), as_json=as_json)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as err:
        fail(f"{path}: {err.strerror}")


def _registered(tariffs: registry_pb2.ListTariffsResponse, tariff_id: str, version: int) -> tuple[str, bytes]:
    found = {each.tariff.version: each.tariff for each in tariffs.tariffs if each.tariff.tariff_id == tariff_id}
    if not found or (version and version not in found):
        known = ", ".join(map(str, sorted(found))) or "none"
        fail(f"tariff {tariff_id} has no version {version or 'at all'} (registered: {known}): write --by-tariff FILE")
    record = found[version or max(found)]
    return f"{tariff_id} version {record.version}", record.ocpi_json


def list_plans(ctx: typer.Context, operator: Operator, as_json: Json = False) -> None:
    """All plans, oldest first."""
    with back_office(ctx) as channel:
        answer = ledger_pb2_grpc.LedgerStub(channel).ListCorrectionPlans(
            ledger_pb2.ListCorrectionPlansRequest(operator_id=operator), timeout=CALL_TIMEOUT_S
        )
    rows = [_row(each) for each in answer.plans]
    columns = ("plan_id", "status", "items", "refunds", "back_micros", "currency", "planned_by", "approved_by")
    show(rows, columns, as_json=as_json)


def show_plan(ctx: typer.Context, plan_id: PlanId, as_json: Json = False) -> None:
    """Every use of a plan, what becomes of it, and what was posted; with the hash of exactly what is shown."""
    head, content, done = _fetch(ctx, plan_id)
    items = [_item(index, item, done.get(index)) for index, item in enumerate(content.items)]
    whole = {**_row(head), **_scope(content), **_report(content, done)}
    if as_json:
        print_json({**{name: _plain(value) for name, value in whole.items()}, "uses": items})
        return
    show_one(whole, as_json=False)
    columns = (
        "item", "outcome", "authorization_id", "gateway_id", "account_id", "billed_micros", "given_back_micros",
        "should_micros", "back_micros", "posted", "why",
    )  # fmt: skip
    show(items, columns, as_json=False)


def approve(
    ctx: typer.Context,
    plan_id: PlanId,
    content_hash: Annotated[
        str,
        typer.Option(
            "--content-hash",
            help="The content hash that 'show' printed, in hexadecimal: you approve this and nothing else.",
        ),
    ],
    as_json: Json = False,
) -> None:
    """Approve what another person planned."""
    digest = content_hash_of(content_hash)
    request = ledger_pb2.ApproveCorrectionPlanRequest(plan_id=plan_id, content_hash=digest)
    with back_office(ctx) as channel:
        answer = ledger_pb2_grpc.LedgerStub(channel).ApproveCorrectionPlan(request, timeout=CALL_TIMEOUT_S)
    show_one({"plan_id": plan_id, "changed": answer.changed}, as_json=as_json)


def execute(ctx: typer.Context, plan_id: PlanId, as_json: Json = False) -> None:
    """Post the refunds of an approved plan. Interrupted, or with uses that have to wait: say it again; each is posted once."""
    posted, waiting, next_item = 0, dict[int, str](), 0
    head, content, _ = _fetch(ctx, plan_id)
    while next_item < head.items:
        request = ledger_pb2.ExecuteCorrectionPlanRequest(plan_id=plan_id, first_item=next_item)
        with back_office(ctx) as channel:
            answer = ledger_pb2_grpc.LedgerStub(channel).ExecuteCorrectionPlan(request, timeout=CALL_TIMEOUT_S)
        posted += answer.posted
        waiting |= {each.item: each.why for each in answer.waiting}
        next_item = answer.next_item
    _, content, done = _fetch(ctx, plan_id)
    report: dict[str, object] = {"plan_id": plan_id, "posted_now": posted, **_report(content, done)}
    waits: list[Row] = [
        {"item": item, "authorization_id": content.items[item].authorization_id, "why": why}
        for item, why in waiting.items()
    ]
    if as_json:
        print_json({**report, "waiting": [{name: _plain(value) for name, value in row.items()} for row in waits]})
    else:
        show_one(report, as_json=False)  # type: ignore[arg-type]  # names and numbers
        if waits:
            show(waits, ("item", "authorization_id", "why"), as_json=False)
    if waits:
        raise typer.Exit(1)


def _fetch(
    ctx: typer.Context, plan_id: str
) -> tuple[ledger_pb2.CorrectionPlan, ledger_pb2.CorrectionPlanContent, Mapping[int, ledger_pb2.CorrectionPlanDone]]:
    """The plan, its content, and what was posted of it by item; the hash is of the bytes that came."""
    head, data = ledger_pb2.CorrectionPlan(), bytearray()
    done: dict[int, ledger_pb2.CorrectionPlanDone] = {}
    with back_office(ctx) as channel:
        request = ledger_pb2.ShowCorrectionPlanRequest(plan_id=plan_id)
        for answer in ledger_pb2_grpc.LedgerStub(channel).ShowCorrectionPlan(request, timeout=CALL_TIMEOUT_S):
            match answer.WhichOneof("item"):
                case "plan":
                    head = answer.plan
                case "content_part":
                    data += answer.content_part
                case "done":
                    done[answer.done.item] = answer.done
                case _:
                    pass
    content = bytes(data)
    if hashlib.sha256(content).digest() != head.content_hash:
        fail(f"what the ledger shows of {plan_id} is not what its hash says")
    return head, ledger_pb2.CorrectionPlanContent.FromString(content), done


def _row(found: ledger_pb2.CorrectionPlan) -> Row:
    return {
        "plan_id": found.plan_id,
        "status": "approved" if found.approved_by else "planned",
        "content_hash": found.content_hash,
        "items": found.items,
        "refunds": found.refunds,
        "back_micros": found.back_micros,
        "currency": found.currency,
        "planned_by": found.planned_by,
        "planned_at_us": found.planned_at_us,
        "approved_by": found.approved_by,
        "approved_at_us": found.approved_at_us,
    }


def _scope(content: ledger_pb2.CorrectionPlanContent) -> Row:
    return {
        "site_id": content.site_id,
        "tariff_id": content.tariff_id,
        "tariff_versions": [str(version) for version in content.tariff_versions] or ["all"],
        "from_us": content.from_us,
        "to_us": content.to_us,
        "by": content.by_name,
        "reason": content.reason,
    }


def _report(
    content: ledger_pb2.CorrectionPlanContent, done: Mapping[int, ledger_pb2.CorrectionPlanDone]
) -> dict[str, int]:
    """Sums: what was planned is what was posted, what had gone back meanwhile, and what is still to be posted."""
    planned = {index: _gross(item.back) for index, item in enumerate(content.items) if item.outcome == "refund"}
    outcomes = Counter(item.outcome for item in content.items)
    under = [
        _gross(item.should) - item.billed_net_micros - item.billed_tax_micros
        for item in content.items
        if item.outcome == "undercharged"
    ]
    posted = sum(each.amount_micros for each in done.values())
    return {
        "planned_micros": sum(planned.values()),
        "posted_micros": posted,
        "settled_meanwhile_micros": sum(planned[index] for index in done) - posted,
        "open_micros": sum(micros for index, micros in planned.items() if index not in done),
        "even": outcomes["even"],
        "settled_before": outcomes["settled"],
        "left_out": outcomes["left-out"],
        "undercharged": len(under),
        "forgiven_micros": sum(under),
    }


def _gross(amounts: ledger_pb2.NetAndTaxes) -> int:
    return amounts.net_micros + sum(tax.amount_micros for tax in amounts.taxes)


def _item(index: int, item: ledger_pb2.CorrectionPlanItem, done: ledger_pb2.CorrectionPlanDone | None) -> Row:
    return {
        "item": index,
        "outcome": item.outcome,
        "authorization_id": item.authorization_id.hex(),
        "gateway_id": item.gateway_id,
        "account_id": item.account_id,
        "tariff_version": item.tariff_version,
        "billed_micros": item.billed_net_micros + item.billed_tax_micros,
        "given_back_micros": item.given_back_micros,
        "should_micros": _gross(item.should),
        "back_micros": _gross(item.back),
        "posted": "" if done is None else str(done.amount_micros),
        "why": item.why,
    }


def _plain(value: object) -> object:
    return value.hex() if isinstance(value, bytes) else value
