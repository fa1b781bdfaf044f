"""Devices and a cloud around a gateway that does not live long: the real engine on a real journal, in a process of its own (``crash_child``).

Devices have counters, sessions and pending statements of their own, resent until answered; the cloud has directives and receipts. A life ends
by SIGKILL, or by its disk. Afterwards everything that was said is in the journal, and every use is billed once.
"""

import asyncio
import contextlib
import os
import random
import signal
import struct
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import cbor2
from edge_playbook import CHG_3, DAY, PARK_1, TOLL_1, Meter, Policy, clock, token_ref

from farthing.clock import Instant
from farthing.device import cose
from farthing.device.messages import AnswerStatus, decode_answer, decode_grant, encode
from farthing.evidence import merkle
from farthing.evidence.batches import batch_hash
from farthing.refusal import Refusal
from farthing.tariff import Use, parse, price
from farthing.v1 import batch_pb2, directive_pb2
from farthing_edge.authorization.decision import digest_of
from farthing_edge.authorization.events import decode
from farthing_edge.authorization.state import CoreSettings
from farthing_edge.journal import verify
from farthing_edge.journal.store import connect_to_read

CHILD = Path(__file__).with_name("crash_child.py")
#: Statements a life hears at most, when nothing kills it before.
STATEMENTS = 60
POINTS = ("before-commit", "after-commit", "before-signature", "after-signature", "any moment")
QUOTA = 400_000_000
TARIFFS = {"chg-3": CHG_3, "toll-1": TOLL_1, "park-1": PARK_1}
UNITS = {"chg-3": "Wh", "toll-1": "passage", "park-1": "s"}
#: Nothing is kept of these: the device says it again.
UNSETTLED = {AnswerStatus.LATER, AnswerStatus.AGAIN}


class Died(Exception):
    """The child is gone."""


class Child:
    """One life of the gateway."""

    def __init__(self, nursery: Path, path: Path, crash_point: str) -> None:
        self.nursery, self.path, self.crash_point = nursery, path, crash_point
        self.waiting: dict[int, asyncio.Future] = {}
        self.number = 1
        self.dead = asyncio.Event()
        self.process = -1

    async def start(self) -> None:
        self.reader, self.writer = await asyncio.open_unix_connection(str(self.nursery), limit=2**26)
        loop = asyncio.get_running_loop()
        born, ready = loop.create_future(), loop.create_future()
        self.waiting = {0: born, 1: ready}
        self.reading = asyncio.create_task(self._read())
        self._write([str(self.path), clock("10:00"), 60, self.crash_point])
        self.process = os.pidfd_open(await born)
        self._write(["begin"])
        await ready

    async def _read(self) -> None:
        try:
            while True:
                (size,) = struct.unpack(">I", await self.reader.readexactly(4))
                number, result = cbor2.loads(await self.reader.readexactly(size))
                self.waiting.pop(number).set_result(result)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.dead.set()
            for future in self.waiting.values():
                if not future.done():
                    future.set_exception(Died)

    async def ask(self, operation: str, *arguments):
        if self.dead.is_set():
            raise Died
        self.number += 1
        number = self.number
        future = asyncio.get_running_loop().create_future()
        self.waiting[number] = future
        try:
            self._write([number, operation, list(arguments)])
        except (ConnectionError, RuntimeError) as err:
            raise Died from err
        return await future

    def _write(self, frame: list) -> None:
        data = cbor2.dumps(frame)
        self.writer.write(struct.pack(">I", len(data)) + data)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.process, signal.SIGKILL)

    async def gone(self) -> None:
        # The end of the socket comes before the end of the process, and with it of the journal's lock.
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self.process, ended.set)
        await ended.wait()
        loop.remove_reader(self.process)
        os.close(self.process)
        await self.reading
        self.writer.close()
        for future in self.waiting.values():
            if future.done() and not future.cancelled():
                future.exception()


@dataclass
class Session:
    """What a device itself knows of one use."""

    tariff: str
    start: int
    started_at: int
    end: int
    ended_at: int
    standing: bool = False


