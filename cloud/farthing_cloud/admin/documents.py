"""``farthing-admin documents``: receipts, statements, invoices and credit notes of payers.

Every document can be had as JSON (``--json``: the document itself, amounts exact decimal text) and as a page (``--html FILE``).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer

from farthing.ids import AUTHORIZATION_ID_SIZE
from farthing.v1 import documents_pb2, documents_pb2_grpc, ledger_pb2_grpc, registry_pb2
from farthing_cloud.admin.ledger import all_accounts
from farthing_cloud.admin.session import (
    CALL_TIMEOUT_S,
    DryRun,
    Json,
    Operator,
    Row,
    back_office,
    fail,
    instant_us,
    print_json,
    show,
    show_one,
)

#: What is wrong with one account alone: a run goes on with the next one.
_OF_ONE_ACCOUNT = (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.ABORTED, grpc.StatusCode.NOT_FOUND)

documents = typer.Typer(help="Receipts, statements, invoices and credit notes of payers.", no_args_is_help=True)
sellers = typer.Typer(help="Who sells, as documents name it.", no_args_is_help=True)
buyers = typer.Typer(help="Whom invoices are addressed to.", no_args_is_help=True)
documents.add_typer(sellers, name="seller")
documents.add_typer(buyers, name="buyer")

#: Documents in one answer.
PAGE_DOCUMENTS = 1_000
#: Holding all documents against the ledger reads all of both.
VERIFY_TIMEOUT_S = 600.0

AsJson = Annotated[bool, typer.Option("--json", help="The document itself; amounts are exact decimal text.")]
Html = Annotated[Path | None, typer.Option("--html", help="Write it as a page to a new file.", show_default=False)]
AccountId = Annotated[str, typer.Option("--account", help="The account's id.")]
Number = Annotated[str, typer.Argument(help="A document's number ('documents list').")]
Name = Annotated[str, typer.Option(help="As documents say it.")]
Street = Annotated[str, typer.Option(help="Street and house number.")]
City = Annotated[str, typer.Option()]
Postcode = Annotated[str, typer.Option()]
Country = Annotated[str, typer.Option(help="ISO 3166-1, two letters.")]


@documents.command("receipt")
def receipt(
    ctx: typer.Context,
    operator: Operator,
    authorization: Annotated[
        str, typer.Argument(help="The use's authorization, 32 hexadecimal digits ('ledger claims').")
    ] = "",
    code: Annotated[
        str, typer.Option("--code", help="Instead: the code that the device showed; names no account.")
    ] = "",
    gateway: Annotated[str, typer.Option("--gateway", help="Whose claim, where several gateways claim it.")] = "",
    html: Html = None,
    as_json: AsJson = False,
) -> None:
    """What one use was billed: by its authorization, or by the code that its device showed."""
    if bool(authorization) == bool(code):
        raise typer.BadParameter("name the use by its authorization, or by --code")
    request = documents_pb2.MakeReceiptRequest(operator_id=operator, gateway_id=gateway)
    if code:
        request.code = code
    else:
        request.authorization_id = _authorization(authorization)
    with back_office(ctx) as channel:
        answer = documents_pb2_grpc.DocumentsStub(channel).MakeReceipt(request, timeout=CALL_TIMEOUT_S)
    _tell(answer.content, html, as_json=as_json)


@documents.command("statement")
def statement(
    ctx: typer.Context,
    operator: Operator,
    account: AccountId,
    start: Annotated[str, typer.Option("--from", help="Posted from this instant on; default: the beginning.")] = "",
    until: Annotated[str, typer.Option("--until", help="Posted before this instant; default: now.")] = "",
    html: Html = None,
    as_json: AsJson = False,
) -> None:
    """What an account had, everything that happened, what it has; with what is reserved. An instant twice: what it had then."""
    request = documents_pb2.MakeStatementRequest(
        operator_id=operator,
        account_id=account,
        from_us=instant_us(start) if start else 0,
        until_us=instant_us(until) if until else 0,
    )
    with back_office(ctx) as channel:
        answer = documents_pb2_grpc.DocumentsStub(channel).MakeStatement(request, timeout=CALL_TIMEOUT_S)
    _tell(answer.content, html, as_json=as_json)


@documents.command("invoice")
def invoice(
    ctx: typer.Context,
    operator: Operator,
    account: AccountId,
    until: Annotated[str, typer.Option("--until", help="What was posted before this instant.")],
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Invoice what was billed since the last run, and credit what was given back. The same again issues nothing."""
    request = documents_pb2.IssueInvoiceRequest(
        operator_id=operator, account_id=account, until_us=instant_us(until), dry_run=dry_run
    )
    with back_office(ctx) as channel:
        answer = documents_pb2_grpc.DocumentsStub(channel).IssueInvoice(request, timeout=CALL_TIMEOUT_S)
    _issued(answer.documents, as_json=as_json)


