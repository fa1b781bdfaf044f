"""A frame reads and says what the messages do: byte for byte, and refusal for refusal."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from device_strategies import grants, instants, readings, statements
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.clock import Instant
from farthing.device.frames import GrantFrame, ReadingFrames
from farthing.device.messages import (
    MAX_COUNT,
    MAX_EPOCH,
    MAX_HELD_PARTS,
    Grant,
    Reading,
    RegisterValue,
    Statement,
    TariffVersion,
    decode_statement,
    encode,
)
from farthing.device.reject import MessageError
from farthing.ids import AuthorizationId, DeviceId, GatewayId, RegisterId, TariffId
from farthing.money import MAX_AMOUNT_MICROS


def said(grant: Grant) -> dict[str, Any]:
    """What a frame is told of ``grant``."""
    return {
        "incarnation": grant.witness.incarnation,
        "start_id": grant.witness.start_id,
        "position": grant.witness.position,
        "at": grant.at,
        "limit": grant.limit,
        "held": [(part.quota_id, part.amount_micros) for part in grant.held],
        "net_micros": grant.net_micros,
        "tax_micros": grant.tax_micros,
    }


@given(grants, grants)
def test_a_grant_from_the_frame_of_another_of_its_authorization_is_the_grant(grant: Grant, other: Grant) -> None:
    grant = replace(grant, readings_due=(), lapses_at=None)
    changing = ("witness", "at", "limit", "held", "net_micros", "tax_micros")
    other = replace(grant, **{name: getattr(other, name) for name in changing})
    assert GrantFrame(other).payload(**said(grant)) == encode(grant)
    assert GrantFrame(grant).payload(**said(other)) == encode(other)


#: What two authorizations of one register do not have in common.
OF_ONE_USE = ("authorization", "intent_epoch", "intent_counter", "start", "commitment")


@settings(max_examples=30)
@given(
    grants,
    st.tuples(
        st.binary(min_size=16, max_size=16),
        st.integers(0, MAX_EPOCH),
        st.integers(0, MAX_COUNT),
        st.integers(0, MAX_COUNT),
        st.none() | st.binary(min_size=32, max_size=32),
    ),
)
def test_a_grant_from_the_frame_of_another_of_its_register_is_the_grant(grant: Grant, of_one_use: tuple[Any]) -> None:
    grant = replace(grant, readings_due=(), lapses_at=None)
    said_of_it = dict(zip(OF_ONE_USE, of_one_use, strict=True))
    other = replace(grant, **said_of_it)
    assert GrantFrame(grant).of_another(**said_of_it).payload(**said(other)) == encode(other)


@pytest.mark.parametrize(
    "change",
    [
        {"authorization": bytes(15)},
        {"authorization": "0123456789abcdef"},
        {"intent_epoch": -1},
        {"intent_counter": MAX_COUNT + 1},
        {"start": True},
        {"commitment": bytes(31)},
    ],
    ids=lambda change: "-".join(change),
)
@settings(max_examples=5)
@given(grant=grants)
def test_what_is_no_use_has_no_frame(change: dict[str, Any], grant: Grant) -> None:
    frame = GrantFrame(replace(grant, readings_due=(), lapses_at=None))
    with pytest.raises(MessageError):
        frame.of_another(**{name: getattr(grant, name) for name in OF_ONE_USE} | change)


@pytest.mark.parametrize(
    "change",
    [
        {"incarnation": -1},
        {"start_id": bytes(15)},
        {"start_id": "0123456789abcdef"},
        {"position": MAX_COUNT + 1},
        {"at": True},
        {"limit": 1.0},
        {"held": [("q", 1)] * (MAX_HELD_PARTS + 1)},
        {"held": [("q", MAX_AMOUNT_MICROS + 1)]},
        {"held": [("*floor", 1)]},
        {"net_micros": MAX_AMOUNT_MICROS + 1},
        {"tax_micros": -1},
    ],
    ids=lambda change: "-".join(change),
)
@settings(max_examples=5)
@given(grant=grants)
def test_what_no_grant_may_say_a_frame_does_not_say(change: dict[str, Any], grant: Grant) -> None:
    frame = GrantFrame(replace(grant, readings_due=(), lapses_at=None))
    with pytest.raises(MessageError):
        frame.payload(**said(grant) | change)


def reading_of(device: str, counter: int = 1) -> bytes:
    """A reading's payload."""
    return encode(
        Reading(
            recipient=GatewayId("gw-1"),
            device=DeviceId(device),
            device_epoch=1,
            counter=counter,
            at=Instant(1_790_000_000_000_000),
            register=RegisterValue(register_id=RegisterId("r1"), register_epoch=1, value=70_000),
            tariff=TariffVersion(tariff_id=TariffId("t1"), version=1),
            authorization=AuthorizationId(bytes(16)),
        )
    )


def outcome(decode: Callable[[bytes], Statement], payload: bytes) -> object:
    """The statement, or why it is none."""
    try:
        return decode(payload)
    except MessageError as err:
        return err.refusal


@given(readings, st.integers(0, MAX_COUNT), instants, st.integers(0, MAX_COUNT))
def test_another_reading_of_a_use_is_read_as_it_is(reading: Reading, counter: int, at: int, value: int) -> None:
    frames = ReadingFrames(most=1)
    assert frames.decode(encode(reading)) == reading
    other = replace(reading, counter=counter, at=at, register=replace(reading.register, value=value))
    assert frames.decode(encode(other)) == other
    assert frames.decode(encode(reading)) == reading


@settings(max_examples=200)
@given(reading=readings, data=st.data())
def test_what_is_nearly_a_reading_is_what_it_is_the_long_way(reading: Reading, data: st.DataObject) -> None:
    frames = ReadingFrames(most=10)
    payload = encode(reading)
    frames.decode(payload)
    first = data.draw(st.integers(0, len(payload)))
    last = data.draw(st.integers(first, min(len(payload), first + 4)))
    changed = payload[:first] + data.draw(st.binary(max_size=4)) + payload[last:]
    assert outcome(frames.decode, changed) == outcome(decode_statement, changed)
    assert outcome(frames.decode, payload[:first]) == outcome(decode_statement, payload[:first])


@given(statements)
def test_all_other_statements_are_read_the_long_way(statement: Statement) -> None:
    frames = ReadingFrames(most=10)
    assert [frames.decode(encode(statement)) for _ in range(2)] == [statement] * 2


@pytest.mark.parametrize(
    "longer", [b"\x18\x05", b"\x19\x00\x05", b"\x1a\x00\x00\x00\x05", b"\x1b" + bytes(7) + b"\x05", b"\x20", b"\xf5"]
)
def test_a_number_has_one_encoding(longer: bytes) -> None:
    frames = ReadingFrames(most=10)
    payload = reading_of("dev-1", counter=5)
    frames.decode(payload)
    at = payload.index(b"\x05\x05\x06") + 1
    with pytest.raises(MessageError):
        frames.decode(payload[:at] + longer + payload[at + 1 :])


def test_no_more_is_remembered_than_was_said() -> None:
    frames = ReadingFrames(most=3)
    for number in range(10):
        frames.decode(payload := reading_of(f"dev-{number}"))
        assert frames.decode(payload) == decode_statement(payload)
        assert len(frames) == min(number + 1, 3)