@dataclass
class SimDevice:
    """Signs, resends, and counts for itself."""

    meter: Meter
    profile: str
    pending: list = field(default_factory=list)
    sessions: dict[bytes, Session] = field(default_factory=dict)
    state: str = "idle"
    at: int = field(default_factory=lambda: clock("10:00"))

    @property
    def gateway_id(self) -> str:
        return "G1"

    def next_statement(self, rng: random.Random):
        """(statement, token) to say next; the pending one until it is answered."""
        if not self.pending:
            self.at += rng.randrange(1, 600) * 1_000_000
            meter = self.meter
            if self.profile == "one-shot":
                self.pending = [(meter.intent(self, one_shot=1), "card")]
            elif self.profile == "standing":
                self.pending = [(meter.reading(self, meter.value + rng.randrange(0, 40)), None)]
            elif self.state == "idle":
                self.pending = [(meter.intent(self), "card")]
            elif rng.random() < 0.3:
                self.pending = [(meter.end(self, meter.value + rng.randrange(0, 300)), None)]
            else:
                self.pending = [(meter.reading(self, meter.value + rng.randrange(0, 900)), None)]
        return self.pending[0]

    def heard(self, statement, answer) -> None:
        """An answer that settles the statement."""
        if answer.status in UNSETTLED:
            return
        assert answer.status in {AnswerStatus.GRANTED, AnswerStatus.RECORDED}, answer
        self.pending = []
        meter = self.meter
        if statement.kind == "intent":
            grant = decode_grant(cose.decode_sign1(answer.grant).payload)
            one_shot = statement.one_shot or 0
            self.sessions[grant.authorization] = Session(
                meter.tariff, statement.register.value, statement.at, statement.register.value + one_shot, statement.at
            )
            if one_shot:
                meter.value += one_shot
            else:
                meter.authorization, self.state = grant.authorization, "open"
            return
        if statement.kind == "reading" and statement.authorization is None:
            session = self.sessions.setdefault(
                b"standing", Session(meter.tariff, statement.register.value, statement.at, 0, 0, standing=True)
            )
        else:
            session = self.sessions[meter.authorization]
        session.end, session.ended_at = statement.register.value, statement.at
        if statement.kind == "end":
            meter.authorization, self.state = None, "idle"


