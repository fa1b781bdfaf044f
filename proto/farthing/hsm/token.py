"""What Farthing does with a token, on the one PKCS#11 thread: sign, agree on secrets, HMAC, wrap, seal.

Private and secret keys are used by label and never leave: they are sensitive and not extractable, except HMAC keys of sites, which
leave wrapped for one gateway's token (AES key wrap under a key from ECDH) and in no other way.
"""

import asyncio
import hashlib
import os
import stat
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar

import pkcs11
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import KDF, Attribute, GCMParams, KeyType, Mechanism, ObjectClass
from pkcs11._pkcs11 import SearchIter  # type: ignore[attr-defined]  # its stub leaves it out

from farthing.hsm.errors import BadPoint, HsmError, NoSuchKey
from farthing.hsm.party import Party
from farthing.hsm.thread import CLOSING_TIMEOUT_S, HsmThread, Lane

T = TypeVar("T")

SIGNATURE_SIZE = 64
POINT_SIZE = 65
COORDINATE_SIZE = 32
HMAC_KEY_SIZE = 32
SEAL_NONCE_SIZE = 12
SEAL_TAG_SIZE = 16
#: Signatures made before anything else has its turn: some 4 ms, which a batch or a handshake can wait.
SIGNED_IN_ONE_TURN = 32
#: DER of the object identifier prime256v1 (RFC 5480, section 2.1.1.1), as CKA_EC_PARAMS wants it.
P256_PARAMETERS = bytes.fromhex("06082a8648ce3d030107")
#: DER of the object identifier id-Ed25519 (RFC 8410, section 3), as CKA_EC_PARAMS wants it.
ED25519_PARAMETERS = bytes.fromhex("06032b6570")
ED25519_KEY_SIZE = 32
_CEREMONY = "`farthing-hsm-sim ceremony`"
_MODULE_PACKAGE = "install SoftHSM (Debian: apt-get install softhsm2)"

#: Held by whoever has the module initialised: a second one in the process would share, and close, the first one's logins.
MODULE_IN_USE = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappedKey:
    """An HMAC key under way to one token: ``ephemeral_public_key`` is an uncompressed point, ``wrapped`` is RFC 3394."""

    ephemeral_public_key: bytes
    wrapped: bytes


