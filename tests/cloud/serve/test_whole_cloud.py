"""The whole cloud with real tokens, a real database and real commands."""

import asyncio
import hashlib
import os
import random
import re
import shutil
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import grpc.aio
import psycopg
import pytest
from back_office_parts import run_command
from cloud_database import throwaway_folder
from pushing_gateways import IN_FLIGHT, NET_MICROS, TAX_MICROS, USES, pushing_gateways
from whole_cloud import Person, RunningCloud, everything, write_cloud, write_person

from farthing.hsm import Hsm, load_party
from farthing.hsm.tls import channel_credentials
from farthing.v1 import directive_pb2, gateway_sync_pb2, gateway_sync_pb2_grpc
from farthing_cloud.config import SERVICE_NAMES

# A dozen processes are started one after the other: minutes on a machine that does other things too.
pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(400)]

TOKEN = bytes.fromhex("04a2b17790c3d1")
#: kill -9 so often; ``make crash KILLS=1000`` is the long run. The seed says where.
KILLS = int(os.environ.get("FARTHING_CLOUD_KILLS", "3"))
SEED = int(os.environ.get("FARTHING_CLOUD_KILLS_SEED", "1"))

DAY_US = 86_400_000_000
#: Events go as soon as the public log has passed them and they are a day old.
PRUNING = '[ledger]\nkeep_events_s = 86400\nevent_readers = ["publiclog"]\nprune_interval_s = 1\n'


@pytest.fixture
def place() -> Iterator[Path]:
    folder = throwaway_folder("farthing-whole-")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def cloud(place: Path, parties: Path) -> Iterator[RunningCloud]:
    running = write_cloud(place, parties)
    yield running
    if running.process is not None:
        running.stop()


def without(file: str, *tables: str) -> str:
    """A file to apply, without some of its tables."""
    parts = re.split(r"(?m)^(?=\[\[)", file)
    return "".join(part for part in parts if not part.startswith(tuple(f"[[{table}]]" for table in tables)))


def applied(person: Person, file: Path, *more: str) -> list[str]:
    return [row["change"] for row in person.json("apply", file, *more)]


def postmaster(cloud: RunningCloud) -> int | None:
    """The pid of the cloud's PostgreSQL; None while it is down, or while one that starts has not written its pid yet."""
    try:
        first, *_ = (cloud.state_dir / "postgresql" / "postmaster.pid").read_text().splitlines() or [""]
    except FileNotFoundError:
        return None
    return int(first) if first else None


def test_apply_makes_everything_once(place: Path, parties: Path, cloud: RunningCloud) -> None:
    addresses = cloud.start()
    alice = write_person(place, parties, addresses["back_office"])
    file = place / "all.toml"
    file.write_text(everything(parties))

    assert set(applied(alice, file, "--dry-run")) == {"created"}
    assert alice.json("operators", "list") == []
    assert set(applied(alice, file)) == {"created"}
    assert set(applied(alice, file)) == {"none"}
    assert set(applied(alice, file, "--dry-run")) == {"none"}

    file.write_text(everything(parties).replace('"20.00"', '"30.00"'))
    done = alice("apply", file, "--dry-run")
    assert "floor.all_tokens_micros: 20000000 -> 30000000" in done.stdout
    assert "0 would be created, 1 would be updated, 14 unchanged" in done.stdout
    file.write_text(everything(parties).replace("price = 0.25", "price = 0.26"))
    done = alice("apply", file)
    assert (done.returncode, "put it as version 2" in done.stderr) == (1, True)
    assert "at tariff city/charge/1" in done.stderr

    assert {row["device_id"]: row["status"] for row in alice.json("devices", "list")} == {
        "chg-1": "active",
        "toll-1": "active",
    }
    assert alice.json("ledger", "verify")["ok"] is True

    # The devices stand in the public log, which anybody can follow with its key alone.
    cloud.until(
        lambda: {row["log"]: row["published"] for row in alice.json("log", "list")} == {"batches": 0, "devices": 2},
        "the devices to be published",
    )
    [published] = [row for row in alice.json("log", "list") if row["log"] == "devices"]
    looked = run_command(
        "farthing-witness", "look", "--entries",
        *("--log", published["verifier_key"], "--from", published["directory"], "--state", place / "seen"),
    )  # fmt: skip
    assert looked.returncode == 0, looked.stderr
    assert [line.split()[2] for line in looked.stdout.splitlines()] == ["chg-1", "toll-1"]
    shown = alice("log", "checkpoint", "--log", "devices").stdout
    assert shown == (place / "seen").read_text()
    assert shown in alice("log", "prove", "device", "chg-1").stdout
    assert shown in alice("log", "prove", "growth", "1", "--log", "devices").stdout
    done = alice("log", "prove", "batch", "--gateway", "gw-1", "--sequence", "1")
    assert (done.returncode, done.stderr) == (1, "batch 1/1 of gw-1 was not posted\n")
    assert "devices goes on: 0 leaves taken back" in alice("log", "reconcile", "--log", "devices").stdout
    [token] = alice.json("tokens", "list")
    assert token["label"] == "fleet 1"
    alice.json("devices", "suspend", "chg-1", "--reason", "noisy")
    done = alice("devices", "suspend", "nobody", "--reason", "noisy")
    assert (done.returncode, done.stderr) == (1, "not found: no device 'nobody'\n")

    status, took_s = cloud.stop()
    assert status == 0
    assert took_s < 5
    assert not (cloud.state_dir / "run.json").exists()
    assert postmaster(cloud) is None
    for path in (cloud.log, *(each for each in cloud.state_dir.rglob("*") if each.is_file())):
        content = path.read_bytes()
        assert TOKEN not in content, path
        assert TOKEN.hex().encode() not in content, path


