"""Batches carried by hand as a file: what is written is read, and what is no parcel is said so."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.evidence import parcel
from farthing.evidence.parcel import ParcelBatch, ParcelError
from farthing.ids import GatewayId

count = st.integers(1, 2**63 - 1)
batches = st.lists(
    st.builds(
        ParcelBatch,
        incarnation=count,
        sequence=count,
        batch=st.binary(max_size=60),
        signature=st.binary(max_size=64),
        key_id=st.binary(max_size=8),
        detail=st.none() | st.binary(max_size=60),
    ),
    max_size=5,
)


def written(of: list[ParcelBatch]) -> bytes:
    file = io.BytesIO()
    parcel.begin(file, GatewayId("gw-1"))
    for each in of:
        parcel.add(file, each)
    return file.getvalue()


@given(batches)
def test_what_is_written_is_read(of: list[ParcelBatch]) -> None:
    gateway_id, found = parcel.read(io.BytesIO(written(of)))
    assert (gateway_id, list(found)) == ("gw-1", of)


@given(batches, st.data())
def test_a_parcel_that_is_cut_says_so_after_what_is_whole(of: list[ParcelBatch], data: st.DataObject) -> None:
    whole = written(of)
    ends = [len(written(of[:number])) for number in range(len(of) + 1)]
    cut = data.draw(st.integers(0, len(whole) - 1))
    found: list[ParcelBatch] = []
    if cut in ends:
        assert list(parcel.read(io.BytesIO(whole[:cut]))[1]) == of[: ends.index(cut)]
        return
    with pytest.raises(ParcelError):
        found.extend(parcel.read(io.BytesIO(whole[:cut]))[1])


@given(st.binary(max_size=200))
def test_anything_else_is_no_parcel(data: bytes) -> None:
    with pytest.raises(ParcelError):
        list(parcel.read(io.BytesIO(data))[1])


def test_a_length_is_not_believed() -> None:
    with pytest.raises(ParcelError, match="not a parcel"):
        parcel.read(io.BytesIO(b"\xff\xff\xff\xff" + bytes(100)))
    with pytest.raises(ParcelError, match="no batch"):
        list(parcel.read(io.BytesIO(written([]) + b"\x00\x00\x00\x01\x00"))[1])
