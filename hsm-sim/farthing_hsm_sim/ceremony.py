"""A key ceremony: every party gets a token with keys born inside, certificates from the CA's token, and a folder.

Held again with a longer plan it adds who is missing and leaves everybody else as they are; keys and certificates that parties of an
earlier ceremony lack are added to them.
"""

import hashlib
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import Attribute

from farthing.hsm import Hsm, HsmError, Party, load_party
from farthing.hsm.certificate import CertificateRequest, sign_certificate
from farthing.hsm.party import PARTY_FILE, format_party
from farthing.hsm.token import find_token, read_pin
from farthing.ids import key_uri
from farthing_hsm_sim.plan import CA, CLOUD, EDHOC_LABEL, KEYS, Plan, token_label
from farthing_hsm_sim.softhsm import (
    CONFIGURATION_FILE,
    KeyPlan,
    destroy_directory,
    find_module,
    generate_key,
    import_key,
    make_directory,
    make_token,
    opened,
    token_directory,
)

DEVICES = "devices"
#: A party whose keys are made and whose certificates are not.
UNCERTIFIED_FILE = f"{PARTY_FILE}.new"
STATIC_DH = "static-dh"
STATIC_DH_FILE = "static-dh.key"
#: Bytes of SHA-256 of a SubjectPublicKeyInfo that name a key.
KID_SIZE = 8
#: The part of our URIs that name constraints work on (RFC 5280, section 4.2.1.10).
URI_HOST = "farthing"

_YEAR = timedelta(days=365)
#: Each issuer outlives what it issues; all outlive the longest planned outage by far.
LIFETIMES = {
    "ca": 20 * _YEAR,
    "issuing": 15 * _YEAR,
    "site-ca": 15 * _YEAR,
    "identity": 10 * _YEAR,
    "statement": 10 * _YEAR,
    "tls": 2 * _YEAR,
    # They say whose signatures were whose for as long as evidence is kept and longer.
    "receipt": 15 * _YEAR,
    "log": 15 * _YEAR,
    "batch": 10 * _YEAR,
}
#: Clocks of the parties may be behind the ceremony's.
BACKDATED = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parties:
    """The folders of a ceremony, by name."""

    ca: Party
    cloud: Party
    gateways: dict[str, Party]
    devices: dict[str, Party]
    people: dict[str, Party]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    kind: str
    name: str
    folder: Path
    #: Where this party's SoftHSM directory is: its own folder, or one that it shares.
    holder: Path


def hold(plan: Plan, out: Path, *, module: Path | None = None, now: datetime | None = None) -> Parties:
    """Make every party of ``plan`` under ``out`` that is not there yet; return all of the plan.

    ``now`` (default: the wall clock) dates the certificates. ``HsmError`` says what is missing.
    """
    module = module or find_module()
    now = now or datetime.now(UTC)
    out = out.absolute()
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    places = _places(plan, out)
    missing = [each for each in places if not (each.folder / PARTY_FILE).is_file()]
    for each in places:
        if each not in missing:
            _check_tokens(out, each.holder)
    for holder in dict.fromkeys(each.holder for each in missing):
        _make_tokens(module, holder, [each for each in missing if each.holder == holder])
    incomplete = [each for each in places if each not in missing and _lacks(each)]
    for each in incomplete:
        _add_keys(module, each)
    if missing or incomplete:
        _certify([*missing, *incomplete], out / CA, now=now)

    found = {each.name: load_party(each.folder) for each in places}
    return Parties(
        ca=found[CA],
        cloud=found[CLOUD],
        gateways={name: found[name] for name in plan.gateways},
        devices={name: found[name] for name in plan.devices},
        people={name: found[name] for name in plan.people},
    )


