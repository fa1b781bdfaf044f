"""A gateway's conversation with the door, over gRPC, with the real store behind it."""

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from door_parties import NET, START, TAX, Cloud, Gateway, opened, push, refused
from ledger_story import EUR, OP

from farthing.ids import AccountId
from farthing.v1 import (
    batch_pb2,
    directive_pb2,
    events_pb2,
    gateway_sync_pb2,
    ledger_pb2,
)

pytestmark = pytest.mark.real


async def test_batches_go_in_and_the_same_receipts_come_out(cloud: Cloud) -> None:
    gateway = Gateway()
    quota_id = await opened(cloud, gateway)
    batches = [gateway.seal(quota_id) for _ in range(3)]
    receipts = await push(cloud, *batches)
    for number, signed in enumerate(receipts, 1):
        assert cloud.token.keys["receipt"].public.verify("receipt", "G1", signed.receipt, signed.signature)
        receipt = batch_pb2.Receipt.FromString(signed.receipt)
        assert (receipt.gateway_id, receipt.incarnation, receipt.sequence) == ("G1", 1, number)
        assert receipt.batch_hash == hashlib.sha256(batches[number - 1].batch).digest()
        assert receipt.ledger_epoch == 1
    assert await push(cloud, *batches) == receipts
    verdict = await cloud.back_office.Verify(ledger_pb2.VerifyRequest())
    assert (verdict.ok, verdict.batches, verdict.transfers) == (True, 3, 2 + 3 * 2)
    account = (
        await cloud.back_office.ShowAccount(ledger_pb2.ShowAccountRequest(operator_id=OP, account_id="P"))
    ).account
    assert (account.posted_micros, account.held_micros, account.available_micros) == (3_600_000, 1_400_000, 5_000_000)
    hello = await cloud.door.Hello(gateway_sync_pb2.HelloRequest(incarnation=1, start_id=START, position=9))
    assert (hello.incarnation, hello.posted_sequence, hello.proven_sequence) == (1, 3, 0)
    assert (hello.witnessed_start_id, hello.witnessed_position) == (START, 3)
    reconciled = await cloud.back_office.Reconcile(ledger_pb2.ReconcileRequest(operator_id=OP))
    assert reconciled.claimed_micros == reconciled.payers_micros == 3_600_000
    assert (reconciled.unproven_batches, reconciled.unproven_micros) == (3, 3 * NET)
    # Heard and witnessed: all of its exposure but for what its open quota holds.
    assert (reconciled.open_quotas, reconciled.maximum_loss_micros, reconciled.window) == (1, 48_600_000, "w1")


async def refused_or(call: Any, receipts: list[batch_pb2.SignedReceipt]) -> tuple[grpc.StatusCode, str] | None:
    """The next receipt, or what ended them."""
    try:
        receipts.append(await call.read())
    except grpc.aio.AioRpcError as err:
        return err.code(), err.details() or ""
    return None


async def test_of_batches_that_wait_the_good_before_a_bad_one_have_their_receipts(cloud: Cloud) -> None:
    gateway = Gateway()
    quota_id = await opened(cloud, gateway)
    batches = [gateway.seal(quota_id) for _ in range(6)]
    forged = batch_pb2.SignedBatch(batch=batches[4].batch, signature=bytes(64), key_id=batches[4].key_id)
    receipts: list[batch_pb2.SignedReceipt] = []

    async def hear(*sent: batch_pb2.SignedBatch) -> tuple[grpc.StatusCode, str]:
        async def all_of() -> AsyncIterator[batch_pb2.SignedBatch]:
            for batch in sent:
                yield batch

        call = cloud.door.PushBatches(all_of())
        while (code := await refused_or(call, receipts)) is None:
            pass
        return code

    code, why = await hear(*batches[:4], forged, batches[5])
    assert (code, why) == (grpc.StatusCode.INVALID_ARGUMENT, "the signature does not hold")
    assert len(receipts) == 4
    # A gap stands in its place as well.
    code, _ = await hear(batches[4], *batches[:2], gateway.seal(quota_id))
    assert code == grpc.StatusCode.OUT_OF_RANGE
    assert receipts[5:] == receipts[:2]
    assert await push(cloud, *batches[:5]) == receipts[:5]
    assert (await cloud.store.verify()).fault == ""


