"""``farthing-evidence``: check a bundle without any server, from public keys alone."""

import json
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from farthing.device.cose import VerifyingKey
from farthing.device.messages import MessageError
from farthing.evidence import telling
from farthing.evidence.bundle import MAX_BUNDLE_SIZE, BundleError, decode
from farthing.evidence.proof import BundleFault, Proof, prove
from farthing.tlog.note import NoteError, NoteKey

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

BundleFile = Annotated[Path, typer.Argument(help="What `farthing-admin evidence export` wrote.", show_default=False)]
Ca = Annotated[Path, typer.Option("--ca", help="PEM of the CAs that name devices, as you have them from elsewhere.")]
MaybeCa = Annotated[
    Path | None, typer.Option("--ca", help="PEM of the CAs that name devices; else their names are not checked.")
]
GatewayKey = Annotated[
    Path | None,
    typer.Option("--gateway-key", help="The gateway's batch key (public, DER), where you have it from elsewhere."),
]
CloudKey = Annotated[
    Path | None,
    typer.Option("--cloud-key", help="The cloud's receipt key (public, DER), where you have it from elsewhere."),
]
LogKeys = Annotated[
    list[str] | None,
    typer.Option("--log-key", help="A public log's verifier key, name+id+key, where you have it from elsewhere."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document.")]


@app.callback()
def farthing_evidence() -> None:
    """Check evidence without any server, from public keys alone."""


@app.command("verify")
def verify(
    bundle: BundleFile,
    ca: Ca,
    gateway_key: GatewayKey = None,
    cloud_key: CloudKey = None,
    log_key: LogKeys = None,
    as_json: Json = False,
) -> None:
    """Say what a bundle proves and what not; a fault is named, with status 1."""
    proof = _prove(bundle, ca, gateway_key, cloud_key, log_key)
    if as_json:
        document = {
            "authorization": proof.bundle.authorization.hex(),
            "net_micros": proof.bundle.billed.net_micros,
            "tax_micros": proof.bundle.billed.tax_micros,
            "proven": proof.proven,
            "not_proven": proof.not_proven,
        }
        typer.echo(json.dumps(document, ensure_ascii=False, indent=2))
        return
    for line in telling.verdict(proof):
        typer.echo(line)


@app.command("show")
def show(
    bundle: BundleFile,
    ca: MaybeCa = None,
    gateway_key: GatewayKey = None,
    cloud_key: CloudKey = None,
    log_key: LogKeys = None,
) -> None:
    """The whole chain from what was billed to the device's signatures, once it was checked."""
    tell(_prove(bundle, ca, gateway_key, cloud_key, log_key))


def tell(proof: Proof) -> None:
    """Print the chain and the verdict."""
    for line in (*telling.chain(proof), *telling.verdict(proof)):
        typer.echo(line)


def _prove(
    bundle: Path, ca: Path | None, gateway_key: Path | None, cloud_key: Path | None, log_keys: list[str] | None
) -> Proof:
    try:
        logs = [NoteKey.parse(text) for text in log_keys or ()]
    except NoteError as err:
        _fail(f"--log-key: {err}")
    try:
        return prove(
            decode(_bytes(bundle, MAX_BUNDLE_SIZE)),
            roots=() if ca is None else read_roots(ca),
            gateway_key=None if gateway_key is None else _key(gateway_key),
            receipt_key=None if cloud_key is None else _key(cloud_key),
            log_keys=logs,
        )
    except BundleError as err:
        _fail(f"{bundle}: not a bundle: {err}")
    except BundleFault as err:
        _fail(f"{bundle}: does not hold: {err}")


def read_roots(path: Path) -> list[x509.Certificate]:
    """The CAs in a PEM file; what is wrong with it ends the command with one sentence and status 1."""
    try:
        roots = x509.load_pem_x509_certificates(_bytes(path, MAX_KEY_SIZE))
    except ValueError:
        _fail(f"{path}: no certificates in PEM")
    return roots


def read_certificate(path: Path) -> bytes:
    """One certificate (PEM or DER) as DER; what is wrong with it ends the command with one sentence and status 1."""
    data = _bytes(path, MAX_KEY_SIZE)
    try:
        load = x509.load_pem_x509_certificate if data.startswith(b"-----BEGIN") else x509.load_der_x509_certificate
        return load(data).public_bytes(Encoding.DER)
    except ValueError:
        _fail(f"{path}: no certificate in PEM or DER")


#: A file of keys or certificates.
MAX_KEY_SIZE = 1024 * 1024


def _key(path: Path) -> VerifyingKey:
    try:
        return VerifyingKey.from_spki(_bytes(path, MAX_KEY_SIZE))
    except MessageError as err:
        _fail(f"{path}: {err.reason}")


def _bytes(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as err:
        _fail(f"{path}: {err.strerror}")
    if len(data) > most:
        _fail(f"{path}: more than {most} bytes")
    return data


def _fail(sentence: str) -> NoReturn:
    typer.echo(sentence, err=True)
    raise typer.Exit(1)
