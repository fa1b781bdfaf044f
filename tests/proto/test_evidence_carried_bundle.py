"""A word that another gateway carried is proven from public keys; then each part is changed in turn, and the fault is named."""

from dataclasses import replace
from pathlib import Path

import pytest
from carried_bundle import BEGAN, STANDS, carried_batch, carried_bundle
from carried_session import DEVICE, END, GRANT, INTENT, STRANGER, register, said
from cryptography.hazmat.primitives.serialization import Encoding
from evidence_bundles import BATCH, ROOT, bundle, spki
from typer.testing import CliRunner

from farthing.device.cose import VerifyingKey
from farthing.evidence import telling
from farthing.evidence.bundle import FORMAT_CARRIED, Billed, Bundle, decode
from farthing.evidence.command import app
from farthing.evidence.proof import BundleFault, prove
from farthing.ids import GatewayId, standing_authorization_id
from farthing.v1 import batch_pb2

WHOLE = carried_bundle()
CARRIED = WHOLE.carried
assert CARRIED is not None


def end(*statements: object, grant: object = GRANT, **changes: object) -> batch_pb2.CarriedEnd:
    signed, told = said(*statements, grant=grant)
    fields = {"granted_by": "G1", "granted_incarnation": 3, "statements": signed, "grant": told, **changes}
    return batch_pb2.CarriedEnd(**fields)  # type: ignore[arg-type]  # fields by name


@pytest.mark.parametrize("form", ["cbor", "json"])
def test_an_end_that_was_carried_is_proven_offline(tmp_path: Path, form: str) -> None:
    file, root = tmp_path / f"bundle.{form}", tmp_path / "root.pem"
    file.write_bytes(WHOLE.encode() if form == "cbor" else WHOLE.encode_json().encode())
    root.write_bytes(ROOT.public_bytes(Encoding.PEM))
    assert decode(file.read_bytes()) == WHOLE
    result = CliRunner().invoke(app, ["verify", str(file), "--ca", str(root)])
    assert result.exit_code == 0, result.output
    for sentence in (
        "counted from 1000 to 5000 Wh",
        "costs 1.50 and 0.30 tax",
        "gateway G2 carried them up in a batch that it signed, for gateway G1",
        "gateway G1 signed a grant for this use",
        "the ledger receipted that batch",
        "that the grant key is gateway G1's",
    ):
        assert sentence in result.output
    shown = CliRunner().invoke(app, ["show", str(file)])
    for link in ("of gateway G2, which carried the last word", "intent 0/5", "end 0/9", "receipt     posted"):
        assert link in shown.output
    file.write_bytes(replace(WHOLE, certificates=()).encode())
    assert CliRunner().invoke(app, ["verify", str(file), "--ca", str(root)]).exit_code == 1


def test_a_one_shot_yes_and_standing_readings_are_proven_too() -> None:
    passage = end(replace(INTENT, one_shot=4000), grant=replace(GRANT, limit=5000))
    once = prove(carried_bundle(carried_batch(passage)), roots=[ROOT])
    assert any("up to 5000" in said for said in once.proven)
    readings = batch_pb2.CarriedEnd(granted_by="G1", statements=[DEVICE.signed(each) for each in (BEGAN, STANDS)])
    authorization = standing_authorization_id("dev", 0, "c1", 0, GatewayId("G1"))
    of_meter = carried_bundle(carried_batch(readings), authorization=authorization, final=False, standing=["chg-3"])
    meter = prove(of_meter, roots=[ROOT])
    assert "that the use has ended: more may be billed" in meter.not_proven
    assert any("told yes once and for all" in said for said in meter.not_proven)
    assert "reading 0/8" in "\n".join(telling.chain(meter))
    with pytest.raises(BundleFault, match="never told yes once and for all"):
        prove(carried_bundle(carried_batch(readings), authorization=authorization, final=False), roots=[ROOT])