async def test_a_receipt_lost_after_the_commit_is_signed_again(cloud: Cloud) -> None:
    gateway = Gateway()
    batch = gateway.seal(await opened(cloud, gateway))
    (first,) = await push(cloud, batch)
    # As if the process had died between commit and signature: the batch is posted, no receipt is kept.
    async with cloud.store._pool.connection() as connection, connection.transaction():
        await connection.execute(b"SET LOCAL session_replication_role = replica")
        await connection.execute(b"DELETE FROM receipts")
    (second,) = await push(cloud, batch)
    assert second.receipt == first.receipt
    assert cloud.token.keys["receipt"].public.verify("receipt", "G1", second.receipt, second.signature)


async def test_what_is_wrong_with_a_batch_is_said_and_changes_nothing(cloud: Cloud) -> None:
    gateway = Gateway()
    quota_id = await opened(cloud, gateway)
    first, second = gateway.seal(quota_id), gateway.seal(quota_id)
    invalid, denied = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED
    before = await cloud.store.balances(OP, "")

    stranger = Gateway(name="G1").sign(first.batch)
    assert await refused(push(cloud, stranger)) == (invalid, "signed with a key that is not this gateway's batch key")
    stranger.key_id = first.key_id
    assert await refused(push(cloud, stranger)) == (invalid, "the signature does not hold")
    assert await refused(push(cloud, gateway.sign(b"\xff" * 40))) == (invalid, "not a batch")
    assert (await refused(push(cloud, gateway.sign(b""))))[0] == invalid
    other = Gateway(batch_key=gateway.batch_key).seal(quota_id, site_id="S2")
    assert (await refused(push(cloud, other)))[0] == denied
    code, details = await refused(push(cloud, second))
    assert (code, details) == (
        grpc.StatusCode.OUT_OF_RANGE,
        "gap: batch 2 of incarnation 1; the next one here is 1",
    )
    cloud.calls("gateway", "G9")
    assert (await refused(push(cloud, first)))[0] == grpc.StatusCode.NOT_FOUND
    cloud.calls("person", "anna")
    assert (await refused(push(cloud, first)))[0] == denied
    cloud.calls("gateway", "G1")
    assert await cloud.store.balances(OP, "") == before

    assert len(await push(cloud, first)) == 1
    fork = batch_pb2.Batch.FromString(first.batch)
    fork.sealed_at_us += 1
    code, details = await refused(push(cloud, gateway.sign(fork.SerializeToString())))
    assert (code, details.partition(":")[0]) == (grpc.StatusCode.ALREADY_EXISTS, "fork")
    later = batch_pb2.Batch.FromString(second.batch)
    later.incarnation = 2
    code, details = await refused(push(cloud, gateway.sign(later.SerializeToString())))
    assert (code, details.partition(":")[0]) == (grpc.StatusCode.FAILED_PRECONDITION, "unknown incarnation")
    assert len(await push(cloud, second)) == 1


