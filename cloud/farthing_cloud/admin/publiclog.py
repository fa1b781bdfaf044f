"""``farthing-admin log``: the public logs, their checkpoints and proofs; and a person's word after a restore."""

import base64
from pathlib import Path
from typing import Annotated

import grpc
import typer

from farthing.evidence.merkle import verify_inclusion
from farthing.tlog.checkpoint import Checkpoint, open_checkpoint
from farthing.tlog.entries import BATCHES, DEVICES, LOG_NAMES
from farthing.tlog.note import NoteError, NoteKey
from farthing.tlog.telling import tell
from farthing.tlog.tree import verify_consistency
from farthing.v1 import ledger_pb2, ledger_pb2_grpc, publiclog_pb2, publiclog_pb2_grpc
from farthing_cloud.admin.session import CALL_TIMEOUT_S, Json, back_office, fail, show

log = typer.Typer(help="What is published for anybody to check.", no_args_is_help=True)
prove = typer.Typer(help="Proofs under the newest published checkpoint.", no_args_is_help=True)
log.add_typer(prove, name="prove")

LogChoice = Annotated[str, typer.Option("--log", help=f"{' or '.join(LOG_NAMES)}.")]


@log.command("list")
def list_logs(ctx: typer.Context, as_json: Json = False) -> None:
    """The logs with the keys that witnesses need, and why one waits, if one does."""
    with back_office(ctx) as channel:
        answer = _shown(channel)
    show(
        [
            {
                "log": each.log,
                "verifier_key": each.verifier_key,
                "size": each.size,
                "published": each.published,
                "directory": each.directory,
                "waits_for": each.waits_for,
            }
            for each in answer.logs
        ],
        ("log", "size", "published", "verifier_key", "directory", "waits_for"),
        as_json=as_json,
    )


@log.command("checkpoint")
def checkpoint(ctx: typer.Context, name: LogChoice = BATCHES) -> None:
    """The newest published checkpoint, a signed note."""
    with back_office(ctx) as channel:
        found = _log(channel, name)
    if not found.checkpoint:
        fail(f"{name}: nothing was published yet")
    typer.echo(found.checkpoint.decode(), nl=False)


@prove.command("batch")
def prove_batch(
    ctx: typer.Context,
    gateway: Annotated[str, typer.Option("--gateway", help="Who sealed it.")],
    sequence: Annotated[int, typer.Option("--sequence", min=1)],
    incarnation: Annotated[int, typer.Option("--incarnation", min=1)] = 1,
) -> None:
    """That a batch and its receipt are in the log: entry, path and checkpoint."""
    name = ledger_pb2.BatchName(gateway_id=gateway, incarnation=incarnation, sequence=sequence)
    with back_office(ctx) as channel:
        posted = ledger_pb2_grpc.LedgerStub(channel).ReadReceipts(
            ledger_pb2.ReadReceiptsRequest(batches=[name]), timeout=CALL_TIMEOUT_S
        )
        if not posted.receipts:
            fail(f"batch {incarnation}/{sequence} of {gateway} was not posted")
        _prove(channel, BATCHES, posted.receipts[0].batch_hash)


@prove.command("device")
def prove_device(ctx: typer.Context, device: Annotated[str, typer.Argument(help="The device's id.")]) -> None:
    """What the log says of a device, newest last: entries, paths and checkpoint."""
    with back_office(ctx) as channel:
        _prove(channel, DEVICES, device.encode())


@prove.command("growth")
def prove_growth(
    ctx: typer.Context,
    old_size: Annotated[int, typer.Argument(min=1, help="The size that somebody saw before.")],
    name: LogChoice = BATCHES,
) -> None:
    """That an earlier tree is the beginning of the one published now."""
    with back_office(ctx) as channel:
        found = _log(channel, name)
        answer = publiclog_pb2_grpc.PublicLogStub(channel).ProveGrowth(
            publiclog_pb2.ProveGrowthRequest(log=name, old_size=old_size), timeout=CALL_TIMEOUT_S
        )
    head = _opened(found, answer.checkpoint)
    if not verify_consistency(old_size, head.size, answer.old_root, head.root, answer.path):
        fail("the proof does not hold")
    typer.echo(f"size {old_size}  root {base64.b64encode(answer.old_root).decode()}")
    for step in answer.path:
        typer.echo(base64.b64encode(step).decode())
    typer.echo(f"\n{answer.checkpoint.decode()}", nl=False)


