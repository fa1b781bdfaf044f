"""What the run showed: the proof as a table, report.json for programs, report.html for people."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from farthing.money import exact_micros, format_micros
from farthing.refusal import Refusal
from farthing.tariff import Tariff
from farthing_demo import cast, page, proof
from farthing_demo.paperwork import Paperwork, with_receipt
from farthing_demo.proof import Check, Claimed, at_least_one, equal, none_of
from farthing_demo.settings import Settings
from farthing_demo.story import Story


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Everything that was asked of the running system at the end; rows are what the commands printed as JSON."""

    settings: Settings
    town: cast.Cast
    file_quantity: int | None
    story: Story
    tariffs: Mapping[str, Tariff]
    device_rows: Sequence[Mapping[str, Any]]
    clone_rows: Sequence[Mapping[str, Any]]
    summary: Mapping[str, Any]
    claims: Sequence[Claimed]
    accounts: Sequence[Mapping[str, Any]]
    quotas: Sequence[Mapping[str, Any]]
    cases: Sequence[Mapping[str, Any]]
    fraud_cases: Sequence[Mapping[str, Any]]
    #: None where a whole file is played: its payers are drawn, and nobody asks for their invoices.
    paperwork: Paperwork | None
    before_closing: Mapping[str, Any]
    after_closing: Mapping[str, Any]
    closing: Sequence[Mapping[str, Any]]
    plan: Mapping[str, Any]
    verified: Mapping[str, Any]
    balances: Sequence[Mapping[str, Any]]
    journals: Mapping[str, Mapping[str, Any]]
    statuses: Mapping[str, Mapping[str, Any]]
    refused_at: Mapping[str, int | None]
    kills: int
    seconds: float


def write_report(findings: Findings, console: Console) -> bool:
    """Write report.json and report.html, print the table; return whether every check holds."""
    uses = proof.delivered([*findings.device_rows, *findings.clone_rows], findings.tariffs)
    lost = proof.lost(uses, findings.claims)
    doubled = proof.doubled(findings.claims)
    overspent = proof.overspent(findings.accounts)
    checks = _checks(findings, sum(use.amount_micros for use in uses), lost, doubled, overspent)
    sums = findings.before_closing
    refusals = _refusals(findings)
    shares = {row["path"]: 0 for row in findings.closing if row["path"] != "-"}
    for row in findings.closing:
        if row["path"] in shares:
            shares[row["path"]] += row["amount_micros"]
    report: dict[str, Any] = {
        "devices": len(findings.town.devices),
        "records": sum(page_["counts"]["records"] for page_ in findings.statuses.values()),
        "delivered_micros": sum(use.amount_micros for use in uses),
        "journal_micros": sum(journal["billed_micros"] for journal in findings.journals.values()),
        "ledger_micros": sums["claimed_micros"],
        "payers_micros": sums["payers_micros"],
        "debt_micros": sums["debt_micros"],
        "risk_micros": sums["risk_micros"],
        "suspense_micros": sums["suspense_micros"],
        "shares_micros": sum(shares.values()),
        "share_paths": shares,
        "tax_micros": findings.after_closing["tax_micros"],
        "planned_micros": findings.plan["total_micros"],
        "lost": len(lost),
        "doubled": len(doubled),
        "overspent": len(overspent),
        "offline_authorizations": sum(page_["counts"]["granted_offline"] for page_ in findings.statuses.values()),
        "refusals": {str(number): count for number, count in sorted(refusals.items())},
        "refusal_names": {str(number): (_name(number), count) for number, count in sorted(refusals.items())},
        "clones_caught": sum(1 for case in findings.fraud_cases if case["status"] == "acted"),
        "kills": findings.kills,
        "invoices": {} if findings.paperwork is None else dict(findings.paperwork.invoices),
        "replay": findings.summary.get("replay"),
        "seed": findings.settings.seed,
        "seconds": round(findings.seconds, 1),
        "checks": {check.name: check.holds for check in checks},
        "ok": all(check.holds for check in checks),
    }
    out = findings.settings.out
    (out / "report.html").write_text(
        page.render(
            report=report,
            proof=[(check.what, check.left, check.right, check.holds) for check in checks],
            story=findings.story,
            currency=cast.CURRENCY,
        )
    )
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    _print(report, checks, console)
    if report["replay"]:
        console.print(f"replayed: {json.dumps(report['replay'])}", highlight=False, soft_wrap=True)
    console.print(f"{out / 'report.html'}  {out / 'report.json'}", highlight=False, soft_wrap=True)
    return bool(report["ok"])


