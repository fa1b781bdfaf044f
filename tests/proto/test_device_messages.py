"""Messages against their CDDL, in both directions, and against rubbish."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import cbor2
import pycddl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import farthing.device.messages as m
from farthing.device import cbor
from farthing.refusal import Refusal

sys.path.insert(0, str(Path(__file__).parent))
import device_strategies as any_legal

CDDL = (Path(m.__file__).parent / "statements.cddl").read_text(encoding="utf-8")


def schema(rule: str) -> pycddl.Schema:
    return pycddl.Schema(re.sub(r"(?m)^start = .*$", f"start = {rule}", CDDL))


SCHEMAS = {
    rule: schema(rule) for rule in ("intent", "reading", "end", "disclaimer", "chain", "grant", "envelope", "answer")
}
DECODERS = {
    "intent": m.decode_statement,
    "reading": m.decode_statement,
    "end": m.decode_statement,
    "disclaimer": m.decode_statement,
    "chain": m.decode_statement,
    "grant": m.decode_grant,
    "envelope": m.decode_envelope,
    "answer": m.decode_answer,
}
LEGAL = {
    "intent": any_legal.intents,
    "reading": any_legal.readings,
    "end": any_legal.ends,
    "disclaimer": any_legal.disclaimers,
    "chain": any_legal.chains,
    "grant": any_legal.grants,
    "envelope": any_legal.envelopes,
    "answer": any_legal.answers,
}
KINDS = list(SCHEMAS)
examples = settings(max_examples=40, deadline=None)


def conforms(rule: str, data: bytes) -> bool:
    try:
        SCHEMAS[rule].validate_cbor(data)
    except pycddl.ValidationError:
        return False
    return True


@pytest.mark.parametrize("rule", KINDS)
@examples
@given(data=st.data())
def test_what_we_write_conforms_and_reads_back(rule: str, data: st.DataObject) -> None:
    message = data.draw(LEGAL[rule])
    encoded = m.encode(message)
    assert conforms(rule, encoded)
    assert DECODERS[rule](encoded) == message
    # Deterministic by an independent encoder's judgement too.
    assert cbor2.dumps(cbor2.loads(encoded), canonical=True) == encoded


_odd_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1, 40),
    st.sampled_from([2**32, 2**53 + 1, 2**63, 2**64 - 1]),
    st.binary(max_size=40),
    st.text(max_size=70),
    st.lists(st.integers(0, 3), max_size=4),
)


@pytest.mark.parametrize("rule", KINDS)
@examples
@given(data=st.data())
def test_what_the_cddl_forbids_is_refused(rule: str, data: st.DataObject) -> None:
    """Change one thing; whatever we then accept, the CDDL accepts, and it is written as it was read."""
    members = cbor2.loads(m.encode(data.draw(LEGAL[rule])))
    change = data.draw(st.sampled_from(["drop", "replace", "add", "inside"]))
    key = data.draw(st.sampled_from(sorted(members)))
    if change == "drop":
        del members[key]
    elif change == "replace":
        members[key] = data.draw(_odd_values)
    elif change == "add":
        members[data.draw(st.integers(-2, 20) | st.text(max_size=3))] = data.draw(_odd_values)
    elif isinstance(members[key], list) and members[key]:
        members[key][data.draw(st.integers(0, len(members[key]) - 1))] = data.draw(_odd_values)
    encoded = cbor2.dumps(members, canonical=True)
    try:
        message = DECODERS[rule](encoded)
    except m.MessageError:
        return
    assert conforms(getattr(message, "kind", rule), encoded)
    assert m.encode(message) == encoded


@pytest.mark.parametrize("decode", sorted({*DECODERS.values()}, key=lambda f: f.__name__), ids=lambda f: f.__name__)
@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=200))
@example(data=b"\x81" * 2000)
@example(data=b"\xa1" * 2000)
@example(data=b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff")
@example(data=b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff")
@example(data=b"\x5b\xff\xff\xff\xff\xff\xff\xff\xff")
@example(data=b"")
@example(data=b"\xa1\x01\xc5\x82\x1b\x7f\xff\xff\xff\xff\xff\xff\xff\x01")
def test_rubbish_raises_message_error_only(decode, data: bytes) -> None:
    with pytest.raises(m.MessageError):
        decode(data)


@pytest.mark.parametrize("rule", KINDS)
@examples
@given(data=st.data())
def test_damaged_messages_raise_message_error_or_stay_legal(rule: str, data: st.DataObject) -> None:
    encoded = bytearray(m.encode(data.draw(LEGAL[rule])))
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] = data.draw(st.integers(0, 255))
    damaged = bytes(encoded[: data.draw(st.integers(at, len(encoded)))]) + data.draw(st.binary(max_size=3))
    try:
        message = DECODERS[rule](damaged)
    except m.MessageError:
        return
    assert m.encode(message) == damaged


@examples
@given(any_legal.ticks)
def test_a_tick_conforms_and_reads_back(tick: m.ChainTick) -> None:
    encoded = m.encode_tick(tick)
    assert len(encoded) <= m.MAX_TICK_SIZE
    schema("tick").validate_cbor(encoded)
    assert m.decode_tick(encoded) == tick
    assert cbor2.dumps(cbor2.loads(encoded), canonical=True) == encoded


@settings(max_examples=300, deadline=None)
@given(any_legal.ticks, st.data())
def test_a_damaged_tick_raises_message_error_or_stays_legal(tick: m.ChainTick, data: st.DataObject) -> None:
    """It is cut by hand, so the strict reader is asked as well."""
    encoded = bytearray(m.encode_tick(tick))
    at = data.draw(st.sampled_from([0, 1, 17, 18, 19, 20, 21, 22, 23, len(encoded) - 33]))
    encoded[at] = data.draw(st.integers(0, 255))
    damaged = bytes(encoded[: data.draw(st.integers(at, len(encoded)))]) + data.draw(st.binary(max_size=6))
    try:
        read = m.decode_tick(damaged)
    except m.MessageError:
        return
    assert m.encode_tick(read) == damaged
    assert cbor.decode(damaged) == (read.authorization, read.index, read.preimage)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80))
def test_rubbish_is_no_tick(data: bytes) -> None:
    with pytest.raises(m.MessageError):
        m.decode_tick(data)


def one_more_member(encoded: bytes, member: bytes) -> bytes:
    """A map's size stands in its first byte."""
    return bytes([encoded[0] + 1]) + encoded[1:] + member


