"""``devices parked``: page by page, each statement once, and what only the ledger has."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from click.testing import Result
from typer.testing import CliRunner

from farthing.refusal import Refusal
from farthing.v1 import ledger_pb2, ledger_pb2_grpc
from farthing_cloud.admin import registry

Run = Callable[..., Result]


def brought(counter: int, incarnation: int, *, present: bool, **more: Any) -> ledger_pb2.ParkedSummary:
    fields = {
        "gateway_id": "gw-1",
        "incarnation": incarnation,
        "sequence": counter,
        "posted_at_us": 1_700_000_100_000_000,
        "refusal": Refusal.REGISTER_TOO_FAST,
        # Its device signs anew each time it says it.
        "statement": f"{counter} to {incarnation}".encode(),
        "journal_is_present": present,
        "kind": "end",
        "device_id": "chg-1",
        "device_epoch": 1,
        "counter": counter,
        "at_us": 1_700_000_000_000_000,
        "register_id": "c1",
        "register_epoch": 2,
        "register_value": 4_242,
        "authorization_id": bytes(16),
    }
    return ledger_pb2.ParkedSummary(**(fields | more))


class Ledger(ledger_pb2_grpc.LedgerServicer):
    """Two pages: an old batch turned up late, so that it stands before what was said again."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def parked(self, request: Any, _context: Any) -> ledger_pb2.ListParkedStatementsResponse:
        self.asked.append(request)
        if not request.before:
            return ledger_pb2.ListParkedStatementsResponse(
                statements=[brought(7, 1, present=False), brought(7, 2, present=True)], before=20
            )
        unreadable = brought(0, 1, present=False, kind="", device_id="", statement=b"\xff", refusal=65_000)
        return ledger_pb2.ListParkedStatementsResponse(
            statements=[brought(8, 1, present=False), unreadable, brought(8, 1, present=False, sequence=2)]
        )

    ListParkedStatements = parked


@pytest.fixture
def office() -> Ledger:
    return Ledger()


@pytest.fixture
def run(office: Ledger) -> Iterator[Run]:
    with ThreadPoolExecutor(max_workers=1) as pool:
        server = grpc.server(pool)
        ledger_pb2_grpc.add_LedgerServicer_to_server(office, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield lambda *words: CliRunner().invoke(registry.devices, ["parked", *words], obj=lambda: channel)
        server.stop(None).wait()


def test_each_statement_is_listed_once_as_the_present_journal_has_it(run: Run, office: Ledger) -> None:
    rows = json.loads(run("--operator", "op", "--gateway", "gw-1", "--device", "chg-1", "--json").stdout)
    assert [(row["counter"], row["batch"], row["at_gateway"], row["kind"], row["reason"]) for row in rows] == [
        (7, "2/7", True, "end", "REGISTER_TOO_FAST"),
        (8, "1/8", False, "end", "REGISTER_TOO_FAST"),
        (0, "1/0", False, "unreadable", "65000"),
    ]
    assert (rows[0]["register_value"], rows[0]["authorization_id"]) == (4_242, bytes(16).hex())
    assert rows[0]["statement"] == b"7 to 2".hex()
    assert [(each.operator_id, each.gateway_id, each.device_id, each.before) for each in office.asked] == [
        ("op", "gw-1", "chg-1", 0),
        ("op", "gw-1", "chg-1", 20),
    ]


def test_what_only_the_ledger_has(run: Run) -> None:
    rows = json.loads(run("--operator", "op", "--gone", "--json").stdout)
    assert [row["counter"] for row in rows] == [8, 0]
    said = run("--operator", "op", "--gone").stdout
    assert "REGISTER_TOO_FAST" in said
    assert "2023-11-14T22:13:20Z" in said
