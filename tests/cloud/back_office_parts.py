"""A registry and a vault on a real database and a real token, beside a ledger that only keeps directives."""

import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from typing_extensions import override

from farthing.clock import real_clock
from farthing.hsm import Hsm, Party, Token, load_party
from farthing.v1 import (
    directive_pb2,
    ledger_pb2,
    ledger_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
    vault_pb2_grpc,
)
from farthing_cloud import registry, vault
from farthing_cloud.callers import Caller, set_caller
from farthing_cloud.channel import BackOfficeChannel
from farthing_cloud.config import RegistrySection, VaultSection
from farthing_cloud.database import Pool, migrate, open_pool

PERSON = Caller(kind="person", id="alice")
FRAUD = Caller(kind="service", id="fraud")

CHARGE = (
    b'{"country_code": "DE", "party_id": "MET", "id": "charge", "currency": "EUR", "last_updated": "2026-03-01T00:00:00Z",'
    b' "elements": [{"price_components": [{"type": "ENERGY", "price": 0.39, "step_size": 100, "vat": 20}]}]}'
)


def run_command(name: str, *arguments: object, **more: Any) -> subprocess.CompletedProcess[str]:
    """One of our commands in a process of its own."""
    return subprocess.run(
        [str(Path(sys.executable).parent / name), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **more,
    )


@pytest.fixture(scope="session")
def parties() -> Iterator[Path]:
    """A ceremony's folder: ca, cloud, gw-1, gw-2, chg-1, toll-1, alice; all in one SoftHSM directory."""
    folder = Path(tempfile.mkdtemp(prefix="farthing-cloud-parties-"))
    out = folder / "parties"
    held = run_command(
        "farthing-hsm-sim", "ceremony", "--out", out, "--shared-tokens",
        *("--gateway", "gw-1", "--gateway", "gw-2", "--device", "chg-1", "--device", "toll-1", "--person", "alice"),
    )  # fmt: skip
    assert held.returncode == 0, held.stderr
    yield out
    ended = run_command("farthing-hsm-sim", "destroy", out)
    assert ended.returncode == 0, ended.stderr
    shutil.rmtree(folder, ignore_errors=True)


def device_party(parties: Path, name: str) -> Party:
    """The party of a device."""
    return load_party(parties / "devices" / name)


@dataclass
class Tokens:
    """Tokens of one process."""

    cloud: Token
    gateway: Token


@pytest.fixture
def tokens(parties: Path) -> Iterator[Tokens]:
    """The cloud's token and gw-1's."""
    cloud = load_party(parties / "cloud")
    with Hsm.of(cloud) as hsm:
        yield Tokens(cloud=hsm.attach(cloud), gateway=hsm.attach(load_party(parties / "gw-1")))


@dataclass
class KeptLedger(ledger_pb2_grpc.LedgerServicer):
    """The part of the ledger that registry and vault speak to: gateways, and their chains of directives."""

    gateways: dict[str, ledger_pb2.CreateGatewayRequest] = field(default_factory=dict)
    chains: dict[str, list[ledger_pb2.IssueDirectiveRequest]] = field(default_factory=lambda: defaultdict(list))
    keys: set[str] = field(default_factory=set)
    accounts: set[str] = field(default_factory=lambda: {"acme"})
    epoch: int = 1
    #: What was posted: (gateway, incarnation, sequence) → what the log is to say.
    posted: dict[tuple[str, int, int], ledger_pb2.PostedReceipt] = field(default_factory=dict)
    #: Answers UNAVAILABLE once this many more calls were served.
    calls_until_away: int | None = None

    async def _here(self, context: Any) -> None:
        if self.calls_until_away is None:
            return
        if self.calls_until_away == 0:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the ledger is away")
        self.calls_until_away -= 1

    @override
    async def CreateGateway(self, request: ledger_pb2.CreateGatewayRequest, context: Any) -> Any:
        await self._here(context)
        changed = self.gateways.get(request.gateway_id) != request
        self.gateways[request.gateway_id] = request
        return ledger_pb2.CreateGatewayResponse(changed=changed)

    @override
    async def IssueDirective(self, request: ledger_pb2.IssueDirectiveRequest, context: Any) -> Any:
        await self._here(context)
        if request.gateway_id not in self.gateways:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no gateway {request.gateway_id}")
        if request.WhichOneof("body") == "token" and request.token.account_id not in self.accounts:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"no account {request.token.account_id}")
        if request.idempotency_key not in self.keys:
            self.keys.add(request.idempotency_key)
            self.chains[request.gateway_id].append(request)
        return ledger_pb2.IssueDirectiveResponse(version=len(self.chains[request.gateway_id]))

    @override
    async def ReadReceipts(self, request: ledger_pb2.ReadReceiptsRequest, context: Any) -> Any:
        await self._here(context)
        names = [(name.gateway_id, name.incarnation, name.sequence) for name in request.batches]
        found = [self.posted[name] for name in names if name in self.posted]
        return ledger_pb2.ReadReceiptsResponse(ledger_epoch=self.epoch, receipts=found)

    def kinds(self, gateway_id: str) -> list[str | None]:
        """What is on a chain, in order."""
        return [request.WhichOneof("body") for request in self.chains[gateway_id]]


