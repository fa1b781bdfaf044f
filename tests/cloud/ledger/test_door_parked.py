"""What gateways parked, through the door and out again at the back office."""

import pytest
from door_parties import Cloud, Gateway, opened, push
from ledger_story import OP

from farthing.device.cose import encode_sign1
from farthing.device.messages import End, RegisterValue, encode
from farthing.ids import AuthorizationId, DeviceId
from farthing.refusal import Refusal
from farthing.v1 import batch_pb2, ledger_pb2
from farthing_cloud.ledger.back_office import PARKED_BATCHES_AT_ONCE

pytestmark = pytest.mark.real


async def test_pages_name_each_statement_once(cloud: Cloud) -> None:
    gateway = Gateway()
    quota_id = await opened(cloud, gateway)
    end = End(
        recipient=gateway.name,
        device=DeviceId("chg-1"),
        device_epoch=1,
        counter=1,
        at=1_700_000_000_000_000,
        register=RegisterValue(register_id="c1", register_epoch=1, value=5),
        commitment=bytes(32),
        authorization=AuthorizationId(bytes(16)),
    )
    said = encode_sign1(bytes(8), encode(end), bytes(64))
    other = batch_pb2.ParkedStatement(statement=b"rubbish", refusal=Refusal.REGISTER_TOO_FAST)
    brought = (batch_pb2.ParkedStatement(statement=said, refusal=Refusal.REGISTER_WENT_BACK), other)
    batches = [gateway.seal(quota_id, parked=brought) for _ in range(PARKED_BATCHES_AT_ONCE + 1)]
    await push(cloud, *batches)

    async def page(before: int, device: str = "") -> ledger_pb2.ListParkedStatementsResponse:
        return await cloud.back_office.ListParkedStatements(
            ledger_pb2.ListParkedStatementsRequest(operator_id=OP, before=before, device_id=device)
        )

    first = await page(0)
    second = await page(first.before)
    assert [each.sequence for each in first.statements[::2]] == list(range(len(batches), 1, -1))
    assert [(each.sequence, each.kind) for each in second.statements] == [(1, "end"), (1, "")]
    assert (second.before, [each.kind for each in (await page(0, "chg-1")).statements]) == (0, ["end"] * 16)
    assert (await cloud.store.verify()).fault == ""
