"""The cloud that the tests of the door push to."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import grpc
import grpc.aio
import pytest
from door_parties import (
    Cloud,
    SoftToken,
)
from ledger_story import TERMS

from farthing.clock import real_clock
from farthing.v1 import (
    gateway_sync_pb2_grpc,
    ledger_pb2_grpc,
)
from farthing_cloud.callers import Caller
from farthing_cloud.database import Pool
from farthing_cloud.ledger.back_office import LedgerServicer
from farthing_cloud.ledger.bell import Bell
from farthing_cloud.ledger.bundles import Bundles
from farthing_cloud.ledger.door import GatewaySyncServicer
from farthing_cloud.ledger.imports import Imports
from farthing_cloud.ledger.operations import Ledger
from farthing_cloud.ledger.plans import CorrectionPlans
from farthing_cloud.ledger.reports import Reports
from farthing_cloud.ledger.signing import PublicKeys, Signatures
from farthing_cloud.ledger.store.postgres import PostgresStore


@pytest.fixture
async def cloud(ledger_pool: Pool) -> AsyncIterator[Cloud]:
    store, token, events = PostgresStore(ledger_pool), SoftToken(), Bell()
    keys = PublicKeys(receipt=token.keys["receipt"].spki, directive=token.keys["directive"].spki)
    signatures = Signatures(signer=token, keys=keys, store=store)
    ledger = Ledger(store, terms=TERMS, receipt_keys=(keys.receipt,))
    callers = [Caller(kind="gateway", id="G1")]
    clock = real_clock()
    server = grpc.aio.server()
    door = GatewaySyncServicer(
        ledger=ledger,
        signatures=signatures,
        clock=clock,
        caller=lambda _: callers[0],
        events=events,
        head_interval_s=60,
    )
    gateway_sync_pb2_grpc.add_GatewaySyncServicer_to_server(door, server)
    ledger_pb2_grpc.add_LedgerServicer_to_server(
        LedgerServicer(
            ledger=ledger,
            reports=Reports(ledger_pool),
            bundles=Bundles(store, receipt_keys=(keys.receipt,)),
            plans=CorrectionPlans(ledger),
            imports=Imports(ledger, door),
            clock=clock,
            directives_wanted=signatures.wanted,
            events=events,
            caller=lambda _: callers[0],
            silent_us=600_000_000,
        ),
        server,
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    signing = asyncio.create_task(signatures.run())
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Cloud(
            door=gateway_sync_pb2_grpc.GatewaySyncStub(channel),
            back_office=ledger_pb2_grpc.LedgerStub(channel),
            store=store,
            signatures=signatures,
            token=token,
            callers=callers,
        )
    signing.cancel()
    with suppress(asyncio.CancelledError):
        await signing
    await server.stop(None)
