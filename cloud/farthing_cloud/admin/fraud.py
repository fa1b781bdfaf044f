"""``farthing-admin fraud``: the cases that fraud opened."""

from typing import Annotated

import typer

from farthing.v1 import fraud_pb2, fraud_pb2_grpc
from farthing_cloud.admin.session import CALL_TIMEOUT_S, Json, Operator, Row, back_office, show, show_one

app = typer.Typer(help="What fraud found and did.", no_args_is_help=True)
cases = typer.Typer(help="Cases.", no_args_is_help=True)
app.add_typer(cases, name="cases")


@cases.command("list")
def list_cases(ctx: typer.Context, operator: Operator, as_json: Json = False) -> None:
    """Cases of an operator, newest first."""
    with back_office(ctx) as channel:
        answer = fraud_pb2_grpc.FraudStub(channel).ListCases(
            fraud_pb2.ListCasesRequest(operator_id=operator), timeout=CALL_TIMEOUT_S
        )
    show(
        [_row(case) for case in answer.cases],
        ("case_id", "kind", "device_id", "status", "opened_at_us", "summary"),
        as_json=as_json,
    )


@cases.command("show")
def show_case(ctx: typer.Context, case_id: Annotated[int, typer.Argument(min=1)], as_json: Json = False) -> None:
    """One case with its proof, two signed statements in hexadecimal, and what was done."""
    with back_office(ctx) as channel:
        answer = fraud_pb2_grpc.FraudStub(channel).ShowCase(
            fraud_pb2.ShowCaseRequest(case_id=case_id), timeout=CALL_TIMEOUT_S
        )
    show_one(
        {
            **_row(answer.case),
            "device_epoch": answer.proof.device_epoch,
            "counter": answer.proof.counter,
            "gateway_ids": list(answer.proof.gateway_ids),
            "statements": [statement.hex() for statement in answer.proof.statements],
            "actions": list(answer.actions),
        },
        as_json=as_json,
    )


def _row(case: fraud_pb2.FraudCase) -> Row:
    return {
        "case_id": case.case_id,
        "operator_id": case.operator_id,
        "kind": case.kind,
        "device_id": case.device_id,
        "status": case.status,
        "opened_at_us": case.opened_at_us,
        "summary": case.summary,
    }
