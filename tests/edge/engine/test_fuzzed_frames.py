"""Fuzzed frames through the real door into a real engine: they change nothing and grow nothing (P9, P10).

A few thousand here; ``make fuzz FRAMES=1000000`` is the long run, and ``SEED=…`` another one. What it prints at the end is what was refused
and by which number.
"""

import asyncio
import hashlib
import hmac
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from edge_playbook import M, Meter, Policy, clock, until
from fuzzed_frames import Frames, Said, Signer
from state_digest import digest_of

from farthing.device.cose import VerifyingKey, decode_sign1
from farthing.device.messages import Answer, AnswerStatus, Envelope, Statement, decode_answer, decode_grant, encode
from farthing.ids import GatewayId, token_commitment
from farthing.v1 import directive_pb2
from farthing_edge.authorization import commands
from farthing_edge.config import LimitsSection
from farthing_edge.engine import Engine, Waiting
from farthing_edge.ingress.guard import RubbishRing
from farthing_edge.ingress.statements import Arrived, StatementDoor
from farthing_edge.metrics import Metrics

FRAMES = int(os.environ.get("FARTHING_FUZZ_FRAMES", "4000"))
SEED = int(os.environ.get("FARTHING_FUZZ_SEED", "1"))
#: What comes in one turn of the loop.
AT_ONCE = 32
#: How often everything is looked at.
LOOK_EVERY = max(AT_ONCE, FRAMES // 20)
#: What memory may move after the first look: an allocator keeps what it once had; something that grew by 10 bytes with each of a million frames
#: would show.
SLACK_KB = 10_240

GATEWAY = "G1"
CARD, SALT = b"card", b"salt" * 4
SITE_KEY = b"a site's key"


class Here:
    """Where a meter says things."""

    gateway_id = GATEWAY
    at = clock("10:00")


class Gateway:
    """An engine behind a door, with one charger and one toll transponder that have said all they will ever say."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.metrics = Metrics()
        self.rubbish = RubbishRing(samples=64)
        self.signers = {"c1": Signer(), "x1": Signer()}
        self.door = StatementDoor(
            gateway=GatewayId(GATEWAY),
            engine=self,
            token=self,
            grant_key=VerifyingKey.from_spki(Signer().spki),
            # Rates would turn most of it away unread; here everything is read.
            limits=LimitsSection(device_rate_per_s=100_000, device_burst=100_000),
            metrics=self.metrics,
            rubbish=self.rubbish,
        )
        self.said: list[Said] = []
        self.charger = Meter("c1", 100)

    # What the door asks of engine and token.
    def hear(self, command: Any, waiting: Waiting, /) -> None:
        self.engine.hear(command, waiting)

    def answer_refusal(self, **what: Any) -> Answer:
        return self.engine.answer_refusal(**what)

    def statement_key(self, device: Any, /) -> Any:
        return self.engine.view.statement_key(device)

    def is_complete(self) -> bool:
        return self.engine.view.is_complete

    def site_key(self) -> tuple[str, int]:
        return "site", 1

    async def hmac_many(self, label: str, data: Sequence[bytes]) -> list[bytes]:  # noqa: ARG002 the interface's
        return [hmac.digest(SITE_KEY, each, hashlib.sha256) for each in data]

    async def open(self) -> None:
        """Everything the cloud says, then what the devices say: a whole session, an open one, and a passage."""
        policy = Policy(GATEWAY)

        async def told(**body: object) -> None:
            await self.engine.submit(policy.directive(clock("09:00"), **body))

        await told(
            welcome=directive_pb2.Welcome(
                operator_id="op", site_id="S1", incarnation=1, receipt_keys=[b"k"], time_zone="Europe/Berlin"
            )
        )
        await told(seal=directive_pb2.SealPolicy(amount_micros=100 * M, records=100, age_s=1))
        for tariff in ("chg-3", "toll-1"):
            await told(tariff=Policy.tariff(tariff))
        await told(account=Policy.account("P"))
        reference = hmac.digest(SITE_KEY, CARD, hashlib.sha256)
        await told(token=directive_pb2.TokenRecord(token_ref=reference, key_epoch=1, token_id="t", account_id="P"))
        await told(device=Policy.device("c1", statement_key=self.signers["c1"].spki))
        passes = {"profile": "one-shot", "unit": "passage", "rated_per_hour": 3_600, "tariff_id": "toll-1"}
        await told(device=Policy.device("x1", statement_key=self.signers["x1"].spki, **passes))
        await told(quota_granted=Policy.quota("q1", "P", 100 * M, clock("20:00")))
        await self.engine.submit(commands.HeadArrived(version=policy.version, at=clock("09:00")))

        commitment = token_commitment(CARD, SALT)
        charger, toll = self.charger, Meter("x1", 0, tariff="toll-1")
        for ends in (True, False):
            answer = await self._say(replace(charger.intent(Here()), commitment=commitment), CARD)
            assert answer.status is AnswerStatus.GRANTED
            assert answer.grant is not None
            charger.authorization = decode_grant(decode_sign1(answer.grant).payload).authorization
            await self._say(replace(charger.reading(Here(), charger.value), commitment=commitment))
            if ends:
                await self._say(replace(charger.end(Here(), charger.value), commitment=commitment))
        answer = await self._say(replace(toll.intent(Here(), one_shot=1), commitment=commitment), CARD)
        assert answer.status is AnswerStatus.GRANTED
        view, state = self.engine.view, self.engine._state
        # Sealed in memory first, then on disk.
        await until(lambda: view.counts()["unsealed_records"] == 0 and view.position == state.position)

    async def says_one_more(self) -> None:
        """A reading of the session that is open."""
        reading = self.charger.reading(Here(), self.charger.value)
        await self._say(replace(reading, commitment=token_commitment(CARD, SALT)))

    async def _say(self, statement: Statement, token: bytes | None = None) -> Answer:
        signer = self.signers[statement.device]
        signed = signer.sign(statement.kind, GATEWAY, encode(statement))
        envelope = encode(Envelope(statement=signed, token=token, salt=None if token is None else SALT))
        self.said.append(Said(peer=statement.device, kind=statement.kind, envelope=envelope))
        return decode_answer(await self.door.answer(envelope, channel="mqtt", peer=statement.device))

    def looks_like(self) -> tuple[str, int, int]:
        """Everything that a frame could change, and how much the door remembers."""
        state = self.engine._state
        return digest_of(state), self.engine.view.position, len(state.devices) + len(state.authorizations)


def resident_kb() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")


@pytest.mark.timeout(0 if "FARTHING_FUZZ_FRAMES" in os.environ else 120)
async def test_fuzzed_frames_change_nothing_and_grow_nothing(bench: Any, capsys: pytest.CaptureFixture[str]) -> None:
    async with bench.running() as engine:
        gateway = Gateway(engine)
        await gateway.open()
        frames = Frames(SEED, gateway.said, gateway=GATEWAY, stranger=Signer())
        before = gateway.looks_like()
        answers: Counter[str] = Counter()
        resident: list[int] = []
        at_look = 0
        for done in range(0, FRAMES, AT_ONCE):
            left = [min(AT_ONCE, FRAMES - done)]
            answered = asyncio.Event()

            def say(encoded: bytes, left: list[int] = left, answered: asyncio.Event = answered) -> None:
                answer = decode_answer(encoded)
                answers[str(answer.refusal or answer.status.name)] += 1
                left[0] -= 1
                if not left[0]:
                    answered.set()

            def fail(err: BaseException) -> None:
                raise AssertionError("a frame that ends in a fault of ours") from err

            drawn = [frames.draw() for _ in range(left[0])]
            gateway.door.take([Arrived(payload, peer, say, fail) for peer, payload in drawn], channel="mqtt")
            await asyncio.wait_for(answered.wait(), 60)
            if done >= at_look:
                at_look += LOOK_EVERY
                assert gateway.looks_like() == before, f"changed after {done} frames of seed {SEED}"
                resident.append(resident_kb())
        assert gateway.looks_like() == before
        assert sum(answers.values()) == FRAMES
        # Repeats are heard again; nothing else is a yes.
        assert answers["GRANTED"] + answers["RECORDED"] < FRAMES // 10
        assert max(resident) - resident[0] < SLACK_KB, resident
        assert len(gateway.rubbish.samples()) == 64
        # A look that would not see a change proves nothing: one true statement shows.
        assert bench.journal.position == before[1]
        await gateway.says_one_more()
        after = gateway.looks_like()
        assert after[0] != before[0]
        assert after[1] == before[1] + 1
    with capsys.disabled():
        if "FARTHING_FUZZ_FRAMES" in os.environ:
            print(
                f"\n{FRAMES} frames of seed {SEED}: resident {resident[0]} kB, at most {max(resident)} kB, at last {resident_kb()} kB"
            )
            for answer, count in answers.most_common():
                print(f"  {count:9,}  {answer}")
