"""``verify`` names the first fault; the database itself refuses to change what was posted."""

import psycopg
import pytest
from ledger_story import EUR, NOW, OP, ORDER, SPLIT, Story, grants, order, seal_all

from farthing.ids import GatewayId, SiteId
from farthing_cloud.database import Pool
from farthing_cloud.ledger.store.interface import Signed
from farthing_cloud.ledger.store.postgres import PostgresStore

pytestmark = pytest.mark.real

# A superuser can take the triggers away; ``verify`` still sees what he did.
FREE = b"SET LOCAL session_replication_role = replica"


async def played(pool: Pool) -> PostgresStore:
    store = PostgresStore(pool)
    story = Story(store)
    await grants(story)
    sealed = seal_all(story)
    for name in ORDER:
        content = (await story.push(sealed[name])).receipt
        assert content is not None
        await store.keep_receipts([(content.batch_hash, Signed(body=content.encode(), signature=b"s", key_id=b"k"))])
    return store


async def closed(store: PostgresStore) -> None:
    """G1 is proven, the window closed."""
    ledger = Story(store).ledger
    for sequence in (1, 2, 3):
        await ledger.prove(GatewayId("G1"), 1, sequence, events=(), now=NOW)
    await ledger.close_window(OP, EUR, "w1", {SiteId("S1"): SPLIT}, now=NOW)