class Hsm:
    """The PKCS#11 module of this process and the one thread that calls it."""

    def __init__(self, *, module_path: Path, softhsm_conf: Path | None) -> None:
        self.module_path = module_path
        self.softhsm_conf = softhsm_conf
        self._thread = HsmThread()
        self._tokens: dict[str, Token] = {}
        self._module: Any = None
        self._started = False

    @classmethod
    def of(cls, party: Party) -> Self:
        """The module and SoftHSM directory that ``party`` lives in."""
        return cls(module_path=party.module_path, softhsm_conf=party.softhsm_conf)

    def start(self) -> None:
        """Load and initialise the module on its thread; ``HsmError`` says what is missing and what to do."""
        if not self.module_path.is_file():
            raise HsmError(
                f"no PKCS#11 module at {self.module_path}: {_MODULE_PACKAGE}, or make the ceremony with --module"
            )
        if self.softhsm_conf is not None:
            _check_softhsm_conf(self.softhsm_conf)
        if not MODULE_IN_USE.acquire(blocking=False):
            raise HsmError("this process has a running Hsm already: attach every party to that one")
        self._thread.start()
        try:
            self._thread.run(self._load)
        except BaseException:
            if self._thread.stop():
                MODULE_IN_USE.release()
            raise
        self._started = True

    def close(self) -> None:
        """Log out, end the thread; what waits fails with ``HsmError``. Idempotent."""
        if not self._started:
            return
        self._started = False
        try:
            self._thread.run(self._unload, lane=Lane.URGENT, timeout_s=CLOSING_TIMEOUT_S)
        finally:
            self._tokens.clear()
            if self._thread.stop():
                MODULE_IN_USE.release()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def attach(self, party: Party) -> "Token":
        """Log in to ``party``'s token; the same party twice is one token. ``HsmError`` says what is wrong."""
        if party.module_path != self.module_path:
            raise HsmError(f"{party.id} uses the module {party.module_path}, this process {self.module_path}")
        if self.softhsm_conf is not None and party.softhsm_conf.resolve() != self.softhsm_conf.resolve():
            raise HsmError(
                f"{party.id}'s token lives under {party.softhsm_conf}, this process uses {self.softhsm_conf}: "
                "one process can open one SoftHSM directory"
            )
        known = self._tokens.get(party.token_label)
        if known is not None:
            return known
        pin = read_pin(party.pin_file)
        session, keys = self._thread.run(lambda: self._login(party, pin))
        token = Token(party=party, thread=self._thread, session=session, keys=keys)
        self._tokens[party.token_label] = token
        return token

    def _load(self) -> None:
        if self.softhsm_conf is not None:
            # SoftHSM reads it when it is initialised, so it is set before, on the same thread.
            os.environ["SOFTHSM2_CONF"] = str(self.softhsm_conf)
        try:
            self._module = pkcs11.lib(str(self.module_path))
        except (pkcs11.PKCS11Error, RuntimeError) as err:
            raise HsmError(f"the PKCS#11 module {self.module_path} does not load: {_MODULE_PACKAGE}") from err

    def _unload(self) -> None:
        # Closing the session that logged in logs all out, and finalising closes all: no order to keep.
        self._module.finalize()

    def _login(self, party: Party, pin: str) -> "tuple[Any, _Keys]":
        found = find_token(self._module, party.token_label)
        if found is None:
            raise HsmError(
                f"no token {party.token_label!r} under {party.softhsm_conf}: make it with {_CEREMONY} "
                "(a token on tmpfs is gone after a reboot)"
            )
        try:
            session = found.open(rw=True, user_pin=pin)
        except (pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange) as err:
            raise HsmError(
                f"{party.pin_file} does not hold the PIN of token {party.token_label!r}: write the right one into it"
            ) from err
        except pkcs11.PinLocked as err:
            raise HsmError(f"the PIN of token {party.token_label!r} is locked after too many wrong ones") from err
        except pkcs11.PKCS11Error as err:
            raise HsmError(f"cannot log in to token {party.token_label!r}") from err
        return session, _usable_keys(session)


