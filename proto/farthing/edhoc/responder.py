"""EDHOC's responder, method 3 (static Diffie-Hellman on both sides), cipher suite 2 (RFC 9528).

Rule 1: our static key is used once per handshake, by message_1, behind :class:`StaticKey`; nothing else here waits.
Rule 2: a message_3 whose AEAD fails leaves the handshake as it was: anybody can send one. After that, any failure ends it.
Rule 3: the peer is the one credential whose MAC was verified, and nothing else that was said.
Rule 4: how many handshakes may be half-open, and for how long, is the caller's to bound.
"""

import enum
import hmac
from collections.abc import Callable
from dataclasses import dataclass

import cbor2
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec

from farthing.edhoc import key_schedule
from farthing.edhoc.credential import Credential
from farthing.edhoc.errors import (
    EdhocError,
    HandshakeFailed,
    MessageMalformed,
    NotAuthentic,
    OutOfTurn,
    UnknownCredential,
    WrongCipherSuite,
)
from farthing.edhoc.messages import (
    Message1,
    decode_message_1,
    decode_message_3,
    decode_plaintext_3,
    encode_identifier,
    id_cred,
)
from farthing.edhoc.static_key import MemoryKey, StaticKey
from farthing.hsm import BadPoint
from farthing.hsm.token import point_of_x

METHOD = 3


def new_ephemeral_key() -> MemoryKey:
    """A fresh key for one handshake."""
    return MemoryKey(ec.generate_private_key(ec.SECP256R1()))


@enum.unique
class State(enum.Enum):
    """Where a handshake is."""

    WAITING_FOR_MESSAGE_3 = "waiting for message_3"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Established:
    """What a verified message_3 gives: who the peer is, and the answer that shows it that we have understood."""

    peer: Credential
    message_4: bytes


class Responder:
    """Opens handshakes with our one credential."""

    __slots__ = ("_credential", "_find_credential", "_key", "_new_ephemeral_key")

    def __init__(
        self,
        *,
        key: StaticKey,
        credential: Credential,
        find_credential: Callable[[bytes], Credential | None],
        new_ephemeral_key: Callable[[], MemoryKey] = new_ephemeral_key,
    ) -> None:
        """``find_credential`` names the one peer with a key identifier, or None; it is asked when message_3 has decrypted."""
        self._key = key
        self._credential = credential
        self._find_credential = find_credential
        self._new_ephemeral_key = new_ephemeral_key

    async def open(self, message_1: bytes, *, choose_c_r: Callable[[bytes], bytes]) -> "Handshake":
        """Answer ``message_1``: the handshake's ``message_2`` is what to send.

        ``choose_c_r`` is given C_I and returns a C_R of 1 to 7 bytes that is not in use here and differs from it. Raises
        ``EdhocError`` (send its ``message``), and whatever the key raises: ``HsmBusy`` means "ask again".
        """
        opening = decode_message_1(message_1)
        _check_opening(opening)
        try:
            point_of_x(opening.g_x)
        except BadPoint as err:
            raise MessageMalformed("G_X is not on P-256") from err
        c_r = choose_c_r(opening.c_i)
        assert c_r != opening.c_i, "OSCORE needs two different identifiers"

        g_rx = await self._key.ecdh(opening.g_x)
        ephemeral = self._new_ephemeral_key()
        g_xy = ephemeral.agree(opening.g_x)

        th_2 = key_schedule.transcript(cbor2.dumps(ephemeral.x), cbor2.dumps(key_schedule.transcript(message_1)))
        prk_2e = key_schedule.extract(th_2, g_xy)
        salt_3e2m = key_schedule.kdf(prk_2e, key_schedule.SALT_3E2M, th_2, key_schedule.HASH_SIZE)
        prk_3e2m = key_schedule.extract(salt_3e2m, g_rx)

        own = self._credential
        context_2 = encode_identifier(c_r) + id_cred(own.kid) + cbor2.dumps(th_2) + own.cred
        mac_2 = key_schedule.kdf(prk_3e2m, key_schedule.MAC_2, context_2, key_schedule.MAC_SIZE)
        plaintext_2 = encode_identifier(c_r) + encode_identifier(own.kid) + cbor2.dumps(mac_2)
        keystream_2 = key_schedule.kdf(prk_2e, key_schedule.KEYSTREAM_2, th_2, len(plaintext_2))
        ciphertext_2 = bytes(a ^ b for a, b in zip(plaintext_2, keystream_2, strict=True))
        return Handshake(
            c_i=opening.c_i,
            c_r=c_r,
            message_2=cbor2.dumps(ephemeral.x + ciphertext_2),
            ephemeral=ephemeral,
            prk_3e2m=prk_3e2m,
            th_3=key_schedule.transcript(cbor2.dumps(th_2), plaintext_2, own.cred),
            find_credential=self._find_credential,
        )


