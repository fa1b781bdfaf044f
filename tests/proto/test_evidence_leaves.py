"""Leaves and their packed detail: one encoding, bounded on the way back."""

import zlib
from dataclasses import replace

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.clock import Instant
from farthing.device.messages import MAX_COUNT, MAX_EPOCH, TariffVersion
from farthing.evidence import batches
from farthing.evidence import leaf as leaf_codec
from farthing.evidence.leaf import Leaf, LeafError
from farthing.ids import AuthorizationId, DeviceId, RegisterId, TariffId
from farthing.money import MAX_AMOUNT_MICROS

names = st.sampled_from(["a", "dev-1", "Z" * 64])
counts = st.integers(0, MAX_COUNT)
amounts = st.integers(0, MAX_AMOUNT_MICROS)
any_leaf = st.builds(
    Leaf,
    authorization=st.binary(min_size=16, max_size=16).map(AuthorizationId),
    line=st.integers(0, 1000),
    device=names.map(DeviceId),
    register_id=names.map(RegisterId),
    register_epoch=st.integers(0, MAX_EPOCH),
    register_from=counts,
    register_to=counts,
    net_micros=amounts,
    tax_micros=amounts,
    total_net_micros=amounts,
    total_tax_micros=amounts,
    closing=st.booleans(),
    tariff=st.builds(TariffVersion, tariff_id=names.map(TariffId), version=st.integers(0, MAX_EPOCH)),
    at=counts.map(Instant),
    statements=st.lists(st.binary(max_size=20), min_size=1, max_size=2).map(tuple),
    grant=st.none() | st.binary(max_size=20),
    traceparent=st.none() | st.text("0123456789abcdef-", min_size=1, max_size=55),
)


@settings(max_examples=60, deadline=None)
@given(any_leaf, st.integers(0, 70_000))
def test_a_leaf_drafted_on_line_0_is_the_same_leaf_on_any_line(leaf: Leaf, line: int) -> None:
    draft = replace(leaf, line=0).encode()
    assert leaf_codec.on_line(draft, line) == replace(leaf, line=line).encode()


@given(any_leaf)
def test_a_leaf_reads_back(item: Leaf) -> None:
    encoded = item.encode()
    assert leaf_codec.decode(encoded) == item
    assert cbor2.dumps(cbor2.loads(encoded), canonical=True) == encoded


@settings(max_examples=60, deadline=None)
@given(
    any_leaf, st.integers(0, 10), st.none() | st.integers(-5, 5) | st.binary(max_size=3) | st.lists(st.integers(0, 1))
)
def test_a_changed_leaf_is_refused_or_is_another_legal_leaf(item: Leaf, at: int, value: object) -> None:
    fields = cbor2.loads(item.encode())
    fields[at] = value
    encoded = cbor2.dumps(fields)
    try:
        read = leaf_codec.decode(encoded)
    except LeafError:
        return
    assert read.encode() == encoded


@settings(max_examples=30, deadline=None)
@given(any_leaf, st.sampled_from([2, 3, 4, 6, 8]))
def test_bytes_are_no_array(item: Leaf, at: int) -> None:
    fields = cbor2.loads(item.encode())
    fields[at] = bytes(len(fields[at]))
    with pytest.raises(LeafError):
        leaf_codec.decode(cbor2.dumps(fields))


@settings(max_examples=10, deadline=None)
@given(any_leaf, st.sampled_from(["", "a\0b", "\u202e", "x" * 129]))
def test_a_trace_is_one_that_an_envelope_could_have_brought(item: Leaf, text: str) -> None:
    fields = cbor2.loads(item.encode())
    fields[10] = text
    with pytest.raises(LeafError):
        leaf_codec.decode(cbor2.dumps(fields))


@given(st.binary(max_size=80))
def test_rubbish_is_no_leaf(data: bytes) -> None:
    with pytest.raises(LeafError):
        leaf_codec.decode(data)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=30))
def test_packed_leaves_come_back(leaves: list[bytes]) -> None:
    packed = batches.compress_leaves(leaves)
    assert batches.decompress_leaves(packed) == leaves
    assert cbor2.loads(zlib.decompress(packed)) == leaves


@given(st.binary(max_size=80))
def test_rubbish_is_no_detail(data: bytes) -> None:
    with pytest.raises(batches.DetailError):
        batches.decompress_leaves(data)


def pack(value: object) -> bytes:
    return zlib.compress(cbor2.dumps(value))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (zlib.compress(bytes(batches.MAX_DETAIL_SIZE + 1)), "more than"),
        (batches.compress_leaves([b"x"])[:-1], "cut short"),
        (batches.compress_leaves([b"x"]) + b"x", "after the stream"),
        (pack([1]), "a leaf is"),
        (pack(["x"]), "a leaf is"),
        (pack([bytes(batches.MAX_LEAF_SIZE + 1)]), "a leaf is"),
        (pack({1: b"x"}), "not an array"),
        (pack([b""] * (batches.MAX_LEAVES + 1)), "not an array"),
        (zlib.compress(b"\x9f\xff"), "indefinite"),
        (zlib.compress(b""), "ends in the middle"),
    ],
)
def test_detail_that_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(batches.DetailError, match=reason):
        batches.decompress_leaves(data)


def test_a_bomb_is_not_unpacked() -> None:
    """A hundred megabytes of zeros in a hundred kilobytes: no more than the bound is ever made."""
    with pytest.raises(batches.DetailError, match="more than 1000"):
        batches.decompress_leaves(zlib.compress(bytes(100_000_000)), most_bytes=1000)


def test_a_batch_is_named_by_its_hash() -> None:
    assert len(batches.ZERO_HASH) == len(batches.batch_hash(b"batch")) == 32
    assert batches.batch_hash(b"batch") != batches.batch_hash(b"Batch")
