"""RFC 9529: the trace of method 3 with cipher suite 2, value by value, and the invalid traces."""

import copy
import json
import os
from pathlib import Path

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from farthing.edhoc import (
    Credential,
    EdhocError,
    Handshake,
    MemoryKey,
    MessageMalformed,
    NotAuthentic,
    OutOfTurn,
    Responder,
    State,
    WrongCipherSuite,
    ccs,
    key_schedule,
)
from farthing.edhoc.messages import decode_message_3, decode_plaintext_3

SHARED = Path(os.environ.get("FARTHING_SHARED", Path(__file__).parents[3] / "shared"))
VECTORS = SHARED / "vectors" / "rfc9529.json"
TRACE = "Authentication with Static DH, CCS Identified by 'kid' / "

pytestmark = pytest.mark.skipif(not VECTORS.is_file(), reason=f"no RFC 9529 vectors at {VECTORS}")


def values() -> list[dict[str, str]]:
    return json.loads(VECTORS.read_text())["values"] if VECTORS.is_file() else []


def value(section: str, name: str) -> bytes:
    found = [v["hex"] for v in values() if v["section"] == TRACE + section and v["name"].startswith(name)]
    assert len(found) == 1, (section, name, len(found))
    return bytes.fromhex(found[0])


def memory_key(private: bytes) -> MemoryKey:
    return MemoryKey(ec.derive_private_key(int.from_bytes(private, "big"), ec.SECP256R1()))


def initiator_credential() -> Credential:
    return Credential(
        subject="42-50-31-FF-EF-37-32-39",
        kid=bytes.fromhex("2b"),
        x=value("message_3", "Initiator's public authentication key, 'x'-coordinate"),
        cred=value("message_3", "CRED_I"),
    )


def responder(find=None) -> Responder:
    own = Credential(
        subject="example.edu",
        kid=bytes.fromhex("32"),
        x=value("message_2", "Responder's public authentication key, 'x'-coordinate"),
        cred=value("message_2", "CRED_R"),
    )
    return Responder(
        key=memory_key(value("message_2", "Responder's private authentication key SK_R")),
        credential=own,
        find_credential=find or {initiator_credential().kid: initiator_credential()}.get,
        new_ephemeral_key=lambda: memory_key(value("message_2", "Responder's ephemeral private key Y")),
    )


async def opened(find=None) -> Handshake:
    c_r = value("message_2", "Connection identifier chosen by Responder C_R (raw value)")
    return await responder(find).open(value("message_1 (second time)", "message_1 "), choose_c_r=lambda _: c_r)


def test_credentials_are_the_ones_of_the_rfc():
    x = value("message_2", "Responder's public authentication key, 'x'-coordinate")
    y = value("message_2", "Responder's public authentication key, 'y'-coordinate")
    assert ccs("example.edu", b"\x32", x, y) == value("message_2", "CRED_R")


async def test_the_first_message_1_is_answered_with_our_suite():
    with pytest.raises(WrongCipherSuite) as refused:
        await responder().open(value("message_1 (first time)", "message_1 "), choose_c_r=lambda _: b"\x27")
    assert refused.value.message == value("error", "error ")


async def test_message_2_and_its_keys():
    handshake = await opened()
    assert handshake.message_2 == value("message_2", "message_2 ")
    assert handshake.c_i == b"\x37"
    assert handshake._th_3 == value("message_3", "TH_3 (Raw")
    assert handshake._prk_3e2m == value("message_2", "PRK_3e2m")


async def test_message_3_gives_message_4_and_the_oscore_secret():
    handshake = await opened()
    established = handshake.receive(value("message_3", "message_3 "))
    assert established.peer == initiator_credential()
    assert established.message_4 == value("message_4", "message_4 ")
    assert handshake._prk_out == value("PRK_out and PRK_exporter", "PRK_out")
    assert handshake._prk_exporter == value("PRK_out and PRK_exporter", "PRK_exporter")
    assert handshake.oscore_secret() == (
        value("OSCORE Parameters", "OSCORE Master Secret"),
        value("OSCORE Parameters", "OSCORE Master Salt"),
    )
    # aiocoap asks with a list for the context.
    assert handshake.edhoc_exporter(0, [], 16) == handshake.oscore_secret()[0]


@pytest.mark.parametrize(
    ("label", "context", "section", "name"),
    [
        (key_schedule.SALT_3E2M, "TH_2", "message_2", "SALT_3e2m"),
        (key_schedule.KEYSTREAM_2, "TH_2", "message_2", "KEYSTREAM_2"),
        (key_schedule.K_3, "TH_3", "message_3", "K_3"),
        (key_schedule.IV_3, "TH_3", "message_3", "IV_3"),
        (key_schedule.SALT_4E3M, "TH_3", "message_3", "SALT_4e3m"),
        (key_schedule.K_4, "TH_4", "message_4", "K_4"),
        (key_schedule.IV_4, "TH_4", "message_4", "IV_4"),
    ],
)
def test_key_schedule(label, context, section, name):
    keys = {"TH_2": ("message_2", "PRK_2e"), "TH_3": ("message_2", "PRK_3e2m"), "TH_4": ("message_3", "PRK_4e3m")}
    places = {"TH_2": "message_2", "TH_3": "message_3", "TH_4": "message_3"}
    expected = value(section, f"{name} (Raw")
    key = value(*keys[context])
    assert key_schedule.kdf(key, label, value(places[context], f"{context} (Raw"), len(expected)) == expected


