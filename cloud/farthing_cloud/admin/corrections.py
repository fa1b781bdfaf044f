"""``farthing-admin corrections``: money back to payers, taken back from them, given, disputed or written off.

Every command takes ``--id``: the caller's own name for it (a ticket, a bank's reference). The same command again changes nothing; the
same id with other words is refused. Many uses at once: ``plan``, ``show``, ``approve``, ``execute`` (``correction_plans``).
"""

from typing import Annotated

import typer

from farthing.v1 import ledger_pb2, ledger_pb2_grpc
from farthing_cloud.admin import correction_plans
from farthing_cloud.admin.session import (
    CALL_TIMEOUT_S,
    DryRun,
    Json,
    Operator,
    Row,
    amount_micros,
    back_office,
    content_hash_of,
    fail,
    show,
    show_one,
)

corrections = typer.Typer(
    help="Money back to payers, taken back, given, disputed or written off.", no_args_is_help=True
)

#: Corrections in one answer of the ledger.
PAGE_CORRECTIONS = 1_000

AccountId = Annotated[str, typer.Argument(help="The account's id.")]
Authorization = Annotated[str, typer.Argument(help="The use's authorization, 32 hexadecimal digits ('ledger claims').")]
Gateway = Annotated[str, typer.Option("--gateway", help="The gateway that gave the authorization.")]
Id = Annotated[str, typer.Option("--id", help="Your name for it: the same again changes nothing.")]
Reason = Annotated[str, typer.Option(help="Why; it is kept with it.")]
Part = Annotated[str, typer.Option("--amount", help="A decimal such as 12.50, exact; without it: all that is left.")]
PaybackId = Annotated[str, typer.Argument(help="The --id of the payback.")]
BankReference = Annotated[
    str, typer.Option("--bank-reference", help="The bank's own reference of the booking; it counts once.")
]
DisputeId = Annotated[str, typer.Argument(help="The --id of the dispute.")]