class World:
    """Devices and cloud around one journal."""

    def __init__(self, nursery: Path, path: Path, seed: int) -> None:
        self.nursery, self.path = nursery, path
        self.rng = random.Random(seed)
        self.policy = Policy("G1")
        self.directives: list[bytes] = []
        self.batches: dict[int, bytes] = {}
        self.answered: set[bytes] = set()
        self.devices: list[SimDevice] = []
        self.kills = 0
        #: Answers that the disk is full.
        self.turned_away = 0
        at = clock("09:00")
        self.tell(
            welcome=directive_pb2.Welcome(
                operator_id="op", site_id="S1", incarnation=1, receipt_keys=[b"k"], time_zone="Europe/Berlin"
            )
        )
        self.tell(seal=directive_pb2.SealPolicy(amount_micros=3_000_000, records=6, age_s=0))
        for tariff in TARIFFS:
            self.tell(tariff=Policy.tariff(tariff))
        self.tell(account=Policy.account("P"))
        self.tell(token=Policy.token("card", "P"))
        for number, (profile, tariff) in enumerate(
            [("session", "chg-3")] * 3
            + [("session", "park-1")] * 2
            + [("one-shot", "toll-1")] * 2
            + [("standing", "chg-3")]
        ):
            device_id = f"d{number}"
            self.tell(
                device=Policy.device(
                    device_id,
                    profile=profile,
                    tariff_id=tariff,
                    unit=UNITS[tariff],
                    standing_account_id="P" if profile == "standing" else "",
                )
            )
            self.devices.append(SimDevice(Meter(device_id, self.rng.randrange(10**6), tariff=tariff), profile))
        for number in range(4):
            self.tell(
                quota_granted=Policy.quota(f"q{number}", "P", QUOTA // 4, Instant(at + (number + 12) * 3_600_000_000))
            )

    def tell(self, **body: object) -> None:
        self.directives.append(self.policy.directive(clock("09:00"), **body).raw)

    async def sync(self, child: Child) -> None:
        version, _, _ = await child.ask("status")
        for raw in self.directives[version:]:
            await child.ask("directive", raw)
        await child.ask("head", len(self.directives), clock("09:00"))

    async def pull(self, child: Child, *, receipt: bool) -> None:
        """Batches after the last receipted; whatever was seen before must be the same bytes."""
        for sequence, batch, signature in await child.ask("batches", 0):
            assert len(signature) == 64
            assert self.batches.setdefault(sequence, batch) == batch, f"batch {sequence} changed"
        if receipt and self.batches:
            last = max(self.batches)
            raw = batch_pb2.Receipt(
                gateway_id="G1", incarnation=1, sequence=last, batch_hash=batch_hash(self.batches[last])
            ).SerializeToString()
            await child.ask("receipt", raw)

    async def one_device(self, child: Child, device: SimDevice, statements: int) -> None:
        for _ in range(statements):
            statement, token = device.next_statement(self.rng)
            payload = encode(statement)
            arguments = (b"\x84" + payload, payload, None if token is None else token_ref(token))
            copies = 2 if self.rng.random() < 0.2 else 1
            answers = await asyncio.gather(*(child.ask("say", *arguments) for _ in range(copies)))
            for data in answers:
                answer = decode_answer(data)
            self.turned_away += answer.refusal is Refusal.STORAGE_FULL
            if answer.status not in UNSETTLED:
                self.answered.add(digest_of(payload))
            device.heard(statement, answer)

    async def life(self, *, deadly: bool) -> None:
        """Everybody talks, and it dies at some point (``deadly``), or of its disk, or at the end."""
        point = self.rng.choice(POINTS) if deadly else ""
        crash_point = f"{point}:{self.rng.randrange(1, 12)}" if point in POINTS[:-1] else ""
        child = Child(self.nursery, self.path, crash_point)
        try:
            await child.start()
            await self.sync(child)
            work = [
                asyncio.create_task(self.one_device(child, device, STATEMENTS // len(self.devices)))
                for device in self.devices
            ]
            if point == "any moment":
                answers_before = self.rng.randrange(1, 40)
                heard = len(self.answered)
                while len(self.answered) < heard + answers_before and not all(task.done() for task in work):  # noqa: ASYNC110  # a condition
                    await asyncio.sleep(0)
                child.kill()
            results = await asyncio.gather(*work, return_exceptions=True)
            for result in results:
                if isinstance(result, BaseException) and not isinstance(result, Died):
                    raise result
            await self.pull(child, receipt=self.rng.random() < 0.5)
        except Died:
            pass
        child.kill()
        await child.gone()
        self.kills += 1
        self.check_everything_said_is_written()

    def check_everything_said_is_written(self) -> None:
        if not self.path.exists():
            assert not self.answered
            return
        connection = connect_to_read(self.path)
        try:
            written = set()
            for kind, body in connection.execute("SELECT kind, body FROM entries"):
                written.add(getattr(decode(kind, body), "digest", b""))
        finally:
            connection.close()
        assert not self.answered - written

    async def finish(self) -> None:
        """A last life without an end: every session is closed and every record sealed."""
        child = Child(self.nursery, self.path, "")
        await child.start()
        await self.sync(child)
        for device in self.devices:
            while device.pending:
                await self.one_device(child, device, 1)
            if device.state == "open":
                meter = device.meter
                device.at += 60_000_000
                device.pending = [(meter.end(device, meter.value + 5), None)]
                await self.one_device(child, device, 1)
        async with asyncio.timeout(20):
            while True:
                _, sealed, counts = await child.ask("status")
                await self.pull(child, receipt=False)
                if not counts["unsealed_records"] and len(self.batches) == sealed:
                    break
        self.counts = counts
        for sequence, batch in self.batches.items():
            leaves = await child.ask("detail", sequence)
            assert merkle.root(leaves) == batch_pb2.Batch.FromString(batch).merkle_root
        child.kill()
        await child.gone()

    def check_conservation(self) -> None:
        report = verify(
            self.path, CoreSettings(gateway_id="G1", clock_epoch_us=DAY, clock_real_epoch_us=0, clock_rate=1)
        )
        assert report.fault is None
        assert report.open_authorizations == 1  # the standing one
        claims: dict[bytes, batch_pb2.Claim] = {}
        shared: dict[bytes, list[int]] = defaultdict(lambda: [0, 0])
        lines = 0
        by_quota: dict[str, int] = defaultdict(int)
        previous = bytes(32)
        for sequence in sorted(self.batches):
            batch = batch_pb2.Batch.FromString(self.batches[sequence])
            assert batch.previous_hash == previous
            previous = batch_hash(self.batches[sequence])
            for line in batch.lines:
                lines += line.net_micros + line.tax_micros
                by_quota[line.quota_id] += line.net_micros + line.tax_micros
            for claim in batch.claims:
                before = claims.get(claim.authorization_id)
                assert before is None or not before.final, "billed after its end"
                claims[claim.authorization_id] = claim
                for share in claim.shares:
                    shared[claim.authorization_id][0] += share.net_micros
                    shared[claim.authorization_id][1] += share.tax_micros
        for authorization, claim in claims.items():
            assert shared[authorization] == [claim.net_micros, claim.tax_micros], "billed twice, or not at all"
        assert all(amount <= QUOTA // 4 for name, amount in by_quota.items() if name)
        # What the devices counted, priced by the contract, is what is claimed: by authorization, to the micro.
        delivered = 0
        for device in self.devices:
            for authorization, session in device.sessions.items():
                use = Use(
                    unit=UNITS[session.tariff],
                    start=session.start,
                    end=session.end,
                    started_at=Instant(session.started_at),
                    ended_at=Instant(session.ended_at),
                )
                due = price(parse(Policy.tariff(session.tariff).ocpi_json), use, closing=not session.standing)
                delivered += due.gross_micros
                if session.standing:
                    continue
                claim = claims[authorization]
                assert (claim.register_from, claim.register_to) == (session.start, session.end)
                assert claim.net_micros + claim.tax_micros == due.gross_micros
                assert claim.final
        assert delivered == lines == report.billed_micros
        assert self.counts["quota_held_micros"] == 0
