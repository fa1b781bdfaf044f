"""A bundle checked from the root certificate alone, and from what the public logs say; each part changed in turn."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cbor2
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from evidence_bundles import BATCH, RECEIPT, ROOT, STRANGE_CA, STRANGE_ROOT, certificate, der
from published_entries import ENTRIES, PLAIN, VOUCHED, device_entry, published, voucher
from published_log import KEY, ORIGIN, PRIVATE
from typer.testing import CliRunner

from farthing.evidence.batches import batch_hash
from farthing.evidence.bundle import Bundle, PublishedEntry, decode
from farthing.evidence.command import app
from farthing.evidence.proof import BundleFault, prove
from farthing.tlog.entries import BatchEntry
from farthing.tlog.note import NoteKey

WHOLE = replace(PLAIN, key_certificates=VOUCHED, published=tuple(published(ENTRIES)))

GATEWAY_OPEN = "that the batch key is the gateway's: it is the one that the ledger has on record"
CLOUD_OPEN = "that the receipt key is the cloud's: it is the one that the ledger names"


def test_the_root_alone_says_whose_every_key_is_and_what_is_published() -> None:
    before, after = prove(PLAIN, roots=[ROOT]), prove(decode(WHOLE.encode()), roots=[ROOT])
    assert {GATEWAY_OPEN, CLOUD_OPEN} <= set(before.not_proven)
    assert not {GATEWAY_OPEN, CLOUD_OPEN} & set(after.not_proven)
    assert any("published device log" in line for line in before.not_proven)
    assert not any("published device log" in line for line in after.not_proven)
    more = [line for line in after.proven if line not in before.proven]
    assert more == [
        "the batch key is the gateway's: the root says so",
        "the receipt key is the cloud's: the root says so",
        f"batch 1/1 and its receipt stand in the public log {ORIGIN}: entry 1 of 7",
        f"batch 1/2 and its receipt stand in the public log {ORIGIN}: entry 2 of 7",
        f"the certificate of {PLAIN.billed.device} stands in the public log {ORIGIN}: entry 4 of 7, then suspended",
    ]


def test_without_a_root_that_vouches_nothing_is_believed() -> None:
    for of, roots in (
        (WHOLE, []),
        (replace(WHOLE, key_certificates=()), [ROOT]),
        (
            replace(WHOLE, key_certificates=(voucher("batch", "another", BATCH), voucher("log", "cloud", PRIVATE))),
            [ROOT],
        ),
        (replace(WHOLE, key_certificates=(der(certificate(PLAIN.gateway, BATCH)),)), [ROOT]),
    ):
        proof = prove(of, roots=roots)
        assert GATEWAY_OPEN in proof.not_proven
    proof = prove(replace(WHOLE, key_certificates=()), roots=[ROOT])
    assert not any("public log" in line for line in proof.proven)
    assert any("what the public logs say" in line for line in proof.not_proven)
    # A voucher for another role is none.
    swapped = (
        voucher("receipt", PLAIN.gateway, BATCH),
        voucher("batch", "cloud", RECEIPT),
        voucher("batch", "cloud", PRIVATE),
    )
    proof = prove(replace(WHOLE, key_certificates=swapped), roots=[ROOT])
    assert {GATEWAY_OPEN, CLOUD_OPEN} <= set(proof.not_proven)
    assert not any("public log" in line for line in proof.proven)


def test_a_logs_key_from_elsewhere_counts_without_certificates() -> None:
    proof = prove(replace(WHOLE, key_certificates=()), roots=[ROOT], log_keys=[KEY])
    assert sum("stand in the public log" in line for line in proof.proven) == 2
    other = NoteKey(name=ORIGIN, kind=KEY.kind, public=bytes(32))
    with pytest.raises(BundleFault, match="not signed with the key given"):
        prove(WHOLE, roots=[ROOT], log_keys=[other])


def test_a_second_receipt_of_a_batch_says_nothing_of_this_one() -> None:
    """A restored ledger posts again: two entries, and the bundle's receipt is the one of the second."""
    first = BatchEntry(ledger_epoch=1, batch_hash=batch_hash(PLAIN.batches[0].batch.body), receipt_hash=bytes(32))
    of = replace(WHOLE, published=tuple(published([first.encode(), *ENTRIES])))
    lines = [line for line in prove(of, roots=[ROOT]).proven if "batch 1/1 and its receipt" in line]
    assert lines == [f"batch 1/1 and its receipt stand in the public log {ORIGIN}: entry 2 of 8"]


