"""What a token holds, as its attributes say; and copies of it, as an attacker would take them."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pkcs11
from pkcs11 import Attribute, ObjectClass

from farthing.hsm import HsmError, Party, load_party
from farthing.hsm.party import PARTY_FILE, format_party
from farthing.hsm.token import find_token, read_pin
from farthing_hsm_sim.ceremony import STATIC_DH_FILE, write_secret
from farthing_hsm_sim.softhsm import CONFIGURATION_FILE, make_directory, opened, token_directory

_PURPOSES = {
    Attribute.SIGN: "sign",
    Attribute.DERIVE: "derive",
    Attribute.DECRYPT: "decrypt",
    Attribute.UNWRAP: "unwrap",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyInventory:
    """One private or secret key, by the attributes that matter."""

    label: str
    kind: str
    purposes: tuple[str, ...]
    sensitive: bool
    extractable: bool
    #: Whether it was made inside and could never be shown; None for a kind of key that does not say.
    born_inside: bool | None


def list_keys(party: Party) -> list[KeyInventory]:
    """The private and secret keys in ``party``'s token, by label; on this thread, with no ``Hsm`` running."""
    pin = read_pin(party.pin_file)
    with opened(party.module_path, party.softhsm_conf) as library:
        token = find_token(library, party.token_label)
        if token is None:
            raise HsmError(f"no token {party.token_label!r} under {party.softhsm_conf}")
        try:
            session = token.open(user_pin=pin)
        except pkcs11.PinIncorrect as err:
            raise HsmError(f"{party.pin_file} does not hold the PIN of token {party.token_label!r}") from err
        found = [
            KeyInventory(
                label=key.label,
                kind=f"{key.key_type.name} {kind.name.lower().replace('_', ' ')}",
                purposes=tuple(name for attribute, name in _PURPOSES.items() if _says(key, attribute)),
                sensitive=bool(_says(key, Attribute.SENSITIVE)),
                extractable=bool(_says(key, Attribute.EXTRACTABLE)),
                born_inside=_says(key, Attribute.LOCAL),
            )
            for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.SECRET_KEY)
            for key in session.get_objects({Attribute.CLASS: kind})
        ]
        session.close()
    return sorted(found, key=lambda each: each.label)


def clone(device: Path, out: Path) -> Party:
    """Copy an element as a thief would: its token, PIN and papers, into a SoftHSM directory of its own under ``out``.

    The copy has the same serial: two such tokens in one directory abort the process that looks, so it needs another process.
    """
    party = load_party(device)
    if party.kind != "device":
        raise HsmError(f"{device} is a {party.kind}: only devices' elements are cloned")
    if out.exists():
        raise HsmError(f"{out} is there already: a clone is made into a new folder")
    with opened(party.module_path, party.softhsm_conf) as library:
        token = find_token(library, party.token_label)
        if token is None:
            raise HsmError(f"no token {party.token_label!r} under {party.softhsm_conf}")
        serial = token.serial.decode()
    # SoftHSM names a token's folder by a UUID; its last 16 digits are the serial.
    tokens = token_directory(party.softhsm_conf)
    source = next((each for each in tokens.iterdir() if each.name.replace("-", "").endswith(serial)), None)
    if source is None:
        raise HsmError(f"no folder of token {party.token_label!r} under {tokens}")

    configuration = make_directory(out)
    shutil.copytree(source, token_directory(configuration) / source.name)
    shutil.copytree(party.certificates, out / "certificates")
    shutil.copytree(party.public, out / "public")
    write_secret(out / "pin", party.pin_file.read_bytes())
    write_secret(out / STATIC_DH_FILE, (party.folder / STATIC_DH_FILE).read_bytes())
    folder = out.absolute()
    copied = replace(
        party,
        folder=folder,
        pin_file=folder / "pin",
        softhsm_conf=folder / CONFIGURATION_FILE,
        certificates=folder / "certificates",
        public=folder / "public",
    )
    (out / PARTY_FILE).write_text(format_party(copied), encoding="utf-8")
    return load_party(out)


def _says(key: Any, attribute: Attribute) -> bool | None:
    try:
        return bool(key[attribute])
    except pkcs11.AttributeTypeInvalid:
        return None
