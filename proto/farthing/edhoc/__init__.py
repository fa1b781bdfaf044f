"""EDHOC (RFC 9528), the responder's side: method 3, cipher suite 2, our static key behind an interface.

``Responder.open`` turns message_1 into a :class:`Handshake` with its message_2 (one operation of the static key, awaited);
``Handshake.receive`` turns message_3 into :class:`Established` (who the peer is, message_4) and waits for nothing.
"""

from farthing.edhoc.credential import Credential, CredentialError, ccs, credential
from farthing.edhoc.errors import (
    EdhocError,
    HandshakeFailed,
    MessageMalformed,
    NotAuthentic,
    OutOfTurn,
    UnknownCredential,
    WrongCipherSuite,
)
from farthing.edhoc.responder import Established, Handshake, Responder, State
from farthing.edhoc.static_key import MemoryKey, StaticKey, TokenKey

__all__ = [
    "Credential",
    "CredentialError",
    "EdhocError",
    "Established",
    "Handshake",
    "HandshakeFailed",
    "MemoryKey",
    "MessageMalformed",
    "NotAuthentic",
    "OutOfTurn",
    "Responder",
    "State",
    "StaticKey",
    "TokenKey",
    "UnknownCredential",
    "WrongCipherSuite",
    "ccs",
    "credential",
]