def _checks(
    findings: Findings, delivered_micros: int, lost: Sequence[str], doubled: Sequence[str], overspent: Sequence[str]
) -> list[Check]:
    before, after = findings.before_closing, findings.after_closing
    ledger = before["claimed_micros"]
    journal = sum(each["billed_micros"] for each in findings.journals.values())
    paid = before["payers_micros"] + before["debt_micros"] + before["risk_micros"]
    shares = after["agencies_micros"] + after["fees_micros"]
    faults = [f"{gateway}: {each['fault']}" for gateway, each in findings.journals.items() if each["fault"]]
    return [
        *(() if findings.file_quantity is None else _checks_of_the_file(findings)),
        equal("delivered_is_journal", "devices' own count, priced = gateways' journals", delivered_micros, journal),
        equal("journal_is_ledger", "gateways' journals = ledger's claims", journal, ledger),
        equal("ledger_is_paid", "ledger = payers + debt + risk + suspense", ledger, paid + before["suspense_micros"]),
        equal("paid_is_shared", "paid = agencies + fee + tax + carried", paid, shares + after["tax_micros"] + after["clearing_micros"]),
        equal("nothing_carried", "all of it proven: nothing carried to the next window", after["clearing_micros"], 0),
        Check(
            name="payout_is_covered", what="planned payouts ≤ bank − what payers own",
            left=format_micros(findings.plan["total_micros"]), right=format_micros(findings.plan["cleared_cash_micros"]),
            holds=0 < findings.plan["total_micros"] <= findings.plan["cleared_cash_micros"],
        ),
        none_of("lost", "lost: delivered and not claimed", lost),
        none_of("doubled", "doubled: claimed twice outside suspense", doubled),
        none_of("overspent", "overspent: posted + held > funds", overspent),
        none_of("quotas_closed", "quotas still open", [row["quota_id"] for row in findings.quotas if row["status"] != "closed"]),
        none_of("journals_verify", "faults in journals", faults),
        none_of("ledger_verifies", "faults in the ledger, all transfers replayed", [] if findings.verified["ok"] else [findings.verified["fault"]]),
        *(() if findings.paperwork is None else _checks_of_the_paperwork(findings, findings.paperwork)),
        *(_checks_of_the_day(findings) if findings.file_quantity is None else ()),
    ]  # fmt: skip


def _checks_of_the_file(findings: Findings) -> list[Check]:
    """Every row is accounted for, and what the file says was used is what the devices' registers moved."""
    replay = findings.summary["replay"]
    moved = sum(row["to"] - row["from"] for row in findings.device_rows if row["kind"] in ("use", "standing"))
    accounted = replay["played"] + sum(replay["skipped"].values())
    refused = [f"{row['device']}: {row['refusal']}" for row in findings.device_rows if row["kind"] == "refused"]
    return [
        Check(name="rows", what="rows of the file = played + skipped, each with its reason", left=str(replay["rows"]), right=str(accounted), holds=replay["rows"] == accounted),
        Check(name="file_is_delivered", what="the file's quantities = what registers moved", left=str(findings.file_quantity), right=str(moved), holds=findings.file_quantity == moved),
        none_of("none_refused", "uses of the file that were refused", refused),
    ]  # fmt: skip