async def drain(stream: grpc.aio.UnaryStreamCall[object, object]) -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass


async def let_in(door: "gateway_sync_pb2_grpc.GatewaySyncAsyncStub", hello: gateway_sync_pb2.HelloRequest) -> None:
    """Say hello until it is answered: the door asks the registry who may come every second, and may have asked just before."""
    async with asyncio.timeout(60):
        while True:
            try:
                await door.Hello(hello)
            except grpc.aio.AioRpcError as err:
                if err.code() != grpc.StatusCode.PERMISSION_DENIED:
                    raise
            else:
                return


async def test_a_gateway_hears_its_policy_until_it_is_suspended(
    place: Path, parties: Path, cloud: RunningCloud
) -> None:
    addresses = await asyncio.to_thread(cloud.start)
    alice = write_person(place, parties, addresses["back_office"])
    (place / "all.toml").write_text(everything(parties))
    await asyncio.to_thread(applied, alice, place / "all.toml")
    party = load_party(parties / "gw-1")
    with Hsm.of(party) as hsm:
        credentials = channel_credentials(
            hsm.attach(party), "tls", certificate_chain=party.certificate("tls"), roots=party.certificate("ca")
        )
        async with grpc.aio.secure_channel(addresses["door"], credentials) as channel:
            door = gateway_sync_pb2_grpc.GatewaySyncStub(channel)
            hello = gateway_sync_pb2.HelloRequest(start_id=b"s" * 16)
            await door.Hello(hello)
            stream = door.FollowDirectives(gateway_sync_pb2.FollowDirectivesRequest())
            kinds: set[str | None] = set()
            while "token" not in kinds:
                item = await stream.read()
                assert item is not grpc.aio.EOF
                if item.WhichOneof("item") == "directive":
                    kinds.add(directive_pb2.Directive.FromString(item.directive.directive).WhichOneof("body"))
            assert kinds >= {"welcome", "floor", "seal", "site_key", "tariff", "device", "token"}

            await asyncio.to_thread(alice.json, "gateways", "suspend", "gw-1", "--reason", "stolen?")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await drain(stream)
            assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await door.Hello(hello)
            assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
            await asyncio.to_thread(alice.json, "gateways", "resume", "gw-1", "--reason", "found")
            await let_in(door, hello)


