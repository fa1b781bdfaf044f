"""Keys behind PKCS#11, with a real SoftHSM."""

import asyncio
import os
import subprocess
import sys
import threading

import pkcs11
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from pkcs11 import Attribute, Mechanism, ObjectClass

from farthing.edhoc import MemoryKey, TokenKey
from farthing.hsm import BadPoint, Hsm, HsmError, NoSuchKey, WrappedKey
from farthing_hsm_sim.ceremony import Parties, destroy_below, hold
from farthing_hsm_sim.plan import Plan
from farthing_hsm_sim.softhsm import MODULE_PLACES

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        not any(each.is_file() for each in MODULE_PLACES), reason="no libsofthsm2.so: apt-get install softhsm2"
    ),
]


@pytest.fixture(scope="module")
def parties(tmp_path_factory):
    out = tmp_path_factory.mktemp("hsm") / "parties"
    yield hold(Plan(gateways=("gw-1", "gw-2"), devices=("m-1",), shared_tokens=True), out)
    destroy_below(out)


@pytest.fixture(scope="module")
def hsm(parties: Parties):
    with Hsm.of(parties.cloud) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(hsm, parties):
    return hsm.attach(parties.gateways["gw-1"])


@pytest.fixture(scope="module")
def cloud(hsm, parties):
    return hsm.attach(parties.cloud)


def public_key(token, label: str) -> ec.EllipticCurvePublicKey:
    return load_der_public_key(token.party.public_key(label))


def point(token, label: str) -> bytes:
    return public_key(token, label).public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def verify(key: ec.EllipticCurvePublicKey, signature: bytes, data: bytes) -> None:
    der = encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
    key.verify(der, data, ec.ECDSA(hashes.SHA256()))


async def test_signatures_verify_with_the_public_half(gateway):
    signature = await gateway.sign("batch", b"content", urgent=True)
    assert len(signature) == 64
    verify(public_key(gateway, "batch"), signature, b"content")
    with pytest.raises(InvalidSignature):
        verify(public_key(gateway, "batch"), signature, b"contenu")
    with pytest.raises(InvalidSignature):
        verify(public_key(gateway, "grant"), signature, b"content")


async def test_other_threads_sign_beside_the_event_loop(gateway):
    signatures: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: signatures.append(gateway.sign_blocking("tls", b"hello"))) for _ in range(8)
    ]
    for each in threads:
        each.start()
    together = await asyncio.gather(*(gateway.sign("grant", b"%d" % number) for number in range(200)))
    await asyncio.to_thread(lambda: [each.join() for each in threads])
    for number, signature in enumerate(together):
        verify(public_key(gateway, "grant"), signature, b"%d" % number)
    for signature in signatures:
        verify(public_key(gateway, "tls"), signature, b"hello")
    assert len(signatures) == 8


@pytest.fixture(params=["token", "memory"])
def static_key(request, gateway):
    """Both things behind ``StaticKey``, with their public x."""
    if request.param == "token":
        return TokenKey(gateway, "edhoc"), public_key(gateway, "edhoc").public_numbers().x.to_bytes(32, "big")
    made = MemoryKey(ec.generate_private_key(ec.SECP256R1()))
    return made, made.x


async def test_ecdh_agrees_whichever_y_the_peer_has(static_key):
    key, x = static_key
    for _ in range(4):
        peer = MemoryKey(ec.generate_private_key(ec.SECP256R1()))
        assert await key.ecdh(peer.x) == await peer.ecdh(x)


@pytest.mark.parametrize("x", [b"", b"\x01" * 31, b"\xff" * 32, (5).to_bytes(32, "big")[:-1] + b"\x07"])
async def test_ecdh_refuses_what_is_no_point(static_key, x):
    key, _ = static_key
    with pytest.raises(BadPoint):
        await key.ecdh(x)


