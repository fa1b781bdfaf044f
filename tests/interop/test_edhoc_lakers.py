"""Our EDHOC responder against lakers, the initiator that our simulated devices use: every secret agrees."""

import lakers
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from farthing.edhoc import (
    Credential,
    EdhocError,
    Handshake,
    HandshakeFailed,
    MemoryKey,
    NotAuthentic,
    Responder,
    State,
    TokenKey,
    credential,
)
from farthing.hsm import Hsm
from farthing_hsm_sim.ceremony import STATIC_DH_FILE, destroy_below, hold
from farthing_hsm_sim.plan import Plan
from farthing_hsm_sim.softhsm import MODULE_PLACES

THREE_BYTES = b"\x01\x02\x03"


class Side:
    """A static key in memory and its credential."""

    def __init__(self, subject: str, kid: bytes) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        spki = self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.credential = credential(subject, kid, spki)
        self.raw = self.key.private_numbers().private_value.to_bytes(32, "big")


def responder(gateway: Side, *devices: Side) -> Responder:
    known = {each.credential.kid: each.credential for each in devices}
    return Responder(key=MemoryKey(gateway.key), credential=gateway.credential, find_credential=known.get)


async def open_with_lakers(
    asked: Responder, gateway: Credential, *, c_i: bytes = b"\x05", c_r: bytes = THREE_BYTES, ead=()
) -> tuple[lakers.EdhocInitiator, Handshake]:
    initiator = lakers.EdhocInitiator()
    handshake = await asked.open(initiator.prepare_message_1(c_i, list(ead)), choose_c_r=lambda _: c_r)
    said_c_r, id_cred_r, ead_2 = initiator.parse_message_2(handshake.message_2)
    assert (said_c_r, ead_2) == (c_r, [])
    assert id_cred_r == b"\xa1\x04" + bytes([0x40 + len(gateway.kid)]) + gateway.kid
    return initiator, handshake


def finish(initiator, handshake: Handshake, device: Credential, raw: bytes, gateway: Credential) -> None:
    initiator.verify_message_2(raw, device.cred, gateway.cred)
    message_3, prk_out = initiator.prepare_message_3(lakers.CredentialTransfer.ByReference, None)
    established = handshake.receive(message_3)
    assert established.peer == device
    assert initiator.process_message_4(established.message_4) == []
    assert bytes(prk_out) == handshake._prk_out
    assert (initiator.edhoc_exporter(0, [], 16), initiator.edhoc_exporter(1, [], 8)) == handshake.oscore_secret()
    # lakers takes labels of one byte only: CBOR's integers up to 23.
    assert initiator.edhoc_exporter(23, [1, 2, 3], 32) == handshake.edhoc_exporter(23, b"\x01\x02\x03", 32)


@pytest.mark.parametrize(
    ("device_kid", "gateway_kid"),
    [
        pytest.param(b"\x2b", b"\x32", id="integers"),
        pytest.param(b"\xab", b"\x18", id="one byte that is no integer"),
        pytest.param(b"abcdefgh", b"12345678", id="eight bytes"),
    ],
)
@pytest.mark.parametrize("c_r", [b"\x27", b"\x18", THREE_BYTES])
async def test_every_secret_agrees(device_kid, gateway_kid, c_r):
    device, gateway = Side("m-1", device_kid), Side("gw-1", gateway_kid)
    asked = responder(gateway, device, Side("m-2", b"\x01"))
    initiator, handshake = await open_with_lakers(asked, gateway.credential, c_r=c_r)
    finish(initiator, handshake, device.credential, device.raw, gateway.credential)


async def test_external_data_that_is_not_critical_is_passed_over():
    device, gateway = Side("m-1", b"\x2b"), Side("gw-1", b"\x32")
    # What aiocoap's client sends: please send your credential by value.
    wish = lakers.EADItem(14, is_critical=False)
    initiator, handshake = await open_with_lakers(responder(gateway, device), gateway.credential, ead=[wish])
    finish(initiator, handshake, device.credential, device.raw, gateway.credential)


