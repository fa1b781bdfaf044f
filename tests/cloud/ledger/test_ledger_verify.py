"""``verify`` names the first fault; the database itself refuses to change what was posted."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count

import psycopg
import pytest
from ledger_story import EUR, NOW, OP, ORDER, SPLIT, Story, grants, order, seal_all
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow

from farthing.clock import Instant
from farthing.ids import GatewayId, SiteId
from farthing.v1 import directive_pb2, events_pb2
from farthing_cloud.database import Pool, open_pool
from farthing_cloud.ledger.core.directives import Body
from farthing_cloud.ledger.store import verification
from farthing_cloud.ledger.store.interface import Cursor, Signed, Tell
from farthing_cloud.ledger.store.postgres import PostgresStore
from farthing_cloud.ledger.store.verification import first_fault

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


@pytest.fixture(scope="module")
def days(database_server: str, ledger_template: str) -> dict[str, str]:
    """URLs of two ledgers with the example's day, its window open and closed: each tampering is rolled back."""

    async def play(url: str, then: Callable[[PostgresStore], Awaitable[None]] | None) -> None:
        pool = await open_pool(url, schema="ledger")
        store = await played(pool)
        if then is not None:
            await then(store)
        await pool.close()

    urls = {}
    for name, then in (("played", None), ("closed", closed)):
        with psycopg.connect(database_server, autocommit=True) as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                    sql.Identifier(f"verify_{name}"), sql.Identifier(ledger_template)
                )
            )
        url = make_conninfo(database_server, dbname=f"verify_{name}")
        asyncio.run(play(url, then))
        urls[name] = make_conninfo(url, options="-c search_path=ledger")
    return urls


