"""``farthing-admin gateways incarnation``, ``forced-void``, ``give-up`` and ``cases``, and ``ledger restored``: what two persons decide.

One proposes, another approves exactly what was proposed, by the hash of its bytes; the ledger asks that they are two.
"""

from typing import Annotated

import typer

from farthing.v1 import ledger_pb2, ledger_pb2_grpc
from farthing_cloud.admin.session import (
    CALL_TIMEOUT_S,
    Json,
    Operator,
    Row,
    back_office,
    content_hash_of,
    print_json,
    show,
    show_one,
)

incarnation = typer.Typer(help="A journal that is not the one the ledger knows: begin anew.", no_args_is_help=True)
forced_void = typer.Typer(help="A gateway that is gone: end what is held for it.", no_args_is_help=True)
give_up = typer.Typer(help="A gateway that a restored ledger shall not wait for.", no_args_is_help=True)
restored = typer.Typer(
    help="The ledger's database is an older one: stop, and begin its next epoch.", no_args_is_help=True
)

GatewayId = Annotated[str, typer.Argument(help="The gateway's id.")]
DecisionId = Annotated[str, typer.Argument(help="As in 'list'.")]
Why = Annotated[str, typer.Option(help="Why; kept for ever.")]
ContentHash = Annotated[
    str,
    typer.Option(
        "--content-hash",
        help="SHA-256 of what you have seen in 'list', in hexadecimal: you approve this and nothing else.",
    ),
]


def _row(decision: ledger_pb2.Decision) -> Row:
    content = ledger_pb2.DecisionContent.FromString(decision.content)
    return {
        "decision_id": decision.decision_id,
        "kind": content.kind,
        "status": "approved" if decision.approved_by else "proposed",
        "operator_id": content.operator_id,
        "gateway_id": content.gateway_id,
        "incarnation": content.incarnation,
        "ledger_epoch": content.ledger_epoch,
        "reason": content.reason,
        "waits_because": content.waits_because,
        "proposed_by": content.proposed_by,
        "proposed_at_us": content.proposed_at_us,
        "approved_by": decision.approved_by,
        "approved_at_us": decision.approved_at_us,
        "content_hash": decision.content_hash,
    }


def _propose(ctx: typer.Context, kind: str, gateway_id: str, reason: str, *, as_json: bool, operator: str = "") -> None:
    request = ledger_pb2.ProposeDecisionRequest(kind=kind, gateway_id=gateway_id, reason=reason, operator_id=operator)
    with back_office(ctx) as channel:
        answer = ledger_pb2_grpc.LedgerStub(channel).ProposeDecision(request, timeout=CALL_TIMEOUT_S)
    show_one(_row(answer.decision), as_json=as_json)


def _approve(ctx: typer.Context, decision_id: str, content_hash: str, *, as_json: bool) -> None:
    digest = content_hash_of(content_hash)
    request = ledger_pb2.ApproveDecisionRequest(decision_id=decision_id, content_hash=digest)
    with back_office(ctx) as channel:
        answer = ledger_pb2_grpc.LedgerStub(channel).ApproveDecision(request, timeout=CALL_TIMEOUT_S)
    show_one({"decision_id": decision_id, "changed": answer.changed}, as_json=as_json)


def _list(ctx: typer.Context, kind: str, operator: str, *, as_json: bool) -> None:
    request = ledger_pb2.ListDecisionsRequest(operator_id=operator)
    with back_office(ctx) as channel:
        answer = ledger_pb2_grpc.LedgerStub(channel).ListDecisions(request, timeout=CALL_TIMEOUT_S)
    rows = [row for row in map(_row, answer.decisions) if row["kind"] == kind]
    columns = (
        "decision_id", "status", "gateway_id", "incarnation", "reason", "waits_because", "proposed_by", "approved_by",
        "content_hash",
    )  # fmt: skip
    show(rows, columns, as_json=as_json)


@incarnation.command("propose")
def propose_incarnation(ctx: typer.Context, gateway_id: GatewayId, reason: Why, as_json: Json = False) -> None:
    """Propose that the gateway begins a new incarnation."""
    _propose(ctx, "incarnation", gateway_id, reason, as_json=as_json)


@incarnation.command("approve")
def approve_incarnation(
    ctx: typer.Context, decision_id: DecisionId, content_hash: ContentHash, as_json: Json = False
) -> None:
    """Approve what another person proposed: the old quotas freeze, and the gateway begins anew."""
    _approve(ctx, decision_id, content_hash, as_json=as_json)


@incarnation.command("list")
def list_incarnations(ctx: typer.Context, operator: Operator, as_json: Json = False) -> None:
    """Proposed and approved."""
    _list(ctx, "incarnation", operator, as_json=as_json)


@forced_void.command("propose")
def propose_forced_void(ctx: typer.Context, gateway_id: GatewayId, reason: Why, as_json: Json = False) -> None:
    """Propose that everything held for the gateway goes back to its payers; what it bills later is late."""
    _propose(ctx, "forced-void", gateway_id, reason, as_json=as_json)