async def test_a_site_key_travels_from_one_token_to_another_and_stays_there(cloud, gateway):
    await cloud.generate_hmac_key("site-s1-1")
    wrapped = await cloud.wrap_hmac_key("site-s1-1", point(gateway, "unwrap"))
    assert len(wrapped.ephemeral_public_key) == 65
    assert len(wrapped.wrapped) == 40
    await gateway.unwrap_hmac_key("unwrap", wrapped, "site-s1-1")
    assert await gateway.hmac("site-s1-1", b"token") == await cloud.hmac("site-s1-1", b"token")
    assert gateway.has_key("site-s1-1")

    with pytest.raises(HsmError, match="already"):
        await gateway.unwrap_hmac_key("unwrap", wrapped, "site-s1-1")
    # Arrived is arrived: it does not go on from there.
    with pytest.raises(HsmError):
        await gateway.wrap_hmac_key("site-s1-1", point(gateway, "unwrap"))
    await gateway.destroy_key("site-s1-1")
    assert not gateway.has_key("site-s1-1")
    with pytest.raises(NoSuchKey):
        await gateway.hmac("site-s1-1", b"token")


async def test_a_site_key_for_another_gateway_or_changed_under_way_is_refused(hsm, parties, cloud, gateway):
    other = hsm.attach(parties.gateways["gw-2"])
    await cloud.generate_hmac_key("site-s1-2")
    wrapped = await cloud.wrap_hmac_key("site-s1-2", point(other, "unwrap"))
    with pytest.raises(HsmError, match="another token"):
        await gateway.unwrap_hmac_key("unwrap", wrapped, "site-s1-2")
    changed = bytearray(wrapped.wrapped)
    changed[20] ^= 1
    with pytest.raises(HsmError):
        await other.unwrap_hmac_key(
            "unwrap",
            WrappedKey(ephemeral_public_key=wrapped.ephemeral_public_key, wrapped=bytes(changed)),
            "site-s1-2",
        )
    with pytest.raises(BadPoint):
        await other.unwrap_hmac_key(
            "unwrap", WrappedKey(ephemeral_public_key=b"\x04" * 65, wrapped=wrapped.wrapped), "site-s1-2"
        )
    assert not other.has_key("site-s1-2")


async def test_a_wrapped_key_from_software_unwraps_by_the_rule_of_the_contract(gateway):
    secret = os.urandom(32)
    ephemeral = ec.generate_private_key(ec.SECP256R1())
    kek = ephemeral.exchange(ec.ECDH(), public_key(gateway, "unwrap"))
    await gateway.unwrap_hmac_key(
        "unwrap",
        WrappedKey(
            ephemeral_public_key=ephemeral.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint),
            wrapped=aes_key_wrap(kek, secret),
        ),
        "from-software",
    )
    expected = hmac.HMAC(secret, hashes.SHA256())
    expected.update(b"plate B-XY 1")
    assert await gateway.hmac("from-software", b"plate B-XY 1") == expected.finalize()


async def test_sealed_is_bound_to_key_and_context(cloud):
    await cloud.generate_sealing_key("vault-1")
    await cloud.generate_sealing_key("vault-2")
    sealed = await cloud.seal("vault-1", b"4711", context=b"token-1")
    assert b"4711" not in sealed
    assert sealed != await cloud.seal("vault-1", b"4711", context=b"token-1")
    assert await cloud.unseal("vault-1", sealed, context=b"token-1") == b"4711"
    assert await cloud.unseal("vault-1", await cloud.seal("vault-1", b"")) == b""
    for label, data, context in (
        ("vault-1", sealed, b"token-2"),
        ("vault-1", sealed, b""),
        ("vault-2", sealed, b"token-1"),
        ("vault-1", sealed[:-1] + bytes((sealed[-1] ^ 1,)), b"token-1"),
        ("vault-1", b"short", b"token-1"),
    ):
        with pytest.raises(HsmError):
            await cloud.unseal(label, data, context=context)


async def test_a_key_that_need_not_leave_cannot(cloud, gateway):
    await cloud.generate_hmac_key("lookup", wrappable=False)
    with pytest.raises(HsmError):
        await cloud.wrap_hmac_key("lookup", point(gateway, "unwrap"))
    assert len(await cloud.hmac("lookup", b"token")) == 32


async def test_a_missing_key_is_named_with_what_there_is(gateway):
    with pytest.raises(NoSuchKey, match=r"'receipt'.*batch.*site-ca"):
        await gateway.sign("receipt", b"")
    assert not gateway.has_key("receipt")
    assert {"tls", "batch", "grant", "site-ca", "edhoc", "unwrap"} <= gateway.labels()


