"""A small town for attacks: ceremony, cloud, a broker, a gateway, devices and a clerk; every daemon a process of its own.

One SoftHSM directory for all, so that a test can speak as any of them with that party's own keys.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from farthing.clock import Instant, real_clock
from farthing.device import cose
from farthing.device.messages import (
    SALT_SIZE,
    Answer,
    AnswerStatus,
    End,
    Envelope,
    Intent,
    Reading,
    RegisterValue,
    Statement,
    TariffVersion,
    decode_answer,
    encode,
)
from farthing.hsm import Hsm, Token, load_party
from farthing.hsm.tls import channel_credentials
from farthing.ids import DeviceId, GatewayId, RegisterId, TariffId, authorization_id, token_commitment
from farthing.v1 import ledger_pb2, ledger_pb2_grpc
from farthing_demo.scene import keys, table
from farthing_edge.config import load_config
from farthing_edge.gateway import core_settings
from farthing_edge.journal import verify
from farthing_hsm_sim.ceremony import Parties, destroy_below, hold
from farthing_hsm_sim.plan import Plan

#: Generous for a machine that does other things too; each wait ends as soon as its condition holds.
PATIENCE_S = 60.0
#: How often a process is looked at while it is waited for.
LOOK_EVERY_S = 0.05
#: SIGTERM to exit: the promise.
STOP_WITHIN_S = 5.0
PAGE_TIMEOUT_S = 20.0
CALL_TIMEOUT_S = 10

GATEWAY = "gw-1"
OPERATOR = "city"
CLERK, CHECKER = "clerk", "checker"
CARD = "card-1"
#: Registered: a parking meter, and transponders. ``STRANGER`` has keys and a certificate, and is registered nowhere.
PARKING, TOLL, SPARE, SUSPECT = "park-1", "toll-1", "toll-2", "toll-3"
STRANGER = "nobody-1"
DEVICES = (PARKING, TOLL, SPARE, SUSPECT, STRANGER)
FARE_MICROS = 1_200_000


def command(name: str) -> str:
    """The installed command ``name``."""
    return str(Path(sys.executable).parent / name)


def call(*arguments: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run one of our commands to its end."""
    return subprocess.run(
        [command(str(arguments[0])), *map(str, arguments[1:])],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env={**os.environ, **(env or {})},
    )


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(kw_only=True)
class Daemon:
    """One process with a log, and a run.json if it writes one."""

    arguments: Sequence[str]
    log: Path
    run_file: Path | None = None
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Daemon":
        """Start it; its log is appended to."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.arguments, stderr=log, stdout=log)
        return self

    def ready(self) -> dict[str, str]:
        """Its addresses, once its run.json is there."""
        addresses: dict[str, str] = self.until(self._addresses, "run.json")
        return addresses

    def until(self, holds: Callable[[], Any], what: str) -> Any:
        """What ``holds`` finds. Between two looks it is the process that is waited for: if it ends, nothing will come."""
        assert self.process is not None
        last = time.monotonic() + PATIENCE_S
        while not (found := holds()):
            assert time.monotonic() < last, f"waited for {what}: {self.said()}"
            with suppress(subprocess.TimeoutExpired):
                raise AssertionError(f"it ended with {self.process.wait(LOOK_EVERY_S)}: {self.said()}")
        return found

    def said(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-3000:]

    def stop(self) -> None:
        """SIGTERM; it must end by itself, with status 0, within its promise."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE_S) == 0, self.said()
        assert time.monotonic() - began < STOP_WITHIN_S, self.said()
        self.process = None

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(PATIENCE_S)
        self.process = None

    def _addresses(self) -> dict[str, str] | None:
        assert self.process is not None
        assert self.run_file is not None
        try:
            run = json.loads(self.run_file.read_text())
        except FileNotFoundError:
            return None
        addresses: dict[str, str] = run["addresses"]
        return addresses if run["pid"] == self.process.pid else None


