"""An engine on a real journal in a temporary directory, with keys in memory where the daemon has them in a token."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from edge_playbook import DAY, Gateway

from farthing.clock import BusinessClock
from farthing.device.cose import VerifyingKey, key_id
from farthing_edge.authorization.state import CoreSettings
from farthing_edge.engine import Engine, EngineLimits
from farthing_edge.engine.sealed_witness import SealedWitness
from farthing_edge.engine.upkeep import UpkeepLimits
from farthing_edge.journal import Journal


class MemorySigner:
    """ES256 with a key in memory; ``fail`` makes it raise."""

    def __init__(self) -> None:
        self.private_key = ec.generate_private_key(ec.SECP256R1())
        spki = self.private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.kid = key_id(spki)
        self.key = VerifyingKey.from_spki(spki)
        self.fail: Exception | None = None
        self.gate: asyncio.Event | None = None

    async def sign(self, to_be_signed: bytes) -> bytes:
        if self.gate is not None:
            await self.gate.wait()
        if self.fail is not None:
            raise self.fail
        r, s = decode_dss_signature(self.private_key.sign(to_be_signed, ec.ECDSA(SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    async def sign_many(self, to_be_signed: Sequence[bytes]) -> list[bytes]:
        return [await self.sign(each) for each in to_be_signed]


class HandClock:
    """Business time that a test moves: rate 1, from the example's day at 09:00; the wall clock goes with it until it is stepped."""

    def __init__(self) -> None:
        self.ns = 0
        self.stepped_ns = 0
        self.synchronised = True

    def clock(self) -> BusinessClock:
        return BusinessClock(
            epoch_us=DAY + 9 * 3_600_000_000,
            real_epoch_us=0,
            rate=1,
            # A start reads the wall clock.
            anchor_real_us=(self.ns + self.stepped_ns) // 1_000,
            anchor_monotonic_ns=self.ns,
            monotonic_ns=lambda: self.ns,
            wall_ns=lambda: self.ns + self.stepped_ns,
        )


class Bench:
    """One gateway's engine and everything around it; ``site`` writes its directives and is not a gateway itself."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "journal.sqlite"
        self.marks = folder / "marks"
        self.marks.mkdir(exist_ok=True)
        self.grant_signer = MemorySigner()
        self.batch_signer = MemorySigner()
        self.hand = HandClock()
        self.limits = EngineLimits(quota_wait_ms=200, tick_ms=20)
        self.upkeep = UpkeepLimits()
        self.policy_source = Gateway("G1", "S1")
        self.journal: Journal | None = None
        self.keep_ballast = False
        self.sealed_witness: SealedWitness | None = None
        self.settings = CoreSettings(gateway_id="G1", clock_epoch_us=DAY, clock_real_epoch_us=0, clock_rate=1)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Engine]:
        self.journal = Journal(self.path, mark_directory=self.marks, keep_ballast=self.keep_ballast)
        engine = Engine(
            journal=self.journal,
            settings=self.settings,
            grant_signer=self.grant_signer,
            batch_signer=self.batch_signer,
            clock=self.hand.clock(),
            limits=self.limits,
            sealed_witness=self.sealed_witness,
            upkeep=self.upkeep,
            is_synchronised=lambda: self.hand.synchronised,
        )
        await engine.start()
        task = asyncio.create_task(engine.run())
        try:
            yield engine
        finally:
            if not task.done():
                await engine.stop()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)