async def test_what_grows_with_use_is_listed_in_pages(cloud: Cloud) -> None:
    gateway = Gateway()
    quota_id = await opened(cloud, gateway)
    back, sealed = cloud.back_office, [gateway.seal(quota_id) for _ in range(3)]
    await push(cloud, *sealed[:2])
    # The last of them claims less of a use than the first did.
    again = batch_pb2.Batch.FromString(sealed[2].batch)
    first = batch_pb2.Batch.FromString(sealed[0].batch).claims[0]
    for _ in range(2):
        await back.CreateAccount(
            ledger_pb2.CreateAccountRequest(
                operator_id=OP, account_id=f"Q{_}", currency=EUR, status=directive_pb2.ACCOUNT_STATUS_ACTIVE
            )
        )
    for lower in (1, 2):
        del again.claims[:], again.lines[:]
        again.claims.add().CopyFrom(first)
        again.claims[0].net_micros -= lower
        del again.claims[0].shares[:]
        raw = again.SerializeToString(deterministic=True)
        await push(cloud, gateway.sign(raw))
        again.sequence, again.previous_hash = again.sequence + 1, hashlib.sha256(raw).digest()

    async def paged(call: Any, request: Any, rows: str, go_on: Any) -> list[Any]:
        whole = list(getattr(await call(request), rows))
        request.limit, found = 1, []
        while page := getattr(await call(request), rows):
            found += page
            go_on(request, page[-1])
        assert found == whole
        request.limit = 1_001
        assert (await refused(call(request)))[0] == grpc.StatusCode.INVALID_ARGUMENT
        return found

    claims = await paged(
        back.ListClaims,
        ledger_pb2.ListClaimsRequest(operator_id=OP),
        "claims",
        lambda request, last: request.MergeFrom(
            ledger_pb2.ListClaimsRequest(after_authorization_id=last.authorization_id, after_gateway_id=last.gateway_id)
        ),
    )
    batches = await paged(
        back.ListBatches,
        ledger_pb2.ListBatchesRequest(operator_id=OP),
        "batches",
        lambda request, last: request.after.MergeFrom(
            ledger_pb2.BatchName(gateway_id=last.gateway_id, incarnation=last.incarnation, sequence=last.sequence)
        ),
    )
    quotas = await paged(
        back.ListQuotas,
        ledger_pb2.ListQuotasRequest(operator_id=OP),
        "quotas",
        lambda request, last: request.MergeFrom(ledger_pb2.ListQuotasRequest(after_quota_id=last.quota_id)),
    )
    cases = await paged(
        back.ListOverlapCases,
        ledger_pb2.ListOverlapCasesRequest(operator_id=OP),
        "cases",
        lambda request, last: request.MergeFrom(ledger_pb2.ListOverlapCasesRequest(after_case_id=last.case_id)),
    )
    accounts = await paged(
        back.ListAccounts,
        ledger_pb2.ListAccountsRequest(operator_id=OP),
        "accounts",
        lambda request, last: request.MergeFrom(ledger_pb2.ListAccountsRequest(after_account_id=last.account_id)),
    )
    assert list(map(len, (claims, batches, quotas, cases, accounts))) == [2, 4, 1, 2, 3]
    # A case of which nothing is set aside is one for people all the same.
    assert {case.kind for case in cases} == {"went-down"}


async def test_what_was_billed_to_nobody_is_shown_with_its_reason(cloud: Cloud) -> None:
    gateway = Gateway()
    batch = batch_pb2.Batch.FromString(gateway.seal(await opened(cloud, gateway)).batch)
    batch.lines[0].account_id = "nobody"
    raw = batch.SerializeToString(deterministic=True)
    await push(cloud, gateway.sign(raw))
    batch.sequence, batch.previous_hash = 2, hashlib.sha256(raw).digest()
    del batch.lines[:], batch.claims[:]
    await push(cloud, gateway.sign(batch.SerializeToString(deterministic=True)))
    back = cloud.back_office
    (listed,) = (await back.ListBatches(ledger_pb2.ListBatchesRequest(operator_id=OP, parked_only=True))).batches
    assert (listed.sequence, listed.parked_lines, listed.parked_micros) == (1, 1, 0)
    assert list(listed.parked_reasons) == ["its account is unknown"]
    (case,) = (await back.ListOverlapCases(ledger_pb2.ListOverlapCasesRequest(operator_id=OP))).cases
    assert (case.kind, case.aside_micros) == ("unknown-name", NET + TAX)
    assert case.detail.startswith("its account is unknown: account nobody, quota ")
    sums = await back.Reconcile(ledger_pb2.ReconcileRequest(operator_id=OP))
    assert (sums.claimed_micros, sums.suspense_micros, sums.parked_micros) == (NET + TAX, NET + TAX, 0)


