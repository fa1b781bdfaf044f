"""Each kind of fault that ``verify`` can name has a tampering that it names so: of what people decided, and of what is granted next."""

import ast
import asyncio
import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from ledger_story import EUR, NOW, OP, ORDER, SITES, Story, grants, order, seal_all
from psycopg import sql
from psycopg.conninfo import make_conninfo

import farthing_cloud.ledger
from farthing.device.cose import key_id
from farthing.ids import GatewayId, SiteId
from farthing.v1 import batch_pb2, directive_pb2, events_pb2
from farthing_cloud.database import Pool, open_pool
from farthing_cloud.ledger.core import incarnations, reviews
from farthing_cloud.ledger.core.posting import Posting
from farthing_cloud.ledger.core.received import receive
from farthing_cloud.ledger.core.rows import CorrectionPlan, DecisionKind, Touch
from farthing_cloud.ledger.store.interface import Cursor, LedgerStore, Transaction
from farthing_cloud.ledger.store.postgres import PostgresStore
from farthing_cloud.ledger.store.verification import first_fault

LEDGER = Path(farthing_cloud.ledger.__file__).parent
G1, G2, G3 = GatewayId("G1"), GatewayId("G2"), GatewayId("G3")
KEY = b"a key of G3"


async def decided(store: LedgerStore) -> None:
    """The example's day, and after it everything that people decide: a row of each kind."""
    story = Story(store)
    await grants(story)
    sealed = seal_all(story)
    for name in ORDER:
        await story.push(sealed[name])
    await story.ledger.correct(order("refund", "r1", use="t1", gateway_id="G1"), person="ann", now=NOW)
    await _claims_that_went_down(story)
    await _floor(story)
    await _third_gateway(story)
    await _second_start(story)
    decision = await story.ledger.propose(DecisionKind.INCARNATION, G1, reason="a new disk", person="ann", now=NOW)
    await story.ledger.approve(decision.decision_id, content_hash=decision.content_hash, person="ben", now=NOW)
    await story.ledger.correct(order("goodwill", "g1", account_id="P", amount="1.00"), person="ann", now=NOW)
    await store.run(_review)
    for plan_id, approved_by in (("planned", ""), ("approved", "ben")):
        await store.run(lambda tx, plan_id=plan_id, by=approved_by: _plan(tx, plan_id, by))


async def _claims_that_went_down(story: Story) -> None:
    """Two cases without money: the first is decided, the other one open."""
    for register, net in (("a1", "6.000"), ("t1", "1.000")):
        device, start, end = ("c1", 812340, 834820) if register == "a1" else ("x1", 41, 42)
        claim = (register, device, start, end, net, "0.07", [(0, "0", "0")])
        await story.push(story.seal("G1", [claim], [("P", "overrun", ("chg-3", 200_000), "12:00")]))
    opened = [
        events_pb2.CaseOpened.FromString(event.value)
        for event in await story.store.events(Cursor(), 10, ("case.opened",))
    ]
    (first, _) = (case.case_id for case in opened if not case.aside_micros)
    assert await story.ledger.decide_case(first, release=False, now=NOW)


async def _floor(story: Story) -> None:
    """F owes what it spent on G2's floor; P's part of another use there is given back."""
    policy = directive_pb2.FloorPolicy(currency=EUR, all_tokens_micros=100_000)
    await story.ledger.issue_directive(OP, G2, policy, idempotency_key="floor", now=NOW)
    assert await story.ledger.prove(G2, 1, 1, events=(), now=NOW)


