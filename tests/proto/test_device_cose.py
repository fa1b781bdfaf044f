"""COSE_Sign1 as every other implementation of RFC 9052 reads it."""

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from farthing.device import cose
from farthing.device.messages import MessageError

PRIVATE = ec.generate_private_key(ec.SECP256R1())
SPKI = PRIVATE.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
KEY = cose.VerifyingKey.from_spki(SPKI)


def sign(kind: cose.Kind, recipient: str, payload: bytes) -> bytes:
    r, s = decode_dss_signature(PRIVATE.sign(cose.to_be_signed(kind, recipient, payload), ec.ECDSA(SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


@given(st.binary(max_size=70_000), st.text(max_size=64))
def test_sig_structure_is_the_standards(payload: bytes, recipient: str) -> None:
    aad = cbor2.dumps(["farthing/intent/1", recipient])
    assert cose.to_be_signed("intent", recipient, payload) == cbor2.dumps(
        ["Signature1", bytes.fromhex("a10126"), aad, payload]
    )


@given(st.binary(max_size=66_000))
def test_sign1_is_the_standards_and_reads_back(payload: bytes) -> None:
    data = cose.encode_sign1(KEY.key_id, payload, bytes(range(64)))
    assert data == cbor2.dumps([bytes.fromhex("a10126"), {4: KEY.key_id}, payload, bytes(range(64))])
    if len(payload) <= cose.MAX_PAYLOAD_SIZE:
        assert cose.decode_sign1(data) == cose.Sign1(kid=KEY.key_id, payload=payload, signature=bytes(range(64)))
    else:
        with pytest.raises(MessageError, match="too large"):
            cose.decode_sign1(data)


@given(st.binary(max_size=200))
def test_rubbish_is_a_message_error(data: bytes) -> None:
    with pytest.raises(MessageError):
        cose.decode_sign1(data)


@given(st.binary(max_size=300), st.data())
def test_a_damaged_sign1_is_refused_or_read_as_other_content(payload: bytes, data: st.DataObject) -> None:
    encoded = bytearray(cose.encode_sign1(KEY.key_id, payload, bytes(64)))
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= data.draw(st.integers(1, 255))
    try:
        read = cose.decode_sign1(bytes(encoded))
    except MessageError:
        return
    assert cose.encode_sign1(read.kid, read.payload, read.signature) == bytes(encoded)


def test_a_signature_is_good_for_one_kind_one_recipient_one_payload_one_key() -> None:
    signature = sign("intent", "gw-1", b"payload")
    assert KEY.verify("intent", "gw-1", b"payload", signature)
    assert not KEY.verify("end", "gw-1", b"payload", signature)
    assert not KEY.verify("intent", "gw-2", b"payload", signature)
    assert not KEY.verify("intent", "gw-1", b"Payload", signature)
    assert not KEY.verify("intent", "gw-1", b"payload", signature[:-1])
    assert not KEY.verify("intent", "gw-1", b"payload", bytes(64))
    assert not KEY.verify("intent", "gw-1", b"payload", b"\xff" * 64)
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    spki = other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert not cose.VerifyingKey.from_spki(spki).verify("intent", "gw-1", b"payload", signature)


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP256K1()])
def test_only_p256_is_a_signing_key(curve: ec.EllipticCurve) -> None:
    spki = ec.generate_private_key(curve).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(MessageError, match="P-256"):
        cose.VerifyingKey.from_spki(spki)


@given(st.binary(max_size=200))
def test_rubbish_is_no_key(data: bytes) -> None:
    with pytest.raises(MessageError):
        cose.VerifyingKey.from_spki(data)


def test_keys_compare_by_their_bytes() -> None:
    assert cose.VerifyingKey.from_spki(SPKI) == KEY
    assert cose.key_id(SPKI) == KEY.key_id
    assert len(KEY.key_id) == 8
