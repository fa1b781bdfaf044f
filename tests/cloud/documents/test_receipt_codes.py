"""A payer without an account finds his receipt by the code that the device shows, and it says nothing of whose account paid."""

import hashlib
import json
from typing import Any

import grpc.aio
import pytest
from ledger_story import OP

from farthing.clock import Instant
from farthing.device.cose import encode_sign1
from farthing.device.messages import End, Intent, RegisterValue, encode
from farthing.ids import (
    DeviceId,
    GatewayId,
    IdError,
    RegisterId,
    format_receipt_code,
    parse_receipt_code,
    receipt_code,
    token_commitment,
)
from farthing.v1 import documents_pb2, events_pb2
from farthing_cloud.documents.sessions import SessionWatch, merged, session_of
from farthing_cloud.documents.store import DocumentStore
from farthing_cloud.events.consumer import Event, Place, PoisonEvent

COMMITMENT = token_commitment(b"04a2b17790c3d1", b"s" * 16)
CODE = format_receipt_code(receipt_code(COMMITMENT))
START, STOP = Instant(10 * 3_600_000_000), Instant(10 * 3_600_000_000 + 4_320_000_000)


def evidence(
    name: bytes, gateway: str, *, commitment: bytes = COMMITMENT, upto: Instant = STOP
) -> events_pb2.EvidenceVerified:
    """What the ledger publishes of a leaf; it has verified the signatures."""
    head: dict[str, Any] = {
        "recipient": GatewayId(gateway),
        "device": DeviceId("c1"),
        "device_epoch": 1,
        "register": RegisterValue(register_id=RegisterId("1"), register_epoch=0, value=1),
        "commitment": commitment,
    }
    intent = Intent(**head, counter=1, at=START, incarnation=1)
    end = End(**head, counter=2, at=upto, authorization=name.ljust(16), tariff=None)
    return events_pb2.EvidenceVerified(
        operator_id=OP,
        gateway_id=gateway,
        device_id="c1",
        authorization_id=name.ljust(16),
        statements=[encode_sign1(b"k" * 8, encode(each), b"s" * 64) for each in (intent, end)],
    )


def event(message: events_pb2.EvidenceVerified, sequence: int) -> Event:
    return Event(
        place=Place(transaction_id=1, sequence=sequence), kind="evidence.verified", key="c1", at_us=0,
        value=message.SerializeToString(), traceparent="",
    )  # fmt: skip


def test_a_code_is_the_devices_and_the_payers_alone() -> None:
    # What a device in the field has to compute: 80 bits of a hash of the commitment.
    assert receipt_code(COMMITMENT) == hashlib.sha256(b"farthing/receipt-code/1" + COMMITMENT).digest()[:10]
    assert [len(part) for part in CODE.split("-")] == [4, 4, 4, 4]
    for typed in (
        CODE,
        CODE.lower(),
        CODE.replace("-", " "),
        CODE.replace("O", "0").replace("I", "1").replace("B", "8"),
    ):
        assert parse_receipt_code(typed) == receipt_code(COMMITMENT)
    for typed in ("", CODE[:-1], CODE + "A", CODE.replace(CODE[0], "!"), "Ä" * 16):
        with pytest.raises(IdError, match="16 letters and digits"):
            parse_receipt_code(typed)
    with pytest.raises(IdError):
        format_receipt_code(b"short")


def test_what_leaves_say_of_one_use_is_put_together() -> None:
    early, late = session_of(evidence(b"a1", "G1", upto=START)), session_of(evidence(b"a1", "G1"))
    ((operator, session), (_, other)) = merged([(OP, early), (OP, late), (OP, session_of(evidence(b"a3", "G2")))])
    assert (operator, session.first_at, session.last_at, session.code) == (OP, START, STOP, receipt_code(COMMITMENT))
    assert other.gateway_id == "G2"
    broken = evidence(b"a1", "G1")
    broken.statements[0] = b"nothing"
    for poison in (broken, events_pb2.EvidenceVerified(operator_id=OP)):
        with pytest.raises(PoisonEvent):
            session_of(poison)


@pytest.mark.real
async def test_a_receipt_by_its_code_names_no_account(office: Any) -> None:
    await office.day()

    async def receipt(**of: Any) -> dict[str, Any]:
        request = documents_pb2.MakeReceiptRequest(operator_id=OP, **of)
        found: dict[str, Any] = json.loads((await office.documents.MakeReceipt(request)).content)
        return found

    with pytest.raises(grpc.aio.AioRpcError, match="no use with this code is proven yet"):
        await receipt(code=CODE)
    with pytest.raises(grpc.aio.AioRpcError, match="16 letters and digits"):
        await receipt(code="please")
    other = token_commitment(b"another token", b"s" * 16)
    told = [
        event(evidence(b"a1", "G1", upto=START), 1),
        event(evidence(b"a1", "G1"), 2),
        event(evidence(b"a3", "G2", commitment=other), 3),
        # The wish was repeated at another gateway, where it was billed to nobody.
        event(evidence(b"t3", "G2"), 4),
    ]
    for _ in range(2):  # at least once: the second time changes nothing
        async with office.pool.connection() as connection, connection.transaction():
            await SessionWatch().handle(connection, told)
    found = await receipt(code=CODE.lower())
    assert (found["account_ids"], found["code"]) == ([], CODE)
    assert "P" not in {account for each in found["paid"] for account in each["from"].split()}
    assert (found["totals"]["exact_gross_amount"], found["evidence"]["authorization_id"]) == (
        "7.35",
        b"a1".ljust(16).hex(),
    )
    assert (found["use"]["from"], found["use"]["until"], found["use"]["times_by"]) == (
        "1970-01-01T11:00:00+01:00",
        "1970-01-01T12:12:00+01:00",
        "device-signed",
    )
    by_id = await receipt(authorization_id=b"a1".ljust(16))
    assert {**by_id, "account_ids": []} == found
    assert by_id["account_ids"] == ["P"]
    # What is old is forgotten, with its code; the use itself is the ledger's.
    async with office.pool.connection() as connection:
        store = DocumentStore(connection)
        assert await store.forget_sessions(STOP, 10) == 0
        assert [await store.forget_sessions(Instant(STOP + 1), 2) for _ in range(3)] == [2, 1, 0]
    with pytest.raises(grpc.aio.AioRpcError, match="no use with this code"):
        await receipt(code=CODE)
    assert (await receipt(authorization_id=b"a1".ljust(16)))["use"]["times_by"] == "quarters of an hour"


@pytest.mark.real
async def test_a_device_that_signs_no_date_keeps_its_payer_from_no_receipt(office: Any) -> None:
    await office.day()
    async with office.pool.connection() as connection, connection.transaction():
        await SessionWatch().handle(connection, [event(evidence(b"a1", "G1", upto=Instant(2**62)), 1)])
    request = documents_pb2.MakeReceiptRequest(operator_id=OP, code=CODE)
    found = json.loads((await office.documents.MakeReceipt(request)).content)
    assert found["use"]["times_by"] == "quarters of an hour"