async def test_a_key_has_one_purpose(gateway):
    with pytest.raises(NoSuchKey, match="cannot sign"):
        await gateway.sign("edhoc", b"a key that agrees does not sign")
    with pytest.raises(NoSuchKey, match="cannot derive"):
        await gateway.ecdh("batch", MemoryKey(ec.generate_private_key(ec.SECP256R1())).x)
    with pytest.raises(NoSuchKey):
        await gateway.unwrap_hmac_key(
            "batch", WrappedKey(ephemeral_public_key=point(gateway, "batch"), wrapped=b"\0" * 40), "never"
        )
    # And the token goes on after each refusal.
    assert await gateway.sign("batch", b"")


async def test_no_key_can_be_taken_out(hsm, gateway, cloud):
    await cloud.generate_sealing_key("stay")
    await cloud.generate_hmac_key("stay-too")

    def look(token) -> list[str]:
        looked = []
        for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.SECRET_KEY):
            for key in token._session.get_objects({Attribute.CLASS: kind}):
                looked.append(key.label)
                assert key[Attribute.SENSITIVE]
                with pytest.raises((pkcs11.AttributeSensitive, pkcs11.AttributeTypeInvalid)):
                    key[Attribute.VALUE]
                if kind is ObjectClass.PRIVATE_KEY:
                    assert not key[Attribute.EXTRACTABLE]
                    # Nobody turns the attributes back, and the refusal rewrites nothing.
                    with pytest.raises(pkcs11.PKCS11Error):
                        key[Attribute.EXTRACTABLE] = True
        return looked

    def wrap(token) -> None:
        kek = token._session.generate_key(
            pkcs11.KeyType.AES, 256, template={Attribute.WRAP: True, Attribute.TOKEN: False}
        )
        for key in token._session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY}):
            with pytest.raises(pkcs11.PKCS11Error):
                kek.wrap_key(key, mechanism=Mechanism.AES_KEY_WRAP_PAD)
        kek.destroy()

    assert len(hsm._thread.run(lambda: look(gateway))) >= 6
    assert {"stay", "stay-too"} <= set(hsm._thread.run(lambda: look(cloud)))
    hsm._thread.run(lambda: wrap(gateway))
    assert await gateway.sign("batch", b"")


def test_the_same_party_twice_is_one_token(hsm, parties, gateway):
    assert hsm.attach(parties.gateways["gw-1"]) is gateway


def test_a_second_hsm_in_the_process_is_refused(hsm, parties, tmp_path):
    with pytest.raises(HsmError, match="already"):
        Hsm.of(parties.cloud).start()
    with pytest.raises(HsmError, match="running Hsm"):
        hold(Plan(), tmp_path / "another")
    destroy_below(tmp_path)


# What a kill leaves behind, and what is missing or wrong, each in a process of its own: one process has one Hsm.

CHILD = """
import sys
from dataclasses import replace
from pathlib import Path
from farthing.hsm import Hsm, HsmError, load_party
party = load_party(Path(sys.argv[1]))
what = sys.argv[2]
if what == "module": party = replace(party, module_path=Path("/nowhere/lib.so"))
if what == "not-a-module": party = replace(party, module_path=Path(sys.argv[1]) / "party.toml")
if what == "configuration": party = replace(party, softhsm_conf=Path("/nowhere/softhsm2.conf"))
if what == "token": party = replace(party, token_label="nobody")
if what == "pin": party = replace(party, pin_file=Path(sys.argv[3]))
try:
    with Hsm.of(party) as hsm:
        hsm.attach(party)
        hsm.attach(party)
except HsmError as err:
    print(err)
    sys.exit(3)
with Hsm.of(party) as again:
    print(again.attach(party).sign_blocking("batch", b"").hex())
"""