class Handshake:
    """One handshake after message_2. ``c_i`` and ``c_r`` are raw: OSCORE's sender id (ours) and recipient id.

    ``copy.copy`` makes a handshake of its own: a caller that knows several peers by one key identifier tries each on a copy.
    """

    __slots__ = (
        "_ephemeral",
        "_find_credential",
        "_prk_3e2m",
        "_prk_exporter",
        "_prk_out",
        "_th_3",
        "c_i",
        "c_r",
        "established",
        "message_2",
        "state",
    )

    def __init__(
        self,
        *,
        c_i: bytes,
        c_r: bytes,
        message_2: bytes,
        ephemeral: MemoryKey,
        prk_3e2m: bytes,
        th_3: bytes,
        find_credential: Callable[[bytes], Credential | None],
    ) -> None:
        self.c_i = c_i
        self.c_r = c_r
        self.message_2 = message_2
        self.state = State.WAITING_FOR_MESSAGE_3
        self.established: Established | None = None
        self._ephemeral: MemoryKey | None = ephemeral
        self._prk_3e2m = prk_3e2m
        self._prk_out = b""
        self._prk_exporter = b""
        self._th_3 = th_3
        self._find_credential = find_credential

    def receive(self, message_3: bytes) -> Established:
        """Verify ``message_3``; nothing here waits.

        Raises ``MessageMalformed`` or ``NotAuthentic`` (the handshake still waits), ``OutOfTurn`` (there is nothing to wait for),
        ``HandshakeFailed`` (it is over: forget it).
        """
        if self.state is not State.WAITING_FOR_MESSAGE_3:
            raise OutOfTurn(f"the handshake is {self.state.value}")
        ciphertext_3 = decode_message_3(message_3)
        k_3 = key_schedule.kdf(self._prk_3e2m, key_schedule.K_3, self._th_3, key_schedule.KEY_SIZE)
        iv_3 = key_schedule.kdf(self._prk_3e2m, key_schedule.IV_3, self._th_3, key_schedule.NONCE_SIZE)
        try:
            plaintext_3 = key_schedule.aead_decrypt(k_3, iv_3, self._th_3, ciphertext_3)
        except InvalidTag as err:
            raise NotAuthentic("message_3 does not decrypt") from err

        # From here on the peer is who answered our message_2: what it says is final.
        try:
            self.established = self._verify(plaintext_3)
        except HandshakeFailed:
            self._forget(State.FAILED)
            raise
        except EdhocError as err:
            self._forget(State.FAILED)
            raise HandshakeFailed("message_3 decrypts to nothing that we accept") from err
        self._forget(State.COMPLETED)
        return self.established

    def selected_cipher_suite(self) -> int:
        """The suite of this handshake, as aiocoap asks for it."""
        return key_schedule.CIPHER_SUITE

    def edhoc_exporter(self, label: int, context: bytes | list[int], length: int) -> bytes:
        """EDHOC_Exporter (section 4.2.1); ``OutOfTurn`` before message_3 was verified. aiocoap gives the context as a list."""
        if self.state is not State.COMPLETED:
            raise OutOfTurn(f"the handshake is {self.state.value}")
        return key_schedule.kdf(self._prk_exporter, label, bytes(context), length)

    def oscore_secret(self) -> tuple[bytes, bytes]:
        """OSCORE's master secret (16 bytes) and master salt (8 bytes), section A.1."""
        return (
            self.edhoc_exporter(key_schedule.OSCORE_MASTER_SECRET, b"", key_schedule.OSCORE_SECRET_SIZE),
            self.edhoc_exporter(key_schedule.OSCORE_MASTER_SALT, b"", key_schedule.OSCORE_SALT_SIZE),
        )

    def _verify(self, plaintext_3: bytes) -> Established:
        said = decode_plaintext_3(plaintext_3, mac_size=key_schedule.MAC_SIZE)
        if any(each.is_critical() for each in said.ead):
            raise HandshakeFailed("critical external data that we do not know")
        peer = self._find_credential(said.kid)
        if peer is None:
            raise UnknownCredential(f"nobody has the key identifier {said.kid.hex()}")
        assert self._ephemeral is not None
        g_iy = self._ephemeral.agree(peer.x)
        salt_4e3m = key_schedule.kdf(self._prk_3e2m, key_schedule.SALT_4E3M, self._th_3, key_schedule.HASH_SIZE)
        prk_4e3m = key_schedule.extract(salt_4e3m, g_iy)
        context_3 = id_cred(said.kid) + cbor2.dumps(self._th_3) + peer.cred + said.encoded_ead
        mac_3 = key_schedule.kdf(prk_4e3m, key_schedule.MAC_3, context_3, key_schedule.MAC_SIZE)
        if not hmac.compare_digest(mac_3, said.mac):
            raise HandshakeFailed(f"whoever this is, it does not hold the key of {peer.subject}")

        th_4 = key_schedule.transcript(cbor2.dumps(self._th_3), plaintext_3, peer.cred)
        self._prk_out = key_schedule.kdf(prk_4e3m, key_schedule.PRK_OUT, th_4, key_schedule.HASH_SIZE)
        self._prk_exporter = key_schedule.kdf(self._prk_out, key_schedule.PRK_EXPORTER, b"", key_schedule.HASH_SIZE)
        k_4 = key_schedule.kdf(prk_4e3m, key_schedule.K_4, th_4, key_schedule.KEY_SIZE)
        iv_4 = key_schedule.kdf(prk_4e3m, key_schedule.IV_4, th_4, key_schedule.NONCE_SIZE)
        return Established(peer=peer, message_4=cbor2.dumps(key_schedule.aead_encrypt(k_4, iv_4, th_4, b"")))

    def _forget(self, state: State) -> None:
        """Enter ``state`` and drop what only the way there needed."""
        self.state = state
        self._ephemeral = None
        self._prk_3e2m = b""


def _check_opening(opening: Message1) -> None:
    *passed_over, selected = opening.suites
    if selected != key_schedule.CIPHER_SUITE or key_schedule.CIPHER_SUITE in passed_over:
        raise WrongCipherSuite(f"the initiator selected cipher suite {selected}")
    if opening.method != METHOD:
        raise MessageMalformed(f"method {opening.method} is not served")
    if any(each.is_critical() for each in opening.ead):
        raise MessageMalformed("critical external data that we do not know")