def test_a_database_that_dies_costs_nothing(place: Path, parties: Path, cloud: RunningCloud) -> None:
    addresses = cloud.start()
    alice = write_person(place, parties, addresses["back_office"])
    (place / "all.toml").write_text(everything(parties))
    applied(alice, place / "all.toml")
    before = alice.json("ledger", "balance", "--operator", "city")

    dead = postmaster(cloud)
    assert dead is not None
    os.kill(dead, signal.SIGKILL)
    # It may be back before anybody looks: what shows that it died is that it is another process.
    cloud.until(lambda: postmaster(cloud) not in (None, dead), "another postmaster")
    done = alice("operators", "list")
    assert done.returncode == 0 or "the database is out of reach" in done.stderr
    cloud.until(lambda: health(addresses["http"])[0] == 200, "the database to be back")
    assert alice.json("ledger", "balance", "--operator", "city") == before
    assert set(applied(alice, place / "all.toml")) == {"none"}
    assert "farthing_cloud_calls_total" in page(addresses["http"], "/metrics")
    cloud.until(lambda: shown(addresses["publiclog"]), "a checkpoint of the public log")


def shown(address: str) -> bool:
    """Whether the log of batches has a checkpoint that anybody may read."""
    try:
        return "/batches\n" in page(address, "/batches/checkpoint")
    except OSError:
        return False


def health(address: str) -> tuple[int, str]:
    try:
        return 200, page(address, "/healthz")
    except urllib.error.HTTPError as err:
        with err:
            return err.code, err.read().decode()


def page(address: str, path: str) -> str:
    with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
        body: bytes = answer.read()
    return body.decode()


@pytest.mark.timeout(400 + 30 * KILLS)
async def test_killed_in_the_middle_of_batches_it_takes_up_where_it_was(
    place: Path, parties: Path, cloud: RunningCloud
) -> None:
    """Gateways push all the time: what was acknowledged is there once, everything is posted once, and receipts stay the same bytes."""
    # The others take no batch: here they are down, all the time. The public log reads every batch from the outbox.
    cloud.services = ("ledger", "vault", "registry", "publiclog")
    nobody = f"127.0.0.1:{free_port()}"
    down = "".join(f'{name} = "{nobody}"\n' for name in set(SERVICE_NAMES) - set(cloud.services))
    cloud.config.write_text(f"{cloud.config.read_text()}[back_office.addresses]\n{down}{PRUNING}")
    addresses = await asyncio.to_thread(cloud.start)
    alice = write_person(place, parties, addresses["back_office"])
    (place / "some.toml").write_text(without(everything(parties), "agencies", "split_rules", "tokens"))
    await asyncio.to_thread(applied, alice, place / "some.toml")
    left = postmaster(cloud)
    chance = random.Random(SEED)
    events_left = 0

    def at_each() -> None:
        """Wherever the door is then: the gateways wait for nobody."""
        nonlocal events_left
        events_left -= 1
        if events_left == 0 and cloud.process is not None:
            cloud.process.kill()

    with pushing_gateways(parties, at_each) as gateways:
        # One is paid by what was held for it, the other one by what the account has.
        await gateways[0].ask(addresses["door"], wanted_micros=1_000_000)
        for _ in range(KILLS):
            heard = [gateway.acknowledged for gateway in gateways]
            events_left = chance.randrange(4 * IN_FLIGHT, 200)
            await asyncio.gather(
                *(gateway.push(addresses["door"], first=gateway.acknowledged + 1) for gateway in gateways)
            )
            assert cloud.process is not None
            assert await asyncio.to_thread(cloud.process.wait) == -signal.SIGKILL
            # It had batches in its hands, and had said something of others.
            assert any(len(gateway.sealed) > gateway.acknowledged for gateway in gateways)
            assert [gateway.acknowledged for gateway in gateways] > heard
            addresses = await asyncio.to_thread(cloud.start)
        # What they had sealed, and then all of it again: the same receipts.
        for _ in range(2):
            await asyncio.gather(
                *(gateway.push(addresses["door"], first=1, last=len(gateway.sealed)) for gateway in gateways)
            )
        assert [gateway.acknowledged for gateway in gateways] == [len(gateway.sealed) for gateway in gateways]

        alice = write_person(place, parties, addresses["back_office"])
        verdict = await asyncio.to_thread(alice.json, "ledger", "verify")
        count = sum(len(gateway.sealed) for gateway in gateways)
        assert (verdict["fault"], verdict["batches"]) == ("", count)
        with psycopg.connect(
            host=str(cloud.state_dir / "postgresql"), user="postgres", dbname="postgres"
        ) as connection:
            posted = connection.execute(
                b"SELECT gateway_id, sequence, batch FROM ledger.batches ORDER BY gateway_id, sequence"
            ).fetchall()
            subjects = connection.execute(b"SELECT subject FROM ledger.postings WHERE kind = 'batch'").fetchall()
            paid = connection.execute(
                b"SELECT sum(amount_micros) FROM ledger.transfers WHERE kind = 'post' AND cause IN ('use', 'late', 'overrun')"
            ).fetchone()
        assert posted == [
            (gateway.name, place_in_chain, signed.batch)
            for gateway in gateways
            for place_in_chain, signed in enumerate(gateway.sealed, start=1)
        ]
        assert sorted(subjects) == sorted((hashlib.sha256(batch).hexdigest(),) for _, _, batch in posted)
        assert paid == (count * USES * (NET_MICROS + TAX_MICROS),)
    # Its PostgreSQL outlived each kill, and ends with who took it over.
    assert postmaster(cloud) == left
    await asyncio.to_thread(until_logged, cloud, count)
    assert (await asyncio.to_thread(cloud.stop))[0] == 0
    assert postmaster(cloud) is None

    # Days later the outbox has nothing more of what its reader has passed; nothing else has gone.
    cloud.config.write_text(cloud.config.read_text() + days_later())
    addresses = await asyncio.to_thread(cloud.start)
    await asyncio.to_thread(cloud.until, lambda: pruned(addresses["http"]) >= count, "the outbox to be pruned")
    alice = write_person(place, parties, addresses["back_office"])
    verdict = await asyncio.to_thread(alice.json, "ledger", "verify")
    assert (verdict["fault"], verdict["batches"]) == ("", count)
    await asyncio.to_thread(until_logged, cloud, count)
    assert (await asyncio.to_thread(cloud.stop))[0] == 0


