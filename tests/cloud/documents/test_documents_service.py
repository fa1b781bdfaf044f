"""Payers' documents of the worked example's day: equal to the ledger to the micro, numbered without a gap, never changed."""

import asyncio
import hashlib
import json
from typing import Any

import grpc.aio
import psycopg
import pytest
from ledger_story import CHG, NOW, OP, afterwards, close_and_pay, micros, order

from farthing.clock import real_clock
from farthing.money import format_micros
from farthing.v1 import batch_pb2, documents_pb2, registry_pb2
from farthing_cloud.documents.page import render

pytestmark = pytest.mark.real

#: Everything that is posted in these tests is posted at or soon after the instant 0.
FIRST, SECOND, THIRD = 1, 10**15, 10**15 + 1


def form(document: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(document.content)
    return found


def exact(text: str) -> int:
    sign = -1 if text.startswith("-") else 1
    return sign * micros(text.removeprefix("-"))


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def test_the_example_day_as_an_invoice(office: Any) -> None:
    await office.day()
    code, why = await refused(office.invoice("P", FIRST))
    assert (code, "documents seller put" in why) == (grpc.StatusCode.FAILED_PRECONDITION, True)
    assert (await office.sell()).change == registry_pb2.CHANGE_CREATED
    assert (await office.sell()).change == registry_pb2.CHANGE_NONE

    draft = await office.invoice("P", FIRST, dry_run=True)
    assert (draft.changed, [each.number for each in draft.documents]) == (False, [""])
    answer = await office.invoice("P", FIRST)
    (invoice,) = answer.documents
    assert (answer.changed, invoice.number, invoice.kind, invoice.person) == (True, "INV-000001", "invoice", "alice")
    assert invoice.exact_micros == micros("9.11")
    assert invoice.content_hash == hashlib.sha256(invoice.content).digest()
    said = form(invoice)
    assert [
        (line["site_id"], line["tariff"]["id"], line["vat_rate"], line["exact_net_amount"], line["exact_vat_amount"], line["net_amount"])
        for line in said["lines"]
    ] == [
        ("S1", "chg-3", "20", "5.666666", "1.133334", "5.67"),
        ("S1", "toll-1", "7", "1.121495", "0.078505", "1.12"),
        ("S2", "chg-3", "20", "0.925", "0.185", "0.92"),
    ]  # fmt: skip
    assert [
        (each["vat_rate"], each["taxable_amount"], each["vat_amount"], each["rounding_difference"])
        for each in said["vat_breakdown"]
    ] == [("7", "1.12", "0.08", "0.00"), ("20", "6.59", "1.32", "0.00")]
    totals = said["totals"]
    assert (totals["gross_amount"], totals["exact_gross_amount"], totals["rounding_difference"]) == (
        "9.11",
        "9.11",
        "0.00",
    )
    assert (totals["exact_due"], totals["amount_due"], totals["paid_amount"]) == ("1.00", "1.00", "8.11")
    assert said["lines"][0]["uses"] == [b"a1".ljust(16).hex()]
    # The same again: the same bytes, nothing new.
    again = await office.invoice("P", FIRST)
    assert (again.changed, list(again.documents)) == (False, list(answer.documents))
    nothing = await office.invoice("P", SECOND)
    assert (nothing.changed, list(nothing.documents)) == (True, [])
    code, why = await refused(office.invoice("P", SECOND - 1))
    assert (code, "later instant" in why) == (grpc.StatusCode.FAILED_PRECONDITION, True)
    assert (await refused(office.invoice("P", 2**62)))[0] == grpc.StatusCode.INVALID_ARGUMENT
    verdict = await office.verify()
    assert (verdict.ok, verdict.fault, verdict.documents) == (True, "", 1)
    assert (verdict.billed_micros, verdict.documented_micros) == (micros("9.11"), micros("9.11"))
    # What F was billed waits for a run of its own.
    assert verdict.not_invoiced_micros == micros("1.20")


async def test_a_refund_after_the_invoice_is_a_credit_note_that_names_it(office: Any) -> None:
    await office.day()
    await office.sell()
    ((first,), (of_p,)) = [(await office.invoice(name, FIRST)).documents for name in ("F", "P")]
    await close_and_pay(office.story)
    await afterwards(office.story)
    answer = await office.invoice("F", SECOND)
    (note,) = answer.documents
    assert (note.number, note.kind, note.names_number, note.exact_micros) == (
        "CN-000001",
        "credit-note",
        first.number,
        micros("1.20"),
    )
    said = form(note)
    assert (said["type_code"], said["preceding_invoice"], said["cancels"]) == ("381", first.number, False)
    # Credited whole: to the cent what the invoice said.
    assert said["totals"]["gross_amount"] == form(first)["totals"]["gross_amount"] == "1.20"
    assert [each["correction_id"] for each in said["corrections"]] == ["refund-t4"]
    # A chargeback gives nothing back of what was used: P's next run has nothing.
    assert not (await office.invoice("P", SECOND)).documents
    verdict = await office.verify()
    assert (verdict.ok, verdict.fault) == (True, "")
    assert verdict.documented_micros == of_p.exact_micros == verdict.billed_micros - verdict.given_back_micros
    assert verdict.not_invoiced_micros == 0


async def test_partial_refunds_in_the_same_run_and_a_dispute(office: Any) -> None:
    await office.day()
    await office.sell()
    ledger = office.story.ledger
    for name, amount in (("part-1", "0.37"), ("part-2", "1.000001")):
        await ledger.correct(order("refund", name, use="a1", gateway_id="G1", amount=amount), person="alice", now=NOW)
    answer = await office.invoice("P", FIRST)
    assert [each.kind for each in answer.documents] == ["invoice", "credit-note"]
    risk = micros("0.55")
    # What risk bore went back to risk first: P gets the rest.
    assert answer.documents[1].exact_micros == micros("1.370001") - risk
    await ledger.correct(order("dispute", "disputed", use="a1", gateway_id="G1"), person="alice", now=NOW)
    assert not (await office.invoice("P", FIRST + 1)).documents
    await ledger.correct(order("dispute-lost", "lost", dispute_id="disputed"), person="alice", now=NOW)
    (note,) = (await office.invoice("P", FIRST + 2)).documents
    assert note.exact_micros == micros("7.35") - micros("1.370001")
    verdict = await office.verify()
    assert (verdict.ok, verdict.fault) == (True, "")


async def test_a_wrong_invoice_is_cancelled_and_billed_again(office: Any) -> None:
    await office.day()
    await office.sell()
    buyer = documents_pb2.Buyer(operator_id=OP, account_id="P", name="P. Ayer")
    assert (
        await office.documents.PutBuyer(documents_pb2.PutBuyerRequest(buyer=buyer))
    ).change == registry_pb2.CHANGE_CREATED
    (wrong,) = (await office.invoice("P", FIRST)).documents
    ledger = office.story.ledger
    await ledger.correct(order("refund", "r1", use="t1", gateway_id="G1"), person="alice", now=NOW)
    (note,) = (await office.invoice("P", FIRST + 1)).documents
    buyer.address.CopyFrom(documents_pb2.PostalAddress(street="2 Coin Street", city="Farthing", country="DE"))
    await office.documents.PutBuyer(documents_pb2.PutBuyerRequest(buyer=buyer))
    request = documents_pb2.ReplaceInvoiceRequest(operator_id=OP, number=wrong.number, reason="the address was missing")
    answer = await office.documents.ReplaceInvoice(request)
    cancelling, right = answer.documents
    assert [(each.number, each.names_number) for each in (note, cancelling, right)] == [
        ("CN-000001", wrong.number),
        ("CN-000002", wrong.number),
        ("INV-000002", wrong.number),
    ]
    assert cancelling.exact_micros == right.exact_micros == wrong.exact_micros - note.exact_micros
    cents = [int(form(each)["totals"]["gross_amount"].replace(".", "")) for each in (wrong, note, cancelling)]
    assert cents[0] == cents[1] + cents[2]
    assert form(right)["buyer"]["address"]["street"] == "2 Coin Street"
    assert form(wrong)["buyer"]["address"]["street"] == ""
    # The bytes of the wrong one stay what they were, and the same cancellation is the same.
    shown = await office.documents.ShowDocument(documents_pb2.ShowDocumentRequest(operator_id=OP, number=wrong.number))
    assert shown.document == wrong
    again = await office.documents.ReplaceInvoice(request)
    assert (again.changed, list(again.documents)) == (False, list(answer.documents))
    request.reason = "another reason"
    assert (await refused(office.documents.ReplaceInvoice(request)))[0] == grpc.StatusCode.ALREADY_EXISTS
    # What is given back later is credited of the one that stands.
    await ledger.correct(order("refund", "r2", use="a3", gateway_id="G2"), person="alice", now=NOW)
    (late,) = (await office.invoice("P", FIRST + 2)).documents
    assert late.names_number == right.number
    verdict = await office.verify()
    assert (verdict.ok, verdict.fault, verdict.documents) == (True, "", 5)


async def test_numbers_have_no_gap_whoever_issues_at_once(office: Any) -> None:
    await office.day()
    await office.sell()
    # Ten ask for both accounts, at once; and some only look.
    calls = [office.invoice(account, FIRST, dry_run=index % 3 == 2) for index in range(10) for account in ("P", "F")]
    answers = await asyncio.gather(*calls)
    assert sorted({document.number for answer in answers for document in answer.documents} - {""}) == [
        "INV-000001",
        "INV-000002",
    ]
    assert sum(answer.changed for answer in answers) == 2
    verdict = await office.verify()
    assert (verdict.ok, verdict.documents) == (True, 2)


async def test_killed_between_number_and_document(office: Any) -> None:
    """The connection dies after the number was taken: neither is there afterwards, and the next one gets that number."""
    await office.day()
    await office.sell()
    kill = """
        CREATE FUNCTION documents.die() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END $$;
        CREATE TRIGGER die BEFORE INSERT ON documents.document FOR EACH ROW EXECUTE FUNCTION documents.die();
    """
    async with await psycopg.AsyncConnection.connect(office.url, autocommit=True) as connection:
        await connection.execute(kill)
        await refused(office.invoice("P", FIRST))
        await connection.execute("DROP TRIGGER die ON documents.document")
        rows = await connection.execute(
            "SELECT (SELECT count(*) FROM documents.series), (SELECT count(*) FROM documents.run)"
        )
        assert await rows.fetchone() == (0, 0)
    (invoice,) = (await office.invoice("P", FIRST)).documents
    assert invoice.number == "INV-000001"
    assert (await office.verify()).ok


async def test_a_run_does_not_go_on_in_a_ledger_that_was_restored_behind_its_back(office: Any) -> None:
    await office.day()
    await office.sell()
    await office.invoice("P", FIRST)
    async with await psycopg.AsyncConnection.connect(office.url, autocommit=True) as connection:
        await connection.execute("SET session_replication_role = replica")
        # Another posting stands where the run ended.
        await connection.execute(
            "UPDATE ledger.postings SET head = sha256(head) WHERE position = (SELECT max(to_position) FROM documents.run)"
        )
    code, why = await refused(office.invoice("P", SECOND))
    assert (code, "was restored" in why) == (grpc.StatusCode.FAILED_PRECONDITION, True)


async def test_after_a_restore_numbers_begin_with_another_prefix(office: Any) -> None:
    await office.sell()
    await office.day()
    (before,) = (await office.invoice("P", FIRST)).documents
    async with await psycopg.AsyncConnection.connect(office.url, autocommit=True) as connection:
        await connection.execute("UPDATE ledger.epoch SET state = 'restoring', why = 'from a backup'")
        code, why = await refused(office.invoice("F", FIRST))
        assert (code, "restoring (from a backup)" in why) == (grpc.StatusCode.FAILED_PRECONDITION, True)
        await connection.execute("UPDATE ledger.epoch SET state = 'open', why = '', epoch = 2")
    # What was issued is answered again, by the number that it has.
    (again,) = (await office.invoice("P", FIRST)).documents
    assert again == before
    for dry_run in (False, True):
        code, why = await refused(office.invoice("F", FIRST, dry_run=dry_run))
        assert "since the prefix INV- was chosen (epoch 2)" in why
        assert "documents seller put" in why
    # Of credit notes none is there: but one may have been given, and lost.
    await office.sell(invoice_prefix="INV2-")
    assert [each.number for each in (await office.invoice("F", FIRST)).documents] == ["INV2-000001"]
    refund = order("refund", "r1", use="t4", gateway_id="G2")
    await office.story.ledger.correct(refund, person="alice", now=NOW)
    assert "the prefix CN- was chosen" in (await refused(office.invoice("F", SECOND)))[1]
    await office.sell(invoice_prefix="INV2-", credit_note_prefix="CN2-")
    assert [each.number for each in (await office.invoice("F", SECOND)).documents] == ["CN2-000001"]
    # Back to one of before is no way out.
    assert (await office.verify()).ok


async def test_documents_and_parts_cannot_be_changed_or_written_twice(office: Any) -> None:
    await office.day()
    await office.sell()
    await office.invoice("P", FIRST)
    async with await psycopg.AsyncConnection.connect(office.url, autocommit=True) as connection:
        for sentence in (
            "UPDATE documents.document SET content = ''",
            "DELETE FROM documents.document",
            "DELETE FROM documents.billed_part",
            "UPDATE documents.run SET to_position = 0",
        ):
            with pytest.raises(psycopg.errors.RaiseException, match="never changed"):
                await connection.execute(sentence)
        with pytest.raises(psycopg.errors.UniqueViolation):
            await connection.execute("INSERT INTO documents.billed_part SELECT * FROM documents.billed_part")


async def test_verify_names_the_first_fault(office: Any) -> None:
    await office.day()
    await office.sell()
    for account in ("P", "F"):
        await office.invoice(account, FIRST)
    async with await psycopg.AsyncConnection.connect(office.url, autocommit=True) as connection:
        # As a superuser: triggers are off.
        await connection.execute("SET session_replication_role = replica")
        for tamper, undo, fault in (
            (
                "UPDATE documents.document SET exact_micros = exact_micros + 1",
                "UPDATE documents.document SET exact_micros = exact_micros - 1",
                "do not sum to its total",
            ),
            (
                "UPDATE documents.billed_part SET net_micros = net_micros + 1 WHERE line = 0",
                "UPDATE documents.billed_part SET net_micros = net_micros - 1 WHERE line = 0",
                "is not the sum of what stands on it",
            ),
            (
                "UPDATE documents.series SET issued = 3",
                "UPDATE documents.series SET issued = 2",
                "INV-000003 is missing",
            ),
            (
                "UPDATE documents.run SET after_position = 1",
                "UPDATE documents.run SET after_position = 0",
                "begins after 1",
            ),
            (
                "UPDATE documents.document SET number = 'INV-000009' WHERE ordinal = 1",
                "UPDATE documents.document SET number = 'INV-000001' WHERE ordinal = 1",
                "INV-000009 says that it is invoice INV-000001",
            ),
            (
                # With its hash: but the next one of its series names the hash that it had.
                "UPDATE documents.document SET content = content || ' ', content_hash = sha256(content || ' ') WHERE ordinal = 1",
                "UPDATE documents.document SET content = rtrim(content, ' '), content_hash = sha256(rtrim(content, ' '))",
                "INV-000002 does not follow INV-000001",
            ),
        ):
            await connection.execute(tamper)
            verdict = await office.verify()
            assert (verdict.ok, fault in verdict.fault) == (False, True), verdict.fault
            await connection.execute(undo)
    # The ledger's side: what was billed there and stands on no document.
    assert (await office.verify()).ok
    async with await psycopg.AsyncConnection.connect(office.url, autocommit=True) as connection:
        await connection.execute("SET session_replication_role = replica")
        await connection.execute("DELETE FROM documents.billed_part WHERE line = 1")
    verdict = await office.verify()
    assert (verdict.ok, "sum of what stands" in verdict.fault) == (False, True), verdict.fault


async def test_a_statement_with_reserved_amounts_at_any_instant(office: Any) -> None:
    await office.day()
    await close_and_pay(office.story)
    await afterwards(office.story)

    async def statement(start: int, until: int) -> dict[str, Any]:
        request = documents_pb2.MakeStatementRequest(operator_id=OP, account_id="P", from_us=start, until_us=until)
        found: dict[str, Any] = json.loads((await office.documents.MakeStatement(request)).content)
        return found

    whole = await statement(0, 0)
    assert whole["opening"] == {"balance": "0.00", "reserved": "0.00", "debt": "0.00", "available": "0.00"}
    assert whole["closing"] == {"balance": "0.00", "reserved": "0.00", "debt": "9.11", "available": "0.00"}
    whats = [each["what"] for each in whole["entries"]]
    assert whats[:4] == ["top-up", *["reserved for a gateway"] * 3]
    assert {"use", "use beyond what was reserved", "debt paid", "payment charged back"} <= set(whats)
    # Every transfer is in one entry; reserved goes up and down with what is granted, spent and given back.
    ids = [each for entry in whole["entries"] for each in entry["transfers"]]
    assert len(ids) == len(set(ids))
    assert whole["entries"][3]["after"] == {"balance": "10.00", "reserved": "9.00", "debt": "0.00", "available": "1.00"}
    # Two statements that meet: the second opens with what the first closed with.
    first, second = await statement(0, 1), await statement(1, 0)
    assert first["closing"] == second["opening"] == {**first["closing"], "reserved": "0.00", "debt": "0.00"}
    at = await statement(1, 1)
    assert (at["entries"], at["opening"], at["closing"]) == ([], first["closing"], first["closing"])
    assert [first["entries"][-1]["after"], second["entries"][-1]["after"]] == [first["closing"], whole["closing"]]


async def test_a_receipt_is_the_use_to_the_micro(office: Any) -> None:
    await office.day()
    await office.sell()
    request = documents_pb2.MakeReceiptRequest(operator_id=OP, authorization_id=b"a1".ljust(16))
    receipt = json.loads((await office.documents.MakeReceipt(request)).content)
    assert receipt == json.loads((await office.documents.MakeReceipt(request)).content)
    assert (receipt["totals"]["exact_gross_amount"], receipt["totals"]["gross_amount"]) == ("7.35", "7.36")
    assert receipt["totals"]["rounding_difference"] == "0.01"
    assert [(each["from"], each["exact_amount"]) for each in receipt["paid"]] == [
        ("balance", "5.80"),
        ("debt", "1.00"),
        ("operator's risk", "0.55"),
    ]
    use = receipt["use"]
    assert (use["quantity"], use["unit"], use["register_from"], use["register_to"]) == ("22480", "Wh", 812_340, 834_820)
    # Nothing is proven yet: the quarters of an hour of the lines, by the site's wall clock.
    assert (use["from"], use["until"], use["times_by"]) == (
        "1970-01-01T11:00:00+01:00",
        "1970-01-01T12:15:00+01:00",
        "quarters of an hour",
    )
    assert receipt["evidence"]["proven"] is False
    assert receipt["lines"][0]["price_components"] == [
        {"type": "FLAT", "price": "0.50", "step_size": "1", "vat_included": False},
        {"type": "ENERGY", "price": "0.25", "step_size": "100", "vat_included": False},
    ]
    assert receipt["account_ids"] == ["P"]
    await office.story.ledger.correct(order("refund", "r", use="a1", gateway_id="G1"), person="alice", now=NOW)
    after = json.loads((await office.documents.MakeReceipt(request)).content)
    assert (after["totals"], after["exact_remaining"]) == (receipt["totals"], "0.00")
    assert after["exact_given_back_to_payer"] == "6.80"
    # Set aside and claimed by a clone: billed to nobody.
    request.authorization_id = b"t3".ljust(16)
    clone = json.loads((await office.documents.MakeReceipt(request)).content)
    assert (clone["totals"]["exact_gross_amount"], clone["exact_not_billed"]) == ("0.00", "1.20")
    request.authorization_id = b"nobody".ljust(16)
    assert (await refused(office.documents.MakeReceipt(request)))[0] == grpc.StatusCode.NOT_FOUND


async def test_pages_are_escaped_and_need_nothing_from_elsewhere(office: Any) -> None:
    await office.day()
    request = documents_pb2.MakeReceiptRequest(operator_id=OP, authorization_id=b"a1".ljust(16))
    pages = [render(json.loads((await office.documents.MakeReceipt(request)).content))]
    await office.sell()
    buyer = documents_pb2.Buyer(operator_id=OP, account_id="P", name="\"><img src=x onerror=alert(1)>' & <script>")
    await office.documents.PutBuyer(documents_pb2.PutBuyerRequest(buyer=buyer))
    (invoice,) = (await office.invoice("P", FIRST)).documents
    why = documents_pb2.ReplaceInvoiceRequest(
        operator_id=OP, number=invoice.number, reason="</style><script>1</script>"
    )
    replaced = (await office.documents.ReplaceInvoice(why)).documents
    asked = documents_pb2.MakeStatementRequest(operator_id=OP, account_id="P")
    statement = json.loads((await office.documents.MakeStatement(asked)).content)
    pages += [render(form(each)) for each in (invoice, *replaced)] + [render(statement)]
    for page in pages:
        assert page.startswith("<!doctype html>")
        assert "<script" not in page
        assert "<img" not in page
        assert "</style><" not in page.replace("</style></head>", "")
        assert not {"http://", "https://", "url("} & {word for word in ("http://", "https://", "url(") if word in page}
    assert "&lt;script&gt;" in pages[0]
    assert all(format_micros(micros("9.11")) in page for page in pages[1:4])
    with pytest.raises(ValueError, match="no page"):
        render({"kind": "poem"})


async def test_a_statement_ends_at_a_date(office: Any) -> None:
    for until in (-1, 253_402_300_800_000_000, 2**63 - 1):
        asked = documents_pb2.MakeStatementRequest(operator_id=OP, account_id="P", until_us=until)
        assert (await refused(office.documents.MakeStatement(asked)))[0] == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_run_of_now_is_allowed_and_one_of_tomorrow_is_not(office: Any) -> None:
    await office.day()
    await office.sell()
    assert (await office.invoice("P", real_clock().now())).changed


@pytest.mark.parametrize("quarter", [-(2**63), -1, 281_558_112, 2**63 - 1])
async def test_a_quarter_that_no_calendar_has_keeps_nobody_from_documents(office: Any, quarter: int) -> None:
    story = office.story
    raw = story.seal("G1", [("t1", "x1", 41, 42, "1.00", "0.20", [(0, "1.00", "0.20")])], [("P", "q1", CHG, "10:00")])
    batch = batch_pb2.Batch.FromString(raw)
    batch.lines[0].quarter = quarter
    await story.push(batch.SerializeToString(deterministic=True))
    await office.sell()
    asked = documents_pb2.MakeReceiptRequest(operator_id=OP, authorization_id=b"t1".ljust(16))
    receipt = json.loads((await office.documents.MakeReceipt(asked)).content)
    assert (receipt["use"]["from"], receipt["use"]["times_by"]) == (None, "unknown")
    (invoice,) = (await office.invoice("P", FIRST)).documents
    assert (invoice.exact_micros, form(invoice)["lines"][0]["used_from"]) == (micros("1.20"), None)
    assert (await office.verify()).ok
