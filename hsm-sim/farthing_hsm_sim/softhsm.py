"""SoftHSM directories: made on tmpfs where there is one, filled with tokens, destroyed.

This module and the ceremony run PKCS#11 on the one thread of their command; they are done with the module before an
:class:`farthing.hsm.Hsm` starts.
"""

import ctypes
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pkcs11
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass

from farthing.hsm import HsmError
from farthing.hsm.tmpfs import find_tmpfs, private_directory
from farthing.hsm.token import (
    ED25519_KEY_SIZE,
    ED25519_PARAMETERS,
    MODULE_IN_USE,
    P256_PARAMETERS,
    find_token,
    unwrapped_point,
)

#: Where Debian, Fedora and Homebrew put the module.
MODULE_PLACES = (
    Path("/usr/lib/softhsm/libsofthsm2.so"),
    Path("/usr/lib64/softhsm/libsofthsm.so"),
    Path("/opt/homebrew/lib/softhsm/libsofthsm2.so"),
    Path("/usr/local/lib/softhsm/libsofthsm2.so"),
)
CONFIGURATION_FILE = "softhsm2.conf"
TOKENS = "tokens"
#: A token's label has 32 bytes (PKCS#11, CK_TOKEN_INFO).
LABEL_SIZE = 32


def find_module() -> Path:
    """SoftHSM's module; ``HsmError`` says how to install it."""
    for place in MODULE_PLACES:
        if place.is_file():
            return place
    raise HsmError(
        f"SoftHSM is not installed (looked at {', '.join(str(each) for each in MODULE_PLACES)}): "
        "apt-get install softhsm2, or name the module with --module"
    )


def make_directory(holder: Path) -> Path:
    """Give ``holder`` a SoftHSM directory and its ``softhsm2.conf``; return the configuration.

    Tokens live on tmpfs where there is one: keys of a simulated chip are then nowhere on disk, and made ten times faster.
    ``holder/tokens`` leads there.
    """
    holder.mkdir(mode=0o700, parents=True, exist_ok=True)
    configuration = holder / CONFIGURATION_FILE
    link = holder / TOKENS
    tmpfs = find_tmpfs()
    if tmpfs is None:
        tokens = link.absolute()
        tokens.mkdir(mode=0o700)
    else:
        tokens = private_directory(tmpfs, "farthing-hsm") / f"{holder.name}-{secrets.token_hex(8)}"
        tokens.mkdir(mode=0o700)
        link.symlink_to(tokens)
        _holder_note(tokens).write_text(str(link.absolute()), encoding="utf-8")
    configuration.write_text(
        f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n",
        encoding="utf-8",
    )
    return configuration


def token_directory(configuration: Path) -> Path:
    """The directory that ``configuration`` names."""
    for line in configuration.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "directories.tokendir":
            return Path(value.strip())
    raise HsmError(f"{configuration} names no directories.tokendir")


def destroy_directory(holder: Path) -> bool:
    """Delete the tokens of ``holder``'s SoftHSM directory; whether there was one."""
    configuration = holder / CONFIGURATION_FILE
    if not configuration.is_file():
        return False
    tokens = token_directory(configuration)
    link = holder / TOKENS
    # Only what make_directory made is deleted, whatever somebody wrote into the configuration.
    if link.is_symlink() and link.readlink() == tokens and tokens.parent.name.startswith("farthing-hsm-"):
        _forget(tokens)
        link.unlink()
    elif link.is_dir() and not link.is_symlink():
        shutil.rmtree(link)
    configuration.unlink()
    return True


def destroy_orphans(below: Path = Path("/")) -> int:
    """Delete tokens on tmpfs whose folder, once under ``below``, was deleted or moved away; how many directories."""
    tmpfs = find_tmpfs()
    if tmpfs is None:
        return 0
    destroyed = 0
    for note in private_directory(tmpfs, "farthing-hsm").glob("*.holder"):
        tokens = note.with_suffix("")
        link = Path(note.read_text(encoding="utf-8"))
        if link.is_relative_to(below) and not (link.is_symlink() and link.readlink() == tokens):
            _forget(tokens)
            destroyed += 1
    return destroyed


def _holder_note(tokens: Path) -> Path:
    """Beside the tokens: which folder leads here, so that what is left behind can be told from what is in use."""
    return tokens.with_name(f"{tokens.name}.holder")


def _forget(tokens: Path) -> None:
    shutil.rmtree(tokens, ignore_errors=True)
    _holder_note(tokens).unlink(missing_ok=True)