def until_logged(cloud: RunningCloud, batches: int) -> None:
    """Wait until the public log has an entry of each batch: its reader has passed them then."""
    with psycopg.connect(
        host=str(cloud.state_dir / "postgresql"), user="postgres", dbname="postgres", autocommit=True
    ) as connection:

        def is_logged() -> bool:
            return connection.execute(b"SELECT count(*) FROM publiclog.leaf WHERE log = 'batches'").fetchone() == (
                batches,
            )

        cloud.until(is_logged, "the batches in the public log")


def days_later() -> str:
    """The clock section of a cloud for which all that was written is old."""
    now_us = time.time_ns() // 1_000
    return f"[clock]\nsimulation = true\nepoch_us = {now_us + 2 * DAY_US}\nreal_epoch_us = {now_us}\n"


def pruned(address: str) -> int:
    """How many rows of the outbox went, by the metrics of a process."""
    counted = re.search(r"(?m)^farthing_ledger_events_pruned_total (\S+)$", page(address, "/metrics"))
    assert counted is not None
    return int(float(counted[1]))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_services_run_as_processes_of_their_own(place: Path, parties: Path) -> None:
    ports = {"ledger": free_port(), "rest": free_port()}
    data_dir = place / "postgresql"

    def text(own: str, others: dict[str, str]) -> str:
        rows = "\n".join(f'{name} = "127.0.0.1:{ports[where]}"' for name, where in others.items())
        return (
            f'[database]\nembedded = true\ndata_dir = "{data_dir}"\n'
            f'[back_office]\nlisten = "127.0.0.1:{ports[own]}"\n[back_office.addresses]\n{rows}\n'
        )

    rest = dict.fromkeys(("vault", "registry", "settlement", "fraud", "documents"), "rest")
    first = write_cloud(place / "first", parties, text("ledger", rest))
    first.services = ("ledger",)
    second = write_cloud(place / "second", parties, text("rest", {"ledger": "ledger"}))
    second.services = ("registry", "vault", "fraud", "settlement", "documents")
    try:
        door = first.start()
        assert "door" in door
        office = second.start()
        assert "door" not in office
        registry = write_person(place / "second", parties, office["back_office"])
        ledger = write_person(place / "first", parties, door["back_office"])
        registry.json("operators", "put", "city", "--name", "City", "--currency", "EUR")
        registry.json(
            "sites", "put", "--operator", "city", "S1", "--time-zone", "Europe/Berlin",
            "--seal-amount", "5.00", "--seal-records", "200", "--seal-age", "2",
        )  # fmt: skip
        put = (
            "gateways", "put", "--operator", "city", "gw-1", "--site", "S1", "--exposure", "50.00",
            "--party", parties / "gw-1",
        )  # fmt: skip
        assert registry.json(*put)["change"] == "created"
        assert ledger.json("ledger", "verify")["ok"] is True

        # One is down: the other says so, keeps what it was told, and goes on by itself (P8).
        first.stop()
        done = registry("sites", "put", "--operator", "city", "S1", "--time-zone", "Europe/Berlin",
                        "--seal-amount", "6.00", "--seal-records", "200", "--seal-age", "2")  # fmt: skip
        assert (done.returncode, "registered, but gateway gw-1 could not be told yet" in done.stderr) == (1, True)
        assert registry.json("sites", "list")[0]["seal_amount_micros"] == 6_000_000
        first.start()
        # The line between them comes back when its backoff is over.
        second.until(lambda: registry(*put).returncode == 0, "the registry to reach the ledger again")
        assert registry.json(*put)["change"] == "none"
    finally:
        for each in (second, first):
            if each.process is not None:
                assert each.stop()[0] == 0


