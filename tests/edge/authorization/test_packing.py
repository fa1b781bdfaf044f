"""Bodies as the journal keeps them: every body comes back, older ones are as they were, and what is none is named."""

from concurrent.futures import ThreadPoolExecutor

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing_edge.authorization.events import KINDS, EventError, Ticked, decode, encode
from farthing_edge.authorization.packing import MAX_BODY_SIZE, PackingError, pack, unpack

BODY = cbor2.dumps([b"abcdefgh" * 40])
#: ``BODY`` as a program of format 3 kept it.
DEFLATED = bytes.fromhex("016b8c6474484c4a4e494d4bcf18a5c9a301")


@given(st.lists(st.one_of(st.integers(), st.binary(max_size=400), st.text(max_size=40), st.none()), max_size=30))
def test_every_body_comes_back(fields: list[object]) -> None:
    body = cbor2.dumps(fields)
    kept = pack(body)
    assert len(kept) <= len(body)
    assert unpack(kept) == body
    # What an older program wrote.
    assert unpack(body) == body


def test_an_event_is_read_packed_or_as_it_was() -> None:
    event = Ticked(authorization=bytes(16), tick_index=7, tick_preimage=bytes(range(200)), heard_at=10**15)
    kind, kept = encode(event)
    assert kept[0] < 0x80
    assert decode(kind, kept) == event
    assert decode(kind, cbor2.dumps(event)) == event


def test_what_an_older_program_deflated_is_read() -> None:
    assert unpack(DEFLATED) == BODY
    assert pack(BODY)[0] == 2


@pytest.mark.parametrize(
    "spoil", [lambda kept: kept[:-1], lambda kept: kept + b"\x00", lambda kept: b"\x7f" + kept[1:]]
)
@pytest.mark.parametrize("kept", [pack(BODY), DEFLATED])
def test_what_is_no_packed_body_is_named(spoil, kept) -> None:
    with pytest.raises(PackingError):
        unpack(spoil(kept))
    with pytest.raises(EventError):
        decode(min(KINDS), spoil(kept))


def test_a_batch_comes_back_and_what_says_more_than_any_body_is_none() -> None:
    batch = b"".join(n.to_bytes(4, "big") for n in range(100_000))
    assert unpack(pack(batch)) == batch
    bomb = pack(bytes(MAX_BODY_SIZE + 1))
    assert len(bomb) < MAX_BODY_SIZE // 1_000
    with pytest.raises(PackingError):
        unpack(bomb)


def test_threads_pack_side_by_side() -> None:
    """Each with tools of its own: the writer packs while whoever shows or verifies unpacks."""
    bodies = [cbor2.dumps([bytes([n]) * 300, n]) for n in range(200)]

    def all_of_them(_: int) -> bool:
        return all(unpack(pack(body)) == body for body in bodies for _ in range(5))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(all_of_them, range(4)))


@given(st.binary(max_size=300))
def test_rubbish_is_refused_or_is_its_own_body(rubbish: bytes) -> None:
    try:
        unpack(rubbish)
    except PackingError:
        assert rubbish[0] < 0x80