async def _third_gateway(story: Story) -> None:
    """It has keys, sealed a batch, told two stories, and was revoked."""
    await story.ledger.put_gateway(
        gateway_id=G3,
        operator_id=OP,
        site_id=SiteId(SITES["G2"]),
        currency=EUR,
        exposure_micros=0,
        batch_key=KEY,
        grant_key=b"",
        time_zone="Europe/Berlin",
        now=NOW,
    )
    batch = batch_pb2.Batch(
        operator_id=OP,
        site_id=SITES["G2"],
        gateway_id=G3,
        incarnation=1,
        start_id=bytes(16),
        sequence=1,
        previous_hash=bytes(32),
        first_position=1,
        last_position=7,
        merkle_root=bytes(32),
    )
    raw = batch.SerializeToString(deterministic=True)
    await story.ledger.post_batch(receive(raw, signature=b"", key_id=key_id(KEY), currency=EUR), currency=EUR, now=NOW)

    async def two_stories(tx: Transaction) -> None:
        view = await tx.load(Touch(operator_id=OP, currency=EUR, gateway_ids=(G3,)))
        posting = incarnations.equivocation(view, G3, 1, "two batches with one sequence", now=NOW)
        assert posting is not None
        await tx.post(posting)

    await story.store.run(two_stories)
    await story.ledger.revoke_gateway(G3, now=NOW)


async def _second_start(story: Story) -> None:
    """Another start of G2's journal is behind what was seen of it."""
    for start, position in ((b"1" * 16, 50), (b"2" * 16, 40)):
        await story.ledger.hello(G2, incarnation=1, start_id=start, position=position, now=NOW)


async def _review(tx: Transaction) -> None:
    touch = Touch(operator_id=OP, currency=EUR, gateway_ids=(G3,))
    view = await tx.load(touch)
    review, posting = reviews.propose(
        view,
        view.gateways[G3],
        [bytes(32)],
        proven_micros=5,
        unproven_micros=2,
        reason="stolen",
        person="ann",
        now=NOW,
    )
    await tx.post(posting)
    view = await tx.load(Touch(operator_id=OP, currency=EUR, review_id=review.review_id))
    approved = reviews.approve(view, review.review_id, content_hash=review.content_hash, person="ben", now=NOW)
    assert approved is not None
    await tx.post(approved)


async def _plan(tx: Transaction, plan_id: str, approved_by: str) -> None:
    await tx.load(Touch(operator_id=OP, currency=EUR))
    content = plan_id.encode()
    plan = CorrectionPlan(
        plan_id=plan_id,
        operator_id=OP,
        currency=EUR,
        content=content,
        content_hash=hashlib.sha256(content).digest(),
        items=1,
        refunds=1,
        back_micros=1,
        planned_by="ann",
        planned_at=NOW,
    )

    def posting(**what: CorrectionPlan) -> Posting:
        return Posting(
            kind="correction-plan", operator_id=OP, currency=EUR, posted_at=NOW, business_at=NOW, **what
        )  # fmt: skip

    await tx.post(posting(planned=plan))
    if approved_by:
        await tx.post(posting(plan_approved=replace(plan, approved_by=approved_by, approved_at=NOW)))


@pytest.fixture(scope="module")
def url(database_server: str, ledger_template: str) -> str:
    """A ledger after :func:`decided`: each tampering is rolled back."""
    with psycopg.connect(database_server, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE verify_decided TEMPLATE {}").format(sql.Identifier(ledger_template))
        )
    address = make_conninfo(database_server, dbname="verify_decided")

    async def play() -> None:
        pool: Pool = await open_pool(address, schema="ledger")
        await decided(PostgresStore(pool))
        await pool.close()

    asyncio.run(play())
    return make_conninfo(address, options="-c search_path=ledger")


#: A superuser takes away what stops others: triggers, and the checks of the tables whose content he writes anew.
FREE = b"""SET LOCAL session_replication_role = replica"""
UNCHECKED = b"""DO $$
DECLARE
    found record;
BEGIN
    FOR found IN SELECT conrelid::regclass AS name, conname FROM pg_constraint
        WHERE contype = 'c' AND conrelid = ANY (ARRAY['decisions', 'import_reviews', 'correction_plans']::regclass[])
    LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', found.name, found.conname);
    END LOOP;
END
$$"""

