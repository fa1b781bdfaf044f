"""The documents service before a real ledger in which the worked example happens, and a registry in memory."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import grpc.aio
import psycopg
import pytest
from ledger_story import OP, ORDER, Story, grants, seal_all
from psycopg import sql
from psycopg.conninfo import make_conninfo

from farthing.clock import real_clock
from farthing.v1 import (
    directive_pb2,
    documents_pb2,
    documents_pb2_grpc,
    ledger_pb2_grpc,
    movements_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
)
from farthing_cloud.callers import Caller, set_caller
from farthing_cloud.config import DocumentsSection
from farthing_cloud.database import Pool, migrate, open_pool
from farthing_cloud.documents import build
from farthing_cloud.ledger.back_office import LedgerServicer
from farthing_cloud.ledger.bell import Bell
from farthing_cloud.ledger.bundles import Bundles
from farthing_cloud.ledger.movements import Movements, MovementsServicer
from farthing_cloud.ledger.plans import CorrectionPlans
from farthing_cloud.ledger.reports import Reports
from farthing_cloud.ledger.store.postgres import PostgresStore

_numbers = itertools.count(1)
#: Nobody carries batches by hand here.
NO_IMPORTS: Any = None

CHARGE = (
    b'{"elements": [{"price_components": [{"type": "FLAT", "price": 0.50, "step_size": 1, "vat": 20},'
    b' {"type": "ENERGY", "price": 0.25, "step_size": 100, "vat": 20}]}]}'
)


class Registry(registry_pb2_grpc.RegistryServicer):
    """One operator, its charger and its tariff, by names that try to break out of a page."""

    name = "City <script>alert(1)</script> & Söhne"

    async def ListOperators(self, request: registry_pb2.ListOperatorsRequest, context: Any) -> Any:  # noqa: N802, ARG002 - the RPC
        return registry_pb2.ListOperatorsResponse(
            operators=[registry_pb2.Operator(operator_id=OP, name=self.name, currency="EUR")]
        )

    async def ListDevices(self, request: registry_pb2.ListDevicesRequest, context: Any) -> Any:  # noqa: N802, ARG002 - the RPC
        register = directive_pb2.RegisterRecord(register_id="1", register_epoch=0, unit="Wh", modulus=10**9)
        record = directive_pb2.DeviceRecord(device_id="c1", registers=[register])
        return registry_pb2.ListDevicesResponse(devices=[registry_pb2.Device(operator_id=OP, record=record)])

    async def ListTariffs(self, request: registry_pb2.ListTariffsRequest, context: Any) -> Any:  # noqa: N802, ARG002 - the RPC
        record = directive_pb2.TariffRecord(tariff_id="chg-3", version=1, currency="EUR", ocpi_json=CHARGE)
        return registry_pb2.ListTariffsResponse(tariffs=[registry_pb2.Tariff(operator_id=OP, tariff=record)])

    async def ListEntitlements(self, request: registry_pb2.ListEntitlementsRequest, context: Any) -> Any:  # noqa: N802, ARG002 - the RPC
        return registry_pb2.ListEntitlementsResponse()


class _Channels:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    def to(self, service: str) -> grpc.aio.Channel:  # noqa: ARG002 - one server serves them all
        return self._channel


@dataclass
class Office:
    """Documents' API, and the ledger behind it."""

    documents: Any
    service: Any
    story: Story
    pool: Pool
    url: str

    async def day(self) -> None:
        """The worked example up to its last batch."""
        sealed = seal_all(self.story)
        for name in ORDER:
            await self.story.push(sealed[name])

    async def sell(self, **changes: Any) -> Any:
        """Say who sells."""
        values = {
            "operator_id": OP,
            "name": "City of <b>Farthing</b>",
            "address": documents_pb2.PostalAddress(
                street="1 Mint Lane", city="Farthing", postcode="10115", country="DE"
            ),
            "vat_id": "DE123456789",
            "invoice_prefix": "INV-",
            "credit_note_prefix": "CN-",
            **changes,
        }
        return await self.documents.PutSeller(documents_pb2.PutSellerRequest(seller=documents_pb2.Seller(**values)))

    async def invoice(self, account: str, until_us: int, **more: Any) -> Any:
        """Run an account's invoice."""
        return await self.documents.IssueInvoice(
            documents_pb2.IssueInvoiceRequest(operator_id=OP, account_id=account, until_us=until_us, **more)
        )

    async def verify(self) -> documents_pb2.VerifyDocumentsResponse:
        """Hold documents against the ledger."""
        answer: documents_pb2.VerifyDocumentsResponse = await self.documents.VerifyDocuments(
            documents_pb2.VerifyDocumentsRequest(operator_id=OP)
        )
        return answer


class _As(grpc.aio.ServerInterceptor):
    """Stands in for the doorkeeper: a person calls."""

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = await continuation(details)

        async def answer(request: Any, context: Any) -> Any:
            set_caller(Caller(kind="person", id="alice"))
            return await handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(
            answer, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
        )


@pytest.fixture(scope="session")
def documents_template(database_server: str) -> str:
    """A database with both schemas, to be copied: that is quicker than to make them for each test."""
    name = "documents_template"
    with psycopg.connect(database_server, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    url = make_conninfo(database_server, dbname=name)
    for schema in ("ledger", "documents"):
        asyncio.run(migrate(url, f"farthing_cloud.{schema}.schema", schema))
    return name


@pytest.fixture
def database_url(database_server: str, documents_template: str) -> Iterator[str]:
    """URL of a database with an empty ledger and no documents."""
    name = f"documents_{next(_numbers)}"
    with psycopg.connect(database_server, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(documents_template))
        )
    yield make_conninfo(database_server, dbname=name)
    with psycopg.connect(database_server, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
async def office(database_url: str, ledger_pool: Pool) -> AsyncIterator[Office]:
    store = PostgresStore(ledger_pool)
    story = Story(store)
    await grants(story)
    async with AsyncExitStack() as stack:
        ledger = grpc.aio.server()
        servicer = LedgerServicer(
            ledger=story.ledger,
            reports=Reports(ledger_pool),
            bundles=Bundles(store, receipt_keys=()),
            plans=CorrectionPlans(story.ledger),
            imports=NO_IMPORTS,
            clock=real_clock(),
            directives_wanted=Bell(),
            events=Bell(),
            caller=lambda _context: Caller(kind="service", id="documents"),
            silent_us=1,
        )
        ledger_pb2_grpc.add_LedgerServicer_to_server(servicer, ledger)
        movements_pb2_grpc.add_MovementsServicer_to_server(MovementsServicer(Movements(ledger_pool, store)), ledger)
        registry_pb2_grpc.add_RegistryServicer_to_server(Registry(), ledger)
        port = ledger.add_insecure_port("127.0.0.1:0")
        await ledger.start()
        stack.push_async_callback(ledger.stop, None)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        pool = await open_pool(database_url, schema="documents")
        stack.push_async_callback(pool.close)
        service = build(
            pool=pool,
            token=None,
            channel=_Channels(channel),  # type: ignore[arg-type]  # has the one method that is used
            clock=real_clock(),
            settings=DocumentsSection(),
        )
        front = grpc.aio.server(interceptors=(_As(),))
        for add, mounted, _ in service.servicers:
            add(mounted, front)
        front_port = front.add_insecure_port("127.0.0.1:0")
        await front.start()
        stack.push_async_callback(front.stop, None)
        front_channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{front_port}"))
        yield Office(
            documents=documents_pb2_grpc.DocumentsStub(front_channel),
            service=service,
            story=story,
            pool=pool,
            url=database_url,
        )
