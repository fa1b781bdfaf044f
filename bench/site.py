"""A gateway as it is run in the field, for benches: its own process, token, journal on disk, Mosquitto, and a cloud of one.

The cloud is this module's own: it tells the gateway what it needs to know, and receipts what it sends. Devices sign in memory.
"""

import asyncio
import contextlib
import hashlib
import json
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiomqtt
import grpc
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from grpc import aio

from bench.devices import DeviceSeat
from farthing.clock import Instant
from farthing.device.cose import VerifyingKey, encode_sign1, key_id, to_be_signed
from farthing.device.messages import (
    Chain,
    End,
    Envelope,
    Intent,
    Reading,
    RegisterValue,
    Statement,
    TariffVersion,
    encode,
)
from farthing.evidence.batches import batch_hash
from farthing.hsm import Hsm, Token
from farthing.hsm.token import unwrapped_point
from farthing.hsm.transport import TransportKey, make_transport_key
from farthing.ids import AuthorizationId, DeviceId, GatewayId, RegisterId, TariffId, authorization_id, token_commitment
from farthing.v1 import batch_pb2, directive_pb2, gateway_sync_pb2
from farthing.v1.gateway_sync_pb2_grpc import GatewaySyncServicer, add_GatewaySyncServicer_to_server
from farthing_edge.broker import device_key
from farthing_edge.config import LimitsSection
from farthing_hsm_sim.ceremony import Parties, hold
from farthing_hsm_sim.plan import Plan

GATEWAY = "gw-bench"
SITE_KEY = "site-key-bench"
CARD = b"bench card"
SALT = b"0123456789abcdef"
STARTED_S = 30.0
MS = 1_000.0
#: A register fast enough that no bench waits for what it measures: 2,777 Wh a second.
RATED_PER_HOUR = 10_000_000

#: Rates that no load of ours meets.
UNLIMITED = LimitsSection(device_rate_per_s=100_000, device_burst=100_000, peer_rate_per_s=100_000, peer_burst=100_000)

_OF_ALL = {"country_code": "DE", "party_id": "FAR", "currency": "EUR", "last_updated": "2026-01-01T00:00:00Z"}
TARIFFS: tuple[dict[str, Any], ...] = (
    {
        **_OF_ALL,
        "id": "toll-1",
        "tax_included": True,
        "elements": [{"price_components": [{"type": "UNIT", "price": 1.20, "vat": 7.0, "step_size": 1}]}],
    },
    {
        **_OF_ALL,
        "id": "chg-1",
        "elements": [{"price_components": [{"type": "ENERGY", "price": 0.25, "vat": 20.0, "step_size": 1}]}],
    },
)
#: By whether a device has sessions.
TARIFF_OF = {False: "toll-1", True: "chg-1"}