@pytest.mark.parametrize(
    ("salt", "secret", "prk"),
    [
        (("message_2", "TH_2 (Raw"), ("message_2", "G_XY"), ("message_2", "PRK_2e")),
        (("message_2", "SALT_3e2m"), ("message_2", "G_RX"), ("message_2", "PRK_3e2m")),
        (("message_3", "SALT_4e3m"), ("message_3", "G_IY"), ("message_3", "PRK_4e3m")),
    ],
)
def test_extract(salt, secret, prk):
    assert key_schedule.extract(value(*salt), value(*secret)) == value(*prk)


def invalid(what: str) -> list[object]:
    return [
        pytest.param(bytes.fromhex(v["hex"]), id=v["section"].split(" / ")[-1].replace(" ", "-"))
        for v in values()
        if v["section"].startswith("Invalid Traces") and v["name"].startswith(f"Invalid {what}")
    ]


@pytest.mark.parametrize("message_1", invalid("message_1"))
async def test_invalid_message_1_is_refused(message_1):
    class NeverAsked:
        async def ecdh(self, _: bytes) -> bytes:
            raise AssertionError("an invalid message_1 reached the token")

    asked = responder()
    asked._key = NeverAsked()
    with pytest.raises(EdhocError) as refused:
        await asked.open(message_1, choose_c_r=lambda _: b"\x27")
    # What we say is an error message: a code, then what belongs to it.
    assert refused.value.message[0] in (1, 2)


@pytest.mark.parametrize("plaintext", invalid("PLAINTEXT_2"))
def test_invalid_plaintexts_are_refused_in_our_direction(plaintext):
    # PLAINTEXT_3 is PLAINTEXT_2 without its first item (C_R, one byte here).
    with pytest.raises(MessageMalformed):
        decode_plaintext_3(plaintext[1:], mac_size=key_schedule.MAC_SIZE)


def test_invalid_message_2_as_message_3_is_refused():
    (two_items,) = (p.values[0] for p in invalid("message_2"))
    with pytest.raises(MessageMalformed):
        decode_message_3(two_items)


async def test_a_failed_aead_leaves_the_handshake():
    handshake = await opened()
    real = value("message_3", "message_3 ")
    for place in range(1, len(real)):
        forged = bytearray(real)
        forged[place] ^= 1
        with pytest.raises(NotAuthentic):
            handshake.receive(bytes(forged))
    for short in (b"\x40", b"\x41\x00", b"\x48" + b"\x00" * 8):
        with pytest.raises(NotAuthentic):
            handshake.receive(short)
    with pytest.raises(MessageMalformed):
        handshake.receive(b"")
    assert handshake.state is State.WAITING_FOR_MESSAGE_3
    assert handshake.receive(real).peer.subject == "42-50-31-FF-EF-37-32-39"


async def test_a_completed_handshake_takes_no_second_message_3():
    handshake = await opened()
    handshake.receive(value("message_3", "message_3 "))
    with pytest.raises(OutOfTurn):
        handshake.receive(value("message_3", "message_3 "))
    assert handshake.state is State.COMPLETED


async def test_nothing_is_exported_before_message_3():
    with pytest.raises(OutOfTurn):
        (await opened()).oscore_secret()


async def test_an_unknown_credential_ends_the_handshake():
    handshake = await opened(find=lambda _: None)
    with pytest.raises(EdhocError) as refused:
        handshake.receive(value("message_3", "message_3 "))
    assert cbor2.loads(refused.value.message[:1]) == 3
    assert handshake.state is State.FAILED
    with pytest.raises(OutOfTurn):
        handshake.receive(value("message_3", "message_3 "))


async def test_another_peers_credential_ends_the_handshake():
    stranger = MemoryKey(ec.generate_private_key(ec.SECP256R1()))
    real = initiator_credential()
    handshake = await opened(find=lambda _: Credential(subject="other", kid=real.kid, x=stranger.x, cred=real.cred))
    with pytest.raises(EdhocError):
        handshake.receive(value("message_3", "message_3 "))
    assert handshake.state is State.FAILED


async def test_a_copy_is_a_handshake_of_its_own():
    handshake = await opened(find=lambda _: None)
    trial = copy.copy(handshake)
    with pytest.raises(EdhocError):
        trial.receive(value("message_3", "message_3 "))
    assert (trial.state, handshake.state) == (State.FAILED, State.WAITING_FOR_MESSAGE_3)
    handshake._find_credential = lambda _: initiator_credential()
    assert handshake.receive(value("message_3", "message_3 ")).message_4 == value("message_4", "message_4 ")