def test_among_what_a_batch_carries_the_word_of_this_use_counts_that_came_furthest() -> None:
    another = end(INTENT, END, granted_by="G3")
    nearer = end(INTENT, replace(END, register=register(4000)))
    both = carried_bundle(carried_batch(another, nearer, end(INTENT, END)))
    proof = prove(both, roots=[ROOT])
    assert proof.carried is not None
    assert proof.carried.word.register_to == 5000


def billed(**changes: object) -> Bundle:
    fields = {name: getattr(WHOLE.billed, name) for name in Billed.__slots__} | changes
    return replace(WHOLE, billed=Billed(**fields))


def word(**changes: object) -> Bundle:
    return replace(WHOLE, carried=replace(CARRIED, **changes))


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


SIGNED = CARRIED.batch.batch
RECEIPTED = CARRIED.batch.receipt
assert RECEIPTED is not None

TAMPERED: dict[str, tuple[Bundle, str, str]] = {
    "nothing carried": (carried_bundle(carried_batch(end(INTENT, END, granted_by="G3"))), "batch 1/4", "no word of this"),
    "carrier's signature": (
        word(batch=replace(CARRIED.batch, batch=replace(SIGNED, signature=flipped(SIGNED.signature)))),
        "carried", "the carrier's signature does not hold",
    ),
    "another key": (
        word(batch=replace(CARRIED.batch, batch=replace(SIGNED, key_id=b"12345678"))), "carried", "another key than the carrier's",
    ),
    "another carrier": (word(carrier=GatewayId("G9")), "batch 1/4", "of another gateway or operator"),
    "carried by itself": (word(carrier=GatewayId("G1")), "carried", "that gave the authorization itself"),
    "another operator": (carried_bundle(carried_batch(operator_id="else")), "batch 1/4", "of another gateway or operator"),
    "another grant key": (word(grant_key=STRANGER.spki), "batch 1/4", "a grant by a key that is not the gateway's"),
    "no grant key": (word(grant_key=b""), "grant_key", ""),
    "another device's statement": (
        carried_bundle(carried_batch(end(INTENT, END, statements=[STRANGER.signed(INTENT), STRANGER.signed(END)]))),
        "batch 1/4", "a key that is not the device's",
    ),
    "more than it cost": (billed(net_micros=1_500_001), "billed", "what was carried costs 1.50 and 0.30"),
    "less than it cost": (billed(tax_micros=299_999), "billed", "what was carried costs 1.50 and 0.30"),
    "not final": (billed(final=False), "billed", "final"),
    "another interval": (billed(register_to=5001), "billed", "another register or interval"),
    "a receipt of another batch": (
        word(batch=replace(CARRIED.batch, receipt=carried_batch(sequence=5).receipt)), "batch 1/4", "a receipt of another batch",
    ),
    "a receipt's signature": (
        word(batch=replace(CARRIED.batch, receipt=replace(RECEIPTED, signature=flipped(RECEIPTED.signature)))),
        "batch 1/4", "the signature of its receipt does not hold",
    ),
    "leaves beside it": (word(batch=replace(CARRIED.batch, leaves=bundle().batches[0].leaves)), "batch 1/4", "leaves beside"),
    "batches beside it": (replace(WHOLE, batches=bundle().batches), "batches", "beside a word that was carried"),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERED)
def test_each_tampering_is_named(name: str) -> None:
    tampered, where, rule = TAMPERED[name]
    with pytest.raises(BundleFault) as caught:
        prove(decode(tampered.encode()), roots=[ROOT])
    assert caught.value.where == where
    assert rule in caught.value.rule


def test_the_carriers_key_may_come_from_elsewhere_and_a_bundle_without_such_a_word_keeps_its_form() -> None:
    given = VerifyingKey.from_spki(spki(BATCH))
    assert not any(
        "batch key is the gateway's" in said for said in prove(WHOLE, roots=[ROOT], gateway_key=given).not_proven
    )
    assert FORMAT_CARRIED.encode() in WHOLE.encode()
    assert b"farthing/evidence/2" in bundle().encode()
