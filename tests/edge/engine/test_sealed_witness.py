"""A token that remembers what was sealed: journal first, token second, sending third."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from edge_playbook import M, Meter, until
from engine_site import Here, Site, said

from farthing.hsm import Hsm, HsmError
from farthing_edge.engine.sealed_witness import LABEL, Sealed, TokenWitness, read, written
from farthing_hsm_sim.ceremony import destroy_below, hold
from farthing_hsm_sim.plan import Plan


class Memory:
    """A witness beside the disk, in memory; ``fail`` makes it raise."""

    def __init__(self) -> None:
        self.values: list[Sealed] = []
        self.fail: Exception | None = None

    async def highest(self) -> Sealed | None:
        return max(self.values, default=None)

    async def remember(self, sealed: Sealed) -> None:
        if self.fail is not None:
            raise self.fail
        self.values.append(sealed)


@pytest.fixture
def token(tmp_path: Path) -> Iterator[Any]:
    parties = hold(Plan(gateways=("gw-1",), shared_tokens=True), tmp_path / "parties")
    with Hsm.of(parties.gateways["gw-1"]) as hsm:
        yield hsm.attach(parties.gateways["gw-1"])
    destroy_below(tmp_path / "parties")


async def seal_one(engine: Any, counter: int) -> None:
    before = engine.view.sealed_sequence
    await engine.submit(said(Meter("x1", counter, tariff="toll-1", counter=counter).intent(Here(), one_shot=1), "card"))
    await until(lambda: engine.view.sealed_sequence > before)


async def test_nothing_is_sent_before_the_token_remembers_it(bench: Any) -> None:
    bench.sealed_witness = witness = Memory()
    async with bench.running() as engine:
        await Site(engine).open(quota=10 * M, seal_age_s=0)
        witness.fail = HsmError("the token is away")
        await seal_one(engine, 1)
        assert engine.record.batches_to_send(0) == []
        witness.fail = None
        await engine.batches.wait_for(0)
        (row,) = engine.record.batches_to_send(0)
        assert [(value.incarnation, value.sequence) for value in witness.values] == [(1, 1)]
        assert row.sequence == 1


async def test_a_token_that_is_behind_is_repaired_and_one_that_is_ahead_proves_a_rollback(bench: Any) -> None:
    bench.sealed_witness = witness = Memory()
    async with bench.running() as engine:
        await Site(engine).open(quota=10 * M, seal_age_s=0)
        await seal_one(engine, 1)
        await engine.batches.wait_for(0)
    copy = bench.path.with_suffix(".copy")
    shutil.copy(bench.path, copy)
    async with bench.running() as engine:
        assert engine.view.authorizing
        await seal_one(engine, 2)
        await until(lambda: len(witness.values) == 2)
    # Behind: the token lost its last write.
    witness.values.pop()
    async with bench.running() as engine:
        assert engine.view.authorizing
        assert [value.sequence for value in witness.values] == [1, 2]
    for old in bench.path.parent.glob(bench.path.name + "*"):
        old.unlink()
    shutil.copy(copy, bench.path)
    async with bench.running() as engine:
        assert "the token has seen batch 2" in engine.view.not_authorizing_reason


@pytest.mark.real
async def test_the_highest_whole_value_counts(token: Any) -> None:
    witness = TokenWitness(token)
    assert await witness.highest() is None
    for sealed in (Sealed(1, 9, b"a" * 32), Sealed(2, 3, b"b" * 32)):
        await witness.remember(sealed)
        assert await witness.highest() == sealed
    # What a cut power leaves behind: torn, and older.
    torn = written(Sealed(3, 1, b"c" * 32))[:-1]
    await token.remember(LABEL, torn)
    assert await witness.highest() is None
    assert read(b"") is None
    assert read(torn) is None
