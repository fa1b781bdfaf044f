"""EDHOC's key schedule for cipher suite 2: SHA-256, AES-CCM-16-64-128, P-256 (RFC 9528, sections 3.6 and 4)."""

import hashlib
import hmac
from typing import Final

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

CIPHER_SUITE: Final = 2
HASH_SIZE: Final = 32
KEY_SIZE: Final = 16
NONCE_SIZE: Final = 13
TAG_SIZE: Final = 8
#: edhoc_mac_length of the suite, for static Diffie-Hellman.
MAC_SIZE: Final = 8

# Labels of EDHOC_KDF (RFC 9528, section 4.1.2).
KEYSTREAM_2: Final = 0
SALT_3E2M: Final = 1
MAC_2: Final = 2
K_3: Final = 3
IV_3: Final = 4
SALT_4E3M: Final = 5
MAC_3: Final = 6
PRK_OUT: Final = 7
K_4: Final = 8
IV_4: Final = 9
PRK_EXPORTER: Final = 10

# Labels of EDHOC_Exporter (RFC 9528, section 10.1).
OSCORE_MASTER_SECRET: Final = 0
OSCORE_MASTER_SALT: Final = 1
#: RFC 9528, appendix A.1: key length of the application AEAD, and the default salt length.
OSCORE_SECRET_SIZE: Final = 16
OSCORE_SALT_SIZE: Final = 8


def extract(salt: bytes, secret: bytes) -> bytes:
    """EDHOC_Extract: HKDF-Extract with SHA-256 (RFC 5869, section 2.2)."""
    return hmac.digest(salt, secret, hashlib.sha256)


def kdf(key: bytes, label: int, context: bytes, size: int) -> bytes:
    """EDHOC_KDF: HKDF-Expand over the CBOR sequence (label, context as bstr, size)."""
    info = cbor2.dumps(label) + cbor2.dumps(context) + cbor2.dumps(size)
    return HKDFExpand(algorithm=hashes.SHA256(), length=size, info=info).derive(key)


def transcript(*items: bytes) -> bytes:
    """Hash of a CBOR sequence whose encoded items are given."""
    return hashlib.sha256(b"".join(items)).digest()


def aead_encrypt(key: bytes, nonce: bytes, transcript_hash: bytes, plain: bytes) -> bytes:
    """AES-CCM-16-64-128 with the associated data of messages 3 and 4; ciphertext and 8 bytes of tag."""
    return AESCCM(key, tag_length=TAG_SIZE).encrypt(nonce, plain, _associated_data(transcript_hash))


def aead_decrypt(key: bytes, nonce: bytes, transcript_hash: bytes, sealed: bytes) -> bytes:
    """The plaintext; raises ``cryptography.exceptions.InvalidTag``."""
    return AESCCM(key, tag_length=TAG_SIZE).decrypt(nonce, sealed, _associated_data(transcript_hash))


def _associated_data(transcript_hash: bytes) -> bytes:
    return cbor2.dumps(["Encrypt0", b"", transcript_hash])
