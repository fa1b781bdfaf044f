"""The connection that writes many pieces as one: what a peer that does not read leaves behind goes later, in order."""

import socket
import ssl
import threading
from pathlib import Path

import aiomqtt
import pytest

from farthing.hsm import Party, Token
from farthing_edge.broker import write_broker
from farthing_edge.ingress.pieces import WRITE_BEHIND, Pieces, Straight

pytestmark = pytest.mark.real
#: Several times what a socket pair buffers.
PIECES = [bytes([n % 251]) * 4_000 for n in range(2_000)]


Pair = tuple[Pieces, socket.socket, socket.socket]


@pytest.fixture(params=["tls", "unix"])
def pair(request: pytest.FixtureRequest, token: Token, party: Party, tmp_path: Path) -> Pair:
    """Our end, which does not block, the socket under it, and the broker's end."""
    ours, theirs = socket.socketpair()
    if request.param == "unix":
        ours.setblocking(False)
        return Pieces(ours), ours, theirs
    key = write_broker(token, party, listen="127.0.0.1:1", directory=tmp_path / "broker").transport_key
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(str(key.certificate_file), str(key.key_file))
    client = ssl.create_default_context(cafile=str(key.ca_file))
    accepted: list[ssl.SSLSocket] = []
    accepting = threading.Thread(target=lambda: accepted.append(server.wrap_socket(theirs, server_side=True)))
    accepting.start()
    connected = client.wrap_socket(ours, server_hostname="127.0.0.1")
    accepting.join()
    connected.setblocking(False)
    return Pieces(connected), connected, accepted[0]


def read_all(theirs: socket.socket, size: int) -> bytes:
    read = bytearray()
    while len(read) < size:
        read += theirs.recv(65_536)
    return bytes(read)


def test_pieces_are_gathered_until_they_are_flushed(pair: Pair) -> None:
    ours, under, theirs = pair
    assert [ours.send(b"one "), ours.send(b"record")] == [4, 6]
    theirs.setblocking(False)
    with pytest.raises((ssl.SSLWantReadError, BlockingIOError)):
        theirs.recv(100)
    assert ours.flush()
    assert theirs.recv(100) == b"one record"
    under.close()
    theirs.close()


def test_a_peer_that_does_not_read_makes_the_rest_wait(pair: Pair) -> None:
    ours, under, theirs = pair
    left, went = list(PIECES), True
    while went:
        try:
            ours.send(left[0])
            del left[0]
        except BlockingIOError:
            went = ours.flush()
    assert left, "the socket buffers more than the test writes"
    read: list[bytes] = []
    size = sum(map(len, PIECES))
    reading = threading.Thread(target=lambda: read.append(read_all(theirs, size)))
    reading.start()
    under.setblocking(True)
    while left:
        assert ours.flush()
        ours.send(left.pop(0))
    assert ours.flush()
    reading.join()
    assert read == [b"".join(PIECES)]
    ours.close()
    theirs.close()


def test_what_was_put_aside_is_handed_out_in_the_pieces_asked_for(pair: Pair) -> None:
    ours, under, theirs = pair
    assert ours.read() == b""
    with pytest.raises(BlockingIOError):
        ours.recv(1)
    theirs.sendall(b"0123456789")
    under.setblocking(True)
    ours.put_aside(ours.read())
    assert (ours.recv(1), ours.pending()) == (b"0", 9)
    ours.put_aside(b"more")
    assert [ours.recv(3), ours.recv(100)] == [b"123", b"456789more"]
    assert (ours.pending(), ours.is_over) == (0, False)
    theirs.close()
    under.close()


def test_an_end_is_told_to_who_asks_after_all_that_came_before(pair: Pair) -> None:
    ours, under, theirs = pair
    under.setblocking(True)
    theirs.sendall(b"last")
    ours.put_aside(ours.read())
    if isinstance(theirs, ssl.SSLSocket):
        theirs.shutdown(socket.SHUT_RDWR)
    theirs.close()
    assert (ours.read(), ours.is_over) == (b"", True)
    assert ours.recv(10) == b"last"
    # What a socket that has nothing yet says would be no end.
    with pytest.raises((ConnectionResetError, ssl.SSLError)):
        ours.recv(1)
    under.close()


async def test_the_answers_of_a_large_group_all_find_room_up_to_the_bound() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    client = aiomqtt.Client("unused", 1, transport="unix")
    straight = Straight(client, lambda *_: None, lambda: None, max_unacknowledged=256)
    assert not straight.publish("farthing/c1/down", b"there is no connection")
    straight._pieces = Pieces(ours)
    answer = bytes(1_000)
    assert 256 * len(answer) > WRITE_BEHIND
    assert all(straight.publish("farthing/c1/down", answer) for _ in range(256))
    assert not straight.publish("farthing/c1/down", answer)
    ours.close()
    theirs.close()