@contextmanager
def opened(module: Path, configuration: Path) -> Iterator[Any]:
    """The module, initialised for the tokens under ``configuration``; on the calling thread, one at a time."""
    if not module.is_file():
        raise HsmError(f"no PKCS#11 module at {module}: apt-get install softhsm2")
    if not MODULE_IN_USE.acquire(blocking=False):
        raise HsmError("this process has a running Hsm: close it first, or do this in a process of its own")
    try:
        os.environ["SOFTHSM2_CONF"] = str(configuration)
        library = pkcs11.lib(str(module))
        try:
            yield library
        finally:
            library.finalize()
    finally:
        MODULE_IN_USE.release()


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPlan:
    """One key pair to be born in a token: it signs, or it agrees on secrets, never both. On P-256, unless ``edwards`` (Ed25519)."""

    label: str
    derives: bool = False
    edwards: bool = False


def make_token(library: Any, module: Path, label: str, pin: str) -> Any:
    """A new token, logged in as its user. The security officer's PIN is random and forgotten: nobody resets the user's."""
    slot = next((each for each in library.get_slots() if not _is_initialized(each)), None)
    assert slot is not None, "SoftHSM always offers one slot without a token"
    officer_pin = secrets.token_urlsafe(24)
    _init_token(module, slot.slot_id, officer_pin, label)
    found = find_token(library, label)
    assert found is not None
    officer = found.open(rw=True, so_pin=officer_pin)
    officer.init_pin(pin)
    officer.close()
    return found.open(rw=True, user_pin=pin)


def generate_key(session: Any, plan: KeyPlan) -> bytes:
    """A key pair born in the token: sensitive, not extractable, for one purpose. Its SubjectPublicKeyInfo (DER)."""
    if plan.edwards:
        return _generate_edwards_key(session, plan)
    parameters = session.create_domain_parameters(KeyType.EC, {Attribute.EC_PARAMS: P256_PARAMETERS}, local=True)
    public, _ = parameters.generate_keypair(
        store=True,
        label=plan.label,
        mechanism=Mechanism.EC_KEY_PAIR_GEN,
        public_template={Attribute.MODIFIABLE: False, Attribute.VERIFY: not plan.derives},
        private_template=_private(plan),
    )
    point = unwrapped_point(public[Attribute.EC_POINT])
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _generate_edwards_key(session: Any, plan: KeyPlan) -> bytes:
    parameters = session.create_domain_parameters(
        KeyType.EC_EDWARDS, {Attribute.EC_PARAMS: ED25519_PARAMETERS}, local=True
    )
    public, _ = parameters.generate_keypair(
        store=True,
        label=plan.label,
        mechanism=Mechanism.EC_EDWARDS_KEY_PAIR_GEN,
        public_template={Attribute.MODIFIABLE: False},
        private_template=_private(plan),
    )
    # A DER OCTET STRING around the 32 bytes of RFC 8032.
    key = ed25519.Ed25519PublicKey.from_public_bytes(public[Attribute.EC_POINT][-ED25519_KEY_SIZE:])
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def import_key(session: Any, plan: KeyPlan, private: ec.EllipticCurvePrivateKey) -> None:
    """Put a key pair made outside into the token; from then on as sensitive there as one born inside."""
    session.create_object(
        {
            Attribute.CLASS: ObjectClass.PRIVATE_KEY,
            Attribute.KEY_TYPE: KeyType.EC,
            Attribute.TOKEN: True,
            Attribute.LABEL: plan.label,
            Attribute.EC_PARAMS: P256_PARAMETERS,
            Attribute.VALUE: private.private_numbers().private_value.to_bytes(32, "big"),
            **_private(plan),
        }
    )


def _private(plan: KeyPlan) -> dict[Attribute, object]:
    return {
        Attribute.PRIVATE: True,
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: False,
        Attribute.MODIFIABLE: False,
        Attribute.SIGN: not plan.derives,
        Attribute.DERIVE: plan.derives,
        Attribute.DECRYPT: False,
        Attribute.UNWRAP: False,
    }


def _is_initialized(slot: Any) -> bool:
    return bool(slot.get_token().flags & pkcs11.TokenFlag.TOKEN_INITIALIZED)


def _init_token(module: Path, slot_id: int, officer_pin: str, label: str) -> None:
    # python-pkcs11 has no C_InitToken. Calling the module that is loaded already keeps the PIN off a command line.
    encoded = label.encode()
    if len(encoded) > LABEL_SIZE:
        raise HsmError(f"a token's label has at most {LABEL_SIZE} bytes: {label!r}")
    pin = officer_pin.encode()
    init_token = ctypes.CDLL(str(module)).C_InitToken
    init_token.argtypes = (ctypes.c_ulong, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
    init_token.restype = ctypes.c_ulong
    returned = init_token(slot_id, pin, len(pin), encoded.ljust(LABEL_SIZE))
    if returned != 0:
        raise HsmError(f"C_InitToken failed with 0x{returned:x} for {label!r}")