async def test_directives_follow_signed_and_gapless_with_heads_between(cloud: Cloud) -> None:
    gateway = Gateway()
    await opened(cloud, gateway)
    call = cloud.door.FollowDirectives(gateway_sync_pb2.FollowDirectivesRequest(after_version=0))
    kinds, previous = [], bytes(32)
    public = cloud.token.keys["directive"].public
    while item := await call.read():
        if item.HasField("head"):
            head = directive_pb2.DirectiveHead.FromString(item.head.head)
            assert public.verify("directive-head", "G1", item.head.head, item.head.signature)
            assert (head.version, head.hash) == (len(kinds), previous)
            break
        assert public.verify("directive", "G1", item.directive.directive, item.directive.signature)
        directive = directive_pb2.Directive.FromString(item.directive.directive)
        assert (directive.version, directive.previous_hash) == (len(kinds) + 1, previous)
        previous = hashlib.sha256(item.directive.directive).digest()
        kinds.append(directive.WhichOneof("body"))
    assert kinds == ["welcome", "tariff", "account", "device", "quota_granted"]
    # What comes while it listens.
    await cloud.back_office.RecallQuotas(
        ledger_pb2.RecallQuotasRequest(operator_id=OP, account_id="P", reason="lost card")
    )
    item = await call.read()
    assert directive_pb2.Directive.FromString(item.directive.directive).quota_recalled.reason == "lost card"
    item = await call.read()
    assert directive_pb2.DirectiveHead.FromString(item.head.head).version == 6
    call.cancel()
    # From the middle, and from beyond the end.
    call = cloud.door.FollowDirectives(gateway_sync_pb2.FollowDirectivesRequest(after_version=5))
    assert directive_pb2.Directive.FromString((await call.read()).directive.directive).version == 6
    call.cancel()
    beyond = cloud.door.FollowDirectives(gateway_sync_pb2.FollowDirectivesRequest(after_version=7))
    assert (await refused(beyond.read()))[0] == grpc.StatusCode.FAILED_PRECONDITION


async def test_quota_requests_are_checked_and_repeat_their_answer(cloud: Cloud) -> None:
    gateway = Gateway()
    quota_id = await opened(cloud, gateway)

    def ask(**changes: Any) -> Any:
        fields = {"incarnation": 1, "counter": 1, "account_id": "P", "currency": EUR, "wanted_micros": 5_000_000}
        return cloud.door.RequestQuota(gateway_sync_pb2.RequestQuotaRequest(**{**fields, **changes}))

    assert (await ask()).quota_id == quota_id
    for wrong in (
        {"currency": "USD"},
        {"wanted_micros": 0},
        {"counter": 0},
        {"account_id": "a/b"},
        {"currency": "???"},
    ):
        assert (await refused(ask(counter=2, **wrong) if "counter" not in wrong else ask(**wrong)))[
            0
        ] == grpc.StatusCode.INVALID_ARGUMENT
    assert (await ask(counter=2, account_id="Q")).answer == gateway_sync_pb2.QUOTA_ANSWER_ACCOUNT_UNKNOWN
    assert await cloud.store.currency_of(OP, AccountId("Q")) is None
    # A number that stood for another wish: the journal that asks is not the one that asked.
    other = await ask(wanted_micros=1)
    assert (other.answer, other.quota_id) == (gateway_sync_pb2.QUOTA_ANSWER_INCARNATION_DIFFERS, "")
    assert len(await cloud.store.gateway_cases(OP, open_only=True)) == 1
    assert (await ask()).quota_id == quota_id


