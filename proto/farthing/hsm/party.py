"""A party's folder: where its token, PIN, certificates and public keys are, as the ceremony wrote them.

Reading a folder opens no token and needs no PIN: whoever registers a device reads its public half this way.
"""

import json
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from farthing.hsm.errors import PartyError
from farthing.ids import parse_id

PARTY_FILE = "party.toml"
#: The kinds of parties a ceremony makes.
KINDS = ("ca", "cloud", "gateway", "device", "person")
_CEREMONY = "make it with `farthing-hsm-sim ceremony`"


class _PartyFile(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    kind: str
    id: str
    module: str
    token_label: str
    pin_file: str
    softhsm_conf: str
    certificates: str
    public: str
    kid: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """Who somebody is to PKCS#11: one token, its PIN's file, and the public half of everything in it."""

    folder: Path
    kind: str
    id: str
    module_path: Path
    token_label: str
    pin_file: Path
    softhsm_conf: Path
    certificates: Path
    public: Path
    static_dh_kid: bytes | None

    def certificate(self, name: str) -> bytes:
        """The certificate ``name`` (``tls``, ``ca``, ``site-ca``, ``issuing``, …) as PEM; ``PartyError`` if there is none."""
        return self._read(self.certificates / f"{name}.pem", "certificate")

    def certificate_chain(self, name: str, *issuers: str) -> bytes:
        """The certificate ``name`` followed by those of its ``issuers`` (without the root), as PEM."""
        return b"".join(self.certificate(each) for each in (name, *issuers))

    def public_key(self, label: str) -> bytes:
        """SubjectPublicKeyInfo (DER) of the key ``label``; ``PartyError`` if there is none."""
        return self._read(self.public / f"{label}.der", "public key")

    @property
    def kid(self) -> bytes:
        """The EDHOC key identifier of this device's or gateway's static Diffie-Hellman key."""
        if self.static_dh_kid is None:
            raise PartyError(f"{self.kind} {self.id} has no static Diffie-Hellman key: only devices and gateways do")
        return self.static_dh_kid

    def _read(self, file: Path, what: str) -> bytes:
        try:
            return file.read_bytes()
        except FileNotFoundError as err:
            raise PartyError(
                f"{self.kind} {self.id} has no {what} {file.stem}: {file} is missing; {_CEREMONY}"
            ) from err
        except OSError as err:
            raise PartyError(f"cannot read the {what} {file}: {err.strerror}") from err


def load_party(folder: Path, *, file_name: str = PARTY_FILE) -> Party:
    """The party in ``folder``; raise ``PartyError`` if the folder is not what a ceremony writes."""
    file = folder / file_name
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as err:
        raise PartyError(f"no party in {folder}: {file_name} is missing; {_CEREMONY}") from err
    except (OSError, UnicodeDecodeError) as err:
        raise PartyError(f"cannot read {file}; {_CEREMONY} anew") from err
    try:
        content = _PartyFile.model_validate(tomllib.loads(text))
        parse_id(content.id)
        kid = None if content.kid is None else bytes.fromhex(content.kid)
    except (tomllib.TOMLDecodeError, ValidationError, ValueError) as err:
        raise PartyError(f"{file} is not what a ceremony writes; {_CEREMONY} anew") from err
    if content.kind not in KINDS:
        raise PartyError(f"{file} names the kind {content.kind!r}, not one of {', '.join(KINDS)}")
    folder = folder.absolute()
    return Party(
        folder=folder,
        kind=content.kind,
        id=content.id,
        module_path=Path(content.module),
        token_label=content.token_label,
        # Paths in the file are relative to the folder, so that a folder can be moved; absolute ones stay as they are.
        pin_file=folder / content.pin_file,
        softhsm_conf=folder / content.softhsm_conf,
        certificates=folder / content.certificates,
        public=folder / content.public,
        static_dh_kid=kid,
    )


def format_party(party: Party) -> str:
    """``party.toml`` for ``party``, with paths relative to its folder where they can be."""

    def path(value: Path) -> str:
        return os.path.relpath(value, party.folder)

    lines = {
        "kind": party.kind,
        "id": party.id,
        "module": str(party.module_path),
        "token_label": party.token_label,
        "pin_file": path(party.pin_file),
        "softhsm_conf": path(party.softhsm_conf),
        "certificates": path(party.certificates),
        "public": path(party.public),
    }
    if party.static_dh_kid is not None:
        lines["kid"] = party.static_dh_kid.hex()
    # A JSON string is a TOML basic string.
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items())