@documents.command("run")
def run(
    ctx: typer.Context,
    operator: Operator,
    until: Annotated[str, typer.Option("--until", help="What was posted before this instant.")],
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Invoice every account of an operator up to an instant; interrupted or refused in part, say it again: nothing is issued twice.

    Status 1 where an account was refused; the others are done.
    """
    until_us = instant_us(until)
    rows: list[Row] = []
    with back_office(ctx) as channel:
        stub = documents_pb2_grpc.DocumentsStub(channel)
        listed = list(all_accounts(ledger_pb2_grpc.LedgerStub(channel), operator))
        for account_id in sorted(account.account_id for account in listed):
            request = documents_pb2.IssueInvoiceRequest(
                operator_id=operator, account_id=account_id, until_us=until_us, dry_run=dry_run
            )
            try:
                answer = stub.IssueInvoice(request, timeout=CALL_TIMEOUT_S)
            except grpc.RpcError as err:
                if err.code() not in _OF_ONE_ACCOUNT:
                    raise
                rows.append(_run_row(account_id, "refused", err.details() or "", ()))
                continue
            outcome = "dry run" if dry_run else "issued" if answer.changed else "issued before"
            rows.append(_run_row(account_id, outcome if answer.documents else "nothing", "", answer.documents))
    show(rows, ("account_id", "outcome", "numbers", "invoiced_micros", "credited_micros", "why"), as_json=as_json)
    if any(row["outcome"] == "refused" for row in rows):
        raise typer.Exit(1)


@documents.command("credit-note")
def credit_note(
    ctx: typer.Context,
    operator: Operator,
    number: Number,
    reason: Annotated[str, typer.Option(help="What was wrong; both documents say it.")],
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Cancel a wrong invoice by a credit note that names it, and bill what was left of it by a new one. (What a refund gives back
    becomes a credit note in the account's next run by itself.)"""
    request = documents_pb2.ReplaceInvoiceRequest(operator_id=operator, number=number, reason=reason, dry_run=dry_run)
    with back_office(ctx) as channel:
        answer = documents_pb2_grpc.DocumentsStub(channel).ReplaceInvoice(request, timeout=CALL_TIMEOUT_S)
    _issued(answer.documents, as_json=as_json)


@documents.command("list")
def list_documents(
    ctx: typer.Context,
    operator: Operator,
    account: Annotated[str, typer.Option("--account", help="Only of this account.")] = "",
    as_json: Json = False,
) -> None:
    """Invoices and credit notes in the order of issue."""
    found: list[documents_pb2.PayersDocument] = []
    with back_office(ctx) as channel:
        stub = documents_pb2_grpc.DocumentsStub(channel)
        while page := stub.ListDocuments(
            documents_pb2.ListDocumentsRequest(
                operator_id=operator,
                account_id=account,
                after_number=found[-1].number if found else "",
                limit=PAGE_DOCUMENTS,
            ),
            timeout=CALL_TIMEOUT_S,
        ).documents:
            found += page
    _rows(found, as_json=as_json)


@documents.command("show")
def show_document(
    ctx: typer.Context, operator: Operator, number: Number, html: Html = None, as_json: AsJson = False
) -> None:
    """An invoice or credit note, byte for byte as it was issued (--json)."""
    with back_office(ctx) as channel:
        answer = documents_pb2_grpc.DocumentsStub(channel).ShowDocument(
            documents_pb2.ShowDocumentRequest(operator_id=operator, number=number), timeout=CALL_TIMEOUT_S
        )
    _tell(answer.document.content, html, as_json=as_json)


@documents.command("verify")
def verify(ctx: typer.Context, operator: Operator, as_json: Json = False) -> None:
    """Hold all documents against the ledger: numbers, bytes, sums, and every billed part on exactly one. Status 1 for a fault."""
    with back_office(ctx) as channel:
        answer = documents_pb2_grpc.DocumentsStub(channel).VerifyDocuments(
            documents_pb2.VerifyDocumentsRequest(operator_id=operator), timeout=VERIFY_TIMEOUT_S
        )
    row: Row = {
        "ok": answer.ok,
        "fault": answer.fault,
        "documents": answer.documents,
        "accounts": answer.accounts,
        "billed_micros": answer.billed_micros,
        "given_back_micros": answer.given_back_micros,
        "documented_micros": answer.documented_micros,
        "not_invoiced_micros": answer.not_invoiced_micros,
        "rounding_micros": answer.rounding_micros,
    }
    show_one(row, as_json=as_json)
    if not answer.ok:
        raise typer.Exit(1)


@sellers.command("put")
def put_seller(
    ctx: typer.Context, operator: Operator, name: Name, street: Street, city: City, country: Country,
    vat_id: Annotated[str, typer.Option(help="With the country's two letters.")],
    invoice_prefix: Annotated[str, typer.Option(help="What invoices' numbers begin with; each prefix has its own series.")],
    credit_note_prefix: Annotated[str, typer.Option(help="What credit notes' numbers begin with.")],
    postcode: Postcode = "", dry_run: DryRun = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Say who sells for an operator, for all documents from now on."""
    seller = documents_pb2.Seller(
        operator_id=operator,
        name=name,
        address=documents_pb2.PostalAddress(street=street, city=city, postcode=postcode, country=country),
        vat_id=vat_id,
        invoice_prefix=invoice_prefix,
        credit_note_prefix=credit_note_prefix,
    )
    with back_office(ctx) as channel:
        answer = documents_pb2_grpc.DocumentsStub(channel).PutSeller(
            documents_pb2.PutSellerRequest(seller=seller, dry_run=dry_run), timeout=CALL_TIMEOUT_S
        )
    _changed(f"seller {operator}", answer, as_json=as_json)


@sellers.command("show")
def show_seller(ctx: typer.Context, operator: Operator, as_json: Json = False) -> None:
    """Who sells for an operator now."""
    with back_office(ctx) as channel:
        answer = documents_pb2_grpc.DocumentsStub(channel).ListSellers(
            documents_pb2.ListSellersRequest(operator_id=operator), timeout=CALL_TIMEOUT_S
        )
    rows: list[Row] = [
        {
            **_party(each.name, each.address, each.vat_id),
            "invoice_prefix": each.invoice_prefix,
            "credit_note_prefix": each.credit_note_prefix,
        }
        for each in answer.sellers
    ]
    show(
        rows,
        ("name", "street", "postcode", "city", "country", "vat_id", "invoice_prefix", "credit_note_prefix"),
        as_json=as_json,
    )


@buyers.command("put")
def put_buyer(
    ctx: typer.Context, operator: Operator, account: AccountId, name: Name, street: Street = "", city: City = "",
    postcode: Postcode = "", country: Country = "",
    vat_id: Annotated[str, typer.Option(help="With the country's two letters.")] = "",
    dry_run: DryRun = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Say whom an account's invoices are addressed to, from now on."""
    buyer = documents_pb2.Buyer(
        operator_id=operator,
        account_id=account,
        name=name,
        address=documents_pb2.PostalAddress(street=street, city=city, postcode=postcode, country=country),
        vat_id=vat_id,
    )
    with back_office(ctx) as channel:
        answer = documents_pb2_grpc.DocumentsStub(channel).PutBuyer(
            documents_pb2.PutBuyerRequest(buyer=buyer, dry_run=dry_run), timeout=CALL_TIMEOUT_S
        )
    _changed(f"buyer {account}", answer, as_json=as_json)


@buyers.command("list")
def list_buyers(ctx: typer.Context, operator: Operator, as_json: Json = False) -> None:
    """Whom invoices are addressed to."""
    with back_office(ctx) as channel:
        answer = documents_pb2_grpc.DocumentsStub(channel).ListBuyers(
            documents_pb2.ListBuyersRequest(operator_id=operator), timeout=CALL_TIMEOUT_S
        )
    rows: list[Row] = [
        {"account_id": each.account_id, **_party(each.name, each.address, each.vat_id)} for each in answer.buyers
    ]
    show(rows, ("account_id", "name", "street", "postcode", "city", "country", "vat_id"), as_json=as_json)


def _party(name: str, address: documents_pb2.PostalAddress, vat_id: str) -> dict[str, str]:
    return {
        "name": name,
        "street": address.street,
        "postcode": address.postcode,
        "city": address.city,
        "country": address.country,
        "vat_id": vat_id,
    }


def _changed(what: str, answer: registry_pb2.PutResponse, *, as_json: bool) -> None:
    change = registry_pb2.Change.Name(answer.change).removeprefix("CHANGE_").lower()
    show_one({"what": what, "change": change, "differences": list(answer.differences)}, as_json=as_json)


def _authorization(text: str) -> bytes:
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != AUTHORIZATION_ID_SIZE:
        raise typer.BadParameter(
            f"{text!r} is no authorization's id: write its {2 * AUTHORIZATION_ID_SIZE} hexadecimal digits"
        )
    return found


def _run_row(account_id: str, outcome: str, why: str, issued: Sequence[documents_pb2.PayersDocument]) -> Row:
    return {
        "account_id": account_id,
        "outcome": outcome,
        "numbers": [each.number for each in issued if each.number],
        "invoiced_micros": sum(each.exact_micros for each in issued if each.kind == "invoice"),
        "credited_micros": sum(each.exact_micros for each in issued if each.kind == "credit-note"),
        "why": why,
    }


def _issued(found: Sequence[documents_pb2.PayersDocument], *, as_json: bool) -> None:
    if as_json:
        print_json([json.loads(each.content) for each in found])
        return
    _rows(found, as_json=False)


def _rows(found: Sequence[documents_pb2.PayersDocument], *, as_json: bool) -> None:
    rows: list[Row] = [
        {
            "number": each.number or "(dry run)",
            "kind": each.kind,
            "account_id": each.account_id,
            "currency": each.currency,
            "exact_micros": each.exact_micros,
            "issued_at_us": each.issued_at_us,
            "names": each.names_number,
            "person": each.person,
            "hash": each.content_hash,
        }
        for each in found
    ]
    columns = ("number", "kind", "account_id", "currency", "exact_micros", "issued_at_us", "names", "person")
    show(rows, columns, as_json=as_json)


def _tell(content: bytes, html: Path | None, *, as_json: bool) -> None:
    form: dict[str, Any] = json.loads(content)
    if html is not None:
        from farthing_cloud.documents.page import render

        try:
            with html.open("x", encoding="utf-8") as file:
                file.write(render(form))
        except OSError as err:
            fail(f"{html}: {err.strerror}")
    if as_json:
        # Byte for byte as it is kept: its hash is over these.
        typer.echo(content.decode())
    elif html is not None:
        typer.echo(str(html))
    else:
        _summary(form)


def _summary(form: dict[str, Any]) -> None:
    """A few lines for a terminal; the whole is in --json and --html."""
    if form["kind"] == "statement":
        rows: list[Row] = [
            {"when": each["posted_at"], "what": each["what"], **{name: each["after"][name] for name in _FIGURES}}
            for each in form["entries"]
        ]
        first: Row = {"when": "", "what": "opening", **{name: form["opening"][name] for name in _FIGURES}}
        show([first, *rows], ("when", "what", *_FIGURES), as_json=False)
        return
    totals = form["totals"]
    show_one(
        {
            "kind": form["kind"],
            "number": form.get("number") or form.get("receipt_id", ""),
            "net": totals["exact_net_amount"],
            "vat": totals["exact_vat_amount"],
            "gross": f"{totals['exact_gross_amount']} {form['currency']}",
            "rounded": f"{totals['gross_amount']} {form['currency']}",
        },
        as_json=False,
    )


_FIGURES = ("balance", "reserved", "debt")
