"""``farthing-admin documents``: what is asked, what is printed, what is written to files."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import Result
from typer.testing import CliRunner

from farthing.v1 import documents_pb2, documents_pb2_grpc, ledger_pb2, ledger_pb2_grpc, registry_pb2
from farthing_cloud.admin.documents import documents

Run = Callable[..., Result]
OP = ("--operator", "op")
FIGURES = {"balance": "1.00", "reserved": "0.25", "debt": "0.00", "available": "0.75"}
STATEMENT = {
    "schema": "farthing/payers-document/1", "kind": "statement", "currency": "EUR", "operator": "City", "account_id": "P",
    "posted_from": None, "posted_before": "2026-04-01T00:00:00Z", "ledger": {"after_position": 0, "to_position": 7},
    "opening": FIGURES, "entries": [], "totals": [], "closing": FIGURES,
}  # fmt: skip


class Office(documents_pb2_grpc.DocumentsServicer):
    """Answers each method with what a test laid ready, and keeps what was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[Any] = []
        self.accounts: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if not name[0].isupper():
            return object.__getattribute__(self, name)

        def answer(request: Any, context: Any) -> Any:
            self.asked.append(request)
            prepared = self.answers[name]
            said = prepared.pop(0) if isinstance(prepared, list) else prepared
            if isinstance(said, grpc.StatusCode):
                context.abort(said, "as the test says")
            return said

        return answer


class Ledger(ledger_pb2_grpc.LedgerServicer):
    """Knows the accounts that a test names."""

    def __init__(self, office: Office) -> None:
        self._office = office

    def ListAccounts(self, request: Any, context: Any) -> ledger_pb2.ListAccountsResponse:  # noqa: N802, ARG002 - the RPC
        accounts = [ledger_pb2.PayerAccount(account_id=name) for name in self._office.accounts]
        return ledger_pb2.ListAccountsResponse(accounts=accounts)


@pytest.fixture
def office() -> Office:
    return Office()


