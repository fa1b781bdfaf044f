"""Bodies as the journal keeps them: every body comes back, older ones are as they were, and what is none is named."""

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing_edge.authorization.events import KINDS, EventError, Ticked, decode, encode
from farthing_edge.authorization.packing import PackingError, pack, unpack


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


@pytest.mark.parametrize(
    "spoil", [lambda kept: kept[:-1], lambda kept: kept + b"\x00", lambda kept: b"\x7f" + kept[1:]]
)
def test_what_is_no_packed_body_is_named(spoil) -> None:
    kept = pack(cbor2.dumps([b"abcdefgh" * 40]))
    assert kept[0] == 1
    with pytest.raises(PackingError):
        unpack(spoil(kept))
    with pytest.raises(EventError):
        decode(min(KINDS), spoil(kept))


@given(st.binary(max_size=300))
def test_rubbish_is_refused_or_is_its_own_body(rubbish: bytes) -> None:
    try:
        unpack(rubbish)
    except PackingError:
        assert rubbish[0] < 0x80