class Client:
    """An MQTT client with a transport key of its own; keeps what comes."""

    def __init__(self, *, name: str, address: str, ca_file: str, certificate_file: str, key_file: str) -> None:
        host, _, port = address.rpartition(":")
        self.came: list[tuple[str, bytes]] = []
        self.changed = threading.Condition()
        self._acknowledged: set[int] = set()
        self._subscribed: set[int] = set()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=paho.MQTTv311)
        context = ssl.create_default_context(cafile=ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(certificate_file, key_file)
        self._client.tls_set_context(context)
        self._client.on_connect = lambda *_: self._note()
        self._client.on_message = lambda _client, _data, message: self._note(
            lambda: self.came.append((message.topic, bytes(message.payload)))
        )
        self._client.on_publish = lambda _client, _data, number, *_: self._note(lambda: self._acknowledged.add(number))
        self._client.on_subscribe = lambda _client, _data, number, *_: self._note(lambda: self._subscribed.add(number))
        self._client.connect(host, int(port))
        self._client.loop_start()
        self.wait_for(self._client.is_connected, "the broker")

    def subscribe(self, topic: str) -> None:
        """Subscribe, and wait for the SUBACK: Mosquitto grants, and then delivers nothing that the rules forbid."""
        _, number = self._client.subscribe(topic, qos=1)
        self.wait_for(lambda: number in self._subscribed, f"SUBACK of {topic}")

    def publish(self, topic: str, payload: bytes) -> None:
        """Publish at QoS 1 and wait for the PUBACK."""
        sent = self._client.publish(topic, payload, qos=1)
        self.wait_for(lambda: sent.mid in self._acknowledged, f"PUBACK on {topic}")

    def wait_for(self, holds: Callable[[], bool], what: str) -> None:
        """Return as soon as ``holds``; it is looked at whenever something came."""
        with self.changed:
            assert self.changed.wait_for(holds, PATIENCE_S), f"waited for {what}"

    def close(self) -> None:
        """Leave the broker."""
        self._client.disconnect()
        self._client.loop_stop()

    def _note(self, what: Callable[[], object] | None = None) -> None:
        with self.changed:
            if what is not None:
                what()
            self.changed.notify_all()


class Speaker:
    """A device by hand: what it signs, and when it says it, is up to the test."""

    def __init__(self, *, device: str, gateway: str, token: Token, client: Client) -> None:
        self.device, self.gateway, self.token, self.client = device, gateway, token, client
        self.counter = 0
        self.register = 1_000
        client.subscribe(f"farthing/{device}/down")

    def intent(self, **changes: Any) -> tuple[Intent, bytes]:
        """An intent under the next counter, and its salt; one passage unless told otherwise."""
        self.counter += 1
        salt = secrets.token_bytes(SALT_SIZE)
        values: dict[str, Any] = {
            "recipient": GatewayId(self.gateway),
            "device": DeviceId(self.device),
            "device_epoch": 1,
            "counter": self.counter,
            "at": real_clock().now(),
            "register": RegisterValue(register_id=RegisterId("1"), register_epoch=1, value=self.register),
            "commitment": token_commitment(CARD.encode(), salt),
            "incarnation": 1,
            "one_shot": 1,
            **changes,
        }
        return Intent(**values), salt

    def sign(self, statement: Statement) -> bytes:
        """The statement as the device's element signs it."""
        payload = encode(statement)
        signature = self.token.sign_blocking(
            "statement", cose.to_be_signed(statement.kind, statement.recipient, payload)
        )
        kid = cose.key_id(self.token.party.public_key("statement"))
        return cose.encode_sign1(kid, payload, signature)

    def word(self, kind: type[Reading] | type[End], intent: Intent) -> Reading | End:
        """What it says of the use that ``intent`` opened, under the next counter."""
        self.counter += 1
        return kind(
            recipient=GatewayId(self.gateway),
            device=DeviceId(self.device),
            device_epoch=1,
            counter=self.counter,
            at=Instant(real_clock().now()),
            register=RegisterValue(register_id=RegisterId("1"), register_epoch=1, value=self.register),
            commitment=intent.commitment,
            authorization=authorization_id(DeviceId(self.device), 1, intent.counter, GatewayId(self.gateway)),
            tariff=TariffVersion(tariff_id=TariffId("park"), version=1),
        )

    def envelope(self, intent: Intent, salt: bytes) -> bytes:
        """A signed intent in its envelope."""
        return encode(Envelope(statement=self.sign(intent), token=CARD.encode(), salt=salt))

    def say(self, envelope: bytes) -> Answer:
        """Send it and take the next answer."""
        seen = len(self.client.came)
        self.client.publish(f"farthing/{self.device}/up", envelope)
        self.client.wait_for(lambda: len(self.client.came) > seen, f"an answer to {self.device}")
        return decode_answer(self.client.came[seen][1])

    def ask(self, **changes: Any) -> Answer:
        """Say a new intent."""
        return self.say(self.envelope(*self.intent(**changes)))

    def pass_once(self) -> Answer:
        """One passage, repeated like a device does until the answer is final; the register moves when it was granted."""
        envelope = self.envelope(*self.intent())
        answer = self.say(envelope)
        while answer.status is AnswerStatus.LATER:
            answer = self.say(envelope)
        if answer.status is AnswerStatus.GRANTED:
            self.register += 1
        return answer


@dataclass(kw_only=True)
class Town:
    """Everything that runs, and ways to ask it."""

    folder: Path
    parties: Parties
    cloud: Daemon
    broker: Daemon
    gateway: Daemon
    hsm: Hsm
    addresses: dict[str, str]
    broker_address: str
    ca_file: str
    pages: httpx.Client
    clients: dict[str, Client] = field(default_factory=dict)
    speakers: dict[str, Speaker] = field(default_factory=dict)
    tokens: dict[Path, Token] = field(default_factory=dict)

    @property
    def data_dir(self) -> Path:
        """Of the embedded PostgreSQL."""
        return self.folder / "postgresql"

    def config(self, name: str) -> Path:
        """The configuration file ``name``.toml."""
        return self.folder / f"{name}.toml"

    def admin(self, *arguments: object, person: str = "admin") -> Any:
        """What ``farthing-admin`` prints as JSON; it must succeed."""
        done = self.try_admin(*arguments, "--json", person=person)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def try_admin(self, *arguments: object, person: str = "admin") -> subprocess.CompletedProcess[str]:
        """``farthing-admin``, whatever comes of it; ``person`` names the configuration."""
        return call("farthing-admin", "--config", self.config(person), *arguments)

    def status(self) -> dict[str, Any]:
        """The gateway's status page."""
        page: dict[str, Any] = self.pages.get(f"http://{self.addresses['http']}/status").json()
        return page

    def until(self, holds: Callable[[], Any], what: str) -> Any:
        """What ``holds`` finds, while the gateway runs."""
        return self.gateway.until(holds, what)

    def billed_micros(self) -> int:
        """What the gateway's journal billed, after it proved itself whole."""
        config = load_config(self.config(GATEWAY))
        report = verify(config.journal_file, core_settings(config))
        assert report.fault is None
        return report.billed_micros

    def token(self, folder: Path) -> Token:
        """A party's token, in this process."""
        if folder not in self.tokens:
            self.tokens[folder] = self.hsm.attach(load_party(folder))
        return self.tokens[folder]

    def mqtt_key(self, device: str) -> dict[str, str]:
        """A transport key for ``device`` at the broker."""
        done = call(
            "farthing-edge", "client-certificate", "--config", self.config(GATEWAY), "--device", device,
            "--directory", self.folder / f"mqtt-{device}", "--unchecked", "--json",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        where: dict[str, str] = json.loads(done.stdout)
        return where

    def client(self, device: str) -> Client:
        """``device``'s MQTT client; one of a name at a time, or the broker evicts the other."""
        if device in self.clients:
            return self.clients[device]
        key = self.mqtt_key(device)
        client = Client(
            name=device,
            address=self.broker_address,
            ca_file=self.ca_file,
            certificate_file=key["certificate_file"],
            key_file=key["key_file"],
        )
        self.clients[device] = client
        return client

    def speaker(self, device: str) -> Speaker:
        """``device`` by hand; the same each time, for its counter goes on."""
        if device not in self.speakers:
            self.speakers[device] = Speaker(
                device=device,
                gateway=GATEWAY,
                token=self.token(self.parties.devices[device].folder),
                client=self.client(device),
            )
        return self.speakers[device]

    @contextmanager
    def channel(self, folder: Path, address: str) -> Iterator[grpc.Channel]:
        """A gRPC channel to ``address`` as the party in ``folder``."""
        party = load_party(folder)
        credentials = channel_credentials(
            self.token(folder), "tls", certificate_chain=party.certificate("tls"), roots=party.certificate("ca")
        )
        with grpc.secure_channel(address, credentials) as channel:
            yield channel

    def drained(self) -> bool:
        """Whether the cloud has receipted and proven all that the gateway sealed, and nothing is left to seal."""
        page = self.status()
        batches = page["batches"]
        return bool(
            page["counts"]["unreceipted_records"] == 0
            and batches["sealed"] == batches["receipted"] == batches["proven"]
        )

    def assert_books_agree(self) -> int:
        """Wait until everything has drained; the journal and the ledger billed the same. Return it, in micros."""
        self.until(self.drained, "the backlog to drain")
        with self.channel(self.parties.people[CLERK].folder, self.addresses["back_office"]) as channel:
            ledger = ledger_pb2_grpc.LedgerStub(channel)
            try:
                verified = ledger.Verify(ledger_pb2.VerifyRequest(), timeout=PATIENCE_S)
            except grpc.RpcError as err:
                # Why not stands in the log, which goes with the town.
                raise AssertionError(f"{err}: {self.cloud.said()}") from err
            sums = ledger.Reconcile(ledger_pb2.ReconcileRequest(operator_id=OPERATOR), timeout=CALL_TIMEOUT_S)
        assert verified.ok, verified.fault
        billed = self.billed_micros()
        assert sums.claimed_micros == billed
        return billed


def postmaster(data_dir: Path) -> int:
    """The pid of the embedded PostgreSQL on ``data_dir``."""
    return int((data_dir / "postmaster.pid").read_text().splitlines()[0])


@contextmanager
def small_town() -> Iterator[Town]:
    """Build it, and leave nothing behind."""
    # As root, the embedded PostgreSQL runs as a user of its own, who must get in: never below a private folder.
    folder = Path(tempfile.mkdtemp(prefix="farthing-town-", dir="/tmp"))
    folder.chmod(0o755)
    started: list[Daemon] = []
    town: Town | None = None
    try:
        parties = hold(
            Plan(gateways=(GATEWAY,), devices=DEVICES, people=(CLERK, CHECKER), shared_tokens=True), folder / "parties"
        )
        with Hsm.of(parties.cloud) as hsm, httpx.Client(timeout=PAGE_TIMEOUT_S) as pages:
            town = _open(folder, parties, hsm, pages, started)
            yield town
            for client in town.clients.values():
                client.close()
            for daemon in (town.gateway, town.broker, town.cloud):
                if daemon.process is not None:
                    daemon.stop()
    finally:
        for daemon in started:
            if daemon.process is not None:
                daemon.kill()
        _stop_postgresql(folder / "postgresql")
        destroy_below(folder / "parties")
        shutil.rmtree(folder, ignore_errors=True)


def _stop_postgresql(data_dir: Path) -> None:
    """What a killed cloud left running is ours."""
    try:
        os.kill(postmaster(data_dir), signal.SIGQUIT)
    except (FileNotFoundError, ProcessLookupError):
        return


def _open(folder: Path, parties: Parties, hsm: Hsm, pages: httpx.Client, started: list[Daemon]) -> Town:
    ca_file = parties.ca.certificates / "ca.pem"
    (folder / "cloud.toml").write_text(
        keys({"state_dir": folder / "cloud", "party": parties.cloud.folder, "ca_file": ca_file})
        + table("database", {"embedded": True, "data_dir": folder / "postgresql"})
        # The same ports again after a restart: the gateway finds its way back by itself.
        + table("door", {"listen": f"127.0.0.1:{free_port()}"})
        + table("back_office", {"listen": f"127.0.0.1:{free_port()}"})
        + table("ledger", {"directive_head_interval_s": 1})
    )
    cloud = Daemon(
        arguments=[command("farthing-cloud"), "serve", "--config", str(folder / "cloud.toml")],
        log=folder / "cloud.log",
        run_file=folder / "cloud" / "run.json",
    )
    started.append(cloud.start())
    addresses = cloud.ready()

    broker_address = f"127.0.0.1:{free_port()}"
    (folder / f"{GATEWAY}.toml").write_text(edge_toml(folder / GATEWAY, parties, addresses["door"], broker_address))
    written = call(
        "farthing-edge", "broker", "--config", folder / f"{GATEWAY}.toml", "--listen", broker_address,
        "--directory", folder / "broker", "--json",
    )  # fmt: skip
    assert written.returncode == 0, written.stderr
    where = json.loads(written.stdout)
    broker = Daemon(
        arguments=where["command"],
        log=folder / "broker.log",
    )
    started.append(broker.start())
    gateway = Daemon(
        arguments=[command("farthing-edge"), "run", "--config", str(folder / f"{GATEWAY}.toml")],
        log=folder / f"{GATEWAY}.log",
        run_file=folder / GATEWAY / "run.json",
    )
    started.append(gateway.start())

    (folder / "admin.toml").write_text(
        keys({"address": addresses["back_office"], "party": parties.people[CLERK].folder, "ca_file": ca_file})
    )
    (folder / "checker.toml").write_text(
        keys({"address": addresses["back_office"], "party": parties.people[CHECKER].folder, "ca_file": ca_file})
    )
    (folder / "all.toml").write_text(_everything(parties))
    town = Town(
        folder=folder,
        parties=parties,
        cloud=cloud,
        broker=broker,
        gateway=gateway,
        hsm=hsm,
        addresses={**addresses, **gateway.ready()},
        broker_address=broker_address,
        ca_file=where["ca_file"],
        pages=pages,
    )
    town.admin("apply", folder / "all.toml")
    town.until(lambda: _knows_everything(town), "the gateway to learn everything")
    return town


def _knows_everything(town: Town) -> bool:
    page = town.status()
    counts = page["counts"]
    known = (counts["devices"], counts["tokens"], counts["open_quotas"])
    return bool(page["broker"]["connected"] and known == (len(DEVICES) - 1, 1, 1))


def edge_toml(state_dir: Path, parties: Parties, door: str, broker: str) -> str:
    """A gateway that finds a cloud that was away within a second."""
    party = parties.gateways[GATEWAY]
    return (
        keys(
            {
                "gateway_id": GATEWAY,
                "state_dir": state_dir,
                "party": party.folder,
                "ca_file": party.certificates / "ca.pem",
                "directive_key_file": parties.cloud.public / "directive.der",
            }
        )
        + "[uplink]\n"
        + keys({"address": door})
        + "max_backoff_s = 1.0\nkeepalive_s = 1.0\nkeepalive_timeout_s = 1.0\ncall_timeout_s = 3.0\nreceipt_timeout_s = 5.0\n\n"
        + table("mqtt", {"address": broker})
        + table("coap", {"listen": "127.0.0.1:0"})
    )


def _everything(parties: Parties) -> str:
    head = {
        "country_code": "DE",
        "party_id": "MET",
        "currency": "EUR",
        "last_updated": "2026-03-01T00:00:00Z",
    }
    rows: list[tuple[str, dict[str, object]]] = [
        ("operators", {"id": OPERATOR, "name": "City", "currency": "EUR"}),
        (
            "sites",
            {
                "id": "S1",
                "operator": OPERATOR,
                "time_zone": "Europe/Berlin",
                "seal": {"amount": "5.00", "records": 10, "age_s": 1},
            },
        ),
        (
            "gateways",
            {
                "id": GATEWAY,
                "operator": OPERATOR,
                "site": "S1",
                "exposure": "5000.00",
                "party": parties.gateways[GATEWAY].folder,
            },
        ),
        ("agencies", {"id": "transit", "operator": OPERATOR, "name": "Transit"}),
        (
            "split_rules",
            {
                "site": "S1",
                "operator": OPERATOR,
                "version": 1,
                "parts": [{"path": "agency/transit", "percent": "100"}],
                "remainder": "agency/transit",
            },
        ),
    ]
    for tariff, kind, step in (("park", "TIME", 60), ("toll", "UNIT", 1)):
        component = {"type": kind, "price": 2 if kind == "TIME" else 1.2, "step_size": step, "vat": 7}
        ocpi = {
            **head,
            "id": tariff,
            "tax_included": kind == "UNIT",
            "elements": [{"price_components": [component]}],
        }
        file = parties.cloud.folder / f"tariff-{tariff}.json"
        file.write_text(json.dumps(ocpi))
        rows.append(("tariffs", {"id": tariff, "operator": OPERATOR, "version": 1, "currency": "EUR", "file": file}))
    rows += [
        (
            "accounts",
            {"id": "acme", "operator": OPERATOR, "currency": "EUR", "debt_limit": "5.00", "preload": "500.00"},
        ),
        (
            "fundings",
            {
                "operator": OPERATOR,
                "account": "acme",
                "amount": "5000.00",
                "payment_id": "pay-1",
                "source": "bank/main",
            },
        ),
        *(("devices", _device(parties, device)) for device in DEVICES if device != STRANGER),
        ("tokens", {"operator": OPERATOR, "account": "acme", "label": "card", "token": CARD}),
    ]
    return "".join(table(name, values, repeated=True) for name, values in rows)


def _device(parties: Parties, device: str) -> dict[str, object]:
    parking = device == PARKING
    return {
        "id": device,
        "operator": OPERATOR,
        "sites": ["S1"],
        "party": parties.devices[device].folder,
        "profile": "session" if parking else "one-shot",
        "tariff": "park" if parking else "toll",
        "tariff_version": 1,
        "report_interval_s": 60,
        "stoppable": True,
        "registers": [
            {
                "id": "1",
                "epoch": 1,
                "unit": "s" if parking else "passage",
                "modulus": 2**32,
                # Devices that a test drives: as fast as it can.
                "rated_per_hour": 3_600_000,
            }
        ],
    }