def entry(change: Callable[[PublishedEntry], PublishedEntry]) -> Bundle:
    first, *others = WHOLE.published
    return replace(WHOLE, published=(change(first), *others))


FAULTS: dict[str, tuple[Bundle, str]] = {
    "another index": (entry(lambda it: replace(it, index=it.index + 1)), "path does not lead"),
    "another path": (entry(lambda it: replace(it, path=(bytes(32), *it.path[1:]))), "path does not lead"),
    "no path": (entry(lambda it: replace(it, path=())), "path does not lead"),
    "another entry": (entry(lambda it: replace(it, entry=ENTRIES[1])), "path does not lead"),
    "no entry": (entry(lambda it: replace(it, entry=b"\x00")), "no entry"),
    "no note": (entry(lambda it: replace(it, checkpoint=b"")), "a note is"),
    "a note with another size": (
        entry(lambda it: replace(it, checkpoint=it.checkpoint.replace(b"\n7\n", b"\n8\n"))),
        "does not hold",
    ),
    "a batch that is not here": (
        replace(
            WHOLE,
            published=tuple(
                published([BatchEntry(ledger_epoch=1, batch_hash=bytes(32), receipt_hash=bytes(32)).encode()])
            ),
        ),
        "not in the bundle",
    ),
    "another device": (
        replace(WHOLE, published=tuple(published([device_entry("active", device="m-9")]))),
        "of device m-9",
    ),
    "a voucher of a stranger": (
        replace(WHOLE, key_certificates=(voucher("batch", PLAIN.gateway, BATCH, STRANGE_CA),)),
        "none of the CAs given issued it",
    ),
    "a voucher that is none": (replace(WHOLE, key_certificates=(b"certificate",)), "not an X.509 certificate"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_change_is_a_fault_with_a_name(name: str) -> None:
    of, sentence = FAULTS[name]
    with pytest.raises(BundleFault, match=sentence):
        prove(of, roots=[ROOT])


def test_a_device_whose_other_key_is_published_is_not() -> None:
    of = replace(WHOLE, published=tuple(published([device_entry("active", of=b"another certificate")])))
    assert not any("public log" in line for line in prove(of, roots=[ROOT]).proven)
    assert any("published device log" in line for line in prove(of, roots=[ROOT]).not_proven)


def test_bundles_of_the_first_format_are_read() -> None:
    plain = cbor2.loads(PLAIN.encode())
    plain["format"] = "farthing/evidence/1"
    del plain["key_certificates"], plain["published"]
    assert decode(cbor2.dumps(plain, canonical=True)) == PLAIN
    assert decode(json.dumps({**json.loads(PLAIN.encode_json()), "published": []}).encode()) == PLAIN


def test_the_command_believes_root_and_log(tmp_path: Path) -> None:
    (tmp_path / "bundle.cbor").write_bytes(WHOLE.encode())
    (tmp_path / "root.pem").write_bytes(ROOT.public_bytes(Encoding.PEM))
    (tmp_path / "strange.pem").write_bytes(STRANGE_ROOT.public_bytes(Encoding.PEM))

    def run(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["verify", str(tmp_path / "bundle.cbor"), *words])
        return done.exit_code, done.output

    code, said = run("--ca", str(tmp_path / "root.pem"), "--log-key", str(KEY))
    assert code == 0
    assert "the root says so" in said
    assert f"stand in the public log {ORIGIN}" in said
    assert run("--ca", str(tmp_path / "strange.pem"))[0] == 1
    code, said = run("--ca", str(tmp_path / "root.pem"), "--log-key", "nonsense")
    assert (code, said) == (1, "--log-key: a verifier key is written name+id+key\n")
