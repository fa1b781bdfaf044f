"""Commands on accounts, books, closings and cases: exact amounts in, tables or JSON out, a no is one sentence."""

import io
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import grpc
import pytest
from click.testing import Result
from typer.testing import CliRunner

from farthing.v1 import (
    directive_pb2,
    fraud_pb2,
    fraud_pb2_grpc,
    ledger_pb2,
    ledger_pb2_grpc,
    registry_pb2,
    settlement_pb2,
    settlement_pb2_grpc,
)
from farthing_cloud.admin import corrections, fraud, ledger, registry, settlement
from farthing_cloud.admin.session import same_line

Run = Callable[..., Result]


class Office:
    """Answers each method with what a test laid ready, and keeps what was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[tuple[str, Any]] = []
        self.refuse: tuple[grpc.StatusCode, str] | None = None

    def serve(self, name: str) -> Callable[[Any, Any], Any]:
        def answer(request: Any, context: Any) -> Any:
            self.asked.append((name, request))
            if self.refuse is not None:
                context.abort(*self.refuse)
            prepared = self.answers[name]
            return prepared.pop(0) if isinstance(prepared, list) else prepared

        return answer

    def __getattr__(self, name: str) -> Any:
        return self.serve(name)


@pytest.fixture
def office() -> Office:
    return Office()


@pytest.fixture
def run(office: Office) -> Iterator[Run]:
    with ThreadPoolExecutor(max_workers=2) as pool:
        server = grpc.server(pool)
        for add in (
            ledger_pb2_grpc.add_LedgerServicer_to_server,
            fraud_pb2_grpc.add_FraudServicer_to_server,
            settlement_pb2_grpc.add_SettlementServicer_to_server,
        ):
            add(office, server)  # type: ignore[arg-type]  # every method is there
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield lambda app, *words: CliRunner().invoke(app, words, obj=lambda: channel)
        server.stop(None).wait()


OP = ("--operator", "op")


def test_amounts_are_typed_and_sent_exactly(run: Run, office: Office) -> None:
    office.answers["CreateAccount"] = ledger_pb2.CreateAccountResponse(changed=True)
    words = ("create", "P", "--currency", "EUR", "--credit-limit", "0.1", "--debt-limit", "1.000001", "--preload", "4")
    result = run(ledger.accounts, *words, *OP)
    assert result.exit_code == 0, result.output
    ((_, request),) = office.asked
    assert (request.credit_limit_micros, request.debt_limit_micros, request.preload_micros) == (
        100_000,
        1_000_001,
        4_000_000,
    )
    assert request.status == directive_pb2.ACCOUNT_STATUS_ACTIVE


@pytest.mark.parametrize("amount", ["0.0000001", "-1", "1e400", "ten", "NaN", "Infinity", "9007199255", ""])
def test_what_is_no_amount_is_not_sent(run: Run, office: Office, amount: str) -> None:
    words = ("fund", "P", "--amount", amount, "--currency", "EUR", "--payment", "p1", "--source", "bank/main")
    result = run(ledger.accounts, *words, *OP)
    assert result.exit_code == 2
    assert "is not an amount" in result.output
    assert not office.asked


def test_funding(run: Run, office: Office) -> None:
    office.answers["FundAccount"] = ledger_pb2.FundAccountResponse(changed=True, available_micros=10_000_000)
    words = ("fund", "P", "--amount", "10.00", "--currency", "EUR", "--payment", "p1", "--source", "bank/main")
    result = run(ledger.accounts, *words, *OP)
    assert "10.00" in result.output
    assert office.asked[0][1].amount_micros == 10_000_000


def test_accounts_as_table_and_as_json(run: Run, office: Office) -> None:
    account = ledger_pb2.PayerAccount(
        operator_id="op",
        account_id="P",
        currency="EUR",
        status=directive_pb2.ACCOUNT_STATUS_ACTIVE,
        funds_micros=10_000_000,
        posted_micros=9_110_000,
        available_micros=890_000,
    )
    office.answers["ListAccounts"] = ledger_pb2.ListAccountsResponse(accounts=[account])
    office.answers["ShowAccount"] = ledger_pb2.ShowAccountResponse(account=account)
    table = run(ledger.accounts, "list", *OP).output.splitlines()
    assert table[0].split() == ["account", "id", "currency", "status", "funds", "posted", "held", "available", "debt"]
    assert table[1].split() == ["P", "EUR", "active", "10.00", "9.11", "0.00", "0.89", "0.00"]
    (row,) = json.loads(run(ledger.accounts, "list", *OP, "--json").output)
    assert (row["account_id"], row["available_micros"]) == ("P", 890_000)
    assert json.loads(run(ledger.accounts, "show", "P", *OP, "--json").output) == row


def test_quotas_are_listed_and_recalled(run: Run, office: Office) -> None:
    office.answers["ListQuotas"] = ledger_pb2.ListQuotasResponse(
        quotas=[ledger_pb2.Quota(quota_id="q1", amount_micros=4_000_000, status="open", spend_until_us=1_000_000)]
    )
    office.answers["RecallQuotas"] = ledger_pb2.RecallQuotasResponse(quota_ids=["q1", "q2"])
    assert "1970-01-01T00:00:01Z" in run(ledger.quotas, "list", "--open", *OP).output
    assert office.asked[0][1].open_only
    result = run(ledger.quotas, "recall", "--reason", "the end of the day", "--account", "P", *OP, "--json")
    assert json.loads(result.output) == [{"quota_id": "q1"}, {"quota_id": "q2"}]
    assert office.asked[1][1].account_id == "P"


def test_batches(run: Run, office: Office) -> None:
    office.answers["ListBatches"] = ledger_pb2.ListBatchesResponse(
        batches=[ledger_pb2.BatchSummary(gateway_id="gw-1", sequence=1, hash=b"\x01" * 32, proven=True)]
    )
    assert "yes" in run(ledger.batches, "list", *OP).output
    (row,) = json.loads(run(ledger.batches, "list", *OP, "--json").output)
    assert (row["hash"], row["proven"]) == ("01" * 32, True)


def test_balances_may_be_larger_than_any_wire_integer(run: Run, office: Office) -> None:
    office.answers["ListBalances"] = ledger_pb2.ListBalancesResponse(
        balances=[
            ledger_pb2.Balance(
                path="bank/main",
                currency="EUR",
                debits_posted=str(10**30),
                credits_posted="5",
                debits_pending="0",
                credits_pending="0",
            )
        ]
    )
    (row,) = json.loads(run(ledger.ledger, "balance", "bank/", *OP, "--json").output)
    assert row["balance_micros"] == 5 - 10**30
    assert f"-{10**24 - 1}.999995" in run(ledger.ledger, "balance", *OP).output


def test_balances_at_an_instant_by_either_date(run: Run, office: Office) -> None:
    office.answers["ListBalances"] = ledger_pb2.ListBalancesResponse()
    run(ledger.ledger, "balance", *OP)
    run(ledger.ledger, "balance", "tax/", *OP, "--at", "1970-01-01T01:00:01+01:00", "--by-business-date")
    (_, today), (_, then) = office.asked
    assert (today.HasField("at_us"), today.by_business_date) == (False, False)
    assert (then.path_prefix, then.at_us, then.by_business_date) == ("tax/", 1_000_000, True)
    assert run(ledger.ledger, "balance", *OP, "--by-business-date").exit_code != 0
    assert len(office.asked) == 2


def test_a_statement_goes_page_by_page(run: Run, office: Office) -> None:
    def page(*ids: int) -> ledger_pb2.ListTransfersResponse:
        return ledger_pb2.ListTransfersResponse(
            transfers=[ledger_pb2.Transfer(id=each, kind="post", amount_micros=1) for each in ids]
        )

    office.answers["ListTransfers"] = [page(3, 4), page(9), page()]
    result = run(ledger.ledger, "statement", "payer/P", *OP, "--json")
    assert [row["id"] for row in json.loads(result.output)] == [3, 4, 9]
    assert [request.after_id for _, request in office.asked] == [0, 4, 9]


@pytest.mark.parametrize(("ok", "status"), [(True, 0), (False, 1)])
def test_verify_says_it_with_its_status(run: Run, office: Office, ok: bool, status: int) -> None:
    verdict = ledger_pb2.VerifyResponse(ok=ok, fault="" if ok else "transfer 7 has no account")
    office.answers["FollowVerify"] = iter([ledger_pb2.FollowVerifyResponse(verdict=verdict)])
    result = run(ledger.ledger, "verify")
    assert result.exit_code == status
    assert ok or "transfer 7" in result.output


def test_who_waits_for_verify_sees_how_far_it_is(run: Run, office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(ledger, "same_line", lambda: nullcontext(said.append))
    progress = (
        ledger_pb2.VerifyProgress(step=7, steps=30, what="terms"),
        ledger_pb2.VerifyProgress(step=24, steps=30, what="claims by batch", rows=1_000),
    )
    answers = [ledger_pb2.FollowVerifyResponse(progress=each) for each in progress]
    verdict = ledger_pb2.VerifyResponse(ok=True, transfers=5)
    office.answers["FollowVerify"] = iter([*answers, ledger_pb2.FollowVerifyResponse(verdict=verdict)])
    result = run(ledger.ledger, "verify", "--json")
    assert said == ["step 7 of 30: terms", "step 24 of 30: claims by batch, 1000 rows"]
    assert json.loads(result.output)["transfers"] == 5


@pytest.mark.parametrize("terminal", [True, False])
def test_how_far_it_is_stands_on_one_line_of_a_terminal(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(stderr, "isatty", lambda: terminal)
    monkeypatch.setattr("sys.stderr", stderr)
    with same_line() as say:
        say("1 of 2")
        say("2 of 2")
    assert stderr.getvalue() == ("\r\x1b[K1 of 2\r\x1b[K2 of 2\r\x1b[K" if terminal else "")


def test_cases_are_decided(run: Run, office: Office) -> None:
    office.answers["ListOverlapCases"] = ledger_pb2.ListOverlapCasesResponse(
        cases=[ledger_pb2.OverlapCase(case_id=4, status="open", aside_micros=1_200_000)]
    )
    office.answers["DecideOverlapCase"] = ledger_pb2.DecideOverlapCaseResponse()
    assert "1.20" in run(ledger.ledger, "cases", *OP).output
    assert run(ledger.ledger, "decide", "4").exit_code == 2
    for word, release in (("--release", True), ("--void", False)):
        assert run(ledger.ledger, "decide", "4", word).exit_code == 0
        assert office.asked[-1][1].release is release


def test_claims_and_reconciliation(run: Run, office: Office) -> None:
    office.answers["ListClaims"] = ledger_pb2.ListClaimsResponse(
        claims=[ledger_pb2.ClaimSummary(authorization_id=b"\xab" * 16, net_micros=720_000)]
    )
    office.answers["Reconcile"] = ledger_pb2.ReconcileResponse(window="w1", bank_micros=10_800_000)
    assert "ab" * 16 in run(ledger.ledger, "claims", *OP).output
    assert "10.80" in run(ledger.ledger, "reconcile", *OP).output
    row = json.loads(run(ledger.ledger, "reconcile", *OP, "--json").output)
    assert (row["window"], row["bank_micros"]) == ("w1", 10_800_000)
    assert set(row) == {field.name for field in ledger_pb2.ReconcileResponse.DESCRIPTOR.fields}


def test_fraud_cases(run: Run, office: Office) -> None:
    case = fraud_pb2.FraudCase(case_id=1, kind="clone", device_id="x1", status="acted", summary="x1 signed twice")
    office.answers["ListCases"] = fraud_pb2.ListCasesResponse(cases=[case])
    office.answers["ShowCase"] = fraud_pb2.ShowCaseResponse(
        case=case,
        proof=fraud_pb2.FraudProof(statements=[b"\x01", b"\x02"], gateway_ids=["gw-1", "gw-2"], counter=7),
        actions=["block-device: done, blocked"],
    )
    assert "x1 signed twice" in run(fraud.app, "cases", "list", *OP).output
    assert "gw-1, gw-2" in run(fraud.app, "cases", "show", "1").output
    shown = json.loads(run(fraud.app, "cases", "show", "1", "--json").output)
    assert shown["statements"] == ["01", "02"]
    assert shown["actions"] == ["block-device: done, blocked"]


def test_closing_and_planning(run: Run, office: Office) -> None:
    office.answers["Close"] = settlement_pb2.CloseResponse(
        closed_window="w1",
        next_window="w2",
        sites=[
            ledger_pb2.SiteClosing(
                site_id="S1",
                split_micros=100,
                results=[ledger_pb2.SplitResult(path="agency/A", amount_micros=100)],
            ),
            ledger_pb2.SiteClosing(site_id="S2", carried_micros=15_000),
        ],
    )
    plan = settlement_pb2.PayoutPlan(
        plan_id="plan-1",
        window="w1",
        currency="EUR",
        payouts=[
            settlement_pb2.Payout(path="agency/A", owed_micros=5_566_796, planned_micros=5_560_000, stays_micros=6_796)
        ],
        total_micros=5_560_000,
        content_hash=b"\xff" * 32,
    )
    office.answers["Plan"] = settlement_pb2.PlanResponse(plan=plan)
    office.answers["ShowPlan"] = settlement_pb2.ShowPlanResponse(plan=plan)
    closed = run(settlement.settlement, "close", *OP).output
    assert "closed w1, open is w2" in closed
    assert "0.015" in closed
    planned = run(settlement.settlement, "plan", *OP).output
    assert planned.splitlines()[-1].split() == ["agency/A", "5.566796", "5.56", "0.006796"]
    (row,) = json.loads(run(settlement.settlement, "plan", *OP, "--json").output)
    assert (row["plan_id"], row["planned_micros"], row["content_hash"]) == ("plan-1", 5_560_000, "ff" * 32)
    assert run(settlement.settlement, "show", "plan-1").output == planned


def test_split_rules_and_agencies(run: Run, office: Office) -> None:
    office.answers["PutSplitRule"] = registry_pb2.PutResponse(
        change=registry_pb2.CHANGE_CREATED, differences=["agency/A: none -> 60.5 %"]
    )
    office.answers["PutAgency"] = registry_pb2.PutResponse(change=registry_pb2.CHANGE_NONE)
    office.answers["ListAgencies"] = settlement_pb2.ListAgenciesResponse(
        agencies=[settlement_pb2.Agency(agency_id="A", operator_id="op", name="Transport")]
    )
    words = (
        "--site",
        "S1",
        "--version",
        "1",
        "--part",
        "agency/A=60.5",
        "--part",
        "fee/op=39.5",
        "--remainder",
        "agency/A",
    )
    result = run(settlement.split_rules, "put", *words, *OP, "--effective-from", "2026-03-01T00:00:00+01:00")
    assert result.exit_code == 0, result.output
    assert "60.5 %" in result.output
    rule = office.asked[0][1].rule
    assert [(part.path, part.share_ppm) for part in rule.parts] == [("agency/A", 605_000), ("fee/op", 395_000)]
    assert rule.effective_from_us == 1_772_319_600_000_000
    office.answers["ListSplitRules"] = settlement_pb2.ListSplitRulesResponse(rules=[rule])
    assert "39.5 %" in run(settlement.split_rules, "list", *OP).output
    assert (
        json.loads(run(settlement.agencies, "put", "A", "--name", "Transport", *OP, "--json").output)["change"]
        == "none"
    )
    assert "Transport" in run(settlement.agencies, "list", *OP).output
    for bad in ("agency/A", "agency/A=0", "agency/A=33.33333", "agency/A=101"):
        assert run(settlement.split_rules, "put", *words, "--part", bad, *OP).exit_code == 2
    assert run(settlement.split_rules, "put", *words, *OP, "--effective-from", "2026-03-01").exit_code == 2


def test_a_no_is_one_sentence_and_status_1(run: Run, office: Office) -> None:
    office.refuse = (grpc.StatusCode.FAILED_PRECONDITION, "no split rule in force for S2 (1.20)")
    result = run(settlement.settlement, "close", *OP)
    assert result.exit_code == 1
    assert result.output == "failed precondition: no split rule in force for S2 (1.20)\n"


def test_an_operator_is_named(run: Run, monkeypatch: pytest.MonkeyPatch, office: Office) -> None:
    office.answers["ListAccounts"] = ledger_pb2.ListAccountsResponse()
    assert run(ledger.accounts, "list").exit_code == 2
    monkeypatch.setenv("FARTHING_ADMIN_OPERATOR", "op")
    assert run(ledger.accounts, "list").output.splitlines()[-1] == "none"
    assert office.asked[0][1].operator_id == "op"


CONTENT = ledger_pb2.DecisionContent(
    kind="incarnation", operator_id="op", gateway_id="gw-1", incarnation=1, reason="a new disk", proposed_by="ann"
)
DECISION = ledger_pb2.Decision(decision_id="d-1", content=CONTENT.SerializeToString(), content_hash=bytes(range(32)))


def test_two_people_decide_by_the_hash_of_what_was_proposed(run: Run, office: Office) -> None:
    office.answers["ProposeDecision"] = ledger_pb2.ProposeDecisionResponse(decision=DECISION)
    office.answers["ApproveDecision"] = ledger_pb2.ApproveDecisionResponse(changed=True)
    void = ledger_pb2.Decision(content=ledger_pb2.DecisionContent(kind="forced-void").SerializeToString())
    office.answers["ListDecisions"] = ledger_pb2.ListDecisionsResponse(decisions=[DECISION, void])
    result = run(registry.gateways, "incarnation", "propose", "gw-1", "--reason", "a new disk", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["content_hash"] == bytes(range(32)).hex()
    listed = json.loads(run(registry.gateways, "incarnation", "list", *OP, "--json").stdout)
    assert [(row["decision_id"], row["status"], row["proposed_by"]) for row in listed] == [("d-1", "proposed", "ann")]
    result = run(registry.gateways, "incarnation", "approve", "d-1", "--content-hash", bytes(range(32)).hex())
    assert result.exit_code == 0, result.output
    assert office.asked[-1][1] == ledger_pb2.ApproveDecisionRequest(decision_id="d-1", content_hash=bytes(range(32)))
    asked = len(office.asked)
    assert run(registry.gateways, "forced-void", "approve", "d-1", "--content-hash", "xyz").exit_code != 0
    assert len(office.asked) == asked
    assert run(registry.gateways, "forced-void", "propose", "gw-1", "--reason", "burnt down").exit_code == 0
    assert office.asked[-1][1].kind == "forced-void"
    assert len(json.loads(run(registry.gateways, "forced-void", "list", *OP, "--json").stdout)) == 1


def test_cases_of_gateways_and_maximum_loss_are_shown(run: Run, office: Office) -> None:
    case = ledger_pb2.GatewayCase(case_id=1, gateway_id="gw-1", incarnation=1, kind="incarnation", detail="no journal")
    office.answers["ListGatewayCases"] = ledger_pb2.ListGatewayCasesResponse(cases=[case])
    row = ledger_pb2.Exposure(scope="gateway", id="gw-1", currency="EUR", maximum_loss_micros=5_000_000, silent=1)
    office.answers["ShowExposure"] = ledger_pb2.ShowExposureResponse(rows=[row])
    assert "no journal" in run(registry.gateways, "cases", "--open", *OP).stdout
    assert office.asked[-1][1].open_only
    (shown,) = json.loads(run(ledger.ledger, "exposure", *OP, "--json").stdout)
    assert (shown["maximum_loss_micros"], shown["silent"], shown["late_micros"]) == (5_000_000, 1, 0)


USE = "74".ljust(32, "0")


@pytest.mark.parametrize(
    ("words", "kind", "names"),
    [
        (
            ("refund", USE, "--gateway", "G1", "--amount", "0.60"),
            "refund",
            {"amount_micros": 600_000, "gateway_id": "G1"},
        ),
        (("dispute", USE, "--gateway", "G1"), "dispute", {"authorization_id": bytes.fromhex(USE), "amount_micros": 0}),
        (("end-dispute", "d1", "--lost"), "dispute-lost", {"dispute_id": "d1"}),
        (("end-dispute", "d1", "--won"), "dispute-won", {"dispute_id": "d1"}),
        (("goodwill", "P", "--amount", "5.00"), "goodwill", {"account_id": "P", "amount_micros": 5_000_000}),
        (("payback", "P", "--to", "bank/main"), "payback", {"account_id": "P", "path": "bank/main"}),
        (
            ("payback-approve", "pb-1", "--content-hash", "ab" * 32),
            "payback-approved",
            {"payback_id": "pb-1", "approved_hash": bytes.fromhex("ab" * 32)},
        ),
        (("payback-handed", "pb-1"), "payback-handed", {"payback_id": "pb-1"}),
        (
            ("payback-sent", "pb-1", "--bank-reference", "camt-1"),
            "payback-sent",
            {"payback_id": "pb-1", "payment_id": "camt-1"},
        ),
        (("payback-failed", "pb-1"), "payback-failed", {"payback_id": "pb-1"}),
        (
            ("payback-returned", "pb-1", "--bank-reference", "camt-2"),
            "payback-returned",
            {"payback_id": "pb-1", "payment_id": "camt-2"},
        ),
        (("chargeback", "P", "--payment", "p1"), "chargeback", {"account_id": "P", "payment_id": "p1"}),
        (("write-off", "P"), "write-off", {"account_id": "P"}),
        (("close-account", "P", "--dry-run"), "closing", {"account_id": "P"}),
    ],
)
def test_a_correction_is_asked_for_in_full(
    run: Run, office: Office, words: tuple[str, ...], kind: str, names: dict[str, Any]
) -> None:
    content = ledger_pb2.CorrectionContent(
        operator_id="op", correction_id="ticket-1", kind=kind, reason="wrong price", **names
    )
    posted = ledger_pb2.Correction(content=content, amount_micros=600_000, currency="EUR", person="alice")
    office.answers["Correct"] = ledger_pb2.CorrectResponse(changed=True, correction=posted)
    result = run(corrections.corrections, *words, "--id", "ticket-1", "--reason", "wrong price", *OP, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["amount_micros"] == 600_000
    ((name, request),) = office.asked
    asked = ledger_pb2.CorrectionContent.FromString(request.content.SerializeToString())
    for field, value in names.items():
        assert getattr(asked, field) == value
    assert (name, asked.kind, asked.correction_id, request.dry_run) == (
        "Correct",
        kind,
        "ticket-1",
        "--dry-run" in words,
    )


def test_corrections_are_listed_page_by_page(run: Run, office: Office) -> None:
    content = ledger_pb2.CorrectionContent(correction_id="c1", kind="goodwill", account_id="P", reason="sorry")
    page = ledger_pb2.ListCorrectionsResponse(
        corrections=[ledger_pb2.Correction(content=content, amount_micros=5_000_000, currency="EUR", person="alice")]
    )
    office.answers["ListCorrections"] = [page, ledger_pb2.ListCorrectionsResponse()]
    result = run(corrections.corrections, "list", *OP)
    assert "goodwill" in result.output
    assert "5.00" in result.output
    assert [request.after_correction_id for _, request in office.asked] == ["", "c1"]


def test_an_authorization_that_is_none_is_not_sent(run: Run, office: Office) -> None:
    words = ("refund", "t1", "--gateway", "G1", "--id", "x", "--reason", "y")
    assert run(corrections.corrections, *words, *OP).exit_code == 1
    assert not office.asked
