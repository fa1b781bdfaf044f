"""A gateway without its journal, and a ledger that is behind its gateways: who may begin, and what is taken back."""

import hashlib
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest
from door_parties import (
    NOON,
    START,
    Cloud,
    Gateway,
    opened,
    push,
    refused,
)
from ledger_story import EUR, OP

from farthing.clock import real_clock
from farthing.device import cose
from farthing.ids import GatewayId
from farthing.v1 import (
    batch_pb2,
    directive_pb2,
    gateway_sync_pb2,
    ledger_pb2,
)
from farthing_cloud.ledger.restored import RestoredLedger

pytestmark = pytest.mark.real


async def test_a_gateway_without_its_journal_waits_until_two_people_have_decided(cloud: Cloud) -> None:
    gateway = Gateway()
    await opened(cloud, gateway)
    door, back = cloud.door, cloud.back_office
    agreed = await door.Hello(gateway_sync_pb2.HelloRequest(incarnation=1, start_id=START, position=9))
    assert agreed.standing == gateway_sync_pb2.HELLO_STANDING_AGREED
    lost = gateway_sync_pb2.HelloRequest(start_id=b"n" * 16)
    code, details = await refused(door.Hello(lost))
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert "two persons" in details
    lost.hears_standing = True
    waits = await door.Hello(lost)
    assert (waits.standing, waits.incarnation) == (gateway_sync_pb2.HELLO_STANDING_WAITS, 1)
    assert "no journal" in waits.waits_because

    wish = ledger_pb2.ProposeDecisionRequest(kind="incarnation", gateway_id="G1", reason="a new disk")
    assert (await refused(back.ProposeDecision(wish)))[0] == grpc.StatusCode.PERMISSION_DENIED
    cloud.calls("person", "ann")
    (case,) = (await back.ListGatewayCases(ledger_pb2.ListGatewayCasesRequest(operator_id=OP, open_only=True))).cases
    assert (case.gateway_id, case.kind, case.closed_at_us) == ("G1", "incarnation", 0)
    proposed = (await back.ProposeDecision(wish)).decision
    content = ledger_pb2.DecisionContent.FromString(proposed.content)
    assert (content.proposed_by, content.reason, content.incarnation) == ("ann", "a new disk", 1)
    assert proposed.content_hash == hashlib.sha256(proposed.content).digest()
    wish.kind = "anything"
    assert (await refused(back.ProposeDecision(wish)))[0] == grpc.StatusCode.INVALID_ARGUMENT
    approval = ledger_pb2.ApproveDecisionRequest(decision_id=proposed.decision_id, content_hash=proposed.content_hash)
    code, details = await refused(back.ApproveDecision(approval))
    assert (code, "another person" in details) == (grpc.StatusCode.FAILED_PRECONDITION, True)
    exposed = (await back.ShowExposure(ledger_pb2.ShowExposureRequest(operator_id=OP))).rows
    assert [(row.scope, row.id, row.unwitnessed, row.quotas_micros) for row in exposed] == [
        ("gateway", "G1", 1, 5_000_000),
        ("site", "S1", 1, 5_000_000),
        ("operator", OP, 1, 5_000_000),
    ]
    reconciled = await back.Reconcile(ledger_pb2.ReconcileRequest(operator_id=OP))
    assert reconciled.maximum_loss_micros == exposed[0].maximum_loss_micros == 50_000_000
    cloud.calls("person", "ben")
    assert (await back.ApproveDecision(approval)).changed
    (decision,) = (await back.ListDecisions(ledger_pb2.ListDecisionsRequest(operator_id=OP))).decisions
    assert (decision.approved_by, decision.content) == ("ben", proposed.content)

    cloud.calls("gateway", "G1")
    begins = await door.Hello(lost)
    assert (begins.standing, begins.incarnation, begins.posted_sequence) == (
        gateway_sync_pb2.HELLO_STANDING_BEGIN,
        2,
        0,
    )
    # A batch of the old chain that turns up is posted, and names its incarnation in the receipt.
    (receipt,) = await push(cloud, gateway.seal(""))
    assert batch_pb2.Receipt.FromString(receipt.receipt).incarnation == 1


def lost_directive(cloud: Cloud, version: int, previous: bytes, name: str = "G1") -> directive_pb2.SignedDirective:
    """A grant that the cloud has signed, and that its ledger has no longer."""
    granted = directive_pb2.QuotaGranted(
        quota_id="q-lost",
        account_id="P",
        currency=EUR,
        amount_micros=2_000_000,
        spend_until_us=NOON,
        report_until_us=NOON,
        incarnation=1,
        request_counter=77,
    )
    raw = directive_pb2.Directive(
        gateway_id=name, version=version, previous_hash=previous, dated_at_us=NOON, quota_granted=granted
    ).SerializeToString(deterministic=True)
    key = cloud.token.keys["directive"]
    return directive_pb2.SignedDirective(
        directive=raw,
        signature=key.sign(cose.to_be_signed("directive", name, raw)),
        key_id=key.public.key_id,
    )


async def show(cloud: Cloud, links: list[tuple[int, bytes]], *directives: directive_pb2.SignedDirective) -> Any:
    call = cloud.door.ShowDirectives()
    offered = [gateway_sync_pb2.ChainLink(version=version, hash=digest) for version, digest in links]
    await call.write(gateway_sync_pb2.ShowDirectivesRequest(links=offered))
    first = await call.read()
    assert first.after_version == min(version for version, _ in links)
    await call.write(gateway_sync_pb2.ShowDirectivesRequest(directives=directives, last=True))
    await call.done_writing()
    return await call.read()


