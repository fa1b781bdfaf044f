"""A ledger and a registry in memory behind gRPC, and settlement's API before them."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import pytest

from farthing.clock import real_clock
from farthing.v1 import (
    ledger_pb2,
    ledger_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
    settlement_pb2_grpc,
)
from farthing_cloud.config import SettlementSection
from farthing_cloud.database import migrate, open_pool
from farthing_cloud.settlement import build


@dataclass
class Books(ledger_pb2_grpc.LedgerServicer):
    """Posted balances of one operator (credits minus debits), split as asked when a window is closed."""

    balances: dict[str, int] = field(default_factory=dict)
    window: str = "w1"
    answers: dict[str, ledger_pb2.CloseWindowResponse] = field(default_factory=dict)
    asked: list[ledger_pb2.CloseWindowRequest] = field(default_factory=list)
    #: Close, but lose the answer.
    lose_answers: bool = False
    #: Give the first party this much more than its share.
    cheat_micros: int = 0
    refuse: str = ""
    #: A posting that happens between two reads: (path, micros).
    moves: Iterator[tuple[str, int]] = field(default_factory=lambda: iter(()))

    async def ListBalances(self, request: ledger_pb2.ListBalancesRequest, context: Any) -> Any:  # noqa: N802, ARG002 - the RPC
        return ledger_pb2.ListBalancesResponse(
            balances=[
                ledger_pb2.Balance(
                    path=path,
                    currency="EUR",
                    debits_pending="0",
                    credits_pending="0",
                    debits_posted=str(max(-micros, 0)),
                    credits_posted=str(max(micros, 0)),
                )
                for path, micros in self.balances.items()
                if path.startswith(request.path_prefix)
            ]
        )

    async def Reconcile(self, request: ledger_pb2.ReconcileRequest, context: Any) -> Any:  # noqa: N802, ARG002 - the RPC
        for path, micros in self.moves:
            self.balances[path] = self.balances.get(path, 0) + micros
            break
        return ledger_pb2.ReconcileResponse(
            window=self.window,
            agencies_micros=self._sum("agency/"),
            fees_micros=self._sum("fee/"),
            bank_micros=-self._sum("bank/"),
            payers_own_micros=self._sum("payer/"),
        )

    async def CloseWindow(self, request: ledger_pb2.CloseWindowRequest, context: Any) -> Any:  # noqa: N802 - the RPC
        self.asked.append(request)
        if self.refuse:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, self.refuse)
        if request.window not in self.answers:
            self.answers[request.window] = self._close(request)
        if self.lose_answers:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the line broke")
        return self.answers[request.window]

    def _close(self, request: ledger_pb2.CloseWindowRequest) -> ledger_pb2.CloseWindowResponse:
        assert request.window == self.window
        self.window = f"w{int(self.window[1:]) + 1}"
        answer = ledger_pb2.CloseWindowResponse(next_window=self.window)
        for split in request.splits:
            amount = self.balances.pop(f"clearing/{split.site_id}/{request.window}", 0)
            parts = {part.path: amount * part.share_ppm // 1_000_000 for part in split.parts}
            parts[split.remainder_path] += amount - sum(parts.values()) + self.cheat_micros
            for path, micros in parts.items():
                self.balances[path] = self.balances.get(path, 0) + micros
            answer.sites.add(
                site_id=split.site_id,
                split_micros=amount,
                results=[ledger_pb2.SplitResult(path=path, amount_micros=micros) for path, micros in parts.items()],
            )
        return answer

    def _sum(self, prefix: str) -> int:
        return sum(micros for path, micros in self.balances.items() if path.startswith(prefix))


class Registry(registry_pb2_grpc.RegistryServicer):
    """One operator with two sites."""

    async def ListOperators(self, request: registry_pb2.ListOperatorsRequest, context: Any) -> Any:  # noqa: N802, ARG002 - the RPC
        return registry_pb2.ListOperatorsResponse(
            operators=[registry_pb2.Operator(operator_id="op", name="City", currency="EUR")]
        )

    async def ListSites(self, request: registry_pb2.ListSitesRequest, context: Any) -> Any:  # noqa: N802, ARG002 - the RPC
        return registry_pb2.ListSitesResponse(
            sites=[registry_pb2.Site(site_id=site, operator_id="op") for site in ("S1", "S2")]
        )


class _Channels:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    def to(self, service: str) -> grpc.aio.Channel:  # noqa: ARG002 - one server serves them all
        return self._channel


@dataclass
class Office:
    """Settlement's API and what stands behind it."""

    stub: Any
    books: Any
    pool: Any


@pytest.fixture
def books() -> Any:
    """The ledger behind the office; a module may put a real one in its place."""
    return Books()


@pytest.fixture
async def office(database_url: str, books: Any) -> AsyncIterator[Office]:
    await migrate(database_url, "farthing_cloud.settlement.schema", "settlement")
    server = grpc.aio.server()
    ledger_pb2_grpc.add_LedgerServicer_to_server(books, server)
    registry_pb2_grpc.add_RegistryServicer_to_server(Registry(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    front = grpc.aio.server()
    front_port = front.add_insecure_port("127.0.0.1:0")
    async with AsyncExitStack() as stack:
        stack.push_async_callback(server.stop, None)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        pool = await open_pool(database_url, schema="settlement")
        stack.push_async_callback(pool.close)
        service = build(
            pool=pool,
            token=None,
            channel=_Channels(channel),  # type: ignore[arg-type]  # has the one method that is used
            clock=real_clock(),
            settings=SettlementSection(),
        )
        for add, servicer, listener in service.servicers:
            assert listener == "back-office"
            add(servicer, front)
        await front.start()
        stack.push_async_callback(front.stop, None)
        front_channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{front_port}"))
        yield Office(stub=settlement_pb2_grpc.SettlementStub(front_channel), books=books, pool=pool)
