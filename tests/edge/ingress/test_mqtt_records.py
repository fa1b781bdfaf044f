"""The TLS socket that writes many pieces as one: what a peer that does not read leaves behind goes later, in order."""

import socket
import ssl
import threading
from pathlib import Path

import pytest

from farthing.hsm import Party, Token
from farthing_edge.broker import write_broker
from farthing_edge.ingress.mqtt import _Records

pytestmark = pytest.mark.real
#: Several times what a socket pair buffers.
PIECES = [bytes([n % 251]) * 4_000 for n in range(2_000)]


@pytest.fixture
def pair(token: Token, party: Party, tmp_path: Path) -> tuple[_Records, ssl.SSLSocket]:
    """Our end, which does not block, and the broker's."""
    key = write_broker(token, party, listen="127.0.0.1:1", directory=tmp_path / "broker").transport_key
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(str(key.certificate_file), str(key.key_file))
    client = ssl.create_default_context(cafile=str(key.ca_file))
    client.sslsocket_class = _Records
    ours, theirs = socket.socketpair()
    accepted: list[ssl.SSLSocket] = []
    accepting = threading.Thread(target=lambda: accepted.append(server.wrap_socket(theirs, server_side=True)))
    accepting.start()
    connected = client.wrap_socket(ours, server_hostname="127.0.0.1")
    accepting.join()
    assert isinstance(connected, _Records)
    connected.setblocking(False)
    return connected, accepted[0]


def read_all(theirs: ssl.SSLSocket, size: int) -> bytes:
    read = bytearray()
    while len(read) < size:
        read += theirs.recv(65_536)
    return bytes(read)


def test_pieces_are_gathered_until_they_are_flushed(pair: tuple[_Records, ssl.SSLSocket]) -> None:
    ours, theirs = pair
    ours.gathers = True
    assert [ours.send(b"one "), ours.send(b"record")] == [4, 6]
    theirs.setblocking(False)
    with pytest.raises(ssl.SSLWantReadError):
        theirs.recv(100)
    assert ours.flush()
    assert theirs.recv(100) == b"one record"
    ours.close()
    theirs.close()


def test_a_peer_that_does_not_read_makes_the_rest_wait(pair: tuple[_Records, ssl.SSLSocket]) -> None:
    ours, theirs = pair
    ours.gathers = True
    left, went = list(PIECES), True
    while went:
        try:
            ours.send(left[0])
            del left[0]
        except ssl.SSLWantWriteError:
            went = ours.flush()
    assert left, "the socket buffers more than the test writes"
    read: list[bytes] = []
    size = sum(map(len, PIECES))
    reading = threading.Thread(target=lambda: read.append(read_all(theirs, size)))
    reading.start()
    ours.setblocking(True)
    while left:
        assert ours.flush()
        ours.send(left.pop(0))
    assert ours.flush()
    reading.join()
    assert read == [b"".join(PIECES)]
    ours.close()
    theirs.close()
