"""Party folders are read strictly; what is wrong is said with what to do."""

from pathlib import Path

import pytest

from farthing.hsm import Party, PartyError, load_party
from farthing.hsm.party import format_party


@pytest.fixture
def party(tmp_path) -> Party:
    made = Party(
        folder=tmp_path,
        kind="gateway",
        id="gw-1",
        module_path=Path("/usr/lib/softhsm/libsofthsm2.so"),
        token_label="gw-1",
        pin_file=tmp_path / "pin",
        softhsm_conf=tmp_path.parent / "softhsm2.conf",
        certificates=tmp_path / "certificates",
        public=tmp_path / "public",
        static_dh_kid=b"\x01\x02",
    )
    (tmp_path / "party.toml").write_text(format_party(made))
    (tmp_path / "certificates").mkdir()
    (tmp_path / "public").mkdir()
    return made


def test_what_is_written_is_read(party, tmp_path):
    assert load_party(tmp_path).kid == b"\x01\x02"
    read = load_party(tmp_path)
    assert read.softhsm_conf.resolve() == party.softhsm_conf.resolve()
    assert (read.kind, read.id, read.pin_file, read.module_path) == (
        "gateway",
        "gw-1",
        party.pin_file,
        party.module_path,
    )


def test_a_moved_folder_is_still_a_party(party, tmp_path):
    moved = tmp_path.rename(tmp_path.with_name("elsewhere"))
    assert load_party(moved).pin_file == moved / "pin"


def test_public_halves_and_certificates(party):
    (party.public / "batch.der").write_bytes(b"spki")
    (party.certificates / "tls.pem").write_bytes(b"one\n")
    (party.certificates / "ca.pem").write_bytes(b"two\n")
    assert party.public_key("batch") == b"spki"
    assert party.certificate_chain("tls", "ca") == b"one\ntwo\n"
    with pytest.raises(PartyError, match=r"gateway gw-1 has no public key grant.*ceremony"):
        party.public_key("grant")
    with pytest.raises(PartyError, match="no certificate issuing"):
        party.certificate("issuing")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text + 'colour = "red"\n', "not what a ceremony writes"),
        (lambda text: text.replace('kind = "gateway"', 'kind = "stranger"'), "stranger"),
        (lambda text: text.replace('kid = "0102"', 'kid = "xyz"'), "not what a ceremony writes"),
        (lambda text: text.replace('id = "gw-1"\n', ""), "not what a ceremony writes"),
        (lambda text: text.replace('id = "gw-1"', 'id = "../gw-1"'), "not what a ceremony writes"),
        (lambda text: text.replace('"', ""), "not what a ceremony writes"),
    ],
)
def test_what_no_ceremony_writes_is_refused(party, tmp_path, change, says):
    file = tmp_path / "party.toml"
    file.write_text(change(file.read_text()))
    with pytest.raises(PartyError, match=says):
        load_party(tmp_path)


def test_no_folder(tmp_path):
    with pytest.raises(PartyError, match="ceremony"):
        load_party(tmp_path / "nobody")


def test_who_has_no_static_key_says_so(tmp_path, party):
    text = "".join(line for line in format_party(party).splitlines(keepends=True) if not line.startswith("kid"))
    (tmp_path / "party.toml").write_text(text)
    with pytest.raises(PartyError, match="static"):
        _ = load_party(tmp_path).kid