class SoftElement:
    """A device whose statements are signed in memory: its speed is not what is measured.

    A toll transponder asks and uses in one step (``passage``), a charger has sessions (``intent``, ``reading``, ``end``).
    """

    def __init__(self, name: str, *, sessions: bool = False) -> None:
        self.name = DeviceId(name)
        self.sessions = sessions
        self._private = ec.generate_private_key(ec.SECP256R1())
        self.spki = self._private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.key_id = key_id(self.spki)
        self.counter = 0
        self.value = 0
        self._authorization: AuthorizationId | None = None

    def passage(self, counter: int) -> bytes:
        """The envelope of passage number ``counter``."""
        return self._intent(counter, value=counter - 1, one_shot=1)

    def intent(self) -> bytes:
        """The envelope that opens a session where the register stands."""
        self.counter += 1
        self._authorization = authorization_id(self.name, 1, self.counter, GatewayId(GATEWAY))
        return self._intent(self.counter, value=self.value, one_shot=None)

    def reading(self) -> bytes:
        """The envelope of one more watt-hour in the open session."""
        self.value += 1
        return self._said(Reading)

    def chain(self, anchor: bytes, length: int) -> bytes:
        """The envelope that commits to ``length`` ticks of a watt-hour from where the register stands."""
        return self._said(Chain, unit_per_tick=1, length=length, anchor=anchor)

    @property
    def authorization(self) -> AuthorizationId:
        """Of the session opened last."""
        assert self._authorization is not None, "a session comes first"
        return self._authorization

    def end(self) -> bytes:
        """The envelope that closes it."""
        return self._said(End)

    def _said(self, kind: type[Reading] | type[End] | type[Chain], **more: Any) -> bytes:
        self.counter += 1
        return self._envelope(
            kind(
                **self._head(self.counter, self.value),
                commitment=token_commitment(CARD, SALT),
                authorization=self.authorization,
                tariff=TariffVersion(tariff_id=TariffId(TARIFF_OF[self.sessions]), version=1),
                **more,
            ),
            None,
        )

    def _head(self, counter: int, value: int) -> dict[str, Any]:
        return {
            "recipient": GatewayId(GATEWAY),
            "device": self.name,
            "device_epoch": 1,
            "counter": counter,
            "at": Instant(time.time_ns() // 1_000),
            "register": RegisterValue(register_id=RegisterId("lane"), register_epoch=1, value=value),
        }

    def _intent(self, counter: int, *, value: int, one_shot: int | None) -> bytes:
        statement = Intent(
            **self._head(counter, value), commitment=token_commitment(CARD, SALT), incarnation=1, one_shot=one_shot
        )
        return self._envelope(statement, CARD)

    def _envelope(self, statement: Statement, token: bytes | None) -> bytes:
        payload = encode(statement)
        der = self._private.sign(to_be_signed(statement.kind, GATEWAY, payload), ec.ECDSA(SHA256()))
        r, s = decode_dss_signature(der)
        signed = encode_sign1(self.key_id, payload, r.to_bytes(32, "big") + s.to_bytes(32, "big"))
        return encode(Envelope(statement=signed, token=token, salt=None if token is None else SALT))


class CloudOfOne(GatewaySyncServicer):
    """Tells one gateway what it needs, and receipts what it sends."""

    def __init__(self, token: Token, parties: Parties) -> None:
        self._token = token
        self._receipt_key = key_id(parties.cloud.public_key("receipt"))
        self._directive_key = key_id(parties.cloud.public_key("directive"))
        self.chain: list[directive_pb2.SignedDirective] = []
        self.posted = 0

    def direct(self, **body: Any) -> None:
        """Append a directive."""
        previous = hashlib.sha256(self.chain[-1].directive).digest() if self.chain else bytes(32)
        raw = directive_pb2.Directive(
            gateway_id=GATEWAY,
            version=len(self.chain) + 1,
            previous_hash=previous,
            dated_at_us=time.time_ns() // 1_000,
            **body,
        ).SerializeToString()
        signature = self._token.sign_blocking("directive", to_be_signed("directive", GATEWAY, raw))
        self.chain.append(directive_pb2.SignedDirective(directive=raw, signature=signature, key_id=self._directive_key))

    async def Hello(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802 gRPC's signature
        """One incarnation."""
        return gateway_sync_pb2.HelloResponse(incarnation=1, ledger_epoch=1, posted_sequence=self.posted)

    async def PushBatches(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:  # noqa: ARG002, N802 gRPC's signature
        """A receipt for each."""
        async for signed in request_iterator:
            batch = batch_pb2.Batch.FromString(signed.batch)
            self.posted = max(self.posted, batch.sequence)
            raw = batch_pb2.Receipt(
                ledger_epoch=1,
                gateway_id=GATEWAY,
                incarnation=1,
                sequence=batch.sequence,
                batch_hash=batch_hash(signed.batch),
                posted_at_us=time.time_ns() // 1_000,
            ).SerializeToString()
            signature = await self._token.sign("receipt", to_be_signed("receipt", GATEWAY, raw))
            yield batch_pb2.SignedReceipt(receipt=raw, signature=signature, key_id=self._receipt_key)

    async def FollowDirectives(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: ARG002, N802 gRPC's signature
        """The chain, that it is whole, then silence."""
        for signed in self.chain[request.after_version :]:
            yield gateway_sync_pb2.FollowDirectivesResponse(directive=signed)
        raw = directive_pb2.DirectiveHead(
            gateway_id=GATEWAY,
            version=len(self.chain),
            hash=hashlib.sha256(self.chain[-1].directive).digest(),
            at_us=time.time_ns() // 1_000,
        ).SerializeToString()
        signature = await self._token.sign("directive", to_be_signed("directive-head", GATEWAY, raw))
        yield gateway_sync_pb2.FollowDirectivesResponse(
            head=directive_pb2.SignedDirectiveHead(head=raw, signature=signature, key_id=self._directive_key)
        )
        await asyncio.get_running_loop().create_future()

    async def RequestQuota(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802 gRPC's signature
        """There is one quota, and it is large."""
        return gateway_sync_pb2.RequestQuotaResponse(answer=gateway_sync_pb2.QUOTA_ANSWER_NOTHING_AVAILABLE)

    async def ShowDirectives(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:  # noqa: ARG002, N802 gRPC's signature
        """Nobody is asked to show anything."""
        async for _ in request_iterator:
            yield gateway_sync_pb2.ShowDirectivesResponse()

    async def UploadEvidence(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:  # noqa: ARG002, N802 gRPC's signature
        """Taken as it is."""
        async for upload in request_iterator:
            yield gateway_sync_pb2.UploadEvidenceResponse(
                incarnation=upload.incarnation, sequence=upload.sequence, verified=True
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Folders and addresses of the run."""

    folder: Path
    parties: Parties
    config: Path
    broker_port: int
    cloud_port: int

    @property
    def way_in(self) -> Path:
        """The broker's socket for the gateway."""
        return self.folder / "way-in" / "s"


def disk() -> str:
    """The journal belongs on a disk: out/ of the repository, not a tmpfs."""
    out = Path("out")
    out.mkdir(exist_ok=True)
    return str(out.absolute())


async def tell(cloud: CloudOfOne, token: Token, parties: Parties, elements: Sequence[SoftElement]) -> None:
    party = parties.gateways[GATEWAY]
    await token.generate_hmac_key(SITE_KEY)
    point = VerifyingKey.from_spki(party.public_key("unwrap"))
    wrapped = await token.wrap_hmac_key(SITE_KEY, unwrapped_point(point.spki[-65:]))
    token_ref = await token.hmac(SITE_KEY, CARD)
    now_us = time.time_ns() // 1_000
    cloud.direct(
        welcome=directive_pb2.Welcome(
            operator_id="op",
            site_id="S1",
            incarnation=1,
            receipt_keys=[parties.cloud.public_key("receipt")],
            time_zone="UTC",
        )
    )
    cloud.direct(
        site_key=directive_pb2.SiteKey(
            site_id="S1", epoch=1, ephemeral_public_key=wrapped.ephemeral_public_key, wrapped_key=wrapped.wrapped
        )
    )
    for tariff in TARIFFS:
        cloud.direct(
            tariff=directive_pb2.TariffRecord(
                tariff_id=str(tariff["id"]), version=1, currency="EUR", ocpi_json=json.dumps(tariff).encode()
            )
        )
    cloud.direct(
        account=directive_pb2.AccountRecord(account_id="P", currency="EUR", status=directive_pb2.ACCOUNT_STATUS_ACTIVE)
    )
    cloud.direct(token=directive_pb2.TokenRecord(token_ref=token_ref, key_epoch=1, token_id="t-1", account_id="P"))
    cloud.direct(
        quota_granted=directive_pb2.QuotaGranted(
            quota_id="q-1",
            account_id="P",
            currency="EUR",
            amount_micros=10**14,
            spend_until_us=now_us + 3_600_000_000,
            report_until_us=now_us + 7_200_000_000,
            incarnation=1,
        )
    )
    for element in elements:
        cloud.direct(
            device=directive_pb2.DeviceRecord(
                device_id=element.name,
                status=directive_pb2.DEVICE_STATUS_ACTIVE,
                device_epoch=1,
                profile=directive_pb2.DEVICE_PROFILE_SESSION
                if element.sessions
                else directive_pb2.DEVICE_PROFILE_ONE_SHOT,
                statement_key=element.spki,
                registers=[
                    directive_pb2.RegisterRecord(
                        register_id="lane",
                        register_epoch=1,
                        unit="Wh" if element.sessions else "passage",
                        modulus=2**40,
                        rated_per_hour=RATED_PER_HOUR,
                    )
                ],
                tariff_id=TARIFF_OF[element.sessions],
                tariff_version=1,
                report_interval_s=60,
                stoppable=True,
            )
        )
    cloud.direct(seal=directive_pb2.SealPolicy(amount_micros=10**9, records=200, age_s=2))


@contextlib.asynccontextmanager
async def serve(cloud: CloudOfOne, token: Token, parties: Parties, folder: Path) -> AsyncIterator[int]:
    roots = parties.cloud.certificate("ca")
    key = await asyncio.to_thread(
        lambda: make_transport_key(
            token,
            "issuing",
            issuer_certificate=parties.cloud.certificate("issuing"),
            roots=roots,
            directory=folder / "door",
            common_name="door",
            dns_names=("localhost",),
            addresses=("127.0.0.1",),
            server=True,
            client=False,
        )
    )
    # As the cloud's door: a gateway that pings every six seconds is no nuisance.
    server = aio.server(
        options=[
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            ("grpc.keepalive_permit_without_calls", 1),
        ]
    )
    add_GatewaySyncServicer_to_server(cloud, server)
    credentials = grpc.ssl_server_credentials(
        [(key.key_file.read_bytes(), key.certificate_file.read_bytes())], roots, require_client_auth=True
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)


def site_at(folder: Path, parties: Parties, cloud_port: int, limits: LimitsSection) -> Site:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        broker_port = int(probe.getsockname()[1])
    config = folder / "edge.toml"
    config.write_text(
        f"""\
gateway_id = "{GATEWAY}"
state_dir = "{folder}/state"
party = "{parties.gateways[GATEWAY].folder}"
ca_file = "{parties.gateways[GATEWAY].certificates}/ca.pem"
directive_key_file = "{parties.cloud.public}/directive.der"
[uplink]
address = "127.0.0.1:{cloud_port}"
[mqtt]
address = "127.0.0.1:{broker_port}"
socket = "{folder}/way-in/s"
[limits]
device_rate_per_s = {limits.device_rate_per_s}
device_burst = {limits.device_burst}
peer_rate_per_s = {limits.peer_rate_per_s}
peer_burst = {limits.peer_burst}
[log]
level = "warning"
"""
    )
    return Site(folder=folder, parties=parties, config=config, broker_port=broker_port, cloud_port=cloud_port)


def edge(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "farthing_edge.command", *arguments]


@contextlib.contextmanager
def broker(site: Site) -> Iterator[None]:
    if shutil.which("mosquitto") is None:
        raise RuntimeError("E1 needs Mosquitto: apt-get install mosquitto")
    written = subprocess.run(
        [
            *edge("broker", "--json", "--config", str(site.config)),
            *("--listen", f"127.0.0.1:{site.broker_port}", "--directory", str(site.folder / "broker")),
        ],
        check=True,
        capture_output=True,
    )
    process = subprocess.Popen(json.loads(written.stdout)["command"], stderr=subprocess.DEVNULL)
    try:
        until_listening(site.broker_port)
        yield
    finally:
        process.terminate()
        process.wait(10)


def until_listening(port: int) -> None:
    until = time.monotonic() + STARTED_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > until:
                raise
        else:
            return


@contextlib.contextmanager
def gateway(site: Site) -> "Iterator[subprocess.Popen[bytes]]":
    process = subprocess.Popen(edge("run", "--config", str(site.config)))
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


async def until_told(site: Site, version: int, process: "subprocess.Popen[bytes]") -> None:
    """Wait until the gateway has obeyed every directive and has its broker."""
    import httpx

    run_file = site.folder / "state" / "run.json"
    async with asyncio.timeout(STARTED_S), httpx.AsyncClient() as http:
        while True:
            if process.poll() is not None:
                raise RuntimeError("the gateway did not start")
            if run_file.exists():
                address = json.loads(run_file.read_text())["addresses"]["http"]
                page: dict[str, Any] = (await http.get(f"http://{address}/status")).json()
                told = page["authorizing"] and page["directives"]["version"] == version
                if told and page["broker"]["connected"]:
                    return
            await asyncio.sleep(0.01)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A site whose broker runs and whose gateway does not yet."""

    site: Site
    token: Token
    elements: Sequence[SoftElement]
    keys: Sequence[TransportKey]
    version: int

    @contextlib.asynccontextmanager
    async def running(self) -> "AsyncIterator[subprocess.Popen[bytes]]":
        """The gateway, told everything."""
        with gateway(self.site) as process:
            await until_told(self.site, self.version, process)
            yield process

    def seats(self, devices: int) -> list[DeviceSeat]:
        """What a load in another process needs to be the first ``devices`` of them."""
        return [
            DeviceSeat(
                name=element.name,
                ca_file=key.ca_file,
                certificate_file=key.certificate_file,
                key_file=key.key_file,
            )
            for element, key in zip(self.elements[:devices], self.keys, strict=False)
        ]

    def client(self, number: int) -> aiomqtt.Client:
        """A connection of device ``number``'s."""
        key = self.keys[number]
        context = ssl.create_default_context(cafile=str(key.ca_file))
        context.load_cert_chain(str(key.certificate_file), str(key.key_file))
        client = aiomqtt.Client(
            "127.0.0.1", self.site.broker_port, tls_context=context, max_inflight_messages=1_000, timeout=STARTED_S
        )
        client.pending_calls_threshold = 1_000_000
        return client


@contextlib.asynccontextmanager
async def prepared(
    folder: Path, elements: Sequence[SoftElement], *, limits: LimitsSection | None = None
) -> AsyncIterator[Prepared]:
    """Ceremony, cloud, broker and the devices' keys, in ``folder``."""
    parties = await asyncio.to_thread(hold, Plan(gateways=(GATEWAY,), shared_tokens=True), folder / "parties")
    with Hsm.of(parties.cloud) as hsm:
        cloud_token, token = hsm.attach(parties.cloud), hsm.attach(parties.gateways[GATEWAY])
        cloud = CloudOfOne(cloud_token, parties)
        await tell(cloud, cloud_token, parties, elements)
        async with serve(cloud, cloud_token, parties, folder) as cloud_port:
            site = site_at(folder, parties, cloud_port, limits or LimitsSection())
            keys = await asyncio.to_thread(
                lambda: [
                    device_key(token, parties.gateways[GATEWAY], each.name, directory=folder / each.name)
                    for each in elements
                ]
            )
            with broker(site):
                yield Prepared(site=site, token=token, elements=elements, keys=keys, version=len(cloud.chain))


async def _page(site: Site, path: str) -> Any:
    import httpx

    address = json.loads((site.folder / "state" / "run.json").read_text())["addresses"]["http"]
    async with httpx.AsyncClient() as http:
        return await http.get(f"http://{address}/{path}")


async def status(site: Site) -> dict[str, Any]:
    """What the gateway says of itself."""
    page: dict[str, Any] = (await _page(site, "status")).json()
    return page


async def metric(site: Site, name: str) -> float:
    """One number of the gateway's metrics, without labels."""
    for line in (await _page(site, "metrics")).text.splitlines():
        if line.startswith(f"{name} "):
            return float(line.split()[1])
    raise RuntimeError(f"there is no {name}")


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
