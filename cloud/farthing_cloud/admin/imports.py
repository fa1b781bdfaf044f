"""``farthing-admin ledger import`` and ``gateways review``: what a gateway that may no longer connect has sealed, carried by hand.

The file is what ``farthing-edge journal export --batches`` writes. What a revoked gateway sealed is parked: one person proposes to post what its
devices signed, another approves exactly that.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated

import typer

from farthing.evidence import parcel
from farthing.evidence.parcel import ParcelBatch, ParcelError
from farthing.ids import GatewayId
from farthing.v1 import batch_pb2, ledger_pb2, ledger_pb2_grpc
from farthing_cloud.admin.session import (
    CALL_TIMEOUT_S,
    Json,
    Operator,
    Row,
    back_office,
    content_hash_of,
    fail,
    print_json,
    show,
    show_one,
)

#: A backlog of weeks, posted and proven batch by batch.
IMPORT_TIMEOUT_S = 6 * 3_600.0
#: Read at once where a file is hashed.
_BLOCK = 1024 * 1024

review = typer.Typer(help="What a revoked gateway sealed: two persons decide.", no_args_is_help=True)

_COLUMNS = ("incarnation", "sequence", "outcome", "proven", "why", "fault")


def import_batches(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="What `farthing-edge journal export --batches` wrote.")],
    reason: Annotated[str, typer.Option(help="Why it comes by hand; kept for ever, with your name.")],
    as_json: Json = False,
) -> None:
    """Take a gateway's batches in as if it had pushed them; again, it changes nothing. A revoked gateway's are parked for review."""
    rows: list[Row] = []
    faults: list[str] = []
    try:
        with file.open("rb") as source:
            file_hash = _hash_of(source)
            source.seek(0)
            gateway_id, batches = parcel.read(source)
            with back_office(ctx) as channel:
                requests = _requests(gateway_id, file_hash, reason, batches, faults)
                stub = ledger_pb2_grpc.LedgerStub(channel)
                rows += [_row(answer) for answer in stub.ImportBatches(requests, timeout=IMPORT_TIMEOUT_S)]
    except OSError as err:
        fail(f"{file}: {err.strerror}")
    except ParcelError as err:
        fail(f"{file}: {err}")
    if faults:
        fail(f"{file}: {faults[0]} ({len(rows)} batches were taken before that)")
    _tell(rows, gateway_id, as_json=as_json)


def _hash_of(source: IO[bytes]) -> bytes:
    digest = hashlib.sha256()
    while block := source.read(_BLOCK):
        digest.update(block)
    return digest.digest()


def _requests(
    gateway_id: GatewayId, file_hash: bytes, reason: str, batches: Iterator[ParcelBatch], faults: list[str]
) -> Iterator[ledger_pb2.ImportBatchesRequest]:
    """What goes up; a file that cannot be read on ends it, and ``faults`` says why: what was read is taken all the same."""
    begins = ledger_pb2.ImportBegins(gateway_id=gateway_id, file_hash=file_hash, reason=reason)
    yield ledger_pb2.ImportBatchesRequest(begins=begins)
    try:
        for each in batches:
            yield ledger_pb2.ImportBatchesRequest(
                batch=ledger_pb2.ImportedBatch(
                    signed=batch_pb2.SignedBatch(batch=each.batch, signature=each.signature, key_id=each.key_id),
                    incarnation=each.incarnation,
                    sequence=each.sequence,
                    compressed_leaves=each.detail or b"",
                )
            )
    except ParcelError as err:
        faults.append(str(err))


def _row(answer: ledger_pb2.ImportBatchesResponse) -> Row:
    return {
        "incarnation": answer.incarnation,
        "sequence": answer.sequence,
        "outcome": answer.outcome,
        "proven": answer.proven,
        "why": answer.why,
        "fault": answer.fault,
    }


def _tell(rows: list[Row], gateway_id: str, *, as_json: bool) -> None:
    """The sums, and every batch that is not simply there now; status 1 if one was not taken."""
    outcomes = Counter(str(row["outcome"]) for row in rows)
    if as_json:
        print_json({"gateway_id": gateway_id, "outcomes": dict(outcomes), "batches": [dict(row) for row in rows]})
    else:
        show_one({"gateway_id": gateway_id, **{name: str(count) for name, count in outcomes.items()}}, as_json=False)
        odd = [row for row in rows if row["why"] or row["fault"]]
        if odd:
            show(odd, _COLUMNS, as_json=False)
    if outcomes.keys() - {"posted", "replay", "parked"}:
        raise typer.Exit(1)


@review.command("propose")
def propose(
    ctx: typer.Context,
    gateway_id: Annotated[str, typer.Argument(help="The gateway's id.")],
    reason: Annotated[str, typer.Option(help="Why; kept for ever.")],
    as_json: Json = False,
) -> None:
    """Propose to post what devices signed of everything that waits; it says how much that is."""
    request = ledger_pb2.ProposeImportReviewRequest(gateway_id=gateway_id, reason=reason)
    with back_office(ctx) as channel:
        answer = ledger_pb2_grpc.LedgerStub(channel).ProposeImportReview(request, timeout=IMPORT_TIMEOUT_S)
    show_one(_review(answer.review), as_json=as_json)


@review.command("approve")
def approve(
    ctx: typer.Context,
    review_id: Annotated[str, typer.Argument(help="As in 'list'.")],
    content_hash: Annotated[
        str,
        typer.Option("--content-hash", help="The hash in 'list', in hexadecimal: you approve this and nothing else."),
    ],
    as_json: Json = False,
) -> None:
    """Approve what another person proposed, and post it; interrupted, approve it again."""
    digest = content_hash_of(content_hash)
    request = ledger_pb2.ApproveImportReviewRequest(review_id=review_id, content_hash=digest)
    with back_office(ctx) as channel:
        stub = ledger_pb2_grpc.LedgerStub(channel)
        rows = [_row(answer.batch) for answer in stub.ApproveImportReview(request, timeout=IMPORT_TIMEOUT_S)]
    _tell(rows, review_id, as_json=as_json)


@review.command("list")
def list_reviews(ctx: typer.Context, operator: Operator, as_json: Json = False) -> None:
    """Proposed and approved."""
    with back_office(ctx) as channel:
        answer = ledger_pb2_grpc.LedgerStub(channel).ListImportReviews(
            ledger_pb2.ListImportReviewsRequest(operator_id=operator), timeout=CALL_TIMEOUT_S
        )
    columns = (
        "review_id", "status", "gateway_id", "batches", "proven_micros", "unproven_micros", "proposed_by", "approved_by",
        "content_hash",
    )  # fmt: skip
    show([_review(each) for each in answer.reviews], columns, as_json=as_json)


def _review(found: ledger_pb2.ImportReview) -> Row:
    content = ledger_pb2.ImportReviewContent.FromString(found.content)
    return {
        "review_id": found.review_id,
        "status": "approved" if found.approved_by else "proposed",
        "gateway_id": content.gateway_id,
        "batches": len(content.batch_hashes),
        "proven_micros": content.proven_micros,
        "unproven_micros": content.unproven_micros,
        "reason": content.reason,
        "proposed_by": content.proposed_by,
        "proposed_at_us": content.proposed_at_us,
        "approved_by": found.approved_by,
        "approved_at_us": found.approved_at_us,
        # Of the bytes that came.
        "content_hash": hashlib.sha256(found.content).digest(),
    }