G2_WAITS = "gateway G2: why it waits for people, or that it does not, is not what was posted"
G1_SAYS = "batch 3 of G1, incarnation 1: "
FLOOR_OF_F = "wait for its debt, what was proven and given back leaves 1200000"


@pytest.mark.parametrize(
    ("tampering", "fault"),
    [
        (
            b"UPDATE accounts SET operator_id = 'other' WHERE path = 'bank/main'",
            "operator op in EUR: debits and credits do not sum to zero",
        ),
        (
            b"DELETE FROM postings WHERE kind = 'proven'",
            "audit link 22 of op (posting 22): the one before it is missing",
        ),
        (
            b"UPDATE audit_heads SET position = position + 1",
            "audit link 34 of op (posting 34): the chain ends elsewhere",
        ),
        (b"DELETE FROM postings WHERE subject = 'pay-2'", "transfer 2: no posting made it"),
        (
            b"UPDATE batches SET sequence = 7 WHERE gateway_id = 'G2' AND sequence = 3",
            "batch 7 of G2, incarnation 1: the one before it is missing",
        ),
        # Cases without money: nothing else speaks of them.
        (
            b"UPDATE cases SET status = 'open' WHERE status = 'voided'",
            "case 2: it was decided, and says that it is open",
        ),
        (
            b"UPDATE cases SET status = 'released' WHERE status = 'open' AND id NOT IN (SELECT case_id FROM asides)",
            "case 3: it says that it was released, and nobody did so",
        ),
        (b"UPDATE corrections SET posting_id = 1 WHERE correction_id = 'g1'", "correction g1: no posting made it"),
        (
            b"UPDATE corrections SET person = 'bob' WHERE correction_id = 'r1'",
            "correction r1: what was asked for, or who asked, is not what was posted",
        ),
        (
            b"UPDATE corrections SET content = content || '\\x00' WHERE correction_id = 'r1'",
            "correction r1: what was asked for, or who asked, is not what was posted",
        ),
        (b"UPDATE corrected_parts SET net_micros = net_micros - 1", "correction r1: its parts do not add up to it"),
        (
            b"""WITH p AS (UPDATE corrected_parts SET net_micros = net_micros - 1)
            UPDATE corrections SET amount_micros = amount_micros - 1 WHERE correction_id = 'r1'""",
            "correction r1: its transfers do not add up to it",
        ),
        (
            b"DELETE FROM corrections WHERE correction_id = 'r1'",
            "correction r1: it was posted, and what was asked for is not there",
        ),
        # What two persons decided.
        (
            b"UPDATE decisions SET content = content || '\\x00'",
            ": its content is not what its hash says",
        ),
        (
            b"UPDATE decisions SET approved_by = 'cleo'",
            "decision d-8b9dd6c4270c6852: no posting says that this person proposed or approved it",
        ),
        (
            b"UPDATE decisions SET approved_by = NULL, approved_at_us = NULL",
            "incarnation d-8b9dd6c4270c6852: it was posted, and what was decided is not there",
        ),
        (b"DELETE FROM decisions", "propose d-8b9dd6c4270c6852: it was posted, and what was decided is not there"),
        (
            b"UPDATE import_reviews SET approved_by = 'cleo'",
            ": no posting says that this person proposed or approved it",
        ),
        (
            b"UPDATE import_reviews SET approved_by = NULL, approved_at_us = NULL",
            ": it was posted, and what was decided is not there",
        ),
        (b"DELETE FROM import_reviews", ": it was posted, and what was decided is not there"),
        (b"UPDATE import_reviews SET content = content || '\\x00'", ": its content is not what its hash says"),
        (
            b"DELETE FROM correction_plans WHERE plan_id = 'planned'",
            "plan planned: it was posted, and what was planned is not there",
        ),
        (
            b"UPDATE correction_plans SET approved_by = NULL, approved_at_us = NULL WHERE plan_id = 'approved'",
            "plan approved: it was posted, and what was planned is not there",
        ),
        (
            b"UPDATE correction_plans SET approved_by = 'cleo', approved_at_us = 0 WHERE plan_id = 'planned'",
            "plan planned: no posting made or approved it",
        ),
        (
            b"UPDATE correction_plans SET content = content || '\\x00' WHERE plan_id = 'planned'",
            "plan planned: its content is not what its hash says",
        ),
        (
            b"UPDATE corrections SET plan_id = 'planned'",
            "plan planned: a correction executes it, and nobody approved it",
        ),
        # Keys, and who is revoked.
        (
            b"UPDATE batch_keys SET batch_key = 'mine'",
            "gateway G3: its batch key is not the present one of its keys",
        ),
        (b"UPDATE batch_keys SET until_us = 7", "gateway G3: its batch key is not the present one of its keys"),
        (
            b"UPDATE batches SET key_id = '\\x0011223344556677' WHERE gateway_id = 'G3'",
            "batch 1 of G3, incarnation 1: signed with a key that its gateway never had",
        ),
        (b"DELETE FROM gateway_revocations", "gateway G3: it was revoked, and its row is not there"),
        (
            b"INSERT INTO gateway_revocations (gateway_id, revoked_at_us) VALUES ('G2', 0)",
            "gateway G2: its row says that it is revoked, and nobody did so",
        ),
        # Who waits for people: G2 does, after G1 no more.
        (b"UPDATE gateways SET waits_because = '', waits_start_id = '' WHERE gateway_id = 'G2'", G2_WAITS),
        (b"UPDATE gateways SET waits_start_id = '' WHERE gateway_id = 'G2'", G2_WAITS),
        (
            b"UPDATE gateways SET waits_because = 'I say so' WHERE gateway_id = 'G3'",
            "gateway G3: why it waits for people, or that it does not, is not what was posted",
        ),
        # What its batches have shown of a gateway's journal.
        (
            b"UPDATE gateways SET witness_position = 1, witness_start_id = '' WHERE gateway_id = 'G3'",
            "gateway G3: its batches show a later position of its journal than its row",
        ),
        (
            b"UPDATE gateways SET sealed_sequence = 0 WHERE gateway_id = 'G3'",
            "gateway G3: more of its batches are posted than its row says it had sealed",
        ),
        (
            b"UPDATE gateways SET adopted = false WHERE gateway_id = 'G3'",
            "gateway G3: its batches are of this incarnation, and its row says that no journal has begun it",
        ),
        (
            b"UPDATE gateways SET contact_at_us = -1 WHERE gateway_id = 'G3'",
            "gateway G3: its batches came after the instant at which its row says it was last heard",
        ),
        # What stands against an exposure, so what is granted next.
        (
            b"UPDATE batches SET floor = '{}' WHERE floor <> '{}'",
            "batch 1 of G2, incarnation 1: what it billed beyond holds or on the floor is not what was posted",
        ),
        (
            b"UPDATE batches SET beyond_micros = 0 WHERE beyond_micros > 0 AND gateway_id = 'G1'",
            G1_SAYS + "what it billed beyond holds or on the floor is not what was posted",
        ),
        (
            b"UPDATE batches SET beyond_micros = beyond_micros + 1 WHERE id = 1",
            "gateway G1: its batches and what others carried give 2550001 beyond holds, what was posted gives 2550000",
        ),
        (
            b"INSERT INTO carried_beyond (authorization_id, gateway_id, micros) VALUES ('\\x01', 'G2', 5)",
            "gateway G2: its batches and what others carried give 1200005 beyond holds, what was posted gives 1200000",
        ),
        (
            b"UPDATE gateways SET beyond_micros = 0 WHERE gateway_id = 'G1'",
            "gateway G1: 0 stand against its exposure, what is not proven gives 2550000",
        ),
        (
            b"UPDATE gateways SET late_micros = 5 WHERE gateway_id = 'G1'",
            "gateway G1: it says that 5 were late, what was posted gives 0, and at most 0 by others",
        ),
        # What gateways were told, and what their rows make of it.
        (
            b"UPDATE gateways SET incarnation = 7 WHERE gateway_id = 'G2'",
            "gateway G2: it is in incarnation 7, and was told 1",
        ),
        (
            b"UPDATE gateways SET quarantined = false WHERE gateway_id = 'G3'",
            "gateway G3: its row says that it may authorize, and its directives do not",
        ),
        (
            b"UPDATE gateways SET quarantined = true WHERE gateway_id = 'G2'",
            "gateway G2: its row says that it authorizes no more, and its directives do not",
        ),
        (
            b"UPDATE gateways SET floor_micros = 0 WHERE gateway_id = 'G2'",
            "gateway G2: 0 of its exposure are kept for its floor, and it was told 100000",
        ),
        (b"UPDATE floors SET spent_micros = spent_micros + 1", "floor of G2: 1200001 of account F " + FLOOR_OF_F),
        (b"UPDATE floors SET spent_micros = 0", "floor of G2: 0 of account F " + FLOOR_OF_F),
        (b"DELETE FROM floors", "floor of G2: 0 of account F " + FLOOR_OF_F),
    ],
)
async def test_each_tampering_is_named(url: str, tampering: bytes, fault: str) -> None:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        await connection.execute(FREE)
        if b"content ||" in tampering:
            await connection.execute(UNCHECKED)
        assert await first_fault(connection) == ""
        assert (await connection.execute(tampering)).rowcount > 0
        assert fault in await first_fault(connection)
        await connection.rollback()