def test_no_start_says_what_to_do(place: Path, parties: Path) -> None:
    def attempt(cloud: RunningCloud, *services: str) -> str:
        done = run_command("farthing-cloud", "serve", "--config", cloud.config, *services)
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr

    cloud = write_cloud(place, parties, "[database]\nembeded = true\n")
    assert "unknown key database.embeded: remove it or correct its name" in attempt(cloud)
    assert "no service is called legder" in attempt(cloud, "legder")
    cloud = write_cloud(place, parties, '[database]\nurl = "postgresql://f@127.0.0.1:1/f"\n')
    assert "PostgreSQL does not answer" in attempt(cloud) or "cannot bring schema" in attempt(cloud)
    cloud = write_cloud(place, parties)
    assert "back_office.addresses.ledger" in attempt(cloud, "registry")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        cloud = write_cloud(
            place, parties, f'[database]\nembedded = true\n[back_office]\nlisten = "127.0.0.1:{port}"\n'
        )
        assert "another process has that port" in attempt(cloud)
    copied = place / "parties"
    shutil.copytree(parties / "cloud", copied / "cloud", symlinks=True)
    shutil.copy(parties / "softhsm2.conf", copied / "softhsm2.conf")
    cloud.config.write_text(cloud.config.read_text().replace(str(parties / "cloud"), str(copied / "cloud")))
    (copied / "cloud" / "pin").unlink()
    assert "no PIN file" in attempt(cloud)


def test_commands_say_in_a_line_what_is_wrong(place: Path, parties: Path) -> None:
    def fails(*arguments: object) -> str:
        done = run_command("farthing-admin", *arguments)
        assert done.returncode == 1, (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stderr

    assert "say where admin.toml is" in fails("operators", "list")
    nobody = write_person(place, parties, f"127.0.0.1:{free_port()}")
    assert "the back office does not answer" in fails("--config", nobody.config, "operators", "list")
    gateway = write_person(place, parties, "127.0.0.1:1", name="gw-1")
    assert "commands are given by persons" in fails("--config", gateway.config, "operators", "list")
    file = place / "all.toml"
    file.write_text(everything(parties).replace('amount = "10.00"', "amount = 10.00"))
    alice = write_person(place, parties, "127.0.0.1:1")
    assert 'fundings.0.amount: write it as text, for example "12.50"' in fails("--config", alice.config, "apply", file)
    file.write_text(everything(parties).replace('label = "fleet 1"', 'lable = "fleet 1"'))
    error = fails("--config", alice.config, "apply", file)
    assert "tokens.0.lable" in error
    assert TOKEN.hex() not in error
