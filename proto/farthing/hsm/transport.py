"""Transport keys (promise P7): where a library can serve TLS only from a key in memory, that key is good for nothing else.

It lives on tmpfs for a day and is certified by a CA key in this host's own token, so a reboot without uplink makes a new one.
"""

import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from farthing.hsm.certificate import CertificateRequest, sign_certificate
from farthing.hsm.errors import HsmError
from farthing.hsm.tmpfs import find_tmpfs, is_tmpfs, private_directory
from farthing.hsm.token import Token

LIFETIME = timedelta(days=1)
#: Clocks at a site may disagree by this much when a daemon starts.
BACKDATED = timedelta(hours=1)
_PRIVATE_NAME = "farthing-transport"


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportKey:
    """A key for the channel only: PEM files; ``certificate_file`` holds the chain below the roots, ``ca_file`` the roots."""

    key_file: Path
    certificate_file: Path
    ca_file: Path
    common_name: str
    not_after: datetime

    def remove(self) -> None:
        """Delete the three files, and the key's directory on tmpfs if nothing else is in it."""
        for file in (self.key_file, self.certificate_file, self.ca_file):
            file.unlink(missing_ok=True)
        directory = self.key_file.parent
        if directory.parent.name.startswith(_PRIVATE_NAME) and directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()


def make_transport_key(
    token: Token,
    issuer_label: str,
    *,
    issuer_certificate: bytes,
    roots: bytes,
    directory: Path | None,
    common_name: str,
    uris: Sequence[str] = (),
    dns_names: Sequence[str] = (),
    addresses: Sequence[str] = (),
    server: bool,
    client: bool,
    now: datetime | None = None,
) -> TransportKey:
    """Make a key and its certificate by ``issuer_label`` in ``token``; blocking (one token signature).

    ``issuer_certificate`` is the PEM of the issuing CA (its chain is sent along), ``roots`` the PEM to trust. The certificate and
    roots are written to ``directory`` (None: beside the key); the key always to tmpfs, mode 0600. Valid one day from ``now``
    (default: the wall clock). ``HsmError`` if there is no tmpfs or the issuer will not do.
    """
    _check_file_name(common_name)
    beside_key = _key_directory(directory)
    beside = directory or beside_key
    beside.mkdir(mode=0o700, parents=True, exist_ok=True)
    now = now or datetime.now(UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    request = CertificateRequest(
        common_name=common_name,
        public_key=key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        not_before=now - BACKDATED,
        not_after=now + LIFETIME,
        uris=uris,
        dns_names=dns_names,
        addresses=addresses,
        server=server,
        client=client,
    )
    certificate = sign_certificate(token, issuer_label, request, issuer_certificate=issuer_certificate)
    made = TransportKey(
        key_file=beside_key / f"{common_name}.key",
        certificate_file=beside / f"{common_name}.pem",
        ca_file=beside / "ca.pem",
        common_name=common_name,
        not_after=request.not_after,
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    _write(made.key_file, pem, mode=0o600)
    _write(made.certificate_file, certificate + issuer_certificate, mode=0o644)
    _write(made.ca_file, roots, mode=0o644)
    return made


def _check_file_name(common_name: str) -> None:
    if not common_name or "/" in common_name or common_name.startswith("."):
        raise HsmError(f"{common_name!r} cannot name a file: transport keys are named by their common name")


def _key_directory(directory: Path | None) -> Path:
    if directory is not None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if is_tmpfs(directory):
            return directory
    tmpfs = find_tmpfs()
    if tmpfs is None:
        raise HsmError(
            "transport keys live on tmpfs, and neither /run nor /dev/shm is one that we may write to: mount one"
        )
    ours = private_directory(tmpfs, _PRIVATE_NAME)
    _forget_expired(ours)
    # A daemon that starts again with the same directory replaces its key instead of adding one.
    name = secrets.token_hex(8) if directory is None else hashlib.sha256(os.fsencode(directory.absolute())).hexdigest()
    made = ours / name[:16]
    made.mkdir(mode=0o700, exist_ok=True)
    return made


def _forget_expired(ours: Path) -> None:
    """Delete the keys of days gone by, so that daemons that were killed leave no growing heap in memory."""
    oldest_s = time.time() - 2 * LIFETIME.total_seconds()
    for each in ours.iterdir():
        try:
            changed_s = each.stat().st_mtime
        except FileNotFoundError:
            continue  # another process forgets too
        if changed_s < oldest_s:
            shutil.rmtree(each, ignore_errors=True)


def _write(file: Path, content: bytes, *, mode: int) -> None:
    """Replace ``file`` at once: a broker that reads while we write sees the old or the new one."""
    scratch = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(content)
    scratch.replace(file)