# --- no kind without its test ---------------------------------------------------------------------------------------------

_HERE = Path(__file__).resolve()
_TESTS = (
    _HERE,
    _HERE.with_name("test_ledger_verify.py"),
    _HERE.with_name("test_ledger_partitions.py"),
    _HERE.parents[2] / "contract" / "test_ledger_carried_ends.py",
)


def _kinds_in_sql(text: str) -> Iterator[str]:
    """Each fault that a sentence can name, as a pattern: a template, or one whose end is one of several."""
    text = re.sub(r"--.*", "", text)
    ends = re.findall(r"(?:THEN|ELSE)\s+'((?:[^']|'')*)'(\s*\|\|)?", text)
    for template in re.findall(r"format\('((?:[^']|'')*)'", text):
        words = ".*".join(map(re.escape, template.split("%%s")))
        if not template.endswith(": %%s"):
            yield words
            continue
        first = template.split(" ")[0].replace("%%s", "")
        for end, goes_on in ends:
            yield f"{re.escape(first)}.*: {re.escape(end)}" + (".*" if goes_on else "")


def _kinds_in_python(text: str) -> Iterator[str]:
    """The same of functions that return a fault: a string with names in it."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Return) and isinstance(node.value, ast.JoinedStr):
            yield "".join(
                re.escape(part.value) if isinstance(part, ast.Constant) and isinstance(part.value, str) else ".*"
                for part in node.value.values
            )


def _expected() -> list[str]:
    """Every text in the tests, those put together from named parts too."""
    texts = []
    for path in _TESTS:
        tree = ast.parse(path.read_text())
        named = {
            target.id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
            elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
                parts = [
                    side.value if isinstance(side, ast.Constant) else named.get(getattr(side, "id", ""), "")
                    for side in (node.left, node.right)
                ]
                if all(isinstance(part, str) for part in parts):
                    texts.append("".join(map(str, parts)))
    return texts


def test_each_kind_of_fault_has_a_tampering() -> None:
    kinds = {
        f"{path.name}: {kind}": kind
        for path in sorted((LEDGER / "sql").glob("verify_*.sql"))
        for kind in _kinds_in_sql(path.read_text())
    }
    for name in ("verification.py", "told.py", "gone.py"):
        kinds |= {f"{name}: {kind}": kind for kind in _kinds_in_python((LEDGER / "store" / name).read_text())}
    assert len(kinds) > 60
    expected = _expected()
    missing = [name for name, kind in kinds.items() if not any(re.search(kind, text) for text in expected)]
    assert not missing, "\n".join(missing)
