"""Whatever strangers send, the responder answers with an error of its own, and its state with none."""

import contextlib

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from farthing.edhoc import CredentialError, MemoryKey, MessageMalformed, ccs, credential
from farthing.edhoc.messages import (
    MAX_MESSAGE_SIZE,
    decode_message_1,
    decode_message_3,
    decode_plaintext_3,
    encode_identifier,
)

# A fixed key: the cases that carry it are named alike in every process.
G_X = MemoryKey(ec.derive_private_key(20, ec.SECP256R1())).x


def message_1(*items: object) -> bytes:
    return b"".join(cbor2.dumps(each) for each in items)


any_cbor = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=40) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.integers(), inner, max_size=3),
    max_leaves=6,
)


@given(st.binary(max_size=80))
def test_any_bytes(data):
    for decode in (decode_message_1, decode_message_3, lambda given: decode_plaintext_3(given, mac_size=8)):
        with contextlib.suppress(MessageMalformed):
            decode(data)


@given(st.lists(any_cbor, max_size=6))
def test_any_items(items):
    data = message_1(*items)
    for decode in (decode_message_1, decode_message_3, lambda given: decode_plaintext_3(given, mac_size=8)):
        with contextlib.suppress(MessageMalformed):
            decode(data)


@given(st.binary(min_size=1, max_size=7), st.lists(st.integers(0, 30), min_size=2, max_size=16))
def test_what_is_well_formed_is_read(c_i, suites):
    data = cbor2.dumps(3) + cbor2.dumps(suites) + cbor2.dumps(G_X) + encode_identifier(c_i)
    read = decode_message_1(data)
    assert (read.method, read.suites, read.g_x, read.c_i, read.ead) == (3, tuple(suites), G_X, c_i, ())


def test_external_data_is_told_apart():
    read = decode_message_1(message_1(3, 2, G_X, 5, 1, -2, b"value", 0, b"padding"))
    assert [(each.label, each.value, each.is_critical()) for each in read.ead] == [
        (1, None, False),
        (-2, b"value", True),
        (0, b"padding", False),
    ]


@pytest.mark.parametrize(
    "data",
    [
        message_1(3, 2, G_X),
        message_1(3, 2, G_X, 24),
        message_1(3, 2, G_X, b"\x05"),
        message_1(3, 2, G_X, b"12345678"),
        message_1(3, [2], G_X, 5),
        message_1(3, list(range(17)), G_X, 5),
        message_1(True, 2, G_X, 5),
        message_1(3, 2, G_X, 5, b"a value without a label"),
        message_1(3, 2, G_X, 5, "text"),
        message_1(3, 2, G_X, 5, 1, b"\0" * MAX_MESSAGE_SIZE),
    ],
)
def test_malformed(data):
    with pytest.raises(MessageMalformed):
        decode_message_1(data)


def test_a_credential_is_its_ccs():
    key = ec.generate_private_key(ec.SECP256R1())
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    numbers = key.public_key().public_numbers()
    x, y = (each.to_bytes(32, "big") for each in (numbers.x, numbers.y))
    made = credential("m-1", b"\x2b", spki)
    assert made.cred == ccs("m-1", b"\x2b", x, y)
    assert cbor2.loads(made.cred) == {2: "m-1", 8: {1: {1: 2, 2: b"\x2b", -1: 1, -2: x, -3: y}}}
    # As aiocoap and lakers serialize it.
    assert made.cred == cbor2.dumps(cbor2.loads(made.cred), canonical=True)
    for kid in (b"", b"123456789"):
        with pytest.raises(CredentialError):
            credential("m-1", kid, spki)
    with pytest.raises(CredentialError):
        credential("m-1", b"\x2b", b"no key")
    other = ec.generate_private_key(ec.SECP384R1()).public_key()
    with pytest.raises(CredentialError):
        credential("m-1", b"\x2b", other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