@forced_void.command("approve")
def approve_forced_void(
    ctx: typer.Context, decision_id: DecisionId, content_hash: ContentHash, as_json: Json = False
) -> None:
    """Approve what another person proposed: all that is held for the gateway is voided."""
    _approve(ctx, decision_id, content_hash, as_json=as_json)


@forced_void.command("list")
def list_forced_voids(ctx: typer.Context, operator: Operator, as_json: Json = False) -> None:
    """Proposed and approved."""
    _list(ctx, "forced-void", operator, as_json=as_json)


@give_up.command("propose")
def propose_give_up(ctx: typer.Context, gateway_id: GatewayId, reason: Why, as_json: Json = False) -> None:
    """Propose to wait for the gateway no longer: what it was told since the backup is lost, and it begins a new incarnation."""
    _propose(ctx, "given-up", gateway_id, reason, as_json=as_json)


@give_up.command("approve")
def approve_give_up(
    ctx: typer.Context, decision_id: DecisionId, content_hash: ContentHash, as_json: Json = False
) -> None:
    """Approve what another person proposed: the ledger no longer waits for the gateway."""
    _approve(ctx, decision_id, content_hash, as_json=as_json)


@give_up.command("list")
def list_given_up(ctx: typer.Context, operator: Operator, as_json: Json = False) -> None:
    """Proposed and approved."""
    _list(ctx, "given-up", operator, as_json=as_json)


@restored.command("propose")
def propose_restored(ctx: typer.Context, operator: Operator, reason: Why, as_json: Json = False) -> None:
    """Say that the database was restored: the ledger stops at once. Another person's approval begins its next epoch."""
    _propose(ctx, "restored", "", reason, as_json=as_json, operator=operator)


@restored.command("approve")
def approve_restored(
    ctx: typer.Context, decision_id: DecisionId, content_hash: ContentHash, as_json: Json = False
) -> None:
    """Approve what another person proposed: gateways show what they were told, and push their batches again."""
    _approve(ctx, decision_id, content_hash, as_json=as_json)


@restored.command("list")
def list_restored(ctx: typer.Context, operator: Operator, as_json: Json = False) -> None:
    """Proposed and approved."""
    _list(ctx, "restored", operator, as_json=as_json)


def show_epoch(ctx: typer.Context, as_json: Json = False) -> None:
    """Whether the ledger is open; after a restore, which gateways have rewound, what came back, and what is missing."""
    with back_office(ctx) as channel:
        answer = ledger_pb2_grpc.LedgerStub(channel).ShowEpoch(ledger_pb2.ShowEpochRequest(), timeout=CALL_TIMEOUT_S)
    gateways: list[Row] = [
        {
            "gateway_id": row.gateway_id,
            "operator_id": row.operator_id,
            "standing": row.standing,
            "shown_at_us": row.shown_at_us,
            "directives": row.directives,
            "set_aside": row.set_aside,
            "quotas": row.quotas,
            "reinstated_micros": row.reinstated_micros,
            "short_micros": row.short_micros,
            "incarnation": row.incarnation,
            "receipted_sequence": row.receipted_sequence,
            "posted_sequence": row.posted_sequence,
        }
        for row in answer.gateways
    ]
    epoch: Row = {
        "ledger_epoch": answer.ledger_epoch,
        "state": answer.state,
        "since_us": answer.since_us,
        "why": answer.why,
    }
    if as_json:
        print_json({**epoch, "gateways": gateways})
        return
    show_one(epoch, as_json=False)
    columns = (
        "gateway_id", "standing", "directives", "quotas", "reinstated_micros", "short_micros", "incarnation", "receipted_sequence",
        "posted_sequence",
    )  # fmt: skip
    show(gateways, columns, as_json=False)


def list_cases(
    ctx: typer.Context,
    operator: Operator,
    open_only: Annotated[bool, typer.Option("--open", help="Leave out what is closed.")] = False,
    as_json: Json = False,
) -> None:
    """Lost and rolled back journals, and second stories: what only people can decide."""
    request = ledger_pb2.ListGatewayCasesRequest(operator_id=operator, open_only=open_only)
    with back_office(ctx) as channel:
        answer = ledger_pb2_grpc.LedgerStub(channel).ListGatewayCases(request, timeout=CALL_TIMEOUT_S)
    rows: list[Row] = [
        {
            "case_id": case.case_id,
            "gateway_id": case.gateway_id,
            "incarnation": case.incarnation,
            "kind": case.kind,
            "detail": case.detail,
            "opened_at_us": case.opened_at_us,
            "closed_at_us": case.closed_at_us,
        }
        for case in answer.cases
    ]
    columns = ("case_id", "gateway_id", "incarnation", "kind", "detail", "opened_at_us", "closed_at_us")
    show(rows, columns, as_json=as_json)
