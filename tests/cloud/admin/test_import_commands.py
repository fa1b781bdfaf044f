"""Commands on batches carried by hand: the file goes up as it is, and what was not taken is said."""

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import Result
from typer.testing import CliRunner

from farthing.evidence import parcel
from farthing.evidence.parcel import ParcelBatch
from farthing.ids import GatewayId
from farthing.v1 import ledger_pb2, ledger_pb2_grpc
from farthing_cloud.admin import ledger, registry

Run = Callable[..., Result]
CONTENT = ledger_pb2.ImportReviewContent(
    operator_id="op",
    gateway_id="gw-1",
    batch_hashes=[bytes(32)],
    reason="stolen",
    proposed_by="anna",
    proven_micros=1_200_000,
).SerializeToString(deterministic=True)


class Ledger(ledger_pb2_grpc.LedgerServicer):
    """Answers batch by batch with the outcomes laid ready."""

    outcomes: list[str]
    asked: list[Any]

    def import_batches(self, requests: Any, _context: Any) -> Iterator[Any]:
        for request in requests:
            self.asked.append(request)
            if request.HasField("batch"):
                outcome = self.outcomes.pop(0)
                yield ledger_pb2.ImportBatchesResponse(
                    incarnation=1, sequence=request.batch.sequence, outcome=outcome,
                    why="send that first" if outcome == "gap" else "",
                )  # fmt: skip

    def propose(self, _request: Any, _context: Any) -> ledger_pb2.ProposeImportReviewResponse:
        review = ledger_pb2.ImportReview(review_id="v-1", content=CONTENT, content_hash=bytes(32))
        return ledger_pb2.ProposeImportReviewResponse(review=review)

    def approve(self, request: Any, _context: Any) -> Iterator[Any]:
        self.asked.append(request)
        batch = ledger_pb2.ImportBatchesResponse(incarnation=1, sequence=1, outcome="posted", proven=True)
        yield ledger_pb2.ApproveImportReviewResponse(batch=batch)

    def reviews(self, _request: Any, _context: Any) -> ledger_pb2.ListImportReviewsResponse:
        review = ledger_pb2.ImportReview(review_id="v-1", content=CONTENT, approved_by="bert")
        return ledger_pb2.ListImportReviewsResponse(reviews=[review])

    ImportBatches, ProposeImportReview, ApproveImportReview, ListImportReviews = (
        import_batches,
        propose,
        approve,
        reviews,
    )


@pytest.fixture
def office() -> Ledger:
    made = Ledger()
    made.outcomes, made.asked = [], []
    return made


@pytest.fixture
def run(office: Ledger) -> Iterator[Run]:
    with ThreadPoolExecutor(max_workers=2) as pool:
        server = grpc.server(pool)
        ledger_pb2_grpc.add_LedgerServicer_to_server(office, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield lambda app, *words: CliRunner().invoke(app, [str(word) for word in words], obj=lambda: channel)
        server.stop(None).wait()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "gw-1.parcel"
    with path.open("wb") as opened:
        parcel.begin(opened, GatewayId("gw-1"))
        for sequence in (1, 2):
            parcel.add(
                opened,
                ParcelBatch(
                    incarnation=1, sequence=sequence, batch=b"b", signature=b"s", key_id=b"k",
                    detail=b"d" if sequence == 1 else None,
                ),
            )  # fmt: skip
    return path


def test_a_file_is_imported_batch_by_batch(run: Run, office: Ledger, file: Path) -> None:
    office.outcomes = ["posted", "replay"]
    result = run(ledger.ledger, "import", file, "--reason", "its modem is dead", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["outcomes"] == {"posted": 1, "replay": 1}
    begins, *batches = office.asked
    assert begins.begins == ledger_pb2.ImportBegins(
        gateway_id="gw-1", file_hash=hashlib.sha256(file.read_bytes()).digest(), reason="its modem is dead"
    )
    assert [(b.batch.sequence, b.batch.signed.batch, b.batch.compressed_leaves) for b in batches] == [
        (1, b"b", b"d"), (2, b"b", b""),
    ]  # fmt: skip


def test_what_was_not_taken_is_named_and_the_status_says_so(run: Run, office: Ledger, file: Path) -> None:
    office.outcomes = ["posted", "gap"]
    result = run(ledger.ledger, "import", file, "--reason", "x")
    assert (result.exit_code, "send that first" in result.output) == (1, True)
    file.write_bytes(file.read_bytes()[:-1])
    office.outcomes = ["posted", "posted"]
    cut = run(ledger.ledger, "import", file, "--reason", "x")
    assert (cut.exit_code, "cut short" in cut.output) == (1, True)
    file.write_bytes(b"{}")
    assert "not a parcel" in run(ledger.ledger, "import", file, "--reason", "x").output
    assert "No such file" in run(ledger.ledger, "import", "/none", "--reason", "x").output


def test_a_review_shows_the_hash_of_what_came_and_is_approved_by_it(run: Run, office: Ledger) -> None:
    digest = hashlib.sha256(CONTENT).hexdigest()
    proposed = json.loads(run(registry.gateways, "review", "propose", "gw-1", "--reason", "stolen", "--json").stdout)
    assert (proposed["content_hash"], proposed["proven_micros"], proposed["batches"]) == (digest, 1_200_000, 1)
    approved = run(registry.gateways, "review", "approve", "v-1", "--content-hash", digest, "--json")
    assert json.loads(approved.stdout)["outcomes"] == {"posted": 1}
    assert office.asked[-1].content_hash.hex() == digest
    (listed,) = json.loads(run(registry.gateways, "review", "list", "--operator", "op", "--json").stdout)
    assert (listed["status"], listed["approved_by"]) == ("approved", "bert")
    assert "hexadecimal" in run(registry.gateways, "review", "approve", "v-1", "--content-hash", "x").output