INTENT = m.Intent(
    recipient="gw-1",
    device="meter-7",
    device_epoch=1,
    counter=17,
    at=1_700_000_000_000_000,
    register=m.RegisterValue(register_id="bay", register_epoch=0, value=23),
    commitment=bytes(32),
    incarnation=1,
)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda b: b + b"\x00", "bytes after the value"),
        (lambda b: b[:-1], "ends in the middle"),
        (lambda b: b.replace(b"\x05\x11", b"\x05\x18\x11"), "not the shortest"),
        (lambda b: b.replace(b"\x05\x11", b"\x05\xfb" + bytes(8)), "a float"),
        (lambda b: b.replace(b"\x05\x11", b"\x05\xc1\x11"), "a tag"),
        (lambda b: b.replace(b"\x83\x63bay", b"\x9f\x63bay"), "indefinite"),
        (lambda b: b.replace(b"\x01\x00\x02", b"\x02\x00\x01"), "do not ascend"),
        (lambda b: b.replace(b"\x63bay", b"\x62b\xff"), "UTF-8"),
        (lambda b: one_more_member(b, b"\x0d\xf6"), "null in place"),
        (lambda b: one_more_member(b, b"\x0e\x00"), "at least 1"),
        (lambda b: one_more_member(b, b"\x0f\x00"), "an array of 2"),
        (lambda b: one_more_member(b, b"\x10\x00"), "does not have"),
        (lambda b: one_more_member(b, b"\x0c\x01"), "do not ascend"),
    ],
)
def test_each_second_encoding_is_refused_by_its_reason(change: Callable[[bytes], bytes], reason: str) -> None:
    encoded = m.encode(INTENT)
    assert m.decode_statement(encoded) == INTENT
    assert change(encoded) != encoded
    with pytest.raises(m.MessageError, match=reason):
        m.decode_statement(change(encoded))


def test_too_large_is_said_by_its_own_number() -> None:
    with pytest.raises(m.MessageError) as raised:
        m.decode_envelope(bytes(m.MAX_ENVELOPE_SIZE + 1))
    assert raised.value.refusal is Refusal.TOO_LARGE


