"""Signed notes and checkpoints: known answers from the specifications, and one test for each thing that can be wrong."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from farthing.tlog.checkpoint import Checkpoint, open_checkpoint, parse_checkpoint
from farthing.tlog.entries import BatchEntry, DeviceEntry, EntryError, decode
from farthing.tlog.note import (
    NoteError,
    NoteKey,
    SignatureType,
    SignedNote,
    cosignature,
    cosigned_message,
    note_signature,
    parse_note,
    verify,
)

# The example of the reference implementation of signed notes (golang.org/x/mod/sumdb/note).
NEUMANN = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
NEUMANN_SEED = base64.b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
NEUMANN_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
NEUMANN_NOTE = (
    f"{NEUMANN_TEXT}\n— PeterNeumann "
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
).encode()
# tlog-checkpoint and tlog-cosignature show it.
SOFA = """example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==
""".encode()


def made_key(name: str, kind: SignatureType = SignatureType.ED25519) -> tuple[NoteKey, Ed25519PrivateKey]:
    private = Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b"."))
    public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return NoteKey(name=name, kind=kind, public=public), private


LOG, LOG_PRIVATE = made_key("example.com/log")
WITNESS, WITNESS_PRIVATE = made_key("example.com/w1", SignatureType.COSIGNATURE)
HEAD = Checkpoint(origin="example.com/log", size=7, root=bytes(range(32)))


def signed(text: str) -> SignedNote:
    return SignedNote(text=text, signatures=(note_signature(LOG, LOG_PRIVATE.sign(text.encode())),))


def test_the_known_note_verifies_and_is_made_again_to_the_byte() -> None:
    key = NoteKey.parse(NEUMANN)
    assert str(key) == NEUMANN
    note = parse_note(NEUMANN_NOTE)
    assert (note.text, note.encode()) == (NEUMANN_TEXT, NEUMANN_NOTE)
    assert verify(note, key) is None
    private = Ed25519PrivateKey.from_private_bytes(NEUMANN_SEED)
    made = SignedNote(text=NEUMANN_TEXT, signatures=(note_signature(key, private.sign(NEUMANN_TEXT.encode())),))
    assert made.encode() == NEUMANN_NOTE


def test_the_checkpoint_of_the_specification() -> None:
    note = parse_note(SOFA)
    assert note.encode() == SOFA
    checkpoint = parse_checkpoint(note.text)
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20_852_163)
    assert checkpoint.text == note.text
    assert [(each.name, len(each.signature)) for each in note.signatures] == [
        ("example.com/behind-the-sofa", 64),
        ("witness.example.com/w1", 72),
    ]
    # The message that the specification spells out for that cosignature.
    assert cosigned_message(note.text, time_s=1_679_315_147) == (
        b"cosignature/v1\ntime 1679315147\nexample.com/behind-the-sofa\n20852163\n"
        b"CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    )
    assert int.from_bytes(note.signatures[1].signature[:8], "big") == 1_679_315_147


def test_a_checkpoint_opens_with_the_logs_key_whoever_else_signed() -> None:
    note = signed(HEAD.text)
    cosigned = note.signed_with(
        cosignature(WITNESS, WITNESS_PRIVATE.sign(cosigned_message(HEAD.text, time_s=99)), time_s=99)
    )
    for data in (note.encode(), cosigned.encode()):
        assert open_checkpoint(data, LOG)[0] == HEAD
    assert verify(parse_note(cosigned.encode()), WITNESS) == 99
    again = cosigned.signed_with(
        cosignature(WITNESS, WITNESS_PRIVATE.sign(cosigned_message(HEAD.text, time_s=100)), time_s=100)
    )
    assert len(again.signatures) == 2
    assert verify(again, WITNESS) == 100


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("another size", lambda note: note.replace(b"\n7\n", b"\n8\n")),
        ("another origin", lambda note: note.replace(b"example.com/log\n7", b"example.com/gol\n7")),
        ("another text under the signature", lambda note: b"x" + note),
        (
            "no signature of the log",
            lambda note: note.replace("— example.com/log".encode(), "— example.com/gol".encode()),
        ),
        ("no blank line", lambda note: note.replace(b"\n\n", b"\n")),
        ("no newline at the end", lambda note: note[:-1]),
        ("a tab", lambda note: note.replace(b"example.com", b"exam\tle.com")),
        ("no UTF-8", lambda note: b"\xff" + note),
        ("a hyphen for the dash", lambda note: note.replace("—".encode(), b"-")),
        ("no base64", lambda note: note[:-3] + b"!=\n"),
        ("too many signatures", lambda note: note + note.split(b"\n\n")[1] * 64),
        ("too large", lambda note: b"x" * 200_000 + note),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_signed_so_is_refused(name, change) -> None:
    with pytest.raises(NoteError):
        open_checkpoint(change(signed(HEAD.text).encode()), LOG)


def test_one_bad_signature_of_a_known_key_spoils_the_note() -> None:
    note = signed(HEAD.text)
    twice = SignedNote(text=note.text, signatures=(*note.signatures, note_signature(LOG, bytes(64))))
    with pytest.raises(NoteError, match="does not hold"):
        verify(twice, LOG)


def test_a_witness_signs_the_time_too() -> None:
    good = cosignature(WITNESS, WITNESS_PRIVATE.sign(cosigned_message(HEAD.text, time_s=99)), time_s=99)
    later = SignedNote(text=HEAD.text, signatures=(cosignature(WITNESS, good.signature[8:], time_s=100),))
    with pytest.raises(NoteError, match="does not hold"):
        verify(later, WITNESS)
    # A log's signature over the plain text is no cosignature, whatever the key.
    plain = WITNESS_PRIVATE.sign(HEAD.text.encode())
    with pytest.raises(NoteError, match="does not hold"):
        verify(SignedNote(text=HEAD.text, signatures=(cosignature(WITNESS, plain, time_s=99),)), WITNESS)
    with pytest.raises(NoteError, match="size"):
        verify(SignedNote(text=HEAD.text, signatures=(note_signature(WITNESS, plain),)), WITNESS)


@pytest.mark.parametrize(
    "text",
    [
        "example.com/log\n7\n",
        "example.com/log\n07\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
        "example.com/log\n-7\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
        "example.com/log\n9223372036854775808\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
        "example.com/log\n7\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh9=\n",
        "example.com/log\n7\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHg==\n",
        "example.com/log\n7\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n\n",
        "a b\n7\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
        "\n7\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
    ],
)
def test_what_is_no_checkpoint(text: str) -> None:
    with pytest.raises(NoteError):
        parse_checkpoint(text)


def test_extension_lines_are_kept() -> None:
    text = HEAD.text + "anything\n"
    assert parse_checkpoint(text).extensions == ("anything",)
    assert open_checkpoint(signed(text).encode(), LOG)[0].size == 7


@pytest.mark.parametrize(
    "text",
    [
        "PeterNeumann",
        "PeterNeumann+c74f20a3",
        "PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+c74f20a3+AxpC2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+c74f20a3+ARpc2QcU",
        "PeterNeumann+c74f20a3+",
        "Peter Neumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    ],
)
def test_what_is_no_verifier_key(text: str) -> None:
    with pytest.raises(NoteError):
        NoteKey.parse(text)


def test_entries_have_one_encoding() -> None:
    batch = BatchEntry(ledger_epoch=2, batch_hash=b"b" * 32, receipt_hash=b"r" * 32)
    device = DeviceEntry(
        device="m-1",
        device_epoch=1,
        operator="city",
        status="active",
        statement_key_hash=b"k" * 32,
        certificate_hash=b"c" * 32,
        at_us=5,
    )
    assert decode(batch.encode()) == batch
    assert decode(device.encode()) == device
    for wrong in (
        b"",
        batch.encode() + b"\x00",
        BatchEntry(ledger_epoch=2, batch_hash=b"b" * 31, receipt_hash=b"r" * 32).encode(),
        batch.encode().replace(b"batch/1", b"batch/2"),
        device.encode().replace(b"factive", b"fbctive"),
        device.encode().replace(b"cm-1", b"cm 1"),
    ):
        with pytest.raises(EntryError):
            decode(wrong)
