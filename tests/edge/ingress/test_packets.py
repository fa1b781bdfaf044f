"""PUBLISH and PUBACK by hand: what paho writes is cut as it was meant, however it is split; nothing is kept without bound."""

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing_edge.ingress.packets import MAX_KEPT, OURS, PacketError, Packets, publish

PINGRESP, SUBACK = b"\xd0\x00", b"\x90\x04\x00\x01\x01\x01"


class Heard:
    """What was cut out of a stream."""

    def __init__(self) -> None:
        self.published: list[tuple[bytes, bytes, bool]] = []
        self.others: list[bytes] = []
        self.acknowledged = 0
        self.replies = b""
        self._packets = Packets(
            published=lambda topic, payload, is_retained: self.published.append((topic, payload, is_retained)),
            acknowledged=self._count,
            other=self.others.append,
        )

    def _count(self) -> None:
        self.acknowledged += 1

    def hear(self, *pieces: bytes) -> "Heard":
        for piece in pieces:
            self.replies += self._packets.feed(piece)
        return self


def puback(packet_id: int) -> bytes:
    return b"\x40\x02" + packet_id.to_bytes(2, "big")


def test_a_message_is_acknowledged_and_all_else_is_handed_on() -> None:
    heard = Heard().hear(
        publish("farthing/m-1/up", 7, b"payload") + puback(OURS) + puback(5) + PINGRESP + SUBACK + puback(0xFFFF)
    )
    assert heard.published == [(b"farthing/m-1/up", b"payload", False)]
    assert heard.replies == puback(7)
    assert heard.acknowledged == 2
    assert heard.others == [puback(5), PINGRESP, SUBACK]


def test_a_message_without_quality_is_not_acknowledged_and_a_retained_one_says_so() -> None:
    heard = Heard().hear(b"\x31\x05\x00\x01tab")
    assert (heard.published, heard.replies) == ([(b"t", b"ab", True)], b"")


@given(
    payloads=st.lists(st.binary(max_size=400), max_size=8),
    cuts=st.lists(st.integers(0, 4_000), max_size=12),
)
def test_however_a_stream_is_split_it_says_the_same(payloads: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(
        publish(f"farthing/m-{n}/up", n + 1, payload) + (puback(OURS + n) if n % 2 else PINGRESP)
        for n, payload in enumerate(payloads)
    )
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    heard = Heard().hear(*(stream[first:last] for first, last in itertools.pairwise(edges)))
    assert heard.published == [(f"farthing/m-{n}/up".encode(), each, False) for n, each in enumerate(payloads)]
    assert heard.replies == b"".join(puback(n + 1) for n in range(len(payloads)))
    assert (heard.acknowledged, len(heard.others)) == (len(payloads) // 2, len(payloads) - len(payloads) // 2)


@pytest.mark.parametrize("piece", [1_000, 4_096, 100_000])
def test_of_a_message_larger_than_any_its_beginning_is_all_that_is_kept(piece: int) -> None:
    stream = publish("farthing/m-1/up", 9, b"x" * 300_000) + publish("farthing/m-1/up", 10, b"next")
    heard = Heard().hear(*(stream[first : first + piece] for first in range(0, len(stream), piece)))
    (first, second) = heard.published
    assert MAX_KEPT - 100 < len(first[1]) <= MAX_KEPT + piece
    assert second == (b"farthing/m-1/up", b"next", False)
    assert heard.replies == puback(9) + puback(10)


@pytest.mark.parametrize(
    "stream",
    [
        b"\x32\xff\xff\xff\xff\x01",  # a length of five bytes
        b"\x32\x03\x00\x09t",  # a topic longer than its packet
        b"\x32\x03\x00\x01t",  # no packet identifier
        b"\x30\x01\x00",  # no topic
        b"\x90\xff\xff\x7f" + bytes(MAX_KEPT + 1),  # a SUBACK of megabytes
    ],
)
def test_what_is_no_packet_ends_the_connection(stream: bytes) -> None:
    with pytest.raises(PacketError):
        Heard().hear(stream)


@given(stream=st.binary(max_size=300))
def test_whatever_comes_the_only_error_is_its_own(stream: bytes) -> None:
    with contextlib.suppress(PacketError):
        Heard().hear(stream)