def _checks_of_the_paperwork(findings: Findings, paperwork: Paperwork) -> list[Check]:
    """Payers' documents say what was posted, and what the device counted."""
    before, receipt = findings.before_closing, paperwork.receipt
    row = with_receipt(findings.device_rows)
    (use,) = proof.delivered([row], findings.tariffs)
    said = exact_micros(receipt["totals"]["exact_gross_amount"]) + exact_micros(receipt["exact_not_billed"])
    fault = paperwork.verified.fault
    return [
        equal("invoices_are_paid", "payers' invoices = payers + debt", paperwork.invoiced_micros, before["payers_micros"] + before["debt_micros"]),
        equal("receipt_is_delivered", f"receipt by {row['device']}'s code = its own count, priced", said, use.amount_micros),
        none_of("documents_verify", "faults in documents, held against the ledger", [fault] if fault else []),
    ]  # fmt: skip


def _checks_of_the_day(findings: Findings) -> list[Check]:
    """What the day's script is for: money that runs out, one account at two sites, uplinks cut, a clone."""
    small = next(row for row in findings.accounts if row["account_id"] == cast.SMALL)
    shared = [row for row in findings.quotas if row["account_id"] == cast.SHARED and row["posted_micros"]]
    refused = _refusals(findings)
    offline = sum(each["counts"]["granted_offline"] for each in findings.statuses.values())
    blocked = [number for number in findings.refused_at.values() if number == Refusal.DEVICE_BLOCKED]
    return [
        at_least_one("offline", "authorizations while the uplinks were away", offline),
        at_least_one("small_account", f"refusals for money of the small account ({Refusal.QUOTA_EXHAUSTED}, {Refusal.NO_QUOTA})", refused[Refusal.QUOTA_EXHAUSTED] + refused[Refusal.NO_QUOTA]),
        Check(
            name="small_not_overspent", what="the small account spent at most what it had",
            left=format_micros(small["posted_micros"]), right=format_micros(small["funds_micros"]),
            holds=small["posted_micros"] <= small["funds_micros"],
        ),
        Check(
            name="shared_at_both", what="one account spent at both sites",
            left=", ".join(sorted({row["gateway_id"] for row in shared})) or "none", right="both",
            holds={row["gateway_id"] for row in shared} == {part.gateway for part in cast.SITES},
        ),
        at_least_one("suspense", "passages claimed twice, set aside", len(findings.cases)),
        at_least_one("clone_caught", "clones proven and acted on", sum(1 for case in findings.fraud_cases if case["device_id"] == cast.CLONED and case["status"] == "acted")),
        Check(
            name="clone_refused", what=f"gateways that refuse the cloned device with {int(Refusal.DEVICE_BLOCKED)}",
            left=str(len(blocked)), right=str(len(cast.SITES)), holds=len(blocked) == len(cast.SITES),
        ),
    ]  # fmt: skip


def _refusals(findings: Findings) -> Counter[int]:
    """Refusals by number as the gateways counted them in their journals."""
    total: Counter[int] = Counter()
    for status in findings.statuses.values():
        total.update({int(number): count for number, count in status["refusals"].items()})
    return total


def _name(number: int) -> str:
    try:
        return Refusal(number).name
    except ValueError:
        return "?"


def _print(report: Mapping[str, Any], checks: Sequence[Check], console: Console) -> None:
    table = Table(title="The proof, to the micro", title_justify="left")
    for column in ("what", "one side", "other side", ""):
        table.add_column(column, justify="right" if column.endswith("side") else "left")
    for check in checks:
        table.add_row(check.what, check.left, check.right, "[green]holds[/]" if check.holds else "[red]BROKEN[/]")
    console.print(table)
    console.print(
        f"lost {report['lost']}, doubled {report['doubled']}, overspent {report['overspent']}; "
        f"{report['records']} records, {report['offline_authorizations']} authorizations offline, "
        f"refusals {report['refusals']}, {report['seconds']} s in all"
    )
