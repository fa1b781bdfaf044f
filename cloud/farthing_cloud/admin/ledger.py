"""``farthing-admin accounts``, ``quotas``, ``batches`` and ``ledger``."""

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, TypeVar

import typer

from farthing.v1 import directive_pb2, ledger_pb2, ledger_pb2_grpc
from farthing_cloud.admin.decisions import restored, show_epoch
from farthing_cloud.admin.imports import import_batches
from farthing_cloud.admin.session import (
    CALL_TIMEOUT_S,
    DryRun,
    Json,
    Operator,
    Row,
    amount_micros,
    back_office,
    fail,
    instant_us,
    same_line,
    show,
    show_one,
)

T = TypeVar("T")

accounts = typer.Typer(help="Who pays.", no_args_is_help=True)
quotas = typer.Typer(help="What gateways may spend on their own.", no_args_is_help=True)
batches = typer.Typer(help="What gateways have billed.", no_args_is_help=True)
ledger = typer.Typer(help="The books.", no_args_is_help=True)
ledger.add_typer(restored, name="restored")
ledger.command("epoch")(show_epoch)

#: Rows in one answer of the ledger.
PAGE_ROWS = 1_000
#: A replay takes some ten seconds a million entries: whoever asks for one waits for it, up to an hour.
VERIFY_TIMEOUT_S = 3_600.0

Amount = Annotated[str, typer.Option(help="A decimal such as 12.50, exact.")]
AccountId = Annotated[str, typer.Argument(help="The account's id.")]


# --- accounts ---------------------------------------------------------------------------------------------------------