async def test_fraud_may_only_reduce(cloud: Cloud) -> None:
    gateway = Gateway()
    await opened(cloud, gateway)
    cloud.calls("service", "fraud")

    def issue(key: str, **body: Any) -> Any:
        return cloud.back_office.IssueDirective(
            ledger_pb2.IssueDirectiveRequest(operator_id=OP, idempotency_key=key, gateway_id="G1", **body)
        )

    active = directive_pb2.DeviceRecord(device_id="toll", status=directive_pb2.DEVICE_STATUS_ACTIVE)
    blocked = directive_pb2.DeviceRecord(device_id="toll", status=directive_pb2.DEVICE_STATUS_BLOCKED)
    for body in ({"device": active}, {"floor": directive_pb2.FloorPolicy(currency=EUR)}):
        assert (await refused(issue("no", **body)))[0] == grpc.StatusCode.PERMISSION_DENIED
    version = (await issue("yes", device=blocked)).version
    assert (await issue("yes", device=blocked)).version == version
    assert (await issue("token", token_denied=directive_pb2.TokenDenied(token_ref=bytes(32)))).version == version + 1


async def test_events_are_followed_as_they_come(cloud: Cloud) -> None:
    gateway = Gateway()
    cloud.calls("service", "fraud")
    call = cloud.back_office.FollowEvents(ledger_pb2.FollowEventsRequest(follow=True, kinds=["batch.posted"]))
    cloud.calls("gateway", "G1")
    quota_id = await opened(cloud, gateway)
    await push(cloud, gateway.seal(quota_id))
    event = await call.read()
    posted = events_pb2.BatchPosted.FromString(event.value)
    assert (event.kind, event.key, posted.sequence, posted.net_micros) == ("batch.posted", "G1", 1, NET)
    call.cancel()
    ended = cloud.back_office.FollowEvents(ledger_pb2.FollowEventsRequest(after=event.cursor))
    assert [row.kind async for row in ended] == []


async def test_a_person_corrects_once_and_is_named(cloud: Cloud) -> None:
    gateway = Gateway()
    batch = gateway.seal(await opened(cloud, gateway))
    await push(cloud, batch)
    back = cloud.back_office
    (claim,) = (await back.ListClaims(ledger_pb2.ListClaimsRequest(operator_id=OP))).claims
    content = ledger_pb2.CorrectionContent(
        operator_id=OP,
        correction_id="ticket-1",
        kind="refund",
        authorization_id=claim.authorization_id,
        gateway_id="G1",
        reason="wrong price",
    )
    request = ledger_pb2.CorrectRequest(content=content)
    assert (await refused(back.Correct(request)))[0] == grpc.StatusCode.PERMISSION_DENIED
    cloud.calls("person", "ann")
    trial = await back.Correct(ledger_pb2.CorrectRequest(content=content, dry_run=True))
    done = await back.Correct(request)
    assert (trial.changed, done.changed, done.correction.amount_micros) == (True, True, NET + TAX)
    assert (done.correction.person, done.correction.content, done.correction.currency) == ("ann", content, EUR)
    cloud.calls("person", "ben")
    again = await back.Correct(request)
    assert (again.changed, again.correction) == (False, done.correction)
    content.amount_micros = 1
    for wrong, code in (
        ({}, grpc.StatusCode.ALREADY_EXISTS),
        ({"correction_id": "ticket-2"}, grpc.StatusCode.FAILED_PRECONDITION),
        ({"kind": "present"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"authorization_id": b"short"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"correction_id": "ticket-2", "authorization_id": bytes(16)}, grpc.StatusCode.NOT_FOUND),
    ):
        other = ledger_pb2.CorrectionContent.FromString(content.SerializeToString())
        for name, value in wrong.items():
            setattr(other, name, value)
        assert (await refused(back.Correct(ledger_pb2.CorrectRequest(content=other))))[0] == code
    listed = (await back.ListCorrections(ledger_pb2.ListCorrectionsRequest(operator_id=OP))).corrections
    assert list(listed) == [done.correction]
    assert (await back.Verify(ledger_pb2.VerifyRequest())).ok