@corrections.command("refund")
def refund(
    ctx: typer.Context, operator: Operator, authorization: Authorization, gateway: Gateway, correction_id: Id,
    reason: Reason, amount: Part = "0", dry_run: DryRun = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Pay a use back, with its tax; whom its split went to gives it back, by the rule of then."""
    content = _of_use("refund", operator, authorization, gateway, correction_id, reason, amount)
    _correct(ctx, content, dry_run=dry_run, as_json=as_json)


@corrections.command("dispute")
def dispute(
    ctx: typer.Context, operator: Operator, authorization: Authorization, gateway: Gateway, correction_id: Id,
    reason: Reason, amount: Part = "0", dry_run: DryRun = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Set aside what a use earned, from whom its split went to, until 'end-dispute'."""
    content = _of_use("dispute", operator, authorization, gateway, correction_id, reason, amount)
    _correct(ctx, content, dry_run=dry_run, as_json=as_json)


@corrections.command("end-dispute")
def end_dispute(
    ctx: typer.Context,
    operator: Operator,
    dispute_id: DisputeId,
    lost: Annotated[
        bool,
        typer.Option(
            "--lost/--won", help="The payer gets it back, or those it was set aside from.", show_default=False
        ),
    ],
    correction_id: Id,
    reason: Reason,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """End a dispute, either way."""
    content = ledger_pb2.CorrectionContent(
        operator_id=operator,
        correction_id=correction_id,
        kind="dispute-lost" if lost else "dispute-won",
        dispute_id=dispute_id,
        reason=reason,
    )
    _correct(ctx, content, dry_run=dry_run, as_json=as_json)


@corrections.command("goodwill")
def goodwill(
    ctx: typer.Context,
    operator: Operator,
    account_id: AccountId,
    amount: Annotated[str, typer.Option(help="A decimal such as 12.50, exact.")],
    correction_id: Id,
    reason: Reason,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Give an account money of the operator's own."""
    content = _of_account("goodwill", operator, account_id, correction_id, reason, amount)
    _correct(ctx, content, dry_run=dry_run, as_json=as_json)


@corrections.command("payback")
def payback(
    ctx: typer.Context,
    operator: Operator,
    account_id: AccountId,
    to: Annotated[str, typer.Option(help="Ledger account it leaves from, for example bank/main.")],
    correction_id: Id,
    reason: Reason,
    amount: Part = "0",
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Order that a balance goes back to its payer; only when all its quotas are closed ('quotas recall').

    It is set aside and waits ('paybacks'): above a limit for another person ('payback-approve'); 'payback-handed' says that you have it paid, then 'payback-sent' or 'payback-failed' what the
    bank says.
    """
    content = _of_account("payback", operator, account_id, correction_id, reason, amount, path=to)
    _correct(ctx, content, dry_run=dry_run, as_json=as_json)


@corrections.command("payback-approve")
def payback_approve(
    ctx: typer.Context,
    operator: Operator,
    payback_id: PaybackId,
    content_hash: Annotated[str, typer.Option("--content-hash", help="Of what you have seen: 'corrections paybacks'.")],
    correction_id: Id,
    reason: Reason,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Let a payback go that another person ordered: one that is more than a person may pay back alone waits for it."""
    said = _of_payback("payback-approved", operator, payback_id, correction_id, reason)
    said.approved_hash = content_hash_of(content_hash)
    _correct(ctx, said, dry_run=dry_run, as_json=as_json)


def _says_of_payback(command: str, told: str) -> None:
    """A command that says of a payback what has become of it."""

    def say(
        ctx: typer.Context, operator: Operator, payback_id: PaybackId, correction_id: Id, reason: Reason,
        dry_run: DryRun = False, as_json: Json = False,
    ) -> None:  # fmt: skip
        _correct(
            ctx, _of_payback(command, operator, payback_id, correction_id, reason), dry_run=dry_run, as_json=as_json
        )

    corrections.command(command, help=told)(say)


def _says_of_booking(command: str, told: str) -> None:
    """The same of what the bank has booked, under its reference."""

    def say(
        ctx: typer.Context, operator: Operator, payback_id: PaybackId, bank_reference: BankReference,
        correction_id: Id, reason: Reason, dry_run: DryRun = False, as_json: Json = False,
    ) -> None:  # fmt: skip
        content = _of_payback(command, operator, payback_id, correction_id, reason, bank_reference)
        _correct(ctx, content, dry_run=dry_run, as_json=as_json)

    corrections.command(command, help=told)(say)


_says_of_payback(
    "payback-handed",
    "Say that you have a payback paid by the bank, before you tell the bank: who comes second is refused.",
)
_says_of_booking("payback-sent", "Book that the bank says a payback has left.")
_says_of_payback(
    "payback-failed",
    "Book that a payback did not leave and will not (the bank refused it, or nobody handed it over): it is the payer's again.",
)
_says_of_booking(
    "payback-returned",
    "Book that a payback came back from the payer's bank: it is the payer's again, also on a closed account.",
)


@corrections.command("paybacks")
def list_paybacks(
    ctx: typer.Context,
    operator: Operator,
    open_only: Annotated[bool, typer.Option("--open", help="Only what is under way: neither sent nor failed.")] = False,
    as_json: Json = False,
) -> None:
    """Balances that go back to payers, oldest first, and how far each is: waits, handed, sent, failed, returned."""
    rows: list[Row] = []
    after = ""
    with back_office(ctx) as channel:
        stub = ledger_pb2_grpc.LedgerStub(channel)
        while True:
            request = ledger_pb2.ListPaybacksRequest(
                operator_id=operator, open_only=open_only, after_correction_id=after, limit=PAGE_CORRECTIONS
            )
            page = stub.ListPaybacks(request, timeout=CALL_TIMEOUT_S).paybacks
            if not page:
                break
            rows += [_payback_row(payback) for payback in page]
            after = page[-1].ordered.content.correction_id
    columns = (
        "correction_id", "state", "account_id", "path", "currency", "amount_micros", "reason", "person", "posted_at_us", "approved_by",
        "approved_at_us", "handed_by", "handed_at_us", "ended_by", "bank_reference", "ended_at_us", "content_hash",
    )  # fmt: skip
    show(rows, columns, as_json=as_json)


@corrections.command("chargeback")
def chargeback(
    ctx: typer.Context,
    operator: Operator,
    account_id: AccountId,
    payment: Annotated[str, typer.Option(help="The payment that was taken back, as in 'accounts fund'.")],
    correction_id: Id,
    reason: Reason,
    amount: Part = "0",
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Book that a bank took a payment back: what the account has not is debt, and its quotas are recalled."""
    content = _of_account("chargeback", operator, account_id, correction_id, reason, amount, payment=payment)
    _correct(ctx, content, dry_run=dry_run, as_json=as_json)


@corrections.command("write-off")
def write_off(
    ctx: typer.Context, operator: Operator, account_id: AccountId, correction_id: Id, reason: Reason,
    amount: Part = "0", dry_run: DryRun = False, as_json: Json = False,
) -> None:  # fmt: skip
    """The operator bears what an account owes."""
    content = _of_account("write-off", operator, account_id, correction_id, reason, amount)
    _correct(ctx, content, dry_run=dry_run, as_json=as_json)


@corrections.command("close-account")
def close_account(
    ctx: typer.Context, operator: Operator, account_id: AccountId, correction_id: Id, reason: Reason,
    dry_run: DryRun = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Close an account for good: nothing held, owned or owed."""
    content = _of_account("closing", operator, account_id, correction_id, reason, "0")
    _correct(ctx, content, dry_run=dry_run, as_json=as_json)


@corrections.command("list")
def list_corrections(ctx: typer.Context, operator: Operator, as_json: Json = False) -> None:
    """All corrections, oldest first."""
    rows: list[Row] = []
    after = ""
    with back_office(ctx) as channel:
        stub = ledger_pb2_grpc.LedgerStub(channel)
        while True:
            request = ledger_pb2.ListCorrectionsRequest(
                operator_id=operator, after_correction_id=after, limit=PAGE_CORRECTIONS
            )
            page = stub.ListCorrections(request, timeout=CALL_TIMEOUT_S).corrections
            if not page:
                break
            rows += [_row(correction) for correction in page]
            after = page[-1].content.correction_id
    columns = (
        "correction_id", "kind", "account_id", "authorization_id", "gateway_id", "payment_id", "dispute_id", "payback_id", "currency",
        "amount_micros", "reason", "person", "posted_at_us",
    )  # fmt: skip
    show(rows, columns, as_json=as_json)


corrections.command("plan")(correction_plans.plan)
corrections.command("plans")(correction_plans.list_plans)
corrections.command("show")(correction_plans.show_plan)
corrections.command("approve")(correction_plans.approve)
corrections.command("execute")(correction_plans.execute)


def _of_use(
    kind: str, operator: str, authorization: str, gateway: str, correction_id: str, reason: str, amount: str
) -> ledger_pb2.CorrectionContent:
    try:
        authorization_id = bytes.fromhex(authorization)
    except ValueError:
        fail("an authorization is 32 hexadecimal digits")
    return ledger_pb2.CorrectionContent(
        operator_id=operator,
        correction_id=correction_id,
        kind=kind,
        authorization_id=authorization_id,
        gateway_id=gateway,
        reason=reason,
        amount_micros=amount_micros(amount),
    )


def _of_account(
    kind: str,
    operator: str,
    account_id: str,
    correction_id: str,
    reason: str,
    amount: str,
    *,
    path: str = "",
    payment: str = "",
) -> ledger_pb2.CorrectionContent:
    return ledger_pb2.CorrectionContent(
        operator_id=operator,
        correction_id=correction_id,
        kind=kind,
        account_id=account_id,
        payment_id=payment,
        path=path,
        reason=reason,
        amount_micros=amount_micros(amount),
    )


def _of_payback(
    kind: str, operator: str, payback_id: str, correction_id: str, reason: str, bank_reference: str = ""
) -> ledger_pb2.CorrectionContent:
    return ledger_pb2.CorrectionContent(
        operator_id=operator,
        correction_id=correction_id,
        kind=kind,
        payback_id=payback_id,
        payment_id=bank_reference,
        reason=reason,
    )


def _payback_row(payback: ledger_pb2.Payback) -> Row:
    content = payback.ordered.content
    return {
        "correction_id": content.correction_id,
        "state": payback.state,
        "account_id": content.account_id,
        "path": content.path,
        "currency": payback.ordered.currency,
        "amount_micros": payback.ordered.amount_micros,
        "reason": content.reason,
        "person": payback.ordered.person,
        "posted_at_us": payback.ordered.posted_at_us,
        "approved_by": payback.approved_by,
        "approved_at_us": payback.approved_at_us,
        "handed_by": payback.handed_by,
        "handed_at_us": payback.handed_at_us,
        "ended_by": payback.ended_by_correction_id,
        "bank_reference": payback.bank_reference,
        "ended_at_us": payback.ended_at_us,
        "content_hash": payback.content_hash,
    }


def _correct(ctx: typer.Context, content: ledger_pb2.CorrectionContent, *, dry_run: bool, as_json: bool) -> None:
    request = ledger_pb2.CorrectRequest(content=content, dry_run=dry_run)
    with back_office(ctx) as channel:
        answer = ledger_pb2_grpc.LedgerStub(channel).Correct(request, timeout=CALL_TIMEOUT_S)
    show_one({"changed": answer.changed, **_row(answer.correction)}, as_json=as_json)


def _row(correction: ledger_pb2.Correction) -> Row:
    content = correction.content
    return {
        "correction_id": content.correction_id,
        "kind": content.kind,
        "account_id": content.account_id,
        "authorization_id": content.authorization_id,
        "gateway_id": content.gateway_id,
        "payment_id": content.payment_id,
        "dispute_id": content.dispute_id,
        "payback_id": content.payback_id,
        "currency": correction.currency,
        "amount_micros": correction.amount_micros,
        "reason": content.reason,
        "person": correction.person,
        "posted_at_us": correction.posted_at_us,
    }