async def test_critical_external_data_is_refused():
    gateway = Side("gw-1", b"\x32")
    message_1 = lakers.EdhocInitiator().prepare_message_1(b"\x05", [lakers.EADItem(14, is_critical=True)])
    with pytest.raises(EdhocError):
        await responder(gateway).open(message_1, choose_c_r=lambda _: THREE_BYTES)


async def test_a_device_that_nobody_knows_is_refused():
    device, gateway = Side("m-1", b"\x2b"), Side("gw-1", b"\x32")
    initiator, handshake = await open_with_lakers(responder(gateway), gateway.credential)
    initiator.verify_message_2(device.raw, device.credential.cred, gateway.credential.cred)
    message_3, _ = initiator.prepare_message_3(lakers.CredentialTransfer.ByReference, None)
    with pytest.raises(HandshakeFailed):
        handshake.receive(message_3)
    assert handshake.state is State.FAILED


async def test_who_only_knows_a_kid_is_refused_and_the_handshake_is_over():
    device, gateway, thief = Side("m-1", b"\x2b"), Side("gw-1", b"\x32"), Side("m-1", b"\x2b")
    initiator, handshake = await open_with_lakers(responder(gateway, device), gateway.credential)
    initiator.verify_message_2(thief.raw, thief.credential.cred, gateway.credential.cred)
    message_3, _ = initiator.prepare_message_3(lakers.CredentialTransfer.ByReference, None)
    with pytest.raises(HandshakeFailed, match="m-1"):
        handshake.receive(message_3)
    assert handshake.state is State.FAILED


async def test_strangers_cannot_end_somebody_elses_handshake():
    device, gateway = Side("m-1", b"\x2b"), Side("gw-1", b"\x32")
    asked = responder(gateway, device)
    initiator, handshake = await open_with_lakers(asked, gateway.credential)
    other, other_handshake = await open_with_lakers(asked, gateway.credential)
    other.verify_message_2(device.raw, device.credential.cred, gateway.credential.cred)
    message_3_of_other, _ = other.prepare_message_3(lakers.CredentialTransfer.ByReference, None)
    with pytest.raises(NotAuthentic):
        handshake.receive(message_3_of_other)
    finish(initiator, handshake, device.credential, device.raw, gateway.credential)
    assert other_handshake.receive(message_3_of_other).peer == device.credential


async def test_an_initiator_notices_another_gateway():
    device, gateway, impostor = Side("m-1", b"\x2b"), Side("gw-1", b"\x32"), Side("gw-1", b"\x32")
    initiator, _ = await open_with_lakers(responder(impostor, device), gateway.credential)
    with pytest.raises(ValueError, match="Mac"):
        initiator.verify_message_2(device.raw, device.credential.cred, gateway.credential.cred)


@pytest.mark.real
@pytest.mark.skipif(
    not any(each.is_file() for each in MODULE_PLACES), reason="no libsofthsm2.so: apt-get install softhsm2"
)
async def test_with_the_parties_of_a_ceremony_and_the_gateways_key_in_its_token(tmp_path):
    parties = hold(Plan(gateways=("gw-1",), devices=("m-1", "m-2")), tmp_path / "parties")
    gateway, devices = parties.gateways["gw-1"], parties.devices.values()
    known = {each.kid: credential(each.id, each.kid, each.public_key("static-dh")) for each in devices}
    own = credential(gateway.id, gateway.kid, gateway.public_key("edhoc"))
    try:
        with Hsm.of(gateway) as hsm:
            asked = Responder(key=TokenKey(hsm.attach(gateway), "edhoc"), credential=own, find_credential=known.get)
            for device in devices:
                initiator, handshake = await open_with_lakers(asked, own)
                raw = (device.folder / STATIC_DH_FILE).read_bytes()
                finish(initiator, handshake, known[device.kid], raw, own)
    finally:
        destroy_below(tmp_path)
