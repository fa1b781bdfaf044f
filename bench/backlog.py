"""E7: a backlog of usage records from a gateway's batches to the ledger's receipts, and how many bytes of it travel.

The gateway is the real core: sessions are granted, read, ended and sealed as after an outage, in memory, before the clock runs. Then its
batches go through the door to PostgreSQL, durable as shipped. Measured are records a second and every byte of the connection, both ways,
in clear (TLS adds 22 bytes to each 16 KiB). The detail of the records is not in them.

``E7_RECORDS`` says how many (100,000; the budget is of 1,000,000), ``python -m bench E7`` prints it.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import grpc.aio
from typing_extensions import override

from bench import ledger as posting
from bench.edge import GATEWAY, NOW, TARIFF, tell
from farthing.clock import SECOND_US, Instant, real_clock
from farthing.device import cose
from farthing.device.messages import End, Intent, Reading, RegisterValue, Statement, TariffVersion, encode
from farthing.ids import AuthorizationId, DeviceId, RegisterId, TariffId, TokenRef, authorization_id
from farthing.v1 import batch_pb2, directive_pb2, gateway_sync_pb2_grpc
from farthing_cloud.callers import Caller
from farthing_cloud.database import Pool
from farthing_cloud.ledger.bell import Bell
from farthing_cloud.ledger.door import GatewaySyncServicer
from farthing_cloud.ledger.signing import PublicKeys, Signatures
from farthing_cloud.ledger.store.postgres import PostgresStore
from farthing_edge.authorization import commands
from farthing_edge.authorization.applying import apply
from farthing_edge.authorization.commands import DeviceStatement
from farthing_edge.authorization.deciding import decide
from farthing_edge.authorization.events import Sealed, Started
from farthing_edge.authorization.state import MAX_SEAL_RECORDS, CoreSettings, GatewayState

RECORDS: Final = int(os.environ.get("E7_RECORDS", "100000"))
#: Chargers of a site, each with a payer and quota of its own, in sessions of 40 minutes.
CHARGERS: Final = 25
READ_EVERY_S: Final = 10
READINGS: Final = 240
#: 18 kW.
STEP_WH: Final = 50
#: 1,000,000 in 30 s.
RECORDS_BUDGET: Final = 33_333
BYTES_BUDGET: Final = 3

_TARIFF = TariffVersion(tariff_id=TariffId("chg-3"), version=1)


class Backlog(NamedTuple):
    """Sealed batches, and how many usage records, lines and claims are in them."""

    batches: list[bytes]
    records: int
    lines: int
    claims: int


class _Charger:
    """What one charger says: intent, readings, end, and again."""

    def __init__(self, number: int) -> None:
        self.device = DeviceId(f"c{number}")
        self.token = TokenRef(hashlib.sha256(self.device.encode()).digest())
        self._counter = 0
        self._value = 0
        self._left = 0
        self._authorization = AuthorizationId(b"")

    def next(self, at: Instant) -> DeviceStatement:
        self._counter += 1
        statement: Statement
        token: TokenRef | None = None
        if self._authorization:
            self._value += STEP_WH
            self._left -= 1
            head: dict[str, Any] = self._head(at) | {
                "tariff": _TARIFF,
                "commitment": bytes(32),
                "authorization": self._authorization,
            }
            statement = Reading(**head) if self._left else End(**head)
            if not self._left:
                self._authorization = AuthorizationId(b"")
        else:
            statement = Intent(**self._head(at), commitment=bytes(32), incarnation=1)
            self._authorization = authorization_id(self.device, 1, self._counter, GATEWAY)
            self._left, token = READINGS, self.token
        payload = encode(statement)
        return DeviceStatement(
            statement=statement, cose=payload, payload=payload, token_ref=token, key_epoch=1 if token else None
        )

    def _head(self, at: Instant) -> dict[str, Any]:
        return {
            "recipient": GATEWAY,
            "device": self.device,
            "device_epoch": 1,
            "counter": self._counter,
            "at": at,
            "register": RegisterValue(register_id=RegisterId("r1"), register_epoch=1, value=self._value),
        }


def _directives(chargers: Sequence[_Charger], quotas: Sequence[str]) -> Iterator[directive_pb2.Directive]:
    yield directive_pb2.Directive(
        welcome=directive_pb2.Welcome(
            operator_id="op", site_id=posting.site_of(GATEWAY), incarnation=1, time_zone="UTC"
        )
    )
    yield directive_pb2.Directive(
        tariff=directive_pb2.TariffRecord(
            tariff_id="chg-3", version=1, currency="EUR", ocpi_json=json.dumps(TARIFF).encode()
        )
    )
    for number, (charger, quota_id) in enumerate(zip(chargers, quotas, strict=True)):
        account = posting.account_of(GATEWAY, number)
        yield directive_pb2.Directive(
            account=directive_pb2.AccountRecord(
                account_id=account, currency="EUR", status=directive_pb2.ACCOUNT_STATUS_ACTIVE
            )
        )
        yield directive_pb2.Directive(
            token=directive_pb2.TokenRecord(
                token_ref=charger.token, key_epoch=1, token_id=f"t{number}", account_id=account
            )
        )
        yield directive_pb2.Directive(
            device=directive_pb2.DeviceRecord(
                device_id=charger.device,
                status=directive_pb2.DEVICE_STATUS_ACTIVE,
                device_epoch=1,
                profile=directive_pb2.DEVICE_PROFILE_SESSION,
                registers=[
                    directive_pb2.RegisterRecord(
                        register_id="r1", register_epoch=1, unit="Wh", modulus=10**9, rated_per_hour=22_000
                    )
                ],
                tariff_id="chg-3",
                tariff_version=1,
                report_interval_s=720,
                stoppable=True,
            )
        )
        yield directive_pb2.Directive(
            quota_granted=directive_pb2.QuotaGranted(
                quota_id=quota_id,
                account_id=account,
                currency="EUR",
                amount_micros=10**12,
                spend_until_us=2**62,
                incarnation=1,
            )
        )


def sealed_backlog(quotas: Sequence[str], records: int) -> Backlog:
    """What a gateway has sealed when its chargers have made ``records`` usage records, as many to a batch as there may be."""
    state = GatewayState(CoreSettings(gateway_id=GATEWAY, clock_epoch_us=0, clock_real_epoch_us=0, clock_rate=1))
    start_id = hashlib.sha256(b"start").digest()[:16]
    apply(state, Started(start_id=start_id, boot_id="", clock_epoch_us=0, clock_real_epoch_us=0, clock_rate=1))
    chargers = [_Charger(number) for number in range(len(quotas))]
    tell(state, list(_directives(chargers, quotas)))
    # The ledger of this bench has told its gateway of itself and of its quotas; devices and tokens it has heard from nobody.
    state.directive_version = 1 + len(quotas)
    batches: list[bytes] = []

    def seal(now: Instant) -> None:
        for event in decide(state, commands.SealDue(), now=now).events:
            assert isinstance(event, Sealed)
            apply(state, event)
            batches.append(event.batch)

    at, made = NOW, 0
    while made < records:
        for charger in chargers:
            decision = decide(state, charger.next(at), now=at)
            assert decision.reply is not None
            assert decision.reply.refusal is None, decision.reply
            before = len(state.unsealed)
            for event in decision.events:
                apply(state, event)
            made += len(state.unsealed) - before
        if len(state.unsealed) > MAX_SEAL_RECORDS - len(chargers):
            seal(at)
        at = Instant(at + READ_EVERY_S * SECOND_US)
    seal(at)
    parsed = [batch_pb2.Batch.FromString(raw) for raw in batches]
    return Backlog(batches, made, sum(len(batch.lines) for batch in parsed), sum(len(batch.claims) for batch in parsed))


@asynccontextmanager
async def _counted(port: int) -> AsyncIterator[tuple[int, list[int]]]:
    """A wire to ``port`` that counts what passes: its own port, and [bytes up, bytes down]."""
    passed = [0, 0]

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: int) -> None:
        while data := await reader.read(65_536):
            passed[way] += len(data)
            writer.write(data)
            await writer.drain()
        writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        # A wire that is cut ends both ways; whoever was cut says so itself.
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(carry(reader, far_writer, 0), carry(far_reader, writer, 1))

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], passed
    finally:
        server.close()


class _Echo(gateway_sync_pb2_grpc.GatewaySyncServicer):
    """A door that looks at nothing: a receipt of the usual size for each batch, and no other method."""

    @override
    async def PushBatches(
        self, request_iterator: AsyncIterator[batch_pb2.SignedBatch], context: Any
    ) -> AsyncIterator[batch_pb2.SignedReceipt]:
        async for _ in request_iterator:
            yield batch_pb2.SignedReceipt(receipt=bytes(120), signature=bytes(64), key_id=bytes(8))


async def _push(
    servicer: gateway_sync_pb2_grpc.GatewaySyncServicer, signed: Sequence[batch_pb2.SignedBatch]
) -> tuple[float, int]:
    """Seconds from the first batch to the last receipt, and bytes of the connection."""
    server = grpc.aio.server()
    gateway_sync_pb2_grpc.add_GatewaySyncServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with _counted(port) as (wire, passed), grpc.aio.insecure_channel(f"127.0.0.1:{wire}") as channel:
            began = time.perf_counter()
            call = gateway_sync_pb2_grpc.GatewaySyncStub(channel).PushBatches()  # type: ignore[call-arg]  # the aio stub takes no iterator

            async def send() -> None:
                for batch in signed:
                    await call.write(batch)
                await call.done_writing()

            sending = asyncio.create_task(send())
            receipts = 0
            async for _ in call:
                receipts += 1
            await sending
            assert receipts == len(signed)
            return time.perf_counter() - began, sum(passed)
    finally:
        await server.stop(None)


async def _copied(pool: Pool, backlog: Backlog) -> float:
    """Seconds of COPY into a bare table: as many rows as the backlog has transfers and claims, a commit for each batch."""
    rows = (2 * backlog.lines + backlog.claims) // len(backlog.batches)
    async with pool.connection() as connection:
        await connection.execute(
            b"CREATE TABLE bare (a bigint, b bigint, c bigint, amount_micros bigint, d bigint, line integer, kind text, cause text)"
        )
        await connection.commit()
        began = time.perf_counter()
        for _ in backlog.batches:
            async with (
                connection.transaction(),
                connection.cursor() as cursor,
                cursor.copy(b"COPY bare FROM STDIN") as copy,
            ):
                for number in range(rows):
                    await copy.write_row((1, number, number + 1, 1_000, 1, number, "post", "use"))
        return time.perf_counter() - began


async def _e7() -> list[dict[str, object]]:
    key, token = posting.Key(), posting.Key()
    async with posting.database() as pool:
        store = PostgresStore(pool)
        ledger, quotas = await posting.open_ledger(store, key.spki, CHARGERS)
        backlog = await asyncio.to_thread(sealed_backlog, quotas, RECORDS)
        key_id = cose.key_id(key.spki)
        signed = [
            batch_pb2.SignedBatch(
                batch=raw, signature=key.sign_now(cose.to_be_signed("batch", "cloud", raw)), key_id=key_id
            )
            for raw in backlog.batches
        ]
        seconds, wire_bytes = await _push(
            GatewaySyncServicer(
                ledger=ledger,
                signatures=Signatures(
                    signer=token, keys=PublicKeys(receipt=token.spki, directive=token.spki), store=store
                ),
                clock=real_clock(),
                caller=lambda _: Caller(kind="gateway", id=GATEWAY),
                events=Bell(),
                head_interval_s=60,
            ),
            signed,
        )
        fault = (await store.verify()).fault
        assert not fault, fault
        echo = _Echo()  # type: ignore[abstract]  # nothing else of it is called
        floor_s = (await _push(echo, signed))[0] + await _copied(pool, backlog)
    rate, floor = backlog.records / seconds, backlog.records / floor_s
    of_a_record = wire_bytes / backlog.records
    raw_of_a_record = sum(map(len, backlog.batches)) / backlog.records
    said = (
        f"{backlog.records:,} records in {len(backlog.batches)} batches, {CHARGERS} chargers in session,"
        f" {backlog.lines:,} lines, {backlog.claims:,} claims"
    )
    return [
        {
            "id": "E7",
            "what": f"usage records/s of a backlog to the ledger's receipts: {said}",
            "value": round(rate),
            "unit": "1/s",
            "floor": round(floor),
            "floor_what": "the same bytes through a bare gRPC stream, then as many rows by COPY",
            "ratio": round(rate / floor, 3),
            "budget": f"≥ {RECORDS_BUDGET:,}/s",
            "met": rate >= RECORDS_BUDGET,
        },
        {
            "id": "E7-bytes",
            "what": "bytes on the wire per usage record, both ways, detail apart",
            "value": round(of_a_record, 2),
            "unit": "B",
            "floor": round(raw_of_a_record, 2),
            "floor_what": "the batches' own bytes",
            "ratio": round(of_a_record / raw_of_a_record, 3),
            "budget": f"≤ {BYTES_BUDGET} B",
            "met": of_a_record <= BYTES_BUDGET,
        },
    ]


def e7() -> list[dict[str, object]]:
    """Records a second, and bytes a record."""
    return asyncio.run(_e7())


if __name__ == "__main__":
    print(json.dumps(e7(), indent=1, ensure_ascii=False))