@examples
@given(any_legal.statements, any_legal.grants, any_legal.envelopes, any_legal.answers)
def test_the_named_sizes_are_large_enough(statement, grant, envelope, answer) -> None:
    assert len(m.encode(statement)) <= m.MAX_STATEMENT_SIZE
    assert len(m.encode(grant)) <= m.MAX_GRANT_SIZE
    assert len(m.encode(envelope)) <= m.MAX_ENVELOPE_SIZE
    assert len(m.encode(answer)) <= m.MAX_ANSWER_SIZE


def test_the_largest_messages_fit() -> None:
    name, most, epoch = "x" * 64, m.MAX_COUNT, m.MAX_EPOCH
    witness = m.Witness(incarnation=most, start_id=bytes(16), position=most)
    tariff = m.TariffVersion(tariff_id=name, version=epoch)
    end = m.End(
        recipient=name,
        device=name,
        device_epoch=epoch,
        counter=most,
        at=most,
        register=m.RegisterValue(register_id=name, register_epoch=epoch, value=most),
        commitment=bytes(32),
        authorization=bytes(16),
        tariff=tariff,
    )
    chain = m.Chain(
        recipient=name,
        device=name,
        device_epoch=epoch,
        counter=most,
        at=most,
        register=m.RegisterValue(register_id=name, register_epoch=epoch, value=most, turns=epoch),
        commitment=bytes(32),
        authorization=bytes(16),
        tariff=tariff,
        unit_per_tick=epoch,
        length=m.MAX_CHAIN_LENGTH,
        anchor=bytes(32),
    )
    assert len(m.encode(chain)) <= m.MAX_STATEMENT_SIZE
    grant = m.Grant(
        recipient=name,
        gateway=name,
        witness=witness,
        at=most,
        authorization=bytes(16),
        intent_epoch=epoch,
        intent_counter=most,
        tariff=tariff,
        register_id=name,
        register_epoch=epoch,
        start=most,
        limit=most,
        held=tuple(m.Held(quota_id=name, amount_micros=2**53) for _ in range(m.MAX_HELD_PARTS)),
        currency="EUR",
        net_micros=2**53,
        tax_micros=2**53,
        report_interval_s=epoch,
        commitment=bytes(32),
        account=name,
    )
    assert len(m.encode(end)) <= m.MAX_STATEMENT_SIZE
    assert len(m.encode(grant)) <= m.MAX_GRANT_SIZE
    answer = m.Answer(
        gateway=name,
        witness=witness,
        answers=(epoch, most),
        status=m.AnswerStatus.RECORDED,
        receipted_counter=most,
        grant=bytes(m.MAX_SIGN1_SIZE),
        closed=True,
        asks=tuple(bytes(16) for _ in range(m.MAX_ASKED)),
    )
    assert len(m.encode(answer)) <= m.MAX_ANSWER_SIZE
    assert m.decode_answer(m.encode(answer)) == answer
    envelope = m.Envelope(
        statement=bytes(768),
        traceparent="x" * m.MAX_TRACEPARENT_SIZE,
        witness=witness,
        grant=bytes(m.MAX_SIGN1_SIZE),
        first=bytes(768),
    )
    assert len(m.encode(envelope)) <= m.MAX_ENVELOPE_SIZE


@pytest.mark.parametrize("shown", [{"grant": b"g"}, {"first": b"f"}])
def test_what_is_shown_comes_without_a_token(shown: dict[str, bytes]) -> None:
    assert m.decode_envelope(m.encode(m.Envelope(statement=b"s", **shown)))
    with pytest.raises(m.MessageError, match="token"):
        m.Envelope(statement=b"s", token=b"t", **shown)


def test_statements_name_their_kind() -> None:
    assert INTENT.kind == "intent"


@given(
    st.recursive(
        st.integers(-(2**64), 2**64 - 1) | st.binary(max_size=300) | st.text(max_size=30) | st.booleans() | st.none(),
        lambda inner: (
            st.lists(inner, min_size=1, max_size=3).map(tuple) | st.dictionaries(st.integers(0, 99), inner, max_size=4)
        ),
        max_leaves=4,
    )
)
@settings(max_examples=200, deadline=None)
def test_the_reader_agrees_with_cbor2(value: object) -> None:
    assert cbor.decode(cbor2.dumps(value, canonical=True)) == value


def test_nesting_is_bounded() -> None:
    deepest = b"\x81" * cbor.MAX_DEPTH + b"\x00"
    cbor.decode(deepest)
    with pytest.raises(cbor.CborError, match="deep"):
        cbor.decode(b"\x81" + deepest)
