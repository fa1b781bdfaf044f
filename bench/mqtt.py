"""E1: authorize over MQTT, signed and durable, 500 a second, with broker and load on the same cores.

One gateway as it is run in the field (its own process, token, journal on disk, Mosquitto), told by a cloud of this module's own what
it needs to know: 40 toll transponders that ask and use in one step, one account, one quota. The load sends statements signed
beforehand, at fixed times, and measures from the planned time of sending to the answer: what waits in a queue counts.

The floor is measured first, on the same broker with the same load: an echo in the gateway's place, then the parts an authorization
cannot do without: one verification, one signature in the token, one fdatasync of a page.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
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

from bench.processes import cpu_s, resident_mb
from farthing.clock import Instant
from farthing.device.cose import VerifyingKey, encode_sign1, key_id, to_be_signed
from farthing.device.messages import (
    AnswerStatus,
    Envelope,
    Intent,
    RegisterValue,
    decode_answer,
    encode,
)
from farthing.evidence.batches import batch_hash
from farthing.hsm import Hsm, Token
from farthing.hsm.token import unwrapped_point
from farthing.hsm.transport import TransportKey, make_transport_key
from farthing.ids import DeviceId, GatewayId, RegisterId, token_commitment
from farthing.v1 import batch_pb2, directive_pb2, gateway_sync_pb2
from farthing.v1.gateway_sync_pb2_grpc import GatewaySyncServicer, add_GatewaySyncServicer_to_server
from farthing_edge.broker import device_key
from farthing_hsm_sim.ceremony import Parties, hold
from farthing_hsm_sim.plan import Plan

GATEWAY = "gw-bench"
DEVICES = 40
RATE_PER_S = 500
WARM_UP_S = 2
MEASURED_S = 10
SITE_KEY = "site-key-bench"
CARD = b"bench card"
SALT = b"0123456789abcdef"
P99_BUDGET_MS = 10.0
P50_BUDGET_RATIO = 2.0
MS = 1_000.0
STARTED_S = 30.0
#: What a passage counts that was told to come later: a gateway that cannot keep up must not look fast.
LATE_S = 30.0

TARIFF = {
    "country_code": "DE",
    "party_id": "FAR",
    "id": "toll-1",
    "currency": "EUR",
    "tax_included": True,
    "elements": [{"price_components": [{"type": "UNIT", "price": 1.20, "vat": 7.0, "step_size": 1}]}],
    "last_updated": "2026-01-01T00:00:00Z",
}


class SoftElement:
    """A transponder whose statements are signed before the run: its speed is not what is measured."""

    def __init__(self, name: str) -> None:
        self.name = DeviceId(name)
        self._private = ec.generate_private_key(ec.SECP256R1())
        self.spki = self._private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.key_id = key_id(self.spki)

    def passage(self, counter: int) -> bytes:
        """The envelope of passage number ``counter``."""
        payload = encode(
            Intent(
                recipient=GatewayId(GATEWAY),
                device=self.name,
                device_epoch=1,
                counter=counter,
                at=Instant(time.time_ns() // 1_000),
                register=RegisterValue(register_id=RegisterId("lane"), register_epoch=1, value=counter - 1),
                commitment=token_commitment(CARD, SALT),
                incarnation=1,
                one_shot=1,
            )
        )
        der = self._private.sign(to_be_signed("intent", GATEWAY, payload), ec.ECDSA(SHA256()))
        r, s = decode_dss_signature(der)
        signed = encode_sign1(self.key_id, payload, r.to_bytes(32, "big") + s.to_bytes(32, "big"))
        return encode(Envelope(statement=signed, token=CARD, salt=SALT))


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
        """The chain, then silence."""
        for signed in self.chain[request.after_version :]:
            yield gateway_sync_pb2.FollowDirectivesResponse(directive=signed)
        await asyncio.get_running_loop().create_future()

    async def RequestQuota(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802 gRPC's signature
        """There is one quota, and it is large."""
        return gateway_sync_pb2.RequestQuotaResponse(answer=gateway_sync_pb2.QUOTA_ANSWER_NOTHING_AVAILABLE)

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


def e1() -> list[dict[str, object]]:
    """p50 and p99 of an authorization, and what it takes of processor and memory."""
    with tempfile.TemporaryDirectory(prefix="farthing-bench-", dir=_disk()) as folder:
        return asyncio.run(_measure(Path(folder)))


def _disk() -> str:
    """The journal belongs on a disk: out/ of the repository, not a tmpfs."""
    out = Path("out")
    out.mkdir(exist_ok=True)
    return str(out.absolute())


async def _measure(folder: Path) -> list[dict[str, object]]:
    plan = Plan(gateways=(GATEWAY,), shared_tokens=True)
    parties = await asyncio.to_thread(hold, plan, folder / "parties")
    elements = [SoftElement(f"toll-{n}") for n in range(DEVICES)]
    total = RATE_PER_S * (WARM_UP_S + MEASURED_S)
    passages = [elements[n % DEVICES].passage(n // DEVICES + 1) for n in range(total)]
    with Hsm.of(parties.cloud) as hsm:
        cloud_token, gateway_token = hsm.attach(parties.cloud), hsm.attach(parties.gateways[GATEWAY])
        cloud = CloudOfOne(cloud_token, parties)
        await _tell(cloud, cloud_token, parties, elements)
        async with _serve(cloud, cloud_token, parties, folder) as cloud_port:
            site = _site(folder, parties, cloud_port)
            keys = [
                device_key(gateway_token, parties.gateways[GATEWAY], each.name, directory=folder / each.name)
                for each in elements
            ]
            with _broker(site):
                floor = await _floor(site, gateway_token, keys, elements, passages)
                with _gateway(site) as process:
                    await _until_told(site, len(cloud.chain), process)
                    before_s = cpu_s(process.pid)
                    latencies = await _load(site.broker_port, keys, elements, passages, check=True)
                    used_s = cpu_s(process.pid) - before_s
                    memory_mb = resident_mb(process.pid)
    return _rows(floor, latencies, cpu_s_each=used_s / total, memory_mb=memory_mb)


async def _tell(cloud: CloudOfOne, token: Token, parties: Parties, elements: list[SoftElement]) -> None:
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
    cloud.direct(
        tariff=directive_pb2.TariffRecord(
            tariff_id="toll-1", version=1, currency="EUR", ocpi_json=json.dumps(TARIFF).encode()
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
            amount_micros=10**12,
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
                profile=directive_pb2.DEVICE_PROFILE_ONE_SHOT,
                statement_key=element.spki,
                registers=[
                    directive_pb2.RegisterRecord(
                        register_id="lane", register_epoch=1, unit="passage", modulus=2**40, rated_per_hour=10**6
                    )
                ],
                tariff_id="toll-1",
                tariff_version=1,
                report_interval_s=60,
            )
        )
    cloud.direct(seal=directive_pb2.SealPolicy(amount_micros=10**9, records=200, age_s=2))


@contextlib.asynccontextmanager
async def _serve(cloud: CloudOfOne, token: Token, parties: Parties, folder: Path) -> AsyncIterator[int]:
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
    server = aio.server()
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


def _site(folder: Path, parties: Parties, cloud_port: int) -> Site:
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
[log]
level = "warning"
"""
    )
    return Site(folder=folder, parties=parties, config=config, broker_port=broker_port, cloud_port=cloud_port)


