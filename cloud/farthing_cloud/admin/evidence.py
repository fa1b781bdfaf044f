"""``farthing-admin evidence``: from what a payer was billed down to the device's signatures, and a file that proves it to others."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import grpc
import typer

from farthing.evidence.batches import batch_hash
from farthing.evidence.bundle import (
    MAX_BUNDLE_SIZE,
    MAX_NAMED,
    MAX_PUBLISHED,
    Bundle,
    BundleError,
    PublishedEntry,
    decode,
)
from farthing.evidence.command import MaybeCa, read_certificate, read_roots, tell
from farthing.evidence.command import verify as verify_bundle
from farthing.evidence.proof import BundleFault, prove
from farthing.ids import AUTHORIZATION_ID_SIZE
from farthing.tlog.entries import BATCHES, DEVICES
from farthing.v1 import ledger_pb2, ledger_pb2_grpc, publiclog_pb2, publiclog_pb2_grpc, registry_pb2, registry_pb2_grpc
from farthing_cloud.admin.session import CALL_TIMEOUT_S, Operator, back_office, fail

evidence = typer.Typer(help="What a bill rests on.", no_args_is_help=True)

Authorization = Annotated[
    str,
    typer.Argument(
        help="An authorization's id, 32 hexadecimal digits: `ledger claims` lists them.", show_default=False
    ),
]
GatewayChoice = Annotated[str, typer.Option("--gateway", help="Whose claim, where several gateways claim it.")]
Last = Annotated[
    int,
    typer.Option(
        "--last", min=0, help="Only so many of the newest batches: a standing authorization has one in each. 0: all."
    ),
]

Certificates = Annotated[
    list[Path] | None,
    typer.Option(
        "--certificate",
        help="An earlier certificate of the device (PEM or DER), where its key was replaced since: the registry keeps the present one.",
    ),
]


@evidence.command("show")
def show(
    ctx: typer.Context,
    operator: Operator,
    authorization: Authorization,
    gateway: GatewayChoice = "",
    last: Last = 0,
    ca: MaybeCa = None,
    certificate: Certificates = None,
) -> None:
    """The chain in words: claim, batches, leaves, statements, receipts; checked on the way."""
    bundle = _fetch(ctx, operator, _id(authorization), gateway, last, certificate or [])
    try:
        tell(prove(bundle, roots=() if ca is None else read_roots(ca)))
    except BundleFault as err:
        fail(f"does not hold: {err}")


@evidence.command("export")
def export(
    ctx: typer.Context,
    operator: Operator,
    authorization: Authorization,
    out: Annotated[Path, typer.Option("--out", help="A new file, .cbor or .json.", show_default=False)],
    gateway: GatewayChoice = "",
    last: Last = 0,
    certificate: Certificates = None,
) -> None:
    """Write a bundle that `farthing-evidence verify` checks without any server."""
    if out.suffix not in (".cbor", ".json"):
        raise typer.BadParameter(f"{out}: write a name that ends in .cbor or .json", param_hint="--out")
    bundle = _fetch(ctx, operator, _id(authorization), gateway, last, certificate or [])
    data = bundle.encode() if out.suffix == ".cbor" else bundle.encode_json().encode()
    try:
        with out.open("xb") as file:
            file.write(data)
    except OSError as err:
        fail(f"{out}: {err.strerror}")
    typer.echo(
        f"{out}: {len(data)} bytes, {len(bundle.signed_batches)} batches, {len(bundle.certificates)} certificates"
    )


evidence.command("verify")(verify_bundle)


def _id(text: str) -> bytes:
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != AUTHORIZATION_ID_SIZE:
        raise typer.BadParameter(
            f"{text!r} is no authorization's id: write its {2 * AUTHORIZATION_ID_SIZE} hexadecimal digits",
            param_hint="AUTHORIZATION",
        )
    return found


def _fetch(
    ctx: typer.Context, operator: str, authorization: bytes, gateway: str, last: int, earlier: list[Path]
) -> Bundle:
    """The ledger's bundle with the registry's certificates and earlier ones."""
    given = [read_certificate(path) for path in earlier]
    request = ledger_pb2.ExportEvidenceRequest(
        operator_id=operator, authorization_id=authorization, gateway_id=gateway, last_batches=last
    )
    data = bytearray()
    with back_office(ctx) as channel:
        for answer in ledger_pb2_grpc.LedgerStub(channel).ExportEvidence(request, timeout=CALL_TIMEOUT_S):
            data += answer.part
            if len(data) > MAX_BUNDLE_SIZE:
                fail(f"the ledger sends more than {MAX_BUNDLE_SIZE} bytes")
        devices = registry_pb2_grpc.RegistryStub(channel).ListDevices(
            registry_pb2.ListDevicesRequest(operator_id=operator), timeout=CALL_TIMEOUT_S
        )
        gateways = registry_pb2_grpc.RegistryStub(channel).ListGateways(
            registry_pb2.ListGatewaysRequest(operator_id=operator), timeout=CALL_TIMEOUT_S
        )
        try:
            bundle = decode(bytes(data))
        except BundleError as err:
            fail(f"the ledger's answer cannot be read: {err}")
        published = _published(channel, bundle)
    certificates = [device.certificate for device in devices.devices if device.record.device_id == bundle.billed.device]
    mine = [each for each in gateways.gateways if each.gateway_id == bundle.batched_by]
    vouchers = [each.batch_certificate for each in mine]
    vouchers += [earlier.batch_certificate for each in mine for earlier in each.earlier_batch_keys]
    return replace(
        bundle,
        certificates=tuple((*certificates, *given)[:MAX_NAMED]),
        key_certificates=tuple(dict.fromkeys((*bundle.key_certificates, *filter(None, vouchers))))[:MAX_NAMED],
        published=tuple(published),
    )


def _published(channel: grpc.Channel, bundle: Bundle) -> list[PublishedEntry]:
    """What the public logs say of the bundle's batches and device; nothing where they do not answer, which is said."""
    hashes = [batch_hash(batch.batch.body) for batch in bundle.signed_batches]
    found = []
    for log, subjects in ((BATCHES, hashes), (DEVICES, [bundle.billed.device.encode()])):
        try:
            answer = publiclog_pb2_grpc.PublicLogStub(channel).ProveEntries(
                publiclog_pb2.ProveEntriesRequest(log=log, subjects=subjects), timeout=CALL_TIMEOUT_S
            )
        except grpc.RpcError as err:
            typer.echo(f"without entries of the public log {log}: {err.details()}", err=True)
            continue
        found += [
            PublishedEntry(checkpoint=answer.checkpoint, index=entry.index, entry=entry.entry, path=tuple(entry.path))
            for entry in answer.entries
        ]
    return found[:MAX_PUBLISHED]