async def test_what_the_cloud_signed_proves_a_restore_and_is_taken_back(cloud: Cloud) -> None:
    gateway = Gateway()
    quota_id = await opened(cloud, gateway)
    row = await cloud.store.gateway(GatewayId("G1"))
    assert row is not None
    here = row.directive_version
    lost = lost_directive(cloud, here + 1, row.directive_hash)
    forged = directive_pb2.SignedDirective(directive=lost.directive, signature=bytes(64), key_id=lost.key_id)
    anothers = lost_directive(cloud, here + 1, row.directive_hash, "G2")
    strangers = directive_pb2.SignedDirective(directive=lost.directive, signature=bytes(64), key_id=b"unknown!")

    def hello(directive: directive_pb2.SignedDirective | None) -> Any:
        return cloud.door.Hello(
            gateway_sync_pb2.HelloRequest(
                incarnation=1,
                start_id=START,
                position=9,
                directive_version=here + 1,
                hears_standing=True,
                last_directive=directive,
            )
        )

    # Nobody else's word stops the ledger.
    assert (await refused(hello(forged)))[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert (await refused(hello(anothers)))[0] is grpc.StatusCode.INVALID_ARGUMENT
    for proof in (strangers, None):
        assert (await hello(proof)).standing == gateway_sync_pb2.HELLO_STANDING_AGREED
    assert (await cloud.back_office.ShowEpoch(ledger_pb2.ShowEpochRequest())).state == "open"
    code, why = await refused(push(cloud, replace(gateway).seal(quota_id, directive_version=here + 1)))
    assert (code, "rests on directive" in why) == (grpc.StatusCode.FAILED_PRECONDITION, True)

    code, why = await refused(hello(lost))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert f"G1 has proven it: directive {here + 1}" in why
    assert (await cloud.back_office.ShowEpoch(ledger_pb2.ShowEpochRequest())).state == "stopped"
    following = cloud.door.FollowDirectives(gateway_sync_pb2.FollowDirectivesRequest(after_version=here))
    assert (await refused(following.read()))[0] is grpc.StatusCode.FAILED_PRECONDITION
    ask = gateway_sync_pb2.RequestQuotaRequest(
        incarnation=1, counter=2, account_id="P", currency=EUR, wanted_micros=1_000_000
    )
    assert (await cloud.door.RequestQuota(ask)).answer == gateway_sync_pb2.QUOTA_ANSWER_LEDGER_RESTORING
    assert (await cloud.back_office.Reconcile(ledger_pb2.ReconcileRequest(operator_id=OP))).restoring

    cloud.calls("person", "anna")
    proposed = await cloud.back_office.ProposeDecision(
        ledger_pb2.ProposeDecisionRequest(kind="restored", operator_id=OP, reason="the disk died")
    )
    cloud.calls("person", "ben")
    content = ledger_pb2.DecisionContent.FromString(proposed.decision.content)
    assert (content.ledger_epoch, "G1 has proven it" in content.waits_because) == (2, True)
    assert (
        await cloud.back_office.ApproveDecision(
            ledger_pb2.ApproveDecisionRequest(
                decision_id=proposed.decision.decision_id, content_hash=proposed.decision.content_hash
            )
        )
    ).changed
    cloud.calls("gateway", "G1")
    assert (await hello(lost)).standing == gateway_sync_pb2.HELLO_STANDING_REWIND
    links = [(here + 1, hashlib.sha256(lost.directive).digest()), (here, row.directive_hash)]
    for wrong in (forged, anothers, strangers):
        code, _ = await refused(show(cloud, links, wrong))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
    code, _ = await refused(show(cloud, links, lost, lost))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert (await cloud.back_office.ShowEpoch(ledger_pb2.ShowEpochRequest())).gateways[0].standing == "missing"
    back = await show(cloud, links, lost)
    assert (back.directives, back.quotas, back.directive_version) == (1, 1, here + 2)

    following = cloud.door.FollowDirectives(gateway_sync_pb2.FollowDirectivesRequest(after_version=here))
    first, second = (await following.read()).directive, (await following.read()).directive
    following.cancel()
    assert first == lost  # the very signature
    restored = directive_pb2.Directive.FromString(second.directive)
    assert (restored.ledger_epoch, restored.ledger_restored.last_version) == (2, here + 1)
    assert restored.previous_hash == hashlib.sha256(lost.directive).digest()
    (standing,) = (await cloud.back_office.ShowEpoch(ledger_pb2.ShowEpochRequest())).gateways
    assert (standing.standing, standing.reinstated_micros) == ("rewound", 2_000_000)
    assert (await hello(lost)).standing == gateway_sync_pb2.HELLO_STANDING_AGREED
    (receipt,) = await push(cloud, gateway.seal(quota_id))
    assert batch_pb2.Receipt.FromString(receipt.receipt).ledger_epoch == 2
    assert (await cloud.door.RequestQuota(ask)).answer == gateway_sync_pb2.QUOTA_ANSWER_LEDGER_RESTORING
    assert await RestoredLedger(cloud.store).open_again(now=real_clock().now())
    assert (await cloud.door.RequestQuota(ask)).answer == gateway_sync_pb2.QUOTA_ANSWER_GRANTED
    assert (await cloud.back_office.Verify(ledger_pb2.VerifyRequest())).ok
