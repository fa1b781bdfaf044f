"""Commands on mass corrections, before the ledger's own calls over rows in memory: planned, shown, approved by another, executed."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from click.testing import Result
from plan_story import DAY, LATER, MINUTE, RIGHT, S1, WRONG, Charge, Day
from typer.testing import CliRunner

from farthing.clock import Instant
from farthing.v1 import directive_pb2, ledger_pb2_grpc, registry_pb2, registry_pb2_grpc
from farthing_cloud.admin.corrections import corrections
from farthing_cloud.callers import Caller
from farthing_cloud.ledger.bell import Bell
from farthing_cloud.ledger.plan_calls import PlanServicer
from farthing_cloud.ledger.store.memory import MemoryStore

Run = Callable[..., Result]
PERSON = ["alice"]


class Clock:
    """Always the same instant."""

    def now(self) -> Instant:
        return LATER


class Registry(registry_pb2_grpc.RegistryServicer):
    """Knows the wrong version and the right one."""

    async def list_tariffs(self, _request: Any, _context: Any) -> registry_pb2.ListTariffsResponse:
        return registry_pb2.ListTariffsResponse(
            tariffs=[
                registry_pb2.Tariff(tariff=directive_pb2.TariffRecord(tariff_id="chg", version=version, ocpi_json=text))
                for version, text in ((1, WRONG), (2, RIGHT))
            ]
        )

    ListTariffs = list_tariffs  # type: ignore[assignment]  # the stub is a synchronous one


@pytest.fixture
def run() -> Iterator[Run]:
    """The commands, before a server on a loop of its own."""
    PERSON[0] = "alice"
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def do(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(30)

    async def serve() -> tuple[grpc.aio.Server, int]:
        day = Day(MemoryStore())
        uses = [Charge(n, Instant(DAY + 600 * MINUTE), [(30, 1_000 * n)]) for n in (1, 2, 6, 9)]
        await day.open(uses)
        await day.bill_whole(uses)
        office: Any = PlanServicer()  # type: ignore[abstract]  # the other calls are not asked for
        office._plans, office._clock, office._events = day.plans, Clock(), Bell()
        office._caller = lambda _context: Caller(kind="person", id=PERSON[0])
        server = grpc.aio.server()
        ledger_pb2_grpc.add_LedgerServicer_to_server(office, server)
        registry_pb2_grpc.add_RegistryServicer_to_server(Registry(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return server, port

    server, port = do(serve())
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield lambda *words: CliRunner().invoke(corrections, [str(word) for word in words], obj=lambda: channel)
    do(server.stop(None))
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


DAY_TEXT, NEXT_TEXT = "1972-09-27T10:00:00Z", "1972-09-28T00:00:00Z"
PLAN = ("plan", "--operator", "op", "--site", S1, "--tariff", "chg", "--reason", "tomorrow's price")


def document(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_plan_is_made_shown_approved_by_another_and_executed_once(run: Run, tmp_path: Path) -> None:
    times = ("--from", DAY_TEXT, "--to", NEXT_TEXT)
    made = document(run(*PLAN, *times, "--version", 1, "--json"))
    assert (made["items"], made["refunds"], made["back_micros"]) == (4, 2, 600_000 + 480_000)
    shown = document(run("show", made["plan_id"], "--json"))
    assert shown["by"] == "chg version 2"
    assert (shown["planned_micros"], shown["open_micros"], shown["even"], shown["undercharged"]) == (
        1_080_000, 1_080_000, 1, 1,
    )  # fmt: skip
    assert shown["forgiven_micros"] == 360_000
    assert sorted(use["outcome"] for use in shown["uses"]) == ["even", "refund", "refund", "undercharged"]

    refused = run("execute", made["plan_id"])
    assert (refused.exit_code, "waits for its approval by another person than alice" in refused.output) == (1, True)
    own = run("approve", made["plan_id"], "--content-hash", shown["content_hash"])
    assert (own.exit_code, "another person has to approve it" in own.output) == (1, True)
    PERSON[0] = "bob"
    assert document(run("approve", made["plan_id"], "--content-hash", shown["content_hash"], "--json"))["changed"]
    for posted in (2, 0):
        report = document(run("execute", made["plan_id"], "--json"))
        assert (report["posted_now"], report["posted_micros"], report["waiting"]) == (posted, 1_080_000, [])
        assert report["posted_micros"] + report["settled_meanwhile_micros"] + report["open_micros"] == 1_080_000
    listed = document(run("plans", "--operator", "op", "--json"))
    assert [(row["status"], row["approved_by"]) for row in listed] == [("approved", "bob")]
    table = run("show", made["plan_id"]).output
    assert "it should have cost more: nothing is billed afterwards" in table

    (tmp_path / "right.json").write_bytes(RIGHT)
    again = document(run(*PLAN, *times, "--by-tariff", tmp_path / "right.json", "--json"))
    assert (again["refunds"], again["back_micros"]) == (0, 0)


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("--from", DAY_TEXT, "--to", "1972-09-27T10:00:01Z"), 1, "quarter of an hour"),
        (("--from", NEXT_TEXT, "--to", "1972-09-29T00:00:00Z"), 1, "no use of chg was billed at S1 then"),
        (("--from", DAY_TEXT, "--to", NEXT_TEXT, "--by-version", 7), 1, "no version 7 (registered: 1, 2)"),
        (("--from", DAY_TEXT, "--to", NEXT_TEXT, "--by-tariff", "/none.json"), 1, "No such file"),
        (("--from", DAY_TEXT, "--to", NEXT_TEXT, "--by-tariff", "/none", "--by-version", 1), 2, "not both"),
    ],
)
def test_a_no_is_one_sentence(run: Run, words: tuple[str, ...], code: int, sentence: str) -> None:
    result = run(*PLAN, *words)
    assert result.exit_code == code
    assert sentence in " ".join(result.output.replace("│", " ").split())