@pytest.mark.parametrize(
    ("tampering", "fault"),
    [
        (
            b"UPDATE accounts SET credits_posted = credits_posted + 1 WHERE path = 'payer/P'",
            "account payer/P of op in EUR: its transfers give {0,9110000,0,10000000}, it says {0,9110000,0,10000001}",
        ),
        (
            b"UPDATE transfers SET amount_micros = amount_micros + 1 WHERE id = 8",
            "account quota/G1 of op in EUR: its transfers give {0,0,-1,0}, it says {0,0,0,0}",
        ),
        (
            b"DELETE FROM transfers WHERE id = 8",
            "account quota/G1 of op in EUR: its transfers give {0,0,1534250,0}, it says {0,0,0,0}",
        ),
        # Both sides and the transfer, so that double entry still holds: the audit chain does not.
        (
            b"""WITH t AS (UPDATE transfers SET amount_micros = amount_micros + 1 WHERE id = 1 RETURNING 1)
            UPDATE accounts SET credits_posted = credits_posted + (path = 'payer/P')::int,
                debits_posted = debits_posted + (path = 'bank/main')::int""",
            "audit link 5 of op (posting 5): its transfers are not those that were posted",
        ),
        (
            b"UPDATE transfers SET cause = 'late' WHERE cause = 'overrun'",
            "audit link 12 of op (posting 12): its transfers are not those that were posted",
        ),
        (
            b"UPDATE quotas SET posted_micros = posted_micros - 1, voided_micros = voided_micros + 1 WHERE id = 1",
            "quota q-a002abb7c5681b86e169e039: its transfers give held 4000000, posted 4000000, voided 0; it says 4000000, 3999999, 1 (closed)",
        ),
        (
            b"UPDATE claims SET net_micros = net_micros + 1 WHERE sequence = 3",
            "operator op: the claims add up to 12060002, the batches to 12060000",
        ),
        (
            b"""UPDATE claims SET register_to = register_to + 7, net_micros = net_micros + 1, tax_micros = tax_micros - 1
            WHERE sequence = 3 AND gateway_id = 'G1'""",
            "claim 61312020202020202020202020202020: says (834827, 6125001, 1224999), batch 3 of G1, incarnation 1, says (834820, 6125000, 1225000)",
        ),
        (
            b"UPDATE batches SET batch = batch || '\\x00' WHERE id = 2",
            "batch 2 of G1, incarnation 1: its bytes do not have its hash",
        ),
        (
            b"DELETE FROM batches WHERE gateway_id = 'G1' AND sequence = 2",
            "operator op: the claims add up to 12060000, the batches to 9535800",
        ),
        (
            b"UPDATE batches SET previous_hash = sha256('other') WHERE gateway_id = 'G2' AND sequence = 2",
            "batch 2 of G2, incarnation 1: it does not follow the one before it",
        ),
        (
            b"UPDATE chains SET sequence = 2 WHERE gateway_id = 'G2'",
            "batch 3 of G2, incarnation 1: the chain ends elsewhere",
        ),
        # What is due stays the same, so that the claims still add up to it.
        (
            b"UPDATE batches SET net_micros = net_micros - 1, aside_micros = aside_micros + 1 WHERE id = 2",
            "batch 2 of G1, incarnation 1: its transfers do not add up to it",
        ),
        (
            b"UPDATE batches SET parked_statements = 1 WHERE id = 2",
            "batch 2 of G1, incarnation 1: brings 0 parked statements, it says 1",
        ),
        # Nobody owes what is there to be taken.
        (
            b"UPDATE payers SET credit_limit_micros = credit_limit_micros + 1000000000",
            "account debt/F of op owes 400000 with 1000000000 available",
        ),
        (
            b"UPDATE directives SET body = body || '\\x00' WHERE version = 2",
            "directive 2 of G1: its bytes do not have its hash",
        ),
        (
            b"DELETE FROM directives WHERE gateway_id = 'G1' AND version = 2",
            "directive 3 of G1: the one before it is missing",
        ),
        (
            b"DELETE FROM directives WHERE gateway_id = 'G1' AND version = 3",
            "directive 2 of G1: the chain ends elsewhere",
        ),
        (
            b"UPDATE directives SET body = body || '\\x00', body_hash = sha256(body || '\\x00') WHERE version = 2",
            "directive 3 of G1: it does not follow the one before it",
        ),
        (
            b"UPDATE postings SET subject = 'pay-3' WHERE subject = 'pay-2'",
            "audit link 6 of op (posting 6): it does not follow the one before it",
        ),
        (b"DELETE FROM postings WHERE id = (SELECT max(id) FROM postings)", "transfer 36: no posting made it"),
        (
            b"UPDATE asides SET net_micros = net_micros - 1",
            "account suspense/S2 of op differs from its other side or from its open cases",
        ),
        (
            b"UPDATE payments SET amount_micros = amount_micros - 1 WHERE payment_id = 'pay-1'",
            "payment pay-1: account, amount or source are not what was posted",
        ),
        (b"UPDATE payments SET payment_id = 'pay-9' WHERE payment_id = 'pay-1'", "payment pay-9: no posting made it"),
        (
            b"DELETE FROM payments WHERE payment_id = 'pay-1'",
            "payment pay-1: it was posted, and its row is not there: the same payment would count again",
        ),
        (
            b"UPDATE batches SET proven = true WHERE id = 2",
            "batch 2 of G1, incarnation 1: it says that it is proven, and nobody proved it",
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
            "request G2/1/2: it was answered with 3000001 micros of quota q-02e676a0cce0e812f50fa73e, which is not what was granted",
        ),
        (
            b"UPDATE receipts SET receipt = receipt || '\\x00'",
            "batch 1 of G1, incarnation 1: its receipt is not what was posted",
        ),
        (
            b"UPDATE batches SET posted_at_us = 7 WHERE id = 3",
            "batch 3 of G1, incarnation 1: its receipt is not what was posted",
        ),
        # Terms that people set: limits, exposures, keys.
        (
            b"UPDATE payers SET debt_limit_micros = debt_limit_micros + 1 WHERE account_id = 'F'",
            "account F of op: its terms are not those that were set",
        ),
        (
            b"UPDATE payers SET status = 'closed' WHERE account_id = 'F'",
            "account F of op: its terms are not those that were set",
        ),
        (
            b"UPDATE gateways SET exposure_micros = 1 + exposure_micros WHERE gateway_id = 'G1'",
            "gateway G1 of op: its terms are not those that were set",
        ),
        (
            b"UPDATE gateways SET batch_key = '\\x01' WHERE gateway_id = 'G2'",
            "gateway G2 of op: its terms are not those that were set",
        ),
        (
            b"UPDATE gateways SET grant_key = '\\x01' WHERE gateway_id = 'G2'",
            "gateway G2 of op: its terms are not those that were set",
        ),
        (
            b"""UPDATE gateways SET earlier_grant_keys = ARRAY['\\x01'::bytea], earlier_grant_untils_us = ARRAY[9000000000000000]
            WHERE gateway_id = 'G2'""",
            "gateway G2 of op: its terms are not those that were set",
        ),
        (b"DELETE FROM payers WHERE account_id = 'F'", "account F of op: its terms were set, and its row is not there"),
        (
            b"""INSERT INTO payers (operator_id, currency, account_id, status, credit_limit_micros, debt_limit_micros,
                preload_micros) VALUES ('op', 'EUR', 'mine', 'active', 1000000000, 0, 0)""",
            "account mine of op: nobody set its terms",
        ),
        # Whose hold it is, and on which register a use stands.
        (
            b"UPDATE quotas SET account_id = 'F' WHERE id = 1",
            "quota q-a002abb7c5681b86e169e039: it was not granted to G1 for F",
        ),
        (
            b"UPDATE registers SET device_id = 'other' WHERE device_id = 'c1'",
            "claim 61312020202020202020202020202020: batch 3 of G1, incarnation 1, bills another register",
        ),
        (
            b"UPDATE cases SET status = 'voided'",
            "account suspense/S2 of op differs from its other side or from its open cases",
        ),
        # How a closed window was split, which refunds go by.
        (
            b"UPDATE closed_splits SET parts = '[[\"agency/A\", 1000000]]' WHERE closed = 'w1'",
            "window w1 of op in EUR: site S1 was split by another rule",
        ),
        (
            b"UPDATE closed_splits SET remainder_path = 'nobody' WHERE closed = 'w1'",
            "window w1 of op in EUR: the rule that site S1 was split by splits nothing",
        ),
        (
            b"DELETE FROM closed_splits WHERE closed = 'w1'",
            "window w1 of op in EUR: the rule that site S1 was split by is not there",
        ),
        (
            b"UPDATE closings SET answer = decode('ff', 'hex') WHERE closed = 'w1'",
            "window w1 of op in EUR: its answer cannot be read",
        ),
        (
            b"UPDATE closings SET answer = '' WHERE closed = 'w1'",
            "window w1 of op in EUR: who got what of it is not what was posted",
        ),
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
async def test_each_tampering_is_named(days: dict[str, str], tampering: bytes, fault: str) -> None:
    about_closing = b"closings" in tampering or b"closed_splits" in tampering or b"w1'" in tampering
    url = days["closed" if about_closing else "played"]
    async with await psycopg.AsyncConnection.connect(url) as connection:
        assert await first_fault(connection) == ""
        await connection.execute(FREE)
        assert (await connection.execute(tampering)).rowcount > 0
        assert fault in await first_fault(connection)
        await connection.rollback()


async def test_verify_counts_what_it_replayed(ledger_pool: Pool) -> None:
    verdict = await (await played(ledger_pool)).verify()
    assert (verdict.fault, verdict.transfers, verdict.batches) == ("", 38, 6)


async def test_what_is_posted_meanwhile_is_not_looked_at(ledger_pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await played(ledger_pool)
    count_them = b"SELECT count(*) FROM transfers"

    async def while_posting(connection: psycopg.AsyncConnection[TupleRow], _: Tell) -> str:
        before = await (await connection.execute(count_them)).fetchone()
        await Story(store).fund("P", "0.01", "meanwhile")
        assert await (await connection.execute(count_them)).fetchone() == before
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            async with connection.transaction():
                await connection.execute(b"DELETE FROM outbox")
        return await first_fault(connection)

    monkeypatch.setattr(verification, "first_fault", while_posting)
    verdict = await store.verify()
    assert verdict.fault == ""
    monkeypatch.undo()
    # The next one sees it.
    assert (await store.verify()).transfers > verdict.transfers


async def test_a_batch_that_was_proven_stays_proven(ledger_pool: Pool) -> None:
    store = await played(ledger_pool)
    await closed(store)
    async with ledger_pool.connection() as connection, connection.transaction():
        await connection.execute(FREE)
        await connection.execute(b"UPDATE batches SET proven = false WHERE gateway_id = 'G1' AND sequence = 2")
    assert "batch 2 of G1, incarnation 1: it was proven, and says that it is not" in (await store.verify()).fault


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


async def named_after(store: PostgresStore, pool: Pool, tampering: bytes) -> str:
    """The fault after a tampering, where there was none before."""
    assert (await store.verify()).fault == ""
    async with pool.connection() as connection, connection.transaction():
        await connection.execute(FREE)
        assert (await connection.execute(tampering)).rowcount > 0
    return (await store.verify()).fault


@pytest.mark.parametrize(
    ("tampering", "fault"),
    [
        (
            b"UPDATE cases SET status = 'released'",
            "account suspense/S2 of op differs from its other side or from its open cases",
        ),
        # As if nothing had been set aside, so that the sums hold.
        (b"DELETE FROM cases", "case 1: it was decided, and its row is not there"),
    ],
)
async def test_a_case_that_was_tampered_with_is_named(ledger_pool: Pool, tampering: bytes, fault: str) -> None:
    store = await played(ledger_pool)
    if b"DELETE" in tampering:
        (event,) = await store.events(Cursor(), 10, ("case.opened",))
        case_id = events_pb2.CaseOpened.FromString(event.value).case_id
        assert await Story(store).ledger.decide_case(case_id, release=False, now=NOW)
    assert fault in await named_after(store, ledger_pool, tampering)


async def test_an_account_that_was_closed_stays_closed(ledger_pool: Pool) -> None:
    store = PostgresStore(ledger_pool)
    story = Story(store)
    await story.open()
    await story.ledger.correct(order("closing", "end", account_id="F"), person="alice", now=NOW)
    assert (await store.verify()).fault == ""
    open_again = b"UPDATE payers SET status = 'suspended' WHERE account_id = 'F'"
    assert "account F of op: its terms are not those that were set" in await named_after(store, ledger_pool, open_again)


async def test_one_version_of_a_tariff_is_told_in_one_way(ledger_pool: Pool) -> None:
    """A registry whose tariff was changed in its table tells the next gateway other terms under the same version."""
    store = PostgresStore(ledger_pool)
    story = Story(store)
    await story.open()

    async def tell(gateway: str, ocpi_json: bytes, wish: int) -> None:
        record = directive_pb2.TariffRecord(tariff_id="chg-3", version=1, currency=EUR, ocpi_json=ocpi_json)
        await story.ledger.issue_directive(
            OP, GatewayId(gateway), record, idempotency_key=f"registry/{wish}/0123", now=NOW
        )

    await tell("G1", b"{}", 1)
    await tell("G2", b"{}", 2)
    assert (await store.verify()).fault == ""
    await tell("G2", b'{"price": 0}', 3)
    assert (await store.verify()).fault == "tariff chg-3 version 1 of op: G2 was told other terms than G1"


async def test_what_is_gone_for_ever_comes_back_at_no_gateway(ledger_pool: Pool) -> None:
    """A registry or vault whose row was changed back tells it to the next gateway; a device's key changes with its epoch only."""
    store = PostgresStore(ledger_pool)
    story = Story(store)
    await story.open()
    wishes = count(1)
    gone = directive_pb2.DEVICE_STATUS_DECOMMISSIONED

    async def tell(gateway: str, at_us: int, body: Body) -> str:
        service = "registry" if isinstance(body, directive_pb2.DeviceRecord) else "vault"
        key = f"{service}/{next(wishes)}/0123"
        await story.ledger.issue_directive(OP, GatewayId(gateway), body, idempotency_key=key, now=Instant(at_us))
        return (await store.verify()).fault

    def device(name: str, status: int = 1, *, key: bytes = b"k", epoch: int = 1) -> directive_pb2.DeviceRecord:
        fields = {"device_id": name, "status": status, "statement_key": key, "device_epoch": epoch}
        return directive_pb2.DeviceRecord(**fields)  # type: ignore[arg-type]  # as their names say

    def token(reference: bytes) -> directive_pb2.TokenRecord:
        return directive_pb2.TokenRecord(token_ref=reference, key_epoch=1, token_id="t1", account_id="P")

    # Words on their way: who was told before need not have heard yet, and who has heard may be told again.
    for gateway, at_us, body in (
        ("G1", 1, device("c1")),
        ("G2", 2, device("c1", key=b"k2", epoch=2)),
        ("G2", 5, device("c1", gone, key=b"k2", epoch=2)),
        ("G1", 7, device("c1", gone, key=b"k2", epoch=2)),
        ("G1", 8, token(b"r1")),
        ("G2", 8, token(b"r2")),
        ("G1", 9, directive_pb2.TokenDenied(token_ref=b"r1", key_epoch=1, reason="stolen")),
        ("G1", 10, token(b"r1")),
    ):
        assert await tell(gateway, at_us, body) == ""
    came_back = " is gone for ever, and G1 later that it is not"
    assert await tell("G1", 6, device("c1", key=b"k2", epoch=2)) == "device c1 of op: G2 was told that it" + came_back
    assert await tell("G1", 6, device("c1", gone, key=b"k2", epoch=2)) == ""
    known_again = "token t1 of op: G1 was told that it is gone for ever, and G2 later that it is not"
    assert await tell("G2", 10, token(b"r2")) == known_again
    assert await tell("G2", 11, directive_pb2.TokenDenied(token_ref=b"r2", key_epoch=1, reason="stolen")) == ""
    another = "device c1 of op: G2 was told another key of epoch 1 than G1"
    assert await tell("G2", 12, device("c1", gone, key=b"mine")) == another


async def test_whose_account_a_token_pays_from_is_told_to_every_gateway(ledger_pool: Pool) -> None:
    """A vault whose row was changed tells the other account to the gateways that come after alone."""
    store = PostgresStore(ledger_pool)
    story = Story(store)
    await story.open()

    async def tell(gateway: str, wish: int, token_id: str, account_id: str) -> str:
        body = directive_pb2.TokenRecord(
            token_ref=f"{gateway}{token_id}".encode(), key_epoch=1, token_id=token_id, account_id=account_id
        )
        key = f"vault/{wish}/0123"
        await story.ledger.issue_directive(OP, GatewayId(gateway), body, idempotency_key=key, now=NOW)
        return (await store.verify()).fault

    # A person gives a token to another account: G2's word is on its way, and what G2 hears in between is older.
    for gateway, wish, token_id, account_id in (
        ("G1", 1, "t1", "P"),
        ("G2", 2, "t1", "P"),
        ("G1", 4, "t1", "F"),
        ("G2", 3, "t2", "P"),
        ("G2", 5, "t1", "F"),
        ("G1", 6, "t3", "P"),
    ):
        assert await tell(gateway, wish, token_id, account_id) == ""
    # Somebody changed a row: G2 is given its keys anew, and told so. G1 has heard nothing since; then it does.
    assert await tell("G2", 7, "t1", "P") == ""
    passed_over = "token t1 of op: G2 was told that P pays, and G1 never, which goes by F"
    assert await tell("G1", 8, "t4", "P") == passed_over
    assert await tell("G1", 9, "t1", "P") == ""


async def test_terms_that_were_set_before_links_named_them_wait_until_they_are_set_again(ledger_pool: Pool) -> None:
    store = await played(ledger_pool)
    async with ledger_pool.connection() as connection, connection.transaction():
        await connection.execute(FREE)
        # As an older program wrote them, and the chain by it.
        await connection.execute(
            b"""WITH RECURSIVE again (id, position, head) AS (
                SELECT 0::bigint, 0::bigint, decode(repeat('00', 32), 'hex')
                UNION ALL
                SELECT p.id, p.position, sha256(a.head || convert_to(concat(p.operator_id, '|', p.currency, '|', p.kind, '|',
                    CASE WHEN p.kind NOT IN ('account', 'gateway') THEN p.subject END, '|', p.posted_at_us, '|',
                    p.business_at_us, '|'), 'UTF8') || p.digest)
                FROM again a JOIN postings p ON p.position = a.position + 1
            ), links AS (
                UPDATE postings p SET head = a.head,
                    subject = CASE WHEN p.kind NOT IN ('account', 'gateway') THEN p.subject ELSE '' END
                FROM again a WHERE a.id = p.id
            ), batched AS (
                UPDATE batches b SET audit_head = a.head FROM again a WHERE a.id = b.posting_id)
            UPDATE audit_heads h SET head = (SELECT a.head FROM again a ORDER BY a.position DESC LIMIT 1)"""
        )
        await connection.execute(b"DELETE FROM receipts")
    assert (await store.verify()).fault == ""


@pytest.mark.parametrize("table", ["transfers", "postings", "batches", "directives", "receipts", "corrections"])
@pytest.mark.parametrize("statement", ["DELETE FROM {}", "TRUNCATE {} CASCADE"])
async def test_what_was_posted_cannot_be_taken_out(days: dict[str, str], table: str, statement: str) -> None:
    async with await psycopg.AsyncConnection.connect(days["played"]) as connection:
        with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
            await connection.execute(statement.format(table).encode())


async def test_a_transfer_cannot_be_changed(ledger_pool: Pool) -> None:
    await played(ledger_pool)
    async with ledger_pool.connection() as connection:
        with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
            await connection.execute(b"UPDATE transfers SET amount_micros = 1")


#: Of each table that keeps what was posted, asked or told: a column that never changes, and those that do.
KEPT = {
    "transfers": ("amount_micros", ()),
    "postings": ("subject", ()),
    "receipts": ("receipt", ()),
    "payments": ("amount_micros", ()),
    "closings": ("answer", ()),
    "quota_requests": ("amount_micros", ()),
    "parked_lines": ("reason", ()),
    "parked_batches": ("batch", ()),
    "asides": ("net_micros", ()),
    "told": ("account_id", ()),
    "outbox": ("value", ()),
    "outbox_readers": ("reader", ("transaction_id", "sequence", "said_at_us")),
    "outbox_pruned": ("only_row", ("transaction_id", "sequence")),
    "batches": ("beyond_micros", ("proven", "clearing_micros")),
    "claims": ("register_from", ("register_to", "net_micros", "tax_micros", "final", "aside", "raised_by")),
    "quotas": ("amount_micros", ("posted_micros", "voided_micros", "status", "in_use_at_us")),
    "cases": ("site_id", ("status",)),
    "directives": ("body", ("signature", "key_id")),
    "decisions": ("content", ("approved_by", "approved_at_us")),
    "correction_plans": ("content", ("approved_by", "approved_at_us")),
    "import_reviews": ("content", ("approved_by", "approved_at_us")),
    "batch_keys": ("batch_key", ("until_us", "revoked_us")),
    "accounts": ("path", ("debits_pending", "debits_posted", "credits_pending", "credits_posted")),
    "books": ("currency", ("open_window",)),
    "chains": ("incarnation", ("sequence", "head_hash", "proven_sequence")),
    "audit_heads": ("operator_id", ("position", "head")),
}


@pytest.mark.parametrize("table", KEPT)
async def test_the_serving_role_may_change_what_has_to_change_and_no_more(days: dict[str, str], table: str) -> None:
    kept, changing = KEPT[table]
    async with await psycopg.AsyncConnection.connect(days["played"]) as connection:
        await connection.execute(b"SET ROLE farthing_ledger")
        for column in changing:
            await connection.execute(f"UPDATE {table} SET {column} = {column} WHERE false".encode())
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await connection.execute(f"UPDATE {table} SET {kept} = {kept} WHERE false".encode())