@pytest.fixture
def run(office: Office) -> Iterator[Run]:
    with ThreadPoolExecutor(max_workers=2) as pool:
        server = grpc.server(pool)
        documents_pb2_grpc.add_DocumentsServicer_to_server(office, server)
        ledger_pb2_grpc.add_LedgerServicer_to_server(Ledger(office), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield lambda *words: CliRunner().invoke(documents, words, obj=lambda: channel)
        server.stop(None).wait()


def test_a_statement_is_printed_byte_for_byte_and_written_as_a_page(run: Run, office: Office, tmp_path: Path) -> None:
    content = json.dumps(STATEMENT, separators=(",", ":")).encode()
    office.answers["MakeStatement"] = documents_pb2.MakeStatementResponse(content=content)
    words = ("statement", "--account", "P", "--from", "2026-03-01T00:00:00+01:00", "--until", "2026-04-01T00:00:00Z")
    page = tmp_path / "statement.html"
    result = run(*words, "--json", "--html", page, *OP)
    assert (result.exit_code, result.output.strip()) == (0, content.decode())
    assert "Account statement P" in page.read_text()
    (request,) = office.asked
    assert (request.account_id, request.from_us, request.until_us) == (
        "P",
        1_772_319_600_000_000,
        1_775_001_600_000_000,
    )
    # A file that is there is not written over.
    assert run(*words, "--html", page, *OP).exit_code == 1
    table = run(*words, *OP).output
    assert ("opening" in table, "0.25" in table) == (True, True)


def test_a_receipt_is_asked_for_by_one_name(run: Run, office: Office) -> None:
    office.answers["MakeReceipt"] = documents_pb2.MakeReceiptResponse(content=json.dumps(STATEMENT).encode())
    assert run("receipt", *OP).exit_code == 2
    assert run("receipt", "ab" * 16, "--code", "AAAA-BBBB-CCCC-DDDD", *OP).exit_code == 2
    assert run("receipt", "ab", *OP).exit_code == 2
    assert run("receipt", "ab" * 16, "--gateway", "gw-1", "--json", *OP).exit_code == 0
    assert run("receipt", "--code", "AAAA-BBBB-CCCC-DDDD", "--json", *OP).exit_code == 0
    first, second = office.asked
    assert (first.authorization_id, first.gateway_id) == (b"\xab" * 16, "gw-1")
    assert (second.WhichOneof("of"), second.code) == ("code", "AAAA-BBBB-CCCC-DDDD")


def test_a_run_takes_every_account_and_goes_on_after_one_that_is_refused(run: Run, office: Office) -> None:
    issued = documents_pb2.PayersDocument(number="INV-000001", kind="invoice", exact_micros=9_110_000, content=b"{}")
    credited = documents_pb2.PayersDocument(number="CN-000001", kind="credit-note", exact_micros=500_000, content=b"{}")
    office.accounts = ["b", "c", "a", "d"]
    office.answers["IssueInvoice"] = [
        documents_pb2.IssueInvoiceResponse(changed=True, documents=[issued, credited]),
        grpc.StatusCode.FAILED_PRECONDITION,
        documents_pb2.IssueInvoiceResponse(changed=False, documents=[issued]),
        documents_pb2.IssueInvoiceResponse(changed=True),
    ]
    result = run("run", "--until", "2026-04-01T00:00:00Z", "--json", *OP)
    assert result.exit_code == 1
    assert [request.account_id for request in office.asked] == ["a", "b", "c", "d"]
    assert [
        (row["account_id"], row["outcome"], row["numbers"], row["invoiced_micros"], row["credited_micros"], row["why"])
        for row in json.loads(result.output)
    ] == [
        ("a", "issued", ["INV-000001", "CN-000001"], 9_110_000, 500_000, ""),
        ("b", "refused", [], 0, 0, "as the test says"),
        ("c", "issued before", ["INV-000001"], 9_110_000, 0, ""),
        ("d", "nothing", [], 0, 0, ""),
    ]
    # Who cannot be reached for one cannot be reached for any: nothing is passed over.
    office.answers["IssueInvoice"] = [grpc.StatusCode.UNAVAILABLE]
    office.asked.clear()
    assert run("run", "--until", "2026-04-01T00:00:00Z", *OP).exit_code == 1
    assert len(office.asked) == 1


def test_what_was_issued_and_listed(run: Run, office: Office) -> None:
    issued = [
        documents_pb2.PayersDocument(number=number, kind=kind, account_id="P", currency="EUR", exact_micros=9_110_000, content=b"{}")
        for number, kind in (("INV-000001", "invoice"), ("CN-000001", "credit-note"))
    ]  # fmt: skip
    office.answers["IssueInvoice"] = documents_pb2.IssueInvoiceResponse(changed=True, documents=issued)
    office.answers["ReplaceInvoice"] = documents_pb2.ReplaceInvoiceResponse(changed=True, documents=issued)
    office.answers["ListDocuments"] = [
        documents_pb2.ListDocumentsResponse(documents=issued),
        documents_pb2.ListDocumentsResponse(),
    ]
    words = ("invoice", "--account", "P", "--until", "2026-04-01T00:00:00Z", "--dry-run")
    assert "9.11" in run(*words, *OP).output
    assert json.loads(run(*words, "--json", *OP).output) == [{}, {}]
    assert office.asked[0].dry_run
    assert run("credit-note", "INV-000001", "--reason", "the address was wrong", *OP).exit_code == 0
    assert (office.asked[-1].number, office.asked[-1].reason) == ("INV-000001", "the address was wrong")
    assert run("credit-note", "INV-000001", *OP).exit_code == 2
    assert "CN-000001" in run("list", *OP).output
    assert [request.after_number for request in office.asked[-2:]] == ["", "CN-000001"]


@pytest.mark.parametrize(("ok", "status"), [(True, 0), (False, 1)])
def test_verify_says_it_with_its_status(run: Run, office: Office, ok: bool, status: int) -> None:
    office.answers["VerifyDocuments"] = documents_pb2.VerifyDocumentsResponse(
        ok=ok, fault="" if ok else "INV-000002 is missing", rounding_micros=-5_600
    )
    result = run("verify", *OP)
    assert (result.exit_code, "-0.0056" in result.output) == (status, True)
    assert ok or "INV-000002 is missing" in result.output


def test_who_sells_and_who_buys(run: Run, office: Office) -> None:
    office.answers["PutSeller"] = registry_pb2.PutResponse(
        change=registry_pb2.CHANGE_CREATED, differences=["name: none -> City"]
    )
    office.answers["PutBuyer"] = registry_pb2.PutResponse(change=registry_pb2.CHANGE_NONE)
    seller = (
        "seller", "put", "--name", "City", "--street", "1 Mint Lane", "--city", "Farthing", "--country", "DE", "--vat-id", "DE123456789",
        "--invoice-prefix", "INV-", "--credit-note-prefix", "CN-",
    )  # fmt: skip
    assert "created" in run(*seller, *OP).output
    assert office.asked[0].seller.address.city == "Farthing"
    assert "none" in run("buyer", "put", "--account", "P", "--name", "P. Ayer", *OP).output
    assert office.asked[1].buyer.account_id == "P"
    office.answers["ListSellers"] = documents_pb2.ListSellersResponse(sellers=[office.asked[0].seller])
    (row,) = json.loads(run("seller", "show", "--json", *OP).output)
    assert (row["vat_id"], row["invoice_prefix"]) == ("DE123456789", "INV-")
    office.answers["ListBuyers"] = documents_pb2.ListBuyersResponse(buyers=[office.asked[1].buyer])
    assert "P. Ayer" in run("buyer", "list", *OP).output