def run_child(party, *arguments: str) -> tuple[int, str]:
    ran = subprocess.run(
        [sys.executable, "-c", CHILD, str(party.folder), *arguments], capture_output=True, text=True, timeout=60
    )
    assert not ran.stderr, ran.stderr
    return ran.returncode, ran.stdout


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("module", "apt-get install softhsm2"),
        ("not-a-module", "does not load"),
        ("configuration", "no SoftHSM configuration /nowhere/softhsm2.conf"),
        ("token", "farthing-hsm-sim ceremony"),
    ],
)
def test_what_is_missing_is_said(parties, what, says):
    code, text = run_child(parties.gateways["gw-1"], what)
    assert code == 3
    assert says in text


def test_a_wrong_pin_is_said_and_open_pin_files_are_refused(parties, tmp_path):
    pin = tmp_path / "pin"
    pin.write_text("not-the-pin\n")
    pin.chmod(0o600)
    assert run_child(parties.gateways["gw-1"], "pin", str(pin)) == (
        3,
        f"{pin} does not hold the PIN of token 'gw-1': write the right one into it\n",
    )
    pin.write_text(parties.gateways["gw-1"].pin_file.read_text())
    pin.chmod(0o640)
    code, text = run_child(parties.gateways["gw-1"], "pin", str(pin))
    assert code == 3
    assert "chmod 600" in text
    pin.chmod(0o600)
    code, text = run_child(parties.gateways["gw-1"], "pin", str(pin))
    assert code == 0
    assert len(text.strip()) == 128
    pin.write_text("")
    assert "is empty" in run_child(parties.gateways["gw-1"], "pin", str(pin))[1]
    assert "no PIN file" in run_child(parties.gateways["gw-1"], "pin", str(tmp_path / "none"))[1]


TORN = """
import asyncio, sys
from pathlib import Path
from farthing.hsm import Hsm
from farthing_hsm_sim.ceremony import hold
from farthing_hsm_sim.plan import Plan
party = hold(Plan(gateways=("gw-1",)), Path(sys.argv[1])).gateways["gw-1"]
folder = (party.softhsm_conf.parent / "tokens").resolve()
before = set(folder.rglob("*.object"))
with Hsm.of(party) as hsm:
    token = hsm.attach(party)
    asyncio.run(token.generate_hmac_key("site"))
    mac = asyncio.run(token.hmac("site", b"token"))
    kept = token.labels()
    made = sorted(set(folder.rglob("*.object")) - before)
assert len(made) == 2, made
seen = set()
whole_of = {file: file.read_bytes() for file in made}
for file, whole in whole_of.items():
    for size in range(0, len(whole), 7):
        file.write_bytes(whole[:size])
        with Hsm.of(party) as hsm:
            token = hsm.attach(party)
            assert kept - token.labels() <= {"site"}, (size, token.labels())
            seen.add(token.has_key("site"))
            if token.has_key("site"):
                assert asyncio.run(token.hmac("site", b"token")) == mac, size
    with Hsm.of(party) as hsm:
        token = hsm.attach(party)
        asyncio.run(token.generate_hmac_key("site"))
        again = asyncio.run(token.hmac("site", b"token"))
        assert again != mac
    with Hsm.of(party) as hsm:
        token = hsm.attach(party)
        assert asyncio.run(token.hmac("site", b"token")) == again
        asyncio.run(token.destroy_key("site"))
    for each in set(folder.rglob("*.object")) - before:
        each.unlink()
    for each, content in whole_of.items():
        each.write_bytes(content)
with Hsm.of(party) as hsm:
    assert asyncio.run(hsm.attach(party).hmac("site", b"token")) == mac
print(sorted(seen))
"""


def test_a_key_whose_making_was_cut_short_is_never_used(tmp_path):
    """SoftHSM writes in place: a process killed meanwhile leaves objects cut at any byte."""
    try:
        ran = subprocess.run(
            [sys.executable, "-c", TORN, str(tmp_path / "parties")], capture_output=True, text=True, timeout=100
        )
        assert ran.returncode == 0, ran.stderr
        assert "False" in ran.stdout
    finally:
        destroy_below(tmp_path)


async def test_what_is_remembered_takes_the_place_of_what_was(gateway) -> None:
    assert await gateway.remembered("mark") == []
    await gateway.remember("mark", b"one")
    await gateway.remember("mark", b"two")
    await gateway.remember("other", b"three")
    assert await gateway.remembered("mark") == [b"two"]