def _places(plan: Plan, out: Path) -> list[_Place]:
    def place(kind: str, name: str) -> _Place:
        # One process runs many devices, so their tokens share one SoftHSM directory.
        folder = out / DEVICES / name if kind == "device" else out / name
        holder = out if plan.shared_tokens else out / DEVICES if kind == "device" else folder
        return _Place(kind=kind, name=name, folder=folder, holder=holder)

    return [
        place("ca", CA),
        place("cloud", CLOUD),
        *(place("gateway", name) for name in plan.gateways),
        *(place("device", name) for name in plan.devices),
        *(place("person", name) for name in plan.people),
    ]


def _check_tokens(out: Path, holder: Path) -> None:
    configuration = holder / CONFIGURATION_FILE
    if not configuration.is_file() or not token_directory(configuration).is_dir():
        raise HsmError(
            f"the tokens of {holder} are gone (destroyed, or on a tmpfs before a reboot): remove {out} and hold the ceremony anew"
        )


def _make_tokens(module: Path, holder: Path, places: Sequence[_Place]) -> None:
    configuration = holder / CONFIGURATION_FILE
    if not configuration.is_file():
        make_directory(holder)
    _check_tokens(holder, holder)
    with opened(module, configuration) as library:
        for place in places:
            if (place.folder / UNCERTIFIED_FILE).is_file():
                continue  # made by a ceremony that was stopped before the certificates
            if find_token(library, token_label(place.name)) is not None:
                raise HsmError(
                    f"{place.name} has a token and no folder: a ceremony was stopped here. `farthing-hsm-sim destroy` {holder}, "
                    "remove it, start anew"
                )
            _make_party(library, module, configuration, place)


def _make_party(library: Any, module: Path, configuration: Path, place: _Place) -> None:
    folder = place.folder
    for each in (folder, folder / "certificates", folder / "public"):
        each.mkdir(mode=0o700, parents=True, exist_ok=True)
    pin = secrets.token_urlsafe(24)
    label = token_label(place.name)
    session = make_token(library, module, label, pin)
    kid = None
    for key in KEYS[place.kind]:
        public_key = _make_key(session, key, place)
        (folder / "public" / f"{key.label}.der").write_bytes(public_key)
        if EDHOC_LABEL.get(place.kind) == key.label:
            kid = hashlib.sha256(public_key).digest()[:KID_SIZE]
            (folder / "public" / f"{key.label}.kid").write_bytes(kid)
    session.close()
    write_secret(folder / "pin", pin.encode() + b"\n")
    party = Party(
        folder=folder,
        kind=place.kind,
        id=place.name,
        module_path=module,
        token_label=label,
        pin_file=folder / "pin",
        softhsm_conf=configuration,
        certificates=folder / "certificates",
        public=folder / "public",
        static_dh_kid=kid,
    )
    # It gets its real name after the certificates, so that a ceremony that was stopped leaves no folder that looks whole.
    (folder / UNCERTIFIED_FILE).write_text(format_party(party), encoding="utf-8")


def _lacks(place: _Place) -> list[KeyPlan]:
    """Keys that parties of its kind have and this one, of an earlier ceremony, has not."""
    return [key for key in KEYS[place.kind] if not (place.folder / "public" / f"{key.label}.der").is_file()]


def _add_keys(module: Path, place: _Place) -> None:
    party = load_party(place.folder)
    with opened(module, party.softhsm_conf) as library:
        token = find_token(library, party.token_label)
        if token is None:
            raise HsmError(f"{place.name}'s token is gone: {party.softhsm_conf} has none {party.token_label!r}")
        session = token.open(rw=True, user_pin=read_pin(party.pin_file))
        for key in _lacks(place):
            if list(session.get_objects({Attribute.LABEL: key.label})):
                raise HsmError(
                    f"{place.name} has a key {key.label!r} and no public/{key.label}.der: a ceremony was stopped here. "
                    f"`farthing-hsm-sim destroy` {place.folder}, remove it, start anew"
                )
            (place.folder / "public" / f"{key.label}.der").write_bytes(_make_key(session, key, place))
        session.close()


