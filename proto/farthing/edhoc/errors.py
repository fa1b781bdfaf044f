"""EDHOC errors and the messages that tell the peer (RFC 9528, section 6)."""

import cbor2

#: RFC 9528, section 6.2 and 6.3; 3 = unknown credential referenced (section 6.4).
UNSPECIFIED = 1
WRONG_CIPHER_SUITE = 2
UNKNOWN_CREDENTIAL = 3


class EdhocError(Exception):
    """A handshake that cannot go on. ``message`` is the error message (CBOR sequence) for the peer.

    What is said to a peer that has not proved who it is does not depend on any secret.
    """

    def __init__(self, text: str, *, message: bytes | None = None) -> None:
        super().__init__(text)
        self.message = unspecified("handshake refused") if message is None else message


class MessageMalformed(EdhocError):
    """Bytes that are no EDHOC message, or not in deterministic CBOR: state is unchanged."""


class WrongCipherSuite(EdhocError):
    """The initiator selected another suite than 2."""

    def __init__(self, text: str) -> None:
        super().__init__(text, message=cbor2.dumps(WRONG_CIPHER_SUITE) + cbor2.dumps(2))


class NotAuthentic(EdhocError):
    """The AEAD of message_3 failed: this was not our initiator, and the handshake still waits for the real one."""


class HandshakeFailed(EdhocError):
    """The handshake is over: the peer knew its keys and said what we do not accept."""


class UnknownCredential(HandshakeFailed):
    """The peer names a credential that nobody told us."""

    def __init__(self, text: str) -> None:
        super().__init__(text, message=cbor2.dumps(UNKNOWN_CREDENTIAL) + cbor2.dumps(True))


class OutOfTurn(EdhocError):
    """A message for a handshake that is not there to take it; state is unchanged."""


def unspecified(text: str) -> bytes:
    """ERR_CODE 1 with a diagnostic text (RFC 9528, section 6.2)."""
    return cbor2.dumps(UNSPECIFIED) + cbor2.dumps(text)