def _edge(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "farthing_edge.command", *arguments]


@contextlib.contextmanager
def _broker(site: Site) -> Iterator[None]:
    if shutil.which("mosquitto") is None:
        raise RuntimeError("E1 needs Mosquitto: apt-get install mosquitto")
    written = subprocess.run(
        [
            *_edge("broker", "--json", "--config", str(site.config)),
            *("--listen", f"127.0.0.1:{site.broker_port}", "--directory", str(site.folder / "broker")),
        ],
        check=True,
        capture_output=True,
    )
    process = subprocess.Popen(json.loads(written.stdout)["command"], stderr=subprocess.DEVNULL)
    try:
        _until_listening(site.broker_port)
        yield
    finally:
        process.terminate()
        process.wait(10)


def _until_listening(port: int) -> None:
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
def _gateway(site: Site) -> "Iterator[subprocess.Popen[bytes]]":
    process = subprocess.Popen(_edge("run", "--config", str(site.config)))
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


async def _until_told(site: Site, version: int, process: "subprocess.Popen[bytes]") -> None:
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
                if page["directives"]["version"] == version and page["broker"]["connected"]:
                    return
            await asyncio.sleep(0.01)


async def _load(
    port: int, keys: list[TransportKey], elements: list[SoftElement], passages: list[bytes], *, check: bool
) -> list[float]:
    """Seconds from the planned time of sending to the answer, of every passage after the warm-up; ``LATE_S`` where none was given."""
    loop = asyncio.get_running_loop()
    due: dict[tuple[str, int], float] = {}
    answered: dict[tuple[str, int], float] = {}
    refused: dict[str, int] = {}
    later = 0
    all_here = asyncio.Event()
    echoes: dict[str, int] = {each.name: 0 for each in elements}

    async def listen(client: aiomqtt.Client, name: str) -> None:
        nonlocal later
        async for message in client.messages:
            at = loop.time()
            if check:
                answer = decode_answer(bytes(message.payload))
                if answer.status is AnswerStatus.GRANTED and answer.answers is not None:
                    answered[name, answer.answers[1]] = at
                elif answer.status is AnswerStatus.LATER:
                    later += 1
                else:
                    what = f"{answer.status.name} {answer.refusal}"
                    refused[what] = refused.get(what, 0) + 1
            else:
                echoes[name] += 1
                answered[name, echoes[name]] = at
            if len(answered) + later + sum(refused.values()) >= len(passages):
                all_here.set()

    async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        clients = []
        listeners = []
        for key, element in zip(keys, elements, strict=True):
            context = ssl.create_default_context(cafile=str(key.ca_file))
            context.load_cert_chain(str(key.certificate_file), str(key.key_file))
            client = await stack.enter_async_context(
                aiomqtt.Client("127.0.0.1", port, tls_context=context, max_inflight_messages=1_000)
            )
            client.pending_calls_threshold = len(passages)
            await client.subscribe(f"farthing/{element.name}/down", qos=1)
            clients.append(client)
            listeners.append(tasks.create_task(listen(client, element.name)))
        began = loop.time() + 0.2
        for n, passage in enumerate(passages):
            at = began + n / RATE_PER_S
            wait_s = at - loop.time()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            name = elements[n % DEVICES].name
            due[name, n // DEVICES + 1] = at
            # paho's own: a task that waits for each PUBACK would take processor from what is measured.
            clients[n % DEVICES]._client.publish(f"farthing/{name}/up", passage, qos=1)  # noqa: SLF001 no public way
        async with asyncio.timeout(STARTED_S):
            await all_here.wait()
        for listener in listeners:
            listener.cancel()
    if refused:
        raise RuntimeError(f"E1 measures grants, and some were none: {refused}")
    warm = RATE_PER_S * WARM_UP_S
    return [answered[each] - at if each in answered else LATE_S for each, at in list(due.items())[warm:]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """Seconds: the echo at this load, and each part by itself."""

    echo_s: list[float]
    verify_s: float
    sign_s: float
    sync_s: float

    @property
    def parts_s(self) -> float:
        return self.verify_s + self.sign_s + self.sync_s


async def _floor(
    site: Site, token: Token, keys: list[TransportKey], elements: list[SoftElement], passages: list[bytes]
) -> Floor:
    with _echo_process(site) as process:
        assert process.stdout is not None
        await asyncio.to_thread(process.stdout.readline)
        echo_s = await _load(site.broker_port, keys, elements, passages, check=False)
    verify_s = _verify_s(elements[0], passages[0])
    signing = []
    for _ in range(300):
        began = time.perf_counter()
        await token.sign("grant", b"x" * 300)
        signing.append(time.perf_counter() - began)
    return Floor(
        echo_s=echo_s, verify_s=verify_s, sign_s=statistics.median(signing), sync_s=_sync_s(site.folder / "page")
    )


@contextlib.contextmanager
def _echo_process(site: Site) -> "Iterator[subprocess.Popen[bytes]]":
    """In the gateway's place and by its way: through the broker's Unix socket."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.mqtt", "echo", str(site.way_in)],
        stdout=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(10)


def _verify_s(element: SoftElement, passage: bytes) -> float:
    from farthing.device.cose import decode_sign1
    from farthing.device.messages import decode_envelope

    sign1 = decode_sign1(decode_envelope(passage).statement)
    key = VerifyingKey.from_spki(element.spki)
    took = []
    for _ in range(300):
        began = time.perf_counter()
        assert key.verify("intent", GATEWAY, sign1.payload, sign1.signature)
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def _sync_s(file: Path) -> float:
    """One page appended and made durable, as a group commit does."""
    took = []
    with file.open("wb", buffering=0) as opened:
        for _ in range(300):
            opened.write(bytes(4_096))
            began = time.perf_counter()
            os.fdatasync(opened.fileno())
            took.append(time.perf_counter() - began)
    return statistics.median(took)


async def _echo(way_in: str) -> None:
    async with aiomqtt.Client(way_in, 1, transport="unix", max_inflight_messages=1_000) as client:
        client.pending_calls_threshold = 100_000
        await client.subscribe("farthing/+/up", qos=1)
        print("ready", flush=True)
        under_way: set[asyncio.Task[None]] = set()
        async for message in client.messages:
            topic = message.topic.value.removesuffix("/up") + "/down"
            task = asyncio.create_task(client.publish(topic, message.payload, qos=1))
            under_way.add(task)
            task.add_done_callback(under_way.discard)


def _quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _rows(floor: Floor, latencies: list[float], *, cpu_s_each: float, memory_mb: float) -> list[dict[str, object]]:
    what = f"authorize over MQTT, signed, durable, {RATE_PER_S}/s"
    parts = f"+ verify {floor.verify_s * MS:.2f} + sign {floor.sign_s * MS:.2f} + fdatasync {floor.sync_s * MS:.2f} ms"
    p50, p99 = _quantile(latencies, 0.5) * MS, _quantile(latencies, 0.99) * MS
    floor_50 = (_quantile(floor.echo_s, 0.5) + floor.parts_s) * MS
    floor_99 = (_quantile(floor.echo_s, 0.99) + floor.parts_s) * MS
    return [
        {
            "id": "E1 p50",
            "what": what,
            "value": p50,
            "unit": "ms",
            "floor": floor_50,
            "floor_what": f"MQTT echo p50 {parts}",
            "ratio": p50 / floor_50,
            "budget": "≤ 2 × floor",
            "met": p50 <= P50_BUDGET_RATIO * floor_50,
        },
        {
            "id": "E1 p99",
            "what": what,
            "value": p99,
            "unit": "ms",
            "floor": floor_99,
            "floor_what": f"MQTT echo p99 {parts}",
            "ratio": p99 / floor_99,
            "budget": "≤ 10 ms",
            "met": p99 <= P99_BUDGET_MS,
        },
        {
            "id": "E1 cpu",
            "what": "processor time of farthing-edge per authorization, all threads",
            "value": cpu_s_each * MS,
            "unit": "ms",
            "floor": (floor.verify_s + floor.sign_s) * MS,
            "floor_what": "one verify + one sign",
            "ratio": cpu_s_each / (floor.verify_s + floor.sign_s),
            "budget": "",
            "met": None,
        },
        {
            "id": "E1 memory",
            "what": f"resident memory of farthing-edge after {RATE_PER_S * (WARM_UP_S + MEASURED_S)} authorizations",
            "value": memory_mb,
            "unit": "MB",
            "floor": None,
            "floor_what": "",
            "ratio": None,
            "budget": "≤ 120 MB (E5: with 1,000 devices)",
            "met": memory_mb <= 120,
        },
    ]


if __name__ == "__main__" and sys.argv[1:2] == ["echo"]:
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_echo(sys.argv[2]))