@pytest.mark.parametrize(
    ("tampering", "fault"),
    [
        (b"UPDATE accounts SET credits_posted = credits_posted + 1 WHERE path = 'payer/P'", "account payer/P"),
        (b"UPDATE transfers SET amount_micros = amount_micros + 1 WHERE id = 8", "account quota/G1"),
        (b"DELETE FROM transfers WHERE id = 8", "account quota/G1"),
        # Both sides and the transfer, so that double entry still holds: the audit chain does not.
        (
            b"""WITH t AS (UPDATE transfers SET amount_micros = amount_micros + 1 WHERE id = 1 RETURNING 1)
            UPDATE accounts SET credits_posted = credits_posted + (path = 'payer/P')::int,
                debits_posted = debits_posted + (path = 'bank/main')::int""",
            "its transfers are not those that were posted",
        ),
        (b"UPDATE transfers SET cause = 'late' WHERE cause = 'overrun'", "its transfers are not those"),
        (
            b"UPDATE quotas SET posted_micros = posted_micros - 1, voided_micros = voided_micros + 1 WHERE id = 1",
            "quota q-",
        ),
        (b"UPDATE claims SET net_micros = net_micros + 1 WHERE sequence = 3", "the claims add up to"),
        (
            b"""UPDATE claims SET register_to = register_to + 7, net_micros = net_micros + 1, tax_micros = tax_micros - 1
            WHERE sequence = 3 AND gateway_id = 'G1'""",
            "claim 6131",
        ),
        (b"UPDATE batches SET batch = batch || '\\x00' WHERE id = 2", "its bytes do not have its hash"),
        (b"DELETE FROM batches WHERE gateway_id = 'G1' AND sequence = 2", "the claims add up to"),
        (
            b"UPDATE batches SET previous_hash = sha256('other') WHERE gateway_id = 'G2' AND sequence = 2",
            "batch 2 of G2, incarnation 1: it does not follow the one before it",
        ),
        (b"UPDATE chains SET sequence = 2 WHERE gateway_id = 'G2'", "the chain ends elsewhere"),
        # What is due stays the same, so that the claims still add up to it.
        (
            b"UPDATE batches SET net_micros = net_micros - 1, aside_micros = aside_micros + 1 WHERE id = 2",
            "batch 2 of G1, incarnation 1: its transfers do not add up to it",
        ),
        # Nobody owes what is there to be taken.
        (b"UPDATE payers SET credit_limit_micros = credit_limit_micros + 1000000000", "available"),
        (b"UPDATE directives SET body = body || '\\x00' WHERE version = 2", "its bytes do not have its hash"),
        (b"DELETE FROM directives WHERE gateway_id = 'G1' AND version = 2", "directive 3 of G1: the one before it"),
        (b"DELETE FROM directives WHERE gateway_id = 'G1' AND version = 3", "directive 2 of G1: the chain ends"),
        (
            b"UPDATE directives SET body = body || '\\x00', body_hash = sha256(body || '\\x00') WHERE version = 2",
            "it does not follow the one before it",
        ),
        (b"UPDATE postings SET subject = 'pay-3' WHERE subject = 'pay-2'", "it does not follow the one before it"),
        (b"DELETE FROM postings WHERE id = (SELECT max(id) FROM postings)", "no posting made it"),
        (b"UPDATE asides SET net_micros = net_micros - 1", "account suspense/S2"),
        (
            b"UPDATE payments SET amount_micros = amount_micros - 1 WHERE payment_id = 'pay-1'",
            "payment pay-1: account, amount",
        ),
        (b"UPDATE payments SET payment_id = 'pay-9' WHERE payment_id = 'pay-1'", "payment pay-9: no posting made it"),
        (b"DELETE FROM payments WHERE payment_id = 'pay-1'", "payment pay-1: it was posted, and its row is not there"),
        (
            b"UPDATE batches SET proven = true WHERE id = 2",
            "batch 2 of G1, incarnation 1: it says that it is proven, and nobody",
        ),
        (
            b"DELETE FROM closings WHERE closed = 'w1'",
            "window w1 of op in EUR: it was closed, and its row is not there",
        ),
        (
            b"UPDATE closings SET posting_id = posting_id - 1",
            "window w1 of op in EUR: no posting closed it",
        ),
        (b"UPDATE books SET open_window = 'w1'", "window w1 of op in EUR: the books have it open"),
        # From a closed window, in both sides and by a transfer: rule 3.
        (
            b"""WITH moved AS (
                UPDATE accounts SET debits_posted = debits_posted + (path = 'clearing/S1/w1')::int,
                    credits_posted = credits_posted + (path = 'risk')::int
                WHERE path IN ('clearing/S1/w1', 'risk'))
            INSERT INTO transfers (posting_id, debit_id, credit_id, amount_micros, kind, cause, quota)
            SELECT (SELECT max(id) FROM postings), d.id, c.id, 1, 'post', 'use', 0
            FROM accounts d, accounts c WHERE d.path = 'clearing/S1/w1' AND c.path = 'risk'""",
            "account clearing/S1/w1 of op is closed and does not stand at zero",
        ),
        (
            b"UPDATE quota_requests SET amount_micros = amount_micros + 1 WHERE counter = 2",
            "request G2/1/2: it was answered with",
        ),
        (b"UPDATE receipts SET receipt = receipt || '\\x00'", "batch 1 of G1, incarnation 1: its receipt is not what"),
        (b"UPDATE batches SET posted_at_us = 7 WHERE id = 3", "batch 3 of G1, incarnation 1: its receipt is not what"),
        # A superuser who makes a link of the chain, and all after it, anew.
        (
            b"""WITH RECURSIVE again (id, position, head) AS (
                SELECT p.id, p.position, p.head FROM postings p WHERE p.position = 1
                UNION ALL
                SELECT p.id, p.position, sha256(a.head || convert_to(concat(p.operator_id, '|', p.currency, '|', p.kind, '|',
                    p.subject, '|', p.posted_at_us, '|', p.business_at_us + (p.position = 2)::int, '|'), 'UTF8') || p.digest)
                FROM again a JOIN postings p ON p.position = a.position + 1
            ), links AS (
                UPDATE postings p SET head = a.head, business_at_us = p.business_at_us + (p.position = 2)::int
                FROM again a WHERE a.id = p.id)
            UPDATE audit_heads h SET head = (SELECT a.head FROM again a ORDER BY a.position DESC LIMIT 1)""",
            "batch 1 of G1, incarnation 1: its receipt names another head of the audit chain",
        ),
    ],
)
async def test_each_tampering_is_named(ledger_pool: Pool, tampering: bytes, fault: str) -> None:
    store = await played(ledger_pool)
    verdict = await store.verify()
    assert (verdict.fault, verdict.transfers, verdict.batches) == ("", 38, 6)
    if b"closings" in tampering or b"'w1'" in tampering or b"/w1'" in tampering:
        await closed(store)
        assert (await store.verify()).fault == ""
    async with ledger_pool.connection() as connection, connection.transaction():
        await connection.execute(FREE)
        assert (await connection.execute(tampering)).rowcount > 0
    assert fault in (await store.verify()).fault