def _make_key(session: Any, key: KeyPlan, place: _Place) -> bytes:
    if place.kind != "device" or key.label != STATIC_DH:
        return generate_key(session, key)
    # The library that speaks EDHOC for a simulated device (lakers) takes its static key raw, so this one key of a simulated
    # chip is made outside and written beside it. It opens channels; no money rests on it. Statement keys never leave.
    private = ec.generate_private_key(ec.SECP256R1())
    import_key(session, key, private)
    write_secret(place.folder / STATIC_DH_FILE, private.private_numbers().private_value.to_bytes(32, "big"))
    return private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _certify(places: Sequence[_Place], ca_folder: Path, *, now: datetime) -> None:
    ca = _read_new(ca_folder)
    with Hsm.of(ca) as hsm:
        token = hsm.attach(ca)
        ca_file = ca.certificates / "ca.pem"
        if not ca_file.is_file():
            root = _request("Farthing root CA", ca.public_key("ca"), "ca", now, path_length=1)
            ca_file.write_bytes(sign_certificate(token, "ca", root, issuer_certificate=None))
        root_pem = ca_file.read_bytes()
        for place in places:
            party = _read_new(place.folder)
            (party.certificates / "ca.pem").write_bytes(root_pem)
            for name, request in _requests(party, now).items():
                if (party.certificates / f"{name}.pem").is_file():
                    continue  # of an earlier ceremony, which gave it fewer
                pem = sign_certificate(token, "ca", request, issuer_certificate=root_pem)
                (party.certificates / f"{name}.pem").write_bytes(pem)
            if (place.folder / UNCERTIFIED_FILE).is_file():
                (place.folder / UNCERTIFIED_FILE).replace(place.folder / PARTY_FILE)


def _read_new(folder: Path) -> Party:
    """The party of ``folder``, certified or not yet."""
    return load_party(folder, file_name=PARTY_FILE if (folder / PARTY_FILE).is_file() else UNCERTIFIED_FILE)


def _requests(party: Party, now: datetime) -> dict[str, CertificateRequest]:
    """The certificates of ``party``, by file name."""

    def request(name: str, common_name: str, **more: Any) -> CertificateRequest:
        return _request(common_name, party.public_key(name), name, now, **more)

    match party.kind:
        case "cloud":
            return {
                "issuing": request("issuing", "Farthing issuing CA", path_length=0),
                **{name: request(name, party.id, uris=(key_uri(name, party.id),)) for name in ("receipt", "log")},
            }
        case "gateway":
            uris = (f"spiffe://{URI_HOST}/gateway/{party.id}",)
            return {
                "tls": request("tls", party.id, uris=uris, client=True),
                "batch": request("batch", party.id, uris=(key_uri("batch", party.id),)),
                # A site's CA names brokers and MQTT clients, which carry no URI: a stolen one cannot call itself a service, a
                # person or another gateway at the cloud's doors.
                "site-ca": request(
                    "site-ca", f"Farthing site CA {party.id}", path_length=0, excluded_uri_hosts=(URI_HOST,)
                ),
            }
        case "device":
            return {name: request(name, party.id) for name in ("identity", "statement")}
        case "person":
            return {"tls": request("tls", party.id, uris=(f"spiffe://{URI_HOST}/person/{party.id}",), client=True)}
    return {}


def _request(common_name: str, public_key: bytes, name: str, now: datetime, **more: Any) -> CertificateRequest:
    return CertificateRequest(
        common_name=common_name,
        public_key=public_key,
        not_before=now - BACKDATED,
        not_after=now + LIFETIMES[name],
        **more,
    )


def destroy_below(folder: Path) -> int:
    """Delete all tokens, PINs and raw keys below ``folder``; certificates and public keys stay. How many token directories."""
    holders = sorted({each.parent for each in folder.rglob(CONFIGURATION_FILE)})
    destroyed = sum(destroy_directory(each) for each in holders)
    for party_file in folder.rglob(PARTY_FILE):
        for name in ("pin", STATIC_DH_FILE):
            (party_file.parent / name).unlink(missing_ok=True)
    return destroyed


def write_secret(file: Path, content: bytes) -> None:
    """Write a new file that only we may read."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as opened_file:
        opened_file.write(content)