class _As(grpc.aio.ServerInterceptor):
    """Stands in for the doorkeeper: says who calls."""

    def __init__(self) -> None:
        self.who = PERSON

    async def intercept_service(self, continuation: Callable[..., Awaitable[Any]], details: Any) -> Any:
        handler = await continuation(details)

        async def answer(request: Any, context: Any) -> Any:
            set_caller(self.who)
            return await handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(
            answer,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


@dataclass
class BackOffice:
    """Registry and vault, served, and what they put on gateways' chains."""

    registry: registry_pb2_grpc.RegistryStub
    vault: vault_pb2_grpc.VaultStub
    ledger: KeptLedger
    pool: Pool
    vault_pool: Pool
    services: tuple[Any, ...]
    speaks: _As
    url: str
    channel: grpc.aio.Channel

    def speak_as(self, who: Caller) -> None:
        """Who makes the next calls."""
        self.speaks.who = who


@pytest.fixture
async def back_office(database_url: str, tokens: Tokens) -> AsyncIterator[BackOffice]:
    """Registry and vault on a fresh database; no background work runs."""
    ledger = KeptLedger()
    speaks = _As()
    async with AsyncExitStack() as stack:
        pools = {}
        for name in ("registry", "vault"):
            await migrate(database_url, f"farthing_cloud.{name}.schema", name)
            pools[name] = await open_pool(database_url, schema=name, max_size=4)
            stack.push_async_callback(pools[name].close)
        server = grpc.aio.server(interceptors=(speaks,))
        port = server.add_insecure_port("127.0.0.1:0")
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        stack.push_async_callback(server.stop, None)
        stack.push_async_callback(channel.close)
        peers = BackOfficeChannel(dict.fromkeys(("ledger", "registry", "vault"), channel))
        services = (
            registry.build(
                pool=pools["registry"],
                token=tokens.cloud,
                channel=peers,
                clock=real_clock(),
                settings=RegistrySection(),
            ),
            vault.build(
                pool=pools["vault"], token=tokens.cloud, channel=peers, clock=real_clock(), settings=VaultSection()
            ),
        )
        ledger_pb2_grpc.add_LedgerServicer_to_server(ledger, server)
        for service in services:
            for add, servicer, _ in service.servicers:
                add(servicer, server)
        await server.start()
        yield BackOffice(
            registry=registry_pb2_grpc.RegistryStub(channel),
            vault=vault_pb2_grpc.VaultStub(channel),
            ledger=ledger,
            pool=pools["registry"],
            vault_pool=pools["vault"],
            services=services,
            speaks=speaks,
            url=database_url,
            channel=channel,
        )


# --- things to register -----------------------------------------------------------------------------------------------


def operator(**changes: Any) -> registry_pb2.Operator:
    return registry_pb2.Operator(**{"operator_id": "city", "name": "City", "currency": "EUR", **changes})


def site(**changes: Any) -> registry_pb2.Site:
    return registry_pb2.Site(
        **{
            "site_id": "S1",
            "operator_id": "city",
            "time_zone": "Europe/Berlin",
            "floor": directive_pb2.FloorPolicy(per_token_micros=0),
            "seal": directive_pb2.SealPolicy(amount_micros=5_000_000, records=200, age_s=2),
            **changes,
        }
    )


def point(spki: bytes) -> bytes:
    key = load_der_public_key(spki)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def gateway(parties: Path, name: str = "gw-1", **changes: Any) -> registry_pb2.Gateway:
    party = load_party(parties / name)
    return registry_pb2.Gateway(
        **{
            "gateway_id": name,
            "operator_id": "city",
            "site_id": "S1",
            "exposure_micros": 50_000_000,
            "batch_key": party.public_key("batch"),
            "grant_key": party.public_key("grant"),
            "unwrap_key": point(party.public_key("unwrap")),
            **changes,
        }
    )


def tariff(version: int = 1, content: bytes = CHARGE) -> registry_pb2.Tariff:
    return registry_pb2.Tariff(
        operator_id="city",
        tariff=directive_pb2.TariffRecord(tariff_id="charge", version=version, currency="EUR", ocpi_json=content),
    )


def device(
    parties: Path, name: str = "chg-1", *, site_ids: tuple[str, ...] = ("S1",), **changes: Any
) -> registry_pb2.Device:
    party = device_party(parties, name)
    record: dict[str, Any] = {
        "device_id": name,
        "profile": directive_pb2.DEVICE_PROFILE_SESSION,
        "statement_key": party.public_key("statement"),
        "static_dh_x": point(party.public_key("static-dh"))[1:33],
        "static_dh_kid": party.kid,
        "registers": [
            directive_pb2.RegisterRecord(
                register_id="1", register_epoch=1, unit="Wh", modulus=10**9, rated_per_hour=22_000
            )
        ],
        "tariff_id": "charge",
        "tariff_version": 1,
        "report_interval_s": 60,
        "stoppable": True,
    }
    return registry_pb2.Device(
        operator_id="city",
        site_ids=site_ids,
        record=directive_pb2.DeviceRecord(**{**record, **changes}),
        certificate=x509.load_pem_x509_certificate(party.certificate("statement")).public_bytes(Encoding.DER),
    )


async def register_all(office: BackOffice, parties: Path) -> None:
    """City with site S1, gw-1, a tariff and chg-1."""
    put = office.registry
    await put.PutOperator(registry_pb2.PutOperatorRequest(operator=operator()))
    await put.PutSite(registry_pb2.PutSiteRequest(site=site()))
    await put.PutGateway(registry_pb2.PutGatewayRequest(gateway=gateway(parties)))
    await put.PutTariff(registry_pb2.PutTariffRequest(tariff=tariff()))
    await put.PutDevice(registry_pb2.PutDeviceRequest(device=device(parties)))
