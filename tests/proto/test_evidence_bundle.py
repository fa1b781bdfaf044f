"""A bundle proves a session to whoever has the CA; then each of its parts is changed in turn, and the fault is named."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from evidence_bundles import (
    BATCH,
    CA,
    RECEIPT,
    ROOT,
    STRANGE_CA,
    STRANGE_ROOT,
    bundle,
    bundled,
    certificate,
    der,
    receipted,
    sealed,
    spki,
    two_batches,
)
from evidence_scene import PRIVATE_KEYS, Scene
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from farthing.device.cose import VerifyingKey
from farthing.evidence import merkle, telling
from farthing.evidence.bundle import Bundle, BundledBatch, BundleError, decode
from farthing.evidence.command import app
from farthing.evidence.proof import BundleFault, Proof, prove
from farthing.v1 import batch_pb2

CHARGER = PRIVATE_KEYS["charger"]
SCENES = two_batches()
WHOLE = bundle(SCENES)
ENCODED = WHOLE.encode()


def proved(of: Bundle) -> Proof:
    return prove(of, roots=[ROOT])


def test_a_session_over_two_batches_is_proven_from_public_keys() -> None:
    proof = proved(decode(ENCODED))
    assert [(batch.name, len(batch.records)) for batch in proof.batches] == [("1/1", 1), ("1/2", 1)]
    assert any("counted from 998000 to 1000450 Wh" in said for said in proof.proven)
    assert any("1.125 and 0.225 tax EUR" in said for said in proof.proven)
    assert any("named by a certificate" in said for said in proof.proven)
    # P6: what no device signs is named, whatever was given.
    assert "that the payer stood there: only a token that signs could show it" in proof.not_proven
    assert "which account and quota paid: that is the gateway's word" in proof.not_proven
    whole = prove(
        WHOLE,
        roots=[STRANGE_ROOT, ROOT],
        gateway_key=VerifyingKey.from_spki(spki(BATCH)),
        receipt_key=VerifyingKey.from_spki(spki(RECEIPT)),
    )
    assert len(whole.not_proven) == len(proof.not_proven) - 2
    unrooted = prove(WHOLE, roots=())
    assert "that the device's key is a device's: no CA was given" in unrooted.not_proven
    assert not any("named by a certificate" in said for said in unrooted.proven)


def test_the_chain_names_every_link() -> None:
    told = "\n".join(telling.chain(proved(WHOLE)))
    for link in (
        "batch 1/1",
        "batch 1/2",
        "intent 1/10",
        "reading 1/11",
        "end 1/13",
        "quota q1",
        "account P",
        "receipt     posted",
    ):
        assert link in told


# --- tampering --------------------------------------------------------------------------------------------------------


def first_batch(**changes: Any) -> Bundle:
    return replace(WHOLE, batches=(replace(WHOLE.batches[0], **changes), WHOLE.batches[1]))


def first_leaf(**changes: Any) -> Bundle:
    leaf, *others = WHOLE.batches[0].leaves
    return first_batch(leaves=(replace(leaf, **changes), *others))


def flipped(data: bytes, at: int = -1) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def signed_again(change: Callable[[Scene], object]) -> Bundle:
    """What a gateway that lies could sign: its first batch, changed and sealed again."""
    first, second = two_batches()
    change(first)
    return replace(WHOLE, batches=(bundled(first), bundled(second)))


def a_leaf(**changes: Any) -> Callable[[Scene], object]:
    return lambda it: it.change(0, **changes)


def the_batch(**changes: Any) -> Callable[[Scene], object]:
    def change(it: Scene) -> None:
        for name, value in changes.items():
            setattr(it.batch, name, value)

    return change


def batch_of(body: bytes) -> Bundle:
    return first_batch(batch=sealed(BATCH, "batch", "cloud", body))


FIRST = WHOLE.batches[0]
assert FIRST.receipt is not None

TAMPERED: dict[str, tuple[Bundle, str, str]] = {
    "no certificate": (replace(WHOLE, certificates=()), "batch 1/1", "a key that is not the device's"),
    "certificate of another CA": (
        replace(WHOLE, certificates=(der(certificate("charger", CHARGER, STRANGE_CA)),)),
        "certificate 0", "none of the CAs given issued it",
    ),
    "certificate of another device": (
        replace(WHOLE, certificates=(der(certificate("toll", CHARGER)),)), "certificate 0", "it names toll",
    ),
    "certificate of a gateway": (
        replace(WHOLE, certificates=(der(certificate("charger", CHARGER, uris=["spiffe://farthing/gateway/charger"])),)),
        "certificate 0", "spiffe://farthing/gateway/charger",
    ),
    "certificate of another key": (
        replace(WHOLE, certificates=(der(certificate("charger", PRIVATE_KEYS["stranger"])),)),
        "batch 1/1", "a key that is not the device's",
    ),
    "certificate that is none": (replace(WHOLE, certificates=(b"rubbish",)), "certificate 0", "not an X.509"),
    "gateway key": (replace(WHOLE, gateway_key=spki(RECEIPT)), "batches[0]", "another key than the gateway's"),
    "gateway key that is none": (replace(WHOLE, gateway_key=b"k"), "gateway_key", "not a SubjectPublicKeyInfo"),
    "batch bytes": (
        first_batch(batch=replace(FIRST.batch, body=flipped(FIRST.batch.body))), "batches[0]", "signature does not hold",
    ),
    "batch signature": (
        first_batch(batch=replace(FIRST.batch, signature=flipped(FIRST.batch.signature))),
        "batches[0]", "signature does not hold",
    ),
    "batch that is none": (batch_of(b"\xff"), "batches[0]", "no batch"),
    "another gateway's batch": (
        signed_again(the_batch(gateway_id="gw-2")), "batch 1/1", "of another gateway or operator",
    ),
    "another operator's batch": (signed_again(the_batch(operator_id="oq")), "batch 1/1", "of another gateway or operator"),
    "more leaves than any batch has": (signed_again(the_batch(leaf_count=2**31)), "batch 1/1", "more than 20000 leaves"),
    "another root": (signed_again(the_batch(merkle_root=bytes(32))), "batch 1/1", "does not lead to the root"),
    "leaf": (first_leaf(leaf=flipped(FIRST.leaves[0].leaf)), "batch 1/1", "leaf 0 is not in the batch"),
    "leaf's place": (first_leaf(index=1), "batch 1/1", "leaf 1 is not in the batch"),
    "leaf's path": (
        first_leaf(path=(flipped(FIRST.leaves[0].path[0]), *FIRST.leaves[0].path[1:])),
        "batch 1/1", "leaf 0 is not in the batch",
    ),
    "leaf twice": (first_batch(leaves=(*FIRST.leaves, FIRST.leaves[0])), "batch 1/1", "leaf 0 stands here twice"),
    "leaf left out": (first_batch(leaves=FIRST.leaves[1:]), "batch 1/1", "not the sums of its leaves"),
    "a neighbour's leaf": (
        first_batch(leaves=(*FIRST.leaves, *bundled(SCENES[0], SCENES[0].leaves[2].authorization).leaves)),
        "batch 1/1", "a key that is not the device's",
    ),
    "amount in a leaf": (
        signed_again(a_leaf(net_micros=1)), "batch 1/1", "shares of claim",
    ),
    "total in a leaf": (signed_again(a_leaf(total_net_micros=1)), "batch 1/1", "leaf 0: the price of the interval"),
    "interval in a leaf": (signed_again(a_leaf(register_to=999_138)), "batch 1/1", "leaf 0: ends elsewhere"),
    "statement in a leaf": (
        signed_again(lambda it: it.change(0, statements=(flipped(it.leaves[0].statements[0]), it.leaves[0].statements[1]))),
        "batch 1/1", "leaf 0: a statement whose signature does not hold",
    ),
    "grant in a leaf": (signed_again(a_leaf(grant=None)), "batch 1/1", "leaf 0: a session without the grant"),
    "claim": (
        signed_again(lambda it: it.batch.claims[0].ClearField("net_micros")), "batch 1/1", "its claim has other totals",
    ),
    "no claim": (signed_again(lambda it: it.batch.claims.pop(0)), "batch 1/1", "0 claims of the authorization"),
    "receipt": (
        first_batch(receipt=replace(FIRST.receipt, body=flipped(FIRST.receipt.body))),
        "batch 1/1", "the signature of its receipt does not hold",
    ),
    "receipt of another key": (
        first_batch(receipt=replace(FIRST.receipt, key_id=bytes(8))), "batch 1/1", "another key than the cloud's",
    ),
    "receipt of another batch": (
        first_batch(receipt=WHOLE.batches[1].receipt), "batch 1/1", "a receipt of another batch",
    ),
    "receipt of other bytes": (
        first_batch(receipt=receipted(two_batches()[0].batch, b"other bytes")), "batch 1/1", "a receipt of another batch",
    ),
    "order of batches": (replace(WHOLE, batches=WHOLE.batches[::-1]), "batch 1/1", "stands before or beside"),
    "a batch twice": (replace(WHOLE, batches=(FIRST, FIRST)), "batch 1/1", "stands before or beside"),
    "last batch left out": (replace(WHOLE, batches=(FIRST,)), "billed", "another register or interval"),
    "no batches": (replace(WHOLE, batches=()), "batches", "there are none"),
    "tariff": (
        replace(WHOLE, tariffs=(replace(WHOLE.tariffs[0], ocpi_json=WHOLE.tariffs[0].ocpi_json.replace("0.25", "0.24")),)),
        "batch 1/1", "leaf 0: the price of the interval",
    ),
    "no tariff": (replace(WHOLE, tariffs=()), "batch 1/1", "a tariff version that nobody knows"),
    "tariff that is none": (
        replace(WHOLE, tariffs=(replace(WHOLE.tariffs[0], ocpi_json="{}"),)), "tariff chg-3 1", "cannot be read",
    ),
    "tariff of another name": (
        replace(WHOLE, tariffs=(replace(WHOLE.tariffs[0], tariff_id="chg-4"),)), "tariff chg-4 1", "another one",
    ),
    "unit": (
        replace(WHOLE, registers=(replace(WHOLE.registers[0], unit="s"),)), "batch 1/1", "leaf 0: the tariff does not price it",
    ),
    "modulus": (
        replace(WHOLE, registers=(replace(WHOLE.registers[0], modulus=999_999),)), "batch 1/2", "leaf 0: ends elsewhere",
    ),
    "no register": (replace(WHOLE, registers=()), "batch 1/1", "a register that nobody knows"),
    "register twice": (replace(WHOLE, registers=WHOLE.registers * 2), "register c1", "twice"),
    "authorization": (replace(WHOLE, authorization=WHOLE.authorization[::-1]), "batch 1/1", "0 claims"),
    "billed amount": (
        replace(WHOLE, billed=replace(WHOLE.billed, net_micros=1_125_001)), "billed", "1.125001 and 0.225 tax",
    ),
    "billed interval": (
        replace(WHOLE, billed=replace(WHOLE.billed, register_to=1_000_451)), "billed", "another register or interval",
    ),
    "billed as open": (replace(WHOLE, billed=replace(WHOLE.billed, final=False)), "billed", "final"),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERED)
def test_each_change_is_a_fault_with_a_name(name: str) -> None:
    changed, where, rule = TAMPERED[name]
    with pytest.raises(BundleFault) as caught:
        proved(changed)
    assert caught.value.where == where
    assert rule in caught.value.rule


def test_keys_from_elsewhere_count_more_than_the_bundles_own() -> None:
    stranger = VerifyingKey.from_spki(spki(STRANGE_CA))
    with pytest.raises(BundleFault, match="gateway_key: another key than the one given"):
        prove(WHOLE, roots=[ROOT], gateway_key=stranger)
    with pytest.raises(BundleFault, match="its receipt is signed with another key"):
        prove(WHOLE, roots=[ROOT], receipt_key=stranger)
    # An end entity issues nothing, whatever it signed.
    leaf_ca = certificate("root", CA)
    with pytest.raises(BundleFault, match="none of the CAs given"):
        prove(WHOLE, roots=[leaf_ca])


def test_what_is_missing_is_said_and_no_fault() -> None:
    without = proved(first_batch(receipt=None))
    assert "that the ledger took over batch 1/1: its receipt is not in the bundle" in without.not_proven
    # The last batch alone shows the whole price: its leaf holds the first statement and the last.
    last = proved(replace(WHOLE, batches=WHOLE.batches[1:]))
    assert last.proven[1:3] == proved(WHOLE).proven[1:3]
    aside = proved(replace(WHOLE, billed=replace(WHOLE.billed, aside=True)))
    assert "that anybody pays it: the ledger has set it aside in a case" in aside.not_proven


def test_a_parked_line_is_said() -> None:
    receipt = proved(WHOLE).batches[0].receipt
    assert receipt is not None
    receipt.parked.add(line=0, reason="a tax rate that is none")
    again = first_batch(receipt=sealed(RECEIPT, "receipt", "gw-1", receipt.SerializeToString(deterministic=True)))
    assert any("the ledger parked it (a tax rate that is none)" in said for said in proved(again).not_proven)


# --- the file ---------------------------------------------------------------------------------------------------------


def test_both_forms_are_read_back_as_the_same_bundle() -> None:
    assert decode(ENCODED) == WHOLE == decode(WHOLE.encode_json().encode())
    assert cbor2.loads(ENCODED)["format"] == "farthing/evidence/2"


@given(st.integers(0, len(ENCODED) - 1), st.integers(1, 255))
def test_no_changed_byte_proves_another_bill(at: int, mask: int) -> None:
    changed = bytearray(ENCODED)
    changed[at] ^= mask
    try:
        proof = proved(decode(bytes(changed)))
    except (BundleError, BundleFault):
        return
    # What may change is nobody's signed word: the case, the zone that this tariff does not ask, blanks of the tariff's text.
    assert replace(proof.bundle.billed, aside=False) == WHOLE.billed
    assert (proof.bundle.gateway, proof.bundle.authorization) == (WHOLE.gateway, WHOLE.authorization)
    assert [batch.batch_hash for batch in proof.batches] == [batch.batch_hash for batch in proved(WHOLE).batches]


@given(st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(lambda tail: ENCODED[:60] + tail)))
def test_whatever_the_bytes_are_the_only_exception_is_ours(data: bytes) -> None:
    with pytest.raises(BundleError):
        decode(data)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda it: it.pop("gateway"), "the bundle: gateway is missing"),
        (lambda it: it.update(more=1), "the bundle: more is no field of it"),
        (lambda it: it.update(format="farthing/evidence/9"), "another format"),
        (lambda it: it.update(format="farthing/evidence/4"), "earlier_gateway_keys is missing"),
        (lambda it: it.update(format="farthing/evidence/4", earlier_gateway_keys=[]), "no earlier keys"),
        (lambda it: it.update(authorization="00"), "authorization: expected 16 bytes"),
        (lambda it: it.update(gateway="a/b"), "an id is"),
        (lambda it: it.update(gateway_key="AB"), "not plain lower-case hexadecimal"),
        (lambda it: it.update(gateway_key="xy"), "gateway_key is not hexadecimal"),
        (lambda it: it.update(gateway_key=7), "gateway_key is not text"),
        (lambda it: it.update(batches={}), "batches is not a list"),
        (lambda it: it.update(certificates=["00"] * 65), "not a list of at most 64"),
        (lambda it: it["billed"].update(final=1), "billed: final is not a boolean"),
        (lambda it: it["billed"].update(net_micros=True), "billed: net_micros is not an integer"),
        (lambda it: it["billed"].update(net_micros=-1), "out of its range"),
        (lambda it: it["billed"].update(net_micros=2**64), "out of its range"),
        (lambda it: it["batches"][1]["leaves"][0].update(path=None), "leaves[0]: path is not a list"),
        (lambda it: it.update(registers=[1]), "registers[0]: not a map"),
    ],
)
def test_what_is_no_bundle_names_its_field(change: Callable[[Any], object], sentence: str) -> None:
    plain = json.loads(WHOLE.encode_json())
    change(plain)
    with pytest.raises(BundleError) as caught:
        decode(json.dumps(plain).encode())
    assert sentence in str(caught.value)


def test_inclusion_proofs_of_several_leaves_are_those_of_each() -> None:
    leaves = [bytes((number,)) for number in range(13)]
    assert merkle.inclusion_proofs(leaves, [12, 0, 5]) == [merkle.inclusion_proof(leaves, n) for n in (12, 0, 5)]


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "ca.pem").write_bytes(ROOT.public_bytes(Encoding.PEM))
    (tmp_path / "strange.pem").write_bytes(STRANGE_ROOT.public_bytes(Encoding.PEM))
    (tmp_path / "batch.der").write_bytes(spki(BATCH))
    (tmp_path / "receipt.der").write_bytes(spki(RECEIPT))
    (tmp_path / "b.cbor").write_bytes(ENCODED)
    (tmp_path / "b.json").write_text(WHOLE.encode_json())
    (tmp_path / "bad.cbor").write_bytes(first_leaf(index=1).encode())
    (tmp_path / "rubbish").write_bytes(b"rubbish")
    return tmp_path


def run(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_command_says_what_is_proven_and_what_not(files: Path) -> None:
    for name in ("b.cbor", "b.json"):
        result = run("verify", files / name, "--ca", files / "ca.pem")
        assert result.exit_code == 0, result.output
        assert result.output.index("not proven:") > result.output.index("proven:") == 0
    whole = run(
        "verify", files / "b.cbor", "--ca", files / "ca.pem", "--json",
        "--gateway-key", files / "batch.der", "--cloud-key", files / "receipt.der",
    )  # fmt: skip
    said = json.loads(whole.output)
    assert (said["net_micros"], said["tax_micros"]) == (1_125_000, 225_000)
    assert not any("batch key" in sentence for sentence in said["not_proven"])
    assert "that the device's certificate was not revoked, and stands in the published device log" in said["not_proven"]
    shown = run("show", files / "b.json")
    assert shown.exit_code == 0
    assert "batch 1/2" in shown.output


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("verify", "bad.cbor", "--ca", "ca.pem"), 1, "bad.cbor: does not hold: batch 1/1: leaf 1 is not in the batch"),
        (("verify", "b.cbor", "--ca", "strange.pem"), 1, "does not hold: certificate 0: none of the CAs given"),
        (("verify", "rubbish", "--ca", "ca.pem"), 1, "rubbish: not a bundle: neither CBOR nor JSON"),
        (("verify", "none", "--ca", "ca.pem"), 1, "none: No such file"),
        (("verify", "b.cbor", "--ca", "rubbish"), 1, "rubbish: no certificates in PEM"),
        (("verify", "b.cbor", "--ca", "ca.pem", "--gateway-key", "rubbish"), 1, "rubbish: not a SubjectPublicKeyInfo"),
        (("verify", "b.cbor", "--ca", "ca.pem", "--gateway-key", "receipt.der"), 1, "another key than the one given"),
        (("verify", "b.cbor"), 2, "--ca"),
    ],
)
def test_a_no_of_the_command_is_one_sentence(files: Path, words: tuple[str, ...], code: int, sentence: str) -> None:
    verb, *others = words
    result = run(verb, *(word if word.startswith("--") else files / word for word in others))
    assert result.exit_code == code
    assert sentence in result.output


def test_a_bundle_over_a_change_of_the_gateways_key_names_both_and_says_what_rests_on_its_word() -> None:
    first, *rest = WHOLE.batches
    earlier = PRIVATE_KEYS["stranger"]
    changed = replace(
        WHOLE,
        batches=(replace(first, batch=sealed(earlier, "batch", "cloud", first.batch.body)), *rest),
        earlier_gateway_keys=(spki(earlier),),
    )
    assert decode(changed.encode()) == decode(changed.encode_json().encode()) == changed
    assert b"farthing/evidence/4" in changed.encode()
    assert b"farthing/evidence/2" in WHOLE.encode()
    with pytest.raises(BundleFault, match=r"batches\[0\]: signed with another key than the gateway's"):
        prove(replace(changed, earlier_gateway_keys=()), roots=[ROOT])
    when = "that batch 1/1 was sealed while its key was the gateway's: another key followed it, and a batch says itself when it was sealed"
    whose = "that the batch key is the gateway's: it is the one that the ledger has on record"
    proof = prove(changed, roots=[ROOT], gateway_key=VerifyingKey.from_spki(spki(BATCH)))
    assert {when, whose} <= set(proof.not_proven)  # the key that was given is the last batch's alone

    uris = ["spiffe://farthing/key/batch/" + WHOLE.gateway]
    vouched = tuple(der(certificate("gateway", key, uris=uris)) for key in (BATCH, earlier))
    half = prove(replace(changed, key_certificates=vouched[:1]), roots=[ROOT])
    assert whose in half.not_proven
    both = prove(replace(changed, key_certificates=vouched), roots=[ROOT])
    assert whose not in both.not_proven
    assert "the batch key is the gateway's: the root says so" in both.proven


@pytest.mark.parametrize(
    ("evidence_class", "name", "word"),
    [
        (batch_pb2.EVIDENCE_CLASS_STATION_ATTESTED, "station-attested", "its channel was authenticated"),
        (batch_pb2.EVIDENCE_CLASS_GATEWAY_ATTESTED, "gateway-attested", "anything but the gateway measured it"),
    ],
)
def test_a_bundle_without_devices_signatures_says_whose_word_it_is(evidence_class: int, name: str, word: str) -> None:
    last = WHOLE.batches[-1]
    batch = batch_pb2.Batch.FromString(last.batch.body)
    for line in batch.lines:
        line.evidence_class = evidence_class  # type: ignore[assignment]  # a number of the enum
    batch.merkle_root, batch.leaf_count = merkle.root([]), 0
    body = batch.SerializeToString(deterministic=True)
    attested = BundledBatch(batch=sealed(BATCH, "batch", "cloud", body), receipt=receipted(batch, body), leaves=())
    proof = prove(replace(WHOLE, batches=(attested,), certificates=(), tariffs=()), roots=[ROOT])
    assert proof.evidence_class == evidence_class
    assert f"evidence      {name}" in list(telling.chain(proof))
    proven, open_ = "\n".join(proof.proven), "\n".join(proof.not_proven)
    assert f"signed 1 batch that bill authorization {WHOLE.authorization.hex()}, {name}" in proven
    assert "it says that register c1" in proven
    assert "the ledger receipted 1 of them" in proven
    # Not a word of what nobody signed.
    assert "computed again" not in proven
    assert "statements for authorization" not in proven
    assert f"that a device measured it: the evidence is {name}, and no device signed it" in open_
    assert word in open_
    assert "that it costs what was billed" in open_

    # The weakest batch counts, and what does not add up is a fault here too.
    mixed = prove(replace(WHOLE, batches=(WHOLE.batches[0], attested)), roots=[ROOT])
    assert mixed.evidence_class == evidence_class
    assert f"evidence      {name}" in list(telling.chain(mixed))
    assert prove(WHOLE, roots=[ROOT]).evidence_class == batch_pb2.EVIDENCE_CLASS_DEVICE_SIGNED
    more = replace(WHOLE.billed, net_micros=WHOLE.billed.net_micros + 1)
    with pytest.raises(BundleFault, match="the highest signed claim says"):
        prove(replace(WHOLE, batches=(attested,), billed=more), roots=[ROOT])
    batch.claims[0].shares.add(line=9)
    stray = sealed(BATCH, "batch", "cloud", batch.SerializeToString(deterministic=True))
    with pytest.raises(BundleFault, match="a share of a line that is not there"):
        prove(replace(WHOLE, batches=(replace(attested, batch=stray, receipt=None),)), roots=[ROOT])