@log.command("audits")
def audits(
    ctx: typer.Context,
    gateway: Annotated[str, typer.Option("--gateway", help="Of this gateway only.")] = "",
    as_json: Json = False,
) -> None:
    """Batches drawn for audit, newest first, the checkpoint's size that each was drawn from, and what came of it."""
    with back_office(ctx) as channel:
        answer = publiclog_pb2_grpc.PublicLogStub(channel).ListAudits(
            publiclog_pb2.ListAuditsRequest(gateway_id=gateway), timeout=CALL_TIMEOUT_S
        )
    show(
        [
            {
                "gateway_id": each.gateway_id,
                "batch": f"{each.incarnation}/{each.sequence}",
                "batch_hash": each.batch_hash.hex(),
                "rate_ppm": each.rate_ppm,
                "checkpoint": each.checkpoint.decode(),
                "drawn_at_us": each.drawn_at_us,
                "due_at_us": each.due_at_us,
                "outcome": each.outcome,
                "detail": each.detail,
            }
            for each in answer.audits
        ],
        ("gateway_id", "batch", "outcome", "detail", "rate_ppm", "drawn_at_us", "due_at_us"),
        as_json=as_json,
    )


@log.command("reconcile")
def reconcile(
    ctx: typer.Context,
    name: LogChoice,
    newest_checkpoint: Annotated[
        Path | None,
        typer.Option("--newest-checkpoint", help="What a witness or mirror holds: a signed note, in a file."),
    ] = None,
) -> None:
    """After a restore: the log goes on from what was published. Refused where that cannot be made one tree."""
    note = b""
    if newest_checkpoint is not None:
        try:
            note = newest_checkpoint.read_bytes()
        except OSError as err:
            fail(f"{newest_checkpoint}: {err.strerror}")
    with back_office(ctx) as channel:
        answer = publiclog_pb2_grpc.PublicLogStub(channel).ReconcileLog(
            publiclog_pb2.ReconcileLogRequest(log=name, newest_checkpoint=note), timeout=CALL_TIMEOUT_S
        )
    typer.echo(
        f"{name} goes on: {answer.taken_in} leaves taken back from its files, {answer.rewritten} files written anew"
    )


def _shown(channel: grpc.Channel) -> publiclog_pb2.ShowLogsResponse:
    return publiclog_pb2_grpc.PublicLogStub(channel).ShowLogs(publiclog_pb2.ShowLogsRequest(), timeout=CALL_TIMEOUT_S)


def _log(channel: grpc.Channel, name: str) -> publiclog_pb2.ShownLog:
    found = next((each for each in _shown(channel).logs if each.log == name), None)
    if found is None:
        fail(f"no log {name}: there are {', '.join(LOG_NAMES)}")
    return found


def _opened(shown: publiclog_pb2.ShownLog, note: bytes) -> Checkpoint:
    try:
        return open_checkpoint(note, NoteKey.parse(shown.verifier_key))[0]
    except NoteError as err:
        fail(f"the checkpoint does not hold: {err}")


def _prove(channel: grpc.Channel, name: str, subject: bytes) -> None:
    shown = _log(channel, name)
    answer = publiclog_pb2_grpc.PublicLogStub(channel).ProveEntries(
        publiclog_pb2.ProveEntriesRequest(log=name, subjects=[subject]), timeout=CALL_TIMEOUT_S
    )
    if not answer.entries:
        fail("not in the published log yet: it is published every few seconds")
    head = _opened(shown, answer.checkpoint)
    for entry in answer.entries:
        if not verify_inclusion(entry.entry, entry.index, head.size, entry.path, head.root):
            fail(f"the path of entry {entry.index} does not lead to the checkpoint")
        typer.echo(tell(entry.index, entry.entry))
        for step in entry.path:
            typer.echo(f"  {base64.b64encode(step).decode()}")
    typer.echo(f"\n{answer.checkpoint.decode()}", nl=False)