@pytest.mark.parametrize(
    ("tampering", "fault"),
    [
        (b"UPDATE corrections SET person = 'bob'", "or who asked, is not what was posted"),
        (b"UPDATE corrections SET content = content || '\\x00'", "what was asked for, or who asked"),
        (b"UPDATE corrected_parts SET net_micros = net_micros - 1", "its parts do not add up to it"),
        (
            b"""WITH p AS (UPDATE corrected_parts SET net_micros = net_micros - 1)
            UPDATE corrections SET amount_micros = amount_micros - 1""",
            "correction r1: its transfers do not add up to it",
        ),
        (b"DELETE FROM corrections", "correction r1: it was posted, and what was asked for is not there"),
    ],
)
async def test_a_correction_that_was_tampered_with_is_named(ledger_pool: Pool, tampering: bytes, fault: str) -> None:
    store = await played(ledger_pool)
    refund = order("refund", "r1", use="t1", gateway_id="G1")
    await Story(store).ledger.correct(refund, person="alice", now=NOW)
    assert (await store.verify()).fault == ""
    async with ledger_pool.connection() as connection, connection.transaction():
        await connection.execute(FREE)
        assert (await connection.execute(tampering)).rowcount > 0
    assert fault in (await store.verify()).fault


async def test_a_batch_that_was_proven_stays_proven(ledger_pool: Pool) -> None:
    store = await played(ledger_pool)
    await closed(store)
    async with ledger_pool.connection() as connection, connection.transaction():
        await connection.execute(FREE)
        await connection.execute(b"UPDATE batches SET proven = false WHERE gateway_id = 'G1' AND sequence = 2")
    assert "batch 2 of G1, incarnation 1: it was proven, and says" in (await store.verify()).fault


async def test_a_payback_that_says_of_itself_that_it_left_is_named(ledger_pool: Pool) -> None:
    store = await played(ledger_pool)
    story = Story(store)
    await story.fund("F", "5.00", "pay-3")
    payback = order("payback", "b1", account_id="F", path="bank/main", amount="1.00")
    await story.ledger.correct(payback, person="alice", now=NOW)
    sent = order("payback-sent", "s1", payback_id="b1", payment_id="camt-1")
    assert (await store.verify()).fault == ""
    await story.ledger.correct(sent, person="alice", now=NOW)
    assert (await store.verify()).fault == ""
    # Under way again, so that somebody sends it a second time.
    async with ledger_pool.connection() as connection, connection.transaction():
        await connection.execute(FREE)
        await connection.execute(b"DELETE FROM corrections WHERE correction_id = 's1'")
    assert "account transit/b1 of op is not what its payback has under way" in (await store.verify()).fault


@pytest.mark.parametrize("table", ["transfers", "postings", "batches", "directives", "receipts", "corrections"])
@pytest.mark.parametrize("statement", ["DELETE FROM {}", "TRUNCATE {} CASCADE"])
async def test_what_was_posted_cannot_be_taken_out(ledger_pool: Pool, table: str, statement: str) -> None:
    await played(ledger_pool)
    async with ledger_pool.connection() as connection:
        with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
            await connection.execute(statement.format(table).encode())


async def test_a_transfer_cannot_be_changed(ledger_pool: Pool) -> None:
    await played(ledger_pool)
    async with ledger_pool.connection() as connection:
        with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
            await connection.execute(b"UPDATE transfers SET amount_micros = 1")


async def test_the_serving_role_may_not_change_what_was_posted(ledger_pool: Pool) -> None:
    await played(ledger_pool)
    async with ledger_pool.connection() as connection, connection.transaction(force_rollback=True):
        await connection.execute(b"SET LOCAL ROLE farthing_ledger")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await connection.execute(b"UPDATE transfers SET amount_micros = 1")