class Token:
    """One party's token, logged in. Every call runs on the process's HSM thread; none blocks an event loop.

    Raised by all: ``NoSuchKey``, ``HsmBusy`` (nothing was done, ask again), ``HsmError``.
    """

    def __init__(self, *, party: Party, thread: HsmThread, session: Any, keys: "_Keys") -> None:
        self.party = party
        self._thread = thread
        self._session = session
        self._keys = keys

    def has_key(self, label: str) -> bool:
        """Whether the token holds a private or secret key ``label``; from memory."""
        return any(label == each for _, each in tuple(self._keys))

    def labels(self) -> frozenset[str]:
        """The labels of all private and secret keys in the token; from memory."""
        return frozenset(label for _, label in tuple(self._keys))

    async def sign(self, label: str, data: bytes, *, urgent: bool = False) -> bytes:
        """ES256: ECDSA on P-256 over SHA-256 of ``data``, as r ‖ s, 64 bytes (RFC 9053, section 2.1)."""
        lane = Lane.URGENT if urgent else Lane.ORDINARY
        digest = hashlib.sha256(data).digest()
        return await self._ask(lane, lambda: self._sign(label, digest))

    def sign_many(self, label: str, data: Sequence[bytes]) -> Awaitable[list[bytes]]:
        """``sign`` for each of ``data``, in order: they are on their way to the thread at once, and come back together."""
        return self._in_turns(lambda some: self._sign_each(label, some), data)

    async def sign_ed25519(self, label: str, data: bytes) -> bytes:
        """Ed25519 over ``data`` itself (RFC 8032), 64 bytes: for signed notes, whose readers know nothing else."""
        return await self._ask(Lane.ORDINARY, lambda: self._sign_ed25519(label, data))

    def sign_blocking(self, label: str, data: bytes) -> bytes:
        """``sign`` for a caller that is no event loop: a TLS signer on gRPC's threads, a command."""
        digest = hashlib.sha256(data).digest()
        return self._thread.run(lambda: self._sign(label, digest))

    async def ecdh(self, label: str, peer_x: bytes) -> bytes:
        """The x-coordinate (32 bytes) of our private key times the peer's point; ``BadPoint`` if ``peer_x`` is on no curve."""
        point = point_of_x(peer_x)
        return await self._ask(Lane.HANDSHAKE, lambda: self._ecdh(label, point))

    async def hmac(self, label: str, data: bytes) -> bytes:
        """HMAC-SHA-256 of ``data``, 32 bytes."""
        return await self._ask(Lane.ORDINARY, lambda: self._hmac(label, data))

    def hmac_many(self, label: str, data: Sequence[bytes]) -> Awaitable[list[bytes]]:
        """``hmac`` of each of ``data``, in order: they are on their way to the thread at once, and come back together."""
        return self._in_turns(lambda some: self._hmac_each(label, some), data)

    def _in_turns(
        self, each: Callable[[Sequence[bytes]], list[bytes]], data: Sequence[bytes]
    ) -> Awaitable[list[bytes]]:
        if len(data) <= SIGNED_IN_ONE_TURN:
            # No coroutine and no task for what nearly always is one turn.
            return self._ask(Lane.ORDINARY, partial(each, data), may_wait=True)
        return self._in_several_turns(each, data)

    async def _in_several_turns(
        self, each: Callable[[Sequence[bytes]], list[bytes]], data: Sequence[bytes]
    ) -> list[bytes]:
        made: list[bytes] = []
        for first in range(0, len(data), SIGNED_IN_ONE_TURN):
            made += await self._ask(Lane.ORDINARY, partial(each, data[first : first + SIGNED_IN_ONE_TURN]))
        return made

    async def generate_hmac_key(self, label: str, *, wrappable: bool = True) -> None:
        """Make an HMAC key, sensitive; it can leave only wrapped (``wrap_hmac_key``), and that only if ``wrappable``.

        ``HsmError`` if the label is taken.
        """
        await self._ask(Lane.ORDINARY, lambda: self._generate_hmac_key(label, wrappable=wrappable))

    async def wrap_hmac_key(self, label: str, peer_point: bytes) -> WrappedKey:
        """Wrap the HMAC key ``label`` for the token behind ``peer_point`` (65 bytes, uncompressed); ``BadPoint``.

        ECDH on P-256 between an ephemeral key of this token and ``peer_point``; its 32 bytes are an AES-256 key that wraps by
        RFC 3394 (directive.proto, SiteKey).
        """
        point = check_point(peer_point)
        return await self._ask(Lane.ORDINARY, lambda: self._wrap_hmac_key(label, point))

    async def unwrap_hmac_key(self, unwrap_label: str, wrapped: WrappedKey, new_label: str) -> None:
        """Take in a wrapped HMAC key as ``new_label``: sensitive, never to leave again.

        ``BadPoint``, or ``HsmError`` if it was wrapped for another token, was changed under way, or the label is taken.
        """
        point = check_point(wrapped.ephemeral_public_key)
        await self._ask(Lane.ORDINARY, lambda: self._unwrap_hmac_key(unwrap_label, point, wrapped.wrapped, new_label))

    async def destroy_key(self, label: str) -> None:
        """Destroy the secret key ``label`` (a site key of an epoch that is over); ``NoSuchKey``."""
        await self._ask(Lane.ORDINARY, lambda: self._destroy_key(label))

    async def remember(self, label: str, value: bytes) -> None:
        """Keep ``value`` as a private data object ``label``; what was kept under it is destroyed after. (VALUE cannot be changed.)"""
        await self._ask(Lane.URGENT, lambda: self._remember(label, value))

    async def remembered(self, label: str) -> list[bytes]:
        """The values of all data objects ``label``: more than one where a change was cut short, torn ones left out."""
        return await self._ask(Lane.URGENT, lambda: self._remembered(label))

    async def generate_sealing_key(self, label: str) -> None:
        """Make an AES-256 key, sensitive, not extractable, for ``seal``. ``HsmError`` if the label is taken."""
        await self._ask(Lane.ORDINARY, lambda: self._generate_sealing_key(label))

    async def seal(self, label: str, plain: bytes, *, context: bytes = b"") -> bytes:
        """AES-256-GCM in the token: 12 random bytes ‖ ciphertext ‖ 16 bytes of tag; ``context`` is authenticated beside it."""
        return await self._ask(Lane.ORDINARY, lambda: self._seal(label, plain, context))

    async def unseal(self, label: str, sealed: bytes, *, context: bytes = b"") -> bytes:
        """What was sealed; ``HsmError`` if a bit of it, its key or its context differs."""
        return await self._ask(Lane.ORDINARY, lambda: self._unseal(label, sealed, context))

    def _ask(self, lane: Lane, call: Callable[[], T], *, may_wait: bool = False) -> "asyncio.Future[T]":
        return self._thread.ask(lane, partial(self._named_errors, call), may_wait=may_wait)

    def _named_errors(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except pkcs11.PKCS11Error as err:
            raise HsmError(f"token {self.party.token_label!r} failed ({type(err).__name__})") from err

    # What follows runs on the HSM thread only.

    def _key(self, kind: ObjectClass, label: str, operation: str) -> Any:
        key = self._keys.get((kind, label))
        if key is None:
            raise NoSuchKey(
                f"token {self.party.token_label!r} has no {kind.name.lower().replace('_', ' ')} {label!r}; "
                f"it has {', '.join(sorted(self.labels())) or 'none'}: {_CEREMONY} makes them"
            )
        # The library gives a key the operations that its attributes allow.
        if not hasattr(key, operation):
            raise NoSuchKey(
                f"the key {label!r} of token {self.party.token_label!r} is not for that: it cannot {operation}"
            )
        return key

    def _new_label(self, label: str) -> None:
        if self.has_key(label):
            raise HsmError(
                f"token {self.party.token_label!r} has a key {label!r} already: keys are never replaced in place"
            )

    def _keep(self, label: str, key: Any) -> None:
        """Make the new secret key usable: with the check that tells it from one whose making was cut short."""
        self._session.create_object(
            {
                Attribute.CLASS: ObjectClass.DATA,
                Attribute.TOKEN: True,
                Attribute.PRIVATE: True,
                Attribute.LABEL: _CHECK_LABEL + label,
                Attribute.VALUE: _check_value(key),
            }
        )
        self._keys[ObjectClass.SECRET_KEY, label] = key

    def _sign(self, label: str, digest: bytes) -> bytes:
        signature: bytes = self._key(ObjectClass.PRIVATE_KEY, label, "sign").sign(digest, mechanism=Mechanism.ECDSA)
        if len(signature) != SIGNATURE_SIZE:
            raise HsmError(f"key {label!r} is not on P-256: its signature has {len(signature)} bytes")
        return signature

    def _sign_ed25519(self, label: str, data: bytes) -> bytes:
        key = self._key(ObjectClass.PRIVATE_KEY, label, "sign")
        if key.key_type is not KeyType.EC_EDWARDS:
            raise NoSuchKey(f"the key {label!r} of token {self.party.token_label!r} is no Ed25519 key")
        signature: bytes = key.sign(data, mechanism=Mechanism.EDDSA)
        return signature

    def _sign_each(self, label: str, data: Sequence[bytes]) -> list[bytes]:
        return [self._sign(label, hashlib.sha256(each).digest()) for each in data]

    def _derive(self, key: Any, point: bytes, kind: KeyType, template: dict[Attribute, object]) -> Any:
        return key.derive_key(
            kind,
            COORDINATE_SIZE * 8,
            mechanism=Mechanism.ECDH1_DERIVE,
            mechanism_param=(KDF.NULL, None, point),
            store=False,
            template={Attribute.TOKEN: False, **template},
        )

    def _ecdh(self, label: str, point: bytes) -> bytes:
        key = self._key(ObjectClass.PRIVATE_KEY, label, "derive_key")
        # The agreed secret is the caller's to have (RFC 9528 mixes it into a key schedule); the private key is not.
        secret = self._derive(
            key, point, KeyType.GENERIC_SECRET, {Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True}
        )
        try:
            value: bytes = secret[Attribute.VALUE]
        finally:
            secret.destroy()
        return value

    def _hmac(self, label: str, data: bytes) -> bytes:
        mac: bytes = self._key(ObjectClass.SECRET_KEY, label, "sign").sign(data, mechanism=Mechanism.SHA256_HMAC)
        return mac

    def _hmac_each(self, label: str, data: Sequence[bytes]) -> list[bytes]:
        return [self._hmac(label, each) for each in data]

    def _generate_hmac_key(self, label: str, *, wrappable: bool) -> None:
        self._new_label(label)
        key = self._session.generate_key(
            KeyType.GENERIC_SECRET,
            HMAC_KEY_SIZE * 8,
            label=label,
            store=True,
            mechanism=Mechanism.GENERIC_SECRET_KEY_GEN,
            template={
                **_ONLY_HMAC,
                # Extractable means "may be wrapped" here: a sensitive key is never shown, wrapped is the only way out.
                Attribute.EXTRACTABLE: wrappable,
            },
        )
        self._keep(label, key)

    def _wrap_hmac_key(self, label: str, point: bytes) -> WrappedKey:
        key = self._key(ObjectClass.SECRET_KEY, label, "sign")
        parameters = self._session.create_domain_parameters(
            KeyType.EC, {Attribute.EC_PARAMS: P256_PARAMETERS}, local=True
        )
        public, private = parameters.generate_keypair(
            store=False,
            mechanism=Mechanism.EC_KEY_PAIR_GEN,
            private_template={Attribute.DERIVE: True, Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False},
        )
        try:
            kek = self._derive(private, point, KeyType.AES, {**_NEVER_SHOWN, Attribute.WRAP: True})
            try:
                wrapped: bytes = kek.wrap_key(key, mechanism=Mechanism.AES_KEY_WRAP)
            finally:
                kek.destroy()
            return WrappedKey(ephemeral_public_key=unwrapped_point(public[Attribute.EC_POINT]), wrapped=wrapped)
        finally:
            private.destroy()
            public.destroy()

    def _unwrap_hmac_key(self, unwrap_label: str, point: bytes, wrapped: bytes, new_label: str) -> None:
        self._new_label(new_label)
        private = self._key(ObjectClass.PRIVATE_KEY, unwrap_label, "derive_key")
        kek = self._derive(private, point, KeyType.AES, {**_NEVER_SHOWN, Attribute.UNWRAP: True})
        try:
            key = kek.unwrap_key(
                ObjectClass.SECRET_KEY,
                KeyType.GENERIC_SECRET,
                wrapped,
                label=new_label,
                mechanism=Mechanism.AES_KEY_WRAP,
                store=True,
                template={**_ONLY_HMAC, Attribute.EXTRACTABLE: False},
            )
        except pkcs11.PKCS11Error as err:
            raise HsmError(
                f"the wrapped key for {new_label!r} does not unwrap with {unwrap_label!r}: it was made for another token"
            ) from err
        finally:
            kek.destroy()
        self._keep(new_label, key)

    def _destroy_key(self, label: str) -> None:
        key = self._key(ObjectClass.SECRET_KEY, label, "destroy")
        del self._keys[ObjectClass.SECRET_KEY, label]
        key.destroy()
        for each in _objects(self._session, {Attribute.CLASS: ObjectClass.DATA, Attribute.LABEL: _CHECK_LABEL + label}):
            each.destroy()

    def _remember(self, label: str, value: bytes) -> None:
        before = list(_objects(self._session, {Attribute.CLASS: ObjectClass.DATA, Attribute.LABEL: label}))
        self._session.create_object(
            {
                Attribute.CLASS: ObjectClass.DATA,
                Attribute.TOKEN: True,
                Attribute.PRIVATE: True,
                Attribute.LABEL: label,
                Attribute.VALUE: value,
            }
        )
        for each in before:
            each.destroy()

    def _remembered(self, label: str) -> list[bytes]:
        values: list[bytes] = []
        for each in _objects(self._session, {Attribute.CLASS: ObjectClass.DATA, Attribute.LABEL: label}):
            with suppress(*_TORN):
                values.append(each[Attribute.VALUE])
        return values

    def _generate_sealing_key(self, label: str) -> None:
        self._new_label(label)
        key = self._session.generate_key(
            KeyType.AES,
            256,
            label=label,
            store=True,
            template={
                **_NEVER_SHOWN,
                Attribute.ENCRYPT: True,
                Attribute.DECRYPT: True,
                Attribute.SIGN: False,
                Attribute.VERIFY: False,
                Attribute.WRAP: False,
                Attribute.UNWRAP: False,
            },
        )
        self._keep(label, key)

    def _seal(self, label: str, plain: bytes, context: bytes) -> bytes:
        key = self._key(ObjectClass.SECRET_KEY, label, "encrypt")
        # Random nonces of 96 bits: safe for 2³² texts under one key (NIST SP 800-38D, section 8.3).
        nonce = os.urandom(SEAL_NONCE_SIZE)
        parameters = GCMParams(nonce, context or None, SEAL_TAG_SIZE * 8)
        sealed: bytes = key.encrypt(plain, mechanism=Mechanism.AES_GCM, mechanism_param=parameters)
        return nonce + sealed

    def _unseal(self, label: str, sealed: bytes, context: bytes) -> bytes:
        key = self._key(ObjectClass.SECRET_KEY, label, "decrypt")
        if len(sealed) < SEAL_NONCE_SIZE + SEAL_TAG_SIZE:
            raise HsmError(f"too short to be sealed with {label!r}: {len(sealed)} bytes")
        parameters = GCMParams(sealed[:SEAL_NONCE_SIZE], context or None, SEAL_TAG_SIZE * 8)
        try:
            plain: bytes = key.decrypt(
                sealed[SEAL_NONCE_SIZE:], mechanism=Mechanism.AES_GCM, mechanism_param=parameters
            )
        except pkcs11.PKCS11Error as err:
            raise HsmError(f"not sealed with {label!r} in this context, or changed since") from err
        return plain


_Keys: TypeAlias = dict[tuple[ObjectClass, str], Any]

#: A secret key is used only if a data object of this name holds what the key makes of a constant. SoftHSM writes objects in
#: place, unsynced: a process killed meanwhile leaves one that looks whole and holds another value.
_CHECK_LABEL = "check/"
_CHECKED = b"farthing/check/1"
#: What comes of reading or using an object that was cut short: it lacks an attribute, its type, or the right to be used.
_TORN = (pkcs11.PKCS11Error, AttributeError, TypeError, ValueError)


def _check_value(key: Any) -> bytes:
    if key.key_type is KeyType.AES:
        # GCM would encrypt this block as a counter only 26 GB into a text: showing its image gives nothing away.
        checked: bytes = key.encrypt(_CHECKED, mechanism=Mechanism.AES_ECB)
    else:
        checked = key.sign(_CHECKED, mechanism=Mechanism.SHA256_HMAC)
    return checked


def _objects(session: Any, attributes: dict[Attribute, object]) -> list[Any]:
    """The token's objects with ``attributes``, without those that are torn."""
    found: list[Any] = []
    # One at a time, because one that cannot be read must not hide the others; and all of them before any is used, because
    # a session that searches can do nothing else.
    with SearchIter(session, attributes, 1) as search:
        for batch in search:
            with suppress(pkcs11.PKCS11Error):
                found.extend(batch)
    return found


def _usable_keys(session: Any) -> _Keys:
    """All private keys, and those secret keys that are what they were when they were made."""
    keys: _Keys = {
        (ObjectClass.PRIVATE_KEY, key.label): key
        for key in _objects(session, {Attribute.CLASS: ObjectClass.PRIVATE_KEY})
    }
    checks = set()
    for each in _objects(session, {Attribute.CLASS: ObjectClass.DATA}):
        with suppress(*_TORN):
            checks.add((each[Attribute.LABEL], each[Attribute.VALUE]))
    for key in _objects(session, {Attribute.CLASS: ObjectClass.SECRET_KEY}):
        with suppress(*_TORN):
            if (_CHECK_LABEL + key.label, _check_value(key)) in checks:
                keys[ObjectClass.SECRET_KEY, key.label] = key
    return keys


_NEVER_SHOWN: dict[Attribute, object] = {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False}
_ONLY_HMAC: dict[Attribute, object] = {
    Attribute.SENSITIVE: True,
    Attribute.PRIVATE: True,
    Attribute.SIGN: True,
    Attribute.VERIFY: True,
    Attribute.ENCRYPT: False,
    Attribute.DECRYPT: False,
    Attribute.WRAP: False,
    Attribute.UNWRAP: False,
    Attribute.DERIVE: False,
}


def point_of_x(x: bytes) -> bytes:
    """One of the two points (65 bytes, uncompressed) of P-256 with this x-coordinate: ECDH's result is the same for both.

    ``BadPoint`` if there is none (RFC 9528, section 3.7: with x only, either y will do).
    """
    if len(x) != COORDINATE_SIZE:
        raise BadPoint(f"an x-coordinate of P-256 has {COORDINATE_SIZE} bytes, not {len(x)}")
    return check_point(b"\x02" + x)


def check_point(point: bytes) -> bytes:
    """``point`` as 65 bytes, uncompressed; ``BadPoint`` unless it lies on P-256."""
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    except ValueError as err:
        raise BadPoint("not a point of P-256") from err
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def unwrapped_point(ec_point: bytes) -> bytes:
    """CKA_EC_POINT as 65 bytes: PKCS#11 wraps the point in a DER OCTET STRING."""
    if len(ec_point) == POINT_SIZE + 2 and ec_point[:2] == b"\x04\x41":
        return ec_point[2:]
    return ec_point


def find_token(module: Any, label: str) -> Any:
    """The module's token with ``label`` or None. On the HSM thread."""
    for slot in module.get_slots(token_present=True):
        token = slot.get_token()
        if token.label == label:
            return token
    return None


def read_pin(file: Path) -> str:
    """The PIN in ``file``; ``HsmError`` if it is missing, empty, or others may read it."""
    try:
        with file.open(encoding="ascii") as opened:
            mode = stat.S_IMODE(os.fstat(opened.fileno()).st_mode)
            if mode & 0o077:
                raise HsmError(
                    f"others may read the PIN file {file} (mode {mode:04o}): chmod 600 it, and change the PIN"
                )
            pin = opened.read().strip()
    except FileNotFoundError as err:
        raise HsmError(f"no PIN file {file}: restore it, or make the party anew with {_CEREMONY}") from err
    except (OSError, UnicodeDecodeError) as err:
        raise HsmError(f"cannot read the PIN file {file}") from err
    if not pin:
        raise HsmError(f"the PIN file {file} is empty: restore it, or make the party anew with {_CEREMONY}")
    return pin


def _check_softhsm_conf(file: Path) -> None:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as err:
        raise HsmError(f"no SoftHSM configuration {file}: make the party with {_CEREMONY}") from err
    for line in lines:
        name, _, value = line.partition("=")
        if name.strip() == "directories.tokendir":
            if not Path(value.strip()).is_dir():
                raise HsmError(
                    f"{file} names the token directory {value.strip()}, which is not there: make it anew with {_CEREMONY} "
                    "(a token on tmpfs is gone after a reboot)"
                )
            return
    raise HsmError(f"{file} names no directories.tokendir: make it anew with {_CEREMONY}")