@accounts.command("create")
def create_account(
    ctx: typer.Context,
    operator: Operator,
    account_id: AccountId,
    currency: Annotated[str, typer.Option(help="ISO 4217, for example EUR.")],
    credit_limit: Amount = "0.00",
    debt_limit: Amount = "0.00",
    preload: Annotated[str, typer.Option(help="Quota that each gateway asks for ahead; 0: only on demand.")] = "0.00",
    suspended: Annotated[bool, typer.Option(help="Create it suspended.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Create an account, or change its limits."""
    request = ledger_pb2.CreateAccountRequest(
        operator_id=operator,
        account_id=account_id,
        currency=currency,
        credit_limit_micros=amount_micros(credit_limit),
        debt_limit_micros=amount_micros(debt_limit),
        status=directive_pb2.ACCOUNT_STATUS_SUSPENDED if suspended else directive_pb2.ACCOUNT_STATUS_ACTIVE,
        preload_micros=amount_micros(preload),
        dry_run=dry_run,
    )
    with back_office(ctx) as channel:
        answer = ledger_pb2_grpc.LedgerStub(channel).CreateAccount(request, timeout=CALL_TIMEOUT_S)
    show_one({"account_id": account_id, "changed": answer.changed}, as_json=as_json)


@accounts.command("fund")
def fund_account(
    ctx: typer.Context,
    operator: Operator,
    account_id: AccountId,
    amount: Annotated[str, typer.Option(help="A decimal such as 12.50, exact.")],
    currency: Annotated[str, typer.Option(help="ISO 4217, for example EUR.")],
    payment: Annotated[str, typer.Option(help="The payment it came with; the same again changes nothing.")],
    source: Annotated[str, typer.Option(help="Ledger account the money stands on, for example bank/main.")],
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Book money that came in."""
    request = ledger_pb2.FundAccountRequest(
        operator_id=operator,
        account_id=account_id,
        currency=currency,
        amount_micros=amount_micros(amount),
        payment_id=payment,
        source=source,
        dry_run=dry_run,
    )
    with back_office(ctx) as channel:
        answer = ledger_pb2_grpc.LedgerStub(channel).FundAccount(request, timeout=CALL_TIMEOUT_S)
    show_one(
        {"account_id": account_id, "changed": answer.changed, "available_micros": answer.available_micros},
        as_json=as_json,
    )


@accounts.command("show")
def show_account(ctx: typer.Context, operator: Operator, account_id: AccountId, as_json: Json = False) -> None:
    """One account with its balances."""
    with back_office(ctx) as channel:
        answer = ledger_pb2_grpc.LedgerStub(channel).ShowAccount(
            ledger_pb2.ShowAccountRequest(operator_id=operator, account_id=account_id), timeout=CALL_TIMEOUT_S
        )
    show_one(_account(answer.account), as_json=as_json)


@accounts.command("list")
def list_accounts(ctx: typer.Context, operator: Operator, as_json: Json = False) -> None:
    """All accounts of an operator."""
    with back_office(ctx) as channel:
        listed = list(all_accounts(ledger_pb2_grpc.LedgerStub(channel), operator))
    columns = (
        "account_id", "currency", "status", "funds_micros", "posted_micros", "held_micros", "available_micros",
        "debt_micros",
    )  # fmt: skip
    show([_account(account) for account in listed], columns, as_json=as_json)


def all_accounts(stub: ledger_pb2_grpc.LedgerStub, operator: str) -> Iterator[ledger_pb2.PayerAccount]:
    """An operator's accounts, page by page."""
    request = ledger_pb2.ListAccountsRequest(operator_id=operator, limit=PAGE_ROWS)
    for page in _pages(lambda: stub.ListAccounts(request, timeout=CALL_TIMEOUT_S).accounts):
        yield from page
        request.after_account_id = page[-1].account_id


def _pages(ask: Callable[[], Sequence[T]]) -> Iterator[Sequence[T]]:
    """What a list has, page by page: one that is not full is the last. (A ledger of before sends all rows at once.)"""
    while page := ask():
        yield page
        if len(page) != PAGE_ROWS:
            return


def _account(account: ledger_pb2.PayerAccount) -> Row:
    status = directive_pb2.AccountStatus.Name(account.status)
    return {
        "account_id": account.account_id,
        "operator_id": account.operator_id,
        "currency": account.currency,
        "status": status.removeprefix("ACCOUNT_STATUS_").lower(),
        "credit_limit_micros": account.credit_limit_micros,
        "debt_limit_micros": account.debt_limit_micros,
        "funds_micros": account.funds_micros,
        "posted_micros": account.posted_micros,
        "held_micros": account.held_micros,
        "available_micros": account.available_micros,
        "debt_micros": account.debt_micros,
        "preload_micros": account.preload_micros,
    }


# --- quotas -----------------------------------------------------------------------------------------------------------

GatewayFilter = Annotated[str, typer.Option("--gateway", help="Only of this gateway.")]
AccountFilter = Annotated[str, typer.Option("--account", help="Only of this account.")]


@quotas.command("list")
def list_quotas(
    ctx: typer.Context,
    operator: Operator,
    gateway: GatewayFilter = "",
    account: AccountFilter = "",
    open_only: Annotated[bool, typer.Option("--open", help="Leave out what is closed.")] = False,
    as_json: Json = False,
) -> None:
    """Quotas, granted and what became of them."""
    request = ledger_pb2.ListQuotasRequest(
        operator_id=operator, gateway_id=gateway, account_id=account, open_only=open_only
    )
    with back_office(ctx) as channel:
        stub, found = ledger_pb2_grpc.LedgerStub(channel), list[ledger_pb2.Quota]()
        request.limit = PAGE_ROWS
        for page in _pages(lambda: stub.ListQuotas(request, timeout=CALL_TIMEOUT_S).quotas):
            found += page
            request.after_quota_id = page[-1].quota_id
    rows: list[Row] = [
        {
            "quota_id": quota.quota_id,
            "operator_id": quota.operator_id,
            "gateway_id": quota.gateway_id,
            "account_id": quota.account_id,
            "currency": quota.currency,
            "amount_micros": quota.amount_micros,
            "posted_micros": quota.posted_micros,
            "voided_micros": quota.voided_micros,
            "held_micros": quota.held_micros,
            "spend_until_us": quota.spend_until_us,
            "report_until_us": quota.report_until_us,
            "incarnation": quota.incarnation,
            "status": quota.status,
        }
        for quota in found
    ]
    columns = (
        "quota_id", "gateway_id", "account_id", "currency", "amount_micros", "posted_micros", "voided_micros",
        "held_micros", "spend_until_us", "status",
    )  # fmt: skip
    show(rows, columns, as_json=as_json)


@quotas.command("recall")
def recall_quotas(
    ctx: typer.Context,
    operator: Operator,
    reason: Annotated[str, typer.Option(help="Why; it goes to the gateways and into the books.")],
    gateway: GatewayFilter = "",
    account: AccountFilter = "",
    as_json: Json = False,
) -> None:
    """Call quotas back: gateways stop them, and close them when their last hold has ended."""
    request = ledger_pb2.RecallQuotasRequest(
        operator_id=operator, gateway_id=gateway, account_id=account, reason=reason
    )
    with back_office(ctx) as channel:
        answer = ledger_pb2_grpc.LedgerStub(channel).RecallQuotas(request, timeout=CALL_TIMEOUT_S)
    show([{"quota_id": quota_id} for quota_id in answer.quota_ids], ("quota_id",), as_json=as_json)


# --- batches ----------------------------------------------------------------------------------------------------------


@batches.callback()
def _batches() -> None:
    """What gateways have billed."""
    # Here so that this stays a group: a single command would take its place.


@batches.command("list")
def list_batches(
    ctx: typer.Context,
    operator: Operator,
    gateway: GatewayFilter = "",
    parked: Annotated[
        bool, typer.Option("--parked", help="Only those of which something was billed to nobody.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Batches taken over from gateways, whether their detail has been verified, and what of them made no sense."""
    request = ledger_pb2.ListBatchesRequest(operator_id=operator, gateway_id=gateway, parked_only=parked)
    with back_office(ctx) as channel:
        stub, found = ledger_pb2_grpc.LedgerStub(channel), list[ledger_pb2.BatchSummary]()
        request.limit = PAGE_ROWS
        for page in _pages(lambda: stub.ListBatches(request, timeout=CALL_TIMEOUT_S).batches):
            found += page
            last = page[-1]
            request.after.MergeFrom(
                ledger_pb2.BatchName(gateway_id=last.gateway_id, incarnation=last.incarnation, sequence=last.sequence)
            )
    rows: list[Row] = [
        {
            "gateway_id": batch.gateway_id,
            "incarnation": batch.incarnation,
            "sequence": batch.sequence,
            "hash": batch.hash,
            "sealed_at_us": batch.sealed_at_us,
            "posted_at_us": batch.posted_at_us,
            "lines": batch.lines,
            "claims": batch.claims,
            "leaves": batch.leaves,
            "net_micros": batch.net_micros,
            "tax_micros": batch.tax_micros,
            "proven": batch.proven,
            "parked_lines": batch.parked_lines,
            "parked_micros": batch.parked_micros,
            "parked_because": list(batch.parked_reasons),
        }
        for batch in found
    ]
    columns = (
        "gateway_id", "incarnation", "sequence", "sealed_at_us", "posted_at_us", "lines", "claims", "leaves",
        "net_micros", "tax_micros", "proven", "parked_micros", "parked_because",
    )  # fmt: skip
    show(rows, columns, as_json=as_json)


# --- ledger -----------------------------------------------------------------------------------------------------------


@ledger.command("balance")
def balance(
    ctx: typer.Context,
    operator: Operator,
    path_prefix: Annotated[str, typer.Argument(help="For example agency/ or clearing/S1/w1; empty: all.")] = "",
    at: Annotated[
        str, typer.Option(help="As they stood then, for example 2026-03-01T00:00:00+01:00; without: now.")
    ] = "",
    by_business_date: Annotated[
        bool, typer.Option(help="With --at: what was dated up to then by business, whenever it was posted.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Balances of ledger accounts: credits minus debits, posted and pending."""
    if by_business_date and not at:
        raise typer.BadParameter("--by-business-date wants an instant: say --at")
    request = ledger_pb2.ListBalancesRequest(
        operator_id=operator,
        path_prefix=path_prefix,
        at_us=instant_us(at) if at else None,
        by_business_date=by_business_date,
    )
    with back_office(ctx) as channel:
        answer = ledger_pb2_grpc.LedgerStub(channel).ListBalances(request, timeout=CALL_TIMEOUT_S)
    rows: list[Row] = [
        {
            "path": each.path,
            "currency": each.currency,
            "balance_micros": int(each.credits_posted) - int(each.debits_posted),
            "debits_posted_micros": int(each.debits_posted),
            "credits_posted_micros": int(each.credits_posted),
            "debits_pending_micros": int(each.debits_pending),
            "credits_pending_micros": int(each.credits_pending),
        }
        for each in answer.balances
    ]
    columns = (
        "path", "currency", "balance_micros", "debits_posted_micros", "credits_posted_micros",
        "debits_pending_micros", "credits_pending_micros",
    )  # fmt: skip
    show(rows, columns, as_json=as_json)


@ledger.command("statement")
def statement(
    ctx: typer.Context,
    operator: Operator,
    path: Annotated[str, typer.Argument(help="A ledger account, for example payer/P.")],
    after: Annotated[int, typer.Option(min=0, help="Only transfers after this number.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="At most so many.")] = 1_000,
    as_json: Json = False,
) -> None:
    """Transfers of a ledger account, oldest first."""
    with back_office(ctx) as channel:
        transfers = list(_transfers(ledger_pb2_grpc.LedgerStub(channel), operator, path, after, limit))
    rows: list[Row] = [
        {
            "id": each.id,
            "kind": each.kind,
            "debit_path": each.debit_path,
            "credit_path": each.credit_path,
            "currency": each.currency,
            "amount_micros": each.amount_micros,
            "quota_id": each.quota_id,
            "cause": each.cause,
            "batch": each.batch,
            "posted_at_us": each.posted_at_us,
            "business_at_us": each.business_at_us,
        }
        for each in transfers
    ]
    columns = (
        "id", "kind", "debit_path", "credit_path", "currency", "amount_micros", "quota_id", "cause", "batch",
        "posted_at_us",
    )  # fmt: skip
    show(rows, columns, as_json=as_json)


def _transfers(
    stub: ledger_pb2_grpc.LedgerStub, operator_id: str, path: str, after_id: int, limit: int
) -> Iterator[ledger_pb2.Transfer]:
    left = limit
    while left > 0:
        page = stub.ListTransfers(
            ledger_pb2.ListTransfersRequest(
                operator_id=operator_id, path=path, after_id=after_id, limit=min(left, PAGE_ROWS)
            ),
            timeout=CALL_TIMEOUT_S,
        ).transfers
        if not page:
            return
        yield from page
        after_id = page[-1].id
        left -= len(page)


@ledger.command("verify")
def verify(ctx: typer.Context, as_json: Json = False) -> None:
    """Replay all transfers and compare; status 1 and the first fault where something differs. One at a time."""
    answer = ledger_pb2.VerifyResponse()
    with back_office(ctx) as channel, same_line() as say:
        stub = ledger_pb2_grpc.LedgerStub(channel)
        for said in stub.FollowVerify(ledger_pb2.FollowVerifyRequest(), timeout=VERIFY_TIMEOUT_S):
            if said.HasField("verdict"):
                answer = said.verdict
            else:
                say(_how_far(said.progress))
    show_one(
        {
            "ok": answer.ok,
            "fault": answer.fault,
            "transfers": answer.transfers,
            "accounts": answer.accounts,
            "batches": answer.batches,
        },
        as_json=as_json,
    )
    if not answer.ok:
        fail(f"the ledger's books are wrong: {answer.fault}")


def _how_far(progress: ledger_pb2.VerifyProgress) -> str:
    rows = f", {progress.rows} rows" if progress.rows else ""
    return f"step {progress.step} of {progress.steps}: {progress.what}{rows}"


@ledger.command("claims")
def claims(
    ctx: typer.Context,
    operator: Operator,
    device: Annotated[str, typer.Option(help="Only of this device.")] = "",
    as_json: Json = False,
) -> None:
    """The highest claim of each authorization."""
    request = ledger_pb2.ListClaimsRequest(operator_id=operator, device_id=device)
    with back_office(ctx) as channel:
        stub, found = ledger_pb2_grpc.LedgerStub(channel), list[ledger_pb2.ClaimSummary]()
        request.limit = PAGE_ROWS
        for page in _pages(lambda: stub.ListClaims(request, timeout=CALL_TIMEOUT_S).claims):
            found += page
            request.after_authorization_id, request.after_gateway_id = page[-1].authorization_id, page[-1].gateway_id
    found.sort(
        key=lambda c: (c.device_id, c.register_id, c.register_epoch, c.register_from, c.authorization_id, c.gateway_id)
    )
    rows: list[Row] = [
        {
            "authorization_id": claim.authorization_id,
            "gateway_id": claim.gateway_id,
            "device_id": claim.device_id,
            "register_id": claim.register_id,
            "register_epoch": claim.register_epoch,
            "register_from": claim.register_from,
            "register_to": claim.register_to,
            "net_micros": claim.net_micros,
            "tax_micros": claim.tax_micros,
            "final": claim.final,
            "aside": claim.aside,
        }
        for claim in found
    ]
    columns = (
        "authorization_id", "gateway_id", "device_id", "register_id", "register_from", "register_to", "net_micros",
        "tax_micros", "final", "aside",
    )  # fmt: skip
    show(rows, columns, as_json=as_json)


@ledger.command("cases")
def cases(ctx: typer.Context, operator: Operator, as_json: Json = False) -> None:
    """What people decide about: claims that overlap or make no sense, what is above an exposure, or not proven as its site asks."""
    request = ledger_pb2.ListOverlapCasesRequest(operator_id=operator)
    with back_office(ctx) as channel:
        stub, found = ledger_pb2_grpc.LedgerStub(channel), list[ledger_pb2.OverlapCase]()
        request.limit = PAGE_ROWS
        for page in _pages(lambda: stub.ListOverlapCases(request, timeout=CALL_TIMEOUT_S).cases):
            found += page
            request.after_case_id = page[-1].case_id
    rows: list[Row] = [
        {
            "case_id": case.case_id,
            "kind": case.kind,
            "status": case.status,
            "site_id": case.site_id,
            "device_id": case.device_id,
            "aside_micros": case.aside_micros,
            "missing_micros": case.missing_micros,
            "authorization_id": case.authorization_id,
            "other_authorization_id": case.other_authorization_id,
            "detail": case.detail,
        }
        for case in found
    ]
    columns = (
        "case_id", "kind", "status", "site_id", "device_id", "aside_micros", "missing_micros", "authorization_id",
        "other_authorization_id", "detail",
    )  # fmt: skip
    show(rows, columns, as_json=as_json)


@ledger.command("decide")
def decide(
    ctx: typer.Context,
    case_id: Annotated[int, typer.Argument(min=1, help="As in 'ledger cases'.")],
    release: Annotated[
        bool, typer.Option("--release/--void", help="Bill the payer what was set aside, or nobody.", show_default=False)
    ],
    as_json: Json = False,
) -> None:
    """Decide a case: release what was set aside to the payer's bill, or void it."""
    request = ledger_pb2.DecideOverlapCaseRequest(case_id=case_id, release=release)
    with back_office(ctx) as channel:
        ledger_pb2_grpc.LedgerStub(channel).DecideOverlapCase(request, timeout=CALL_TIMEOUT_S)
    show_one({"case_id": case_id, "status": "released" if release else "voided"}, as_json=as_json)


@ledger.command("reconcile")
def reconcile(ctx: typer.Context, operator: Operator, as_json: Json = False) -> None:
    """Everything the ledger knows of one operator, in one snapshot."""
    with back_office(ctx) as channel:
        answer = ledger_pb2_grpc.LedgerStub(channel).Reconcile(
            ledger_pb2.ReconcileRequest(operator_id=operator), timeout=CALL_TIMEOUT_S
        )
    row: Row = {
        "window": answer.window,
        "claimed_micros": answer.claimed_micros,
        "payers_micros": answer.payers_micros,
        "corrections_micros": answer.corrections_micros,
        "debt_micros": answer.debt_micros,
        "risk_micros": answer.risk_micros,
        "suspense_micros": answer.suspense_micros,
        "parked_micros": answer.parked_micros,
        "clearing_micros": answer.clearing_micros,
        "agencies_micros": answer.agencies_micros,
        "fees_micros": answer.fees_micros,
        "tax_micros": answer.tax_micros,
        "bank_micros": answer.bank_micros,
        "payers_own_micros": answer.payers_own_micros,
        "transit_micros": answer.transit_micros,
        "overspent_accounts": answer.overspent_accounts,
        "unproven_batches": answer.unproven_batches,
        "unproven_micros": answer.unproven_micros,
        "open_quotas": answer.open_quotas,
        "maximum_loss_micros": answer.maximum_loss_micros,
        "restoring": answer.restoring,
    }
    show_one(row, as_json=as_json)


ledger.command("import")(import_batches)


@ledger.command("exposure")
def exposure(ctx: typer.Context, operator: Operator, as_json: Json = False) -> None:
    """Maximum loss now: of each gateway, each site, and the operator, with what it is made of."""
    with back_office(ctx) as channel:
        answer = ledger_pb2_grpc.LedgerStub(channel).ShowExposure(
            ledger_pb2.ShowExposureRequest(operator_id=operator), timeout=CALL_TIMEOUT_S
        )
    rows: list[Row] = [
        {
            "scope": row.scope,
            "id": row.id,
            "currency": row.currency,
            "maximum_loss_micros": row.maximum_loss_micros,
            "quotas_micros": row.quotas_micros,
            "floors_micros": row.floors_micros,
            "overrun_micros": row.overrun_micros,
            "open_micros": row.open_micros,
            "exposure_micros": row.exposure_micros,
            "late_micros": row.late_micros,
            "silent": row.silent,
            "unwitnessed": row.unwitnessed,
        }
        for row in answer.rows
    ]
    columns = (
        "scope", "id", "currency", "maximum_loss_micros", "quotas_micros", "floors_micros", "overrun_micros",
        "open_micros", "late_micros", "silent", "unwitnessed",
    )  # fmt: skip
    show(rows, columns, as_json=as_json)
