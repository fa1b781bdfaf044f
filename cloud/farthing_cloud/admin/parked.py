"""``farthing-admin devices parked``: what gateways could not take, as the ledger has it from their batches."""

from collections.abc import Iterator
from typing import Annotated

import typer

from farthing.refusal import Refusal
from farthing.v1 import ledger_pb2, ledger_pb2_grpc
from farthing_cloud.admin.session import CALL_TIMEOUT_S, Json, Operator, Row, back_office, show

_COLUMNS = (
    "device_id", "counter", "kind", "reason", "at_us", "register_id", "register_value", "authorization_id", "gateway_id",
    "batch", "posted_at_us", "at_gateway",
)  # fmt: skip


def list_parked(
    ctx: typer.Context,
    operator: Operator,
    gateway: Annotated[str, typer.Option("--gateway", help="Only of this gateway.")] = "",
    device: Annotated[str, typer.Option("--device", help="Only of this device.")] = "",
    gone: Annotated[
        bool, typer.Option("--gone", help="Only what its gateway's present journal does not have.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Statements that gateways parked and batches brought, the newest first; also where the journal that parked them is gone.

    `at gateway`: its gateway's present journal parked it, and can be told by `believe` or `dismiss`; else it is only in the ledger.
    What people have decided stays listed: what waits is in `farthing-edge parked`.
    """
    with back_office(ctx) as channel:
        brought = list(_brought(ledger_pb2_grpc.LedgerStub(channel), operator, gateway, device))
    show([row for row in _each_once(brought) if not (gone and row["at_gateway"])], _COLUMNS, as_json=as_json)


def _brought(
    ledger: ledger_pb2_grpc.LedgerStub, operator: str, gateway: str, device: str
) -> Iterator[ledger_pb2.ParkedSummary]:
    before = 0
    while True:
        request = ledger_pb2.ListParkedStatementsRequest(
            operator_id=operator, gateway_id=gateway, device_id=device, before=before
        )
        answer = ledger.ListParkedStatements(request, timeout=CALL_TIMEOUT_S)
        yield from answer.statements
        before = answer.before
        if not before:
            return


def _each_once(brought: list[ledger_pb2.ParkedSummary]) -> Iterator[Row]:
    """What a device said again to a later journal is one statement: as the present journal has it, else as it came last."""
    present = {_name(each) for each in brought if each.journal_is_present}
    seen = set()
    for each in brought:
        name = _name(each)
        if name in seen or (name in present and not each.journal_is_present):
            continue
        seen.add(name)
        yield _row(each)


def _name(each: ledger_pb2.ParkedSummary) -> tuple[object, ...]:
    # A signature is randomized: the same statement may have other bytes. What cannot be read has no other name than its bytes.
    said = (each.device_id, each.device_epoch, each.counter) if each.kind else (each.statement,)
    return (each.gateway_id, *said)


def _row(each: ledger_pb2.ParkedSummary) -> Row:
    return {
        "device_id": each.device_id,
        "device_epoch": each.device_epoch,
        "counter": each.counter,
        "kind": each.kind or "unreadable",
        "reason": _reason(each.refusal),
        "at_us": each.at_us,
        "register_id": each.register_id,
        "register_epoch": each.register_epoch,
        "register_value": each.register_value,
        "authorization_id": each.authorization_id,
        "gateway_id": each.gateway_id,
        "batch": f"{each.incarnation}/{each.sequence}",
        "posted_at_us": each.posted_at_us,
        "at_gateway": each.journal_is_present,
        "statement": each.statement,
    }


def _reason(number: int) -> str:
    """The refusal's name; a gateway of another version may know more of them."""
    try:
        return Refusal(number).name
    except ValueError:
        return str(number)
