"""``farthing-admin apply``: make the back office what a file says; the same file again changes nothing.

Rule 1: the file is read and every message built before the first call: a fault in it changes nothing.
Rule 2: things come after what they name: operators, agencies, sites, gateways, split rules, tariffs, accounts, fundings,
devices, tokens, entitlements.
Rule 3: a step that fails ends the run; what was done stays, and applying again goes on from there.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import grpc
import typer

from farthing.configuration import ConfigError
from farthing.money import format_micros
from farthing.v1 import (
    ledger_pb2,
    ledger_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
    settlement_pb2,
    settlement_pb2_grpc,
    vault_pb2_grpc,
)
from farthing_cloud.admin.document import Account, Document, Funding, read_document
from farthing_cloud.admin.session import CALL_TIMEOUT_S, DryRun, Json, Row, back_office, fail, show

#: What a step did: a change, and its differences field by field.
Outcome = tuple[str, list[str]]

NONE, CREATED, UPDATED = "none", "created", "updated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing of the file. ``needs`` names steps ("account city/acme") without which its service refuses even a dry run."""

    kind: str
    id: str
    run: Callable[[grpc.Channel, bool], Outcome]
    needs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Names it among the steps."""
        return f"{self.kind} {self.id}"


def plan(document: Document, folder: Path) -> list[Step]:
    """The steps that make the back office what ``document`` says; paths in it are relative to ``folder``.

    Raise ``ConfigError`` for a party, file or token that cannot be read.
    """
    return [*_registry_steps(document, folder), *_money_steps(document), *_end_steps(document, folder)]


def _registry_steps(document: Document, folder: Path) -> Iterator[Step]:
    for operator in document.operators:
        yield put_operator(operator.message())
    for agency in document.agencies:
        yield _put_agency(agency.message())
    for site in document.sites:
        yield put_site(site.message())
    for gateway in document.gateways:
        yield put_gateway(gateway.message(folder))
    for rule in document.split_rules:
        yield _put_split_rule(rule.message())
    for tariff in document.tariffs:
        yield put_tariff(tariff.message(folder))


def _money_steps(document: Document) -> Iterator[Step]:
    currencies = {(account.operator, account.id): account.currency for account in document.accounts}
    for account in document.accounts:
        yield _put_account(account)
    for funding in document.fundings:
        yield _fund(funding, currencies.get((funding.operator, funding.account)))


def _end_steps(document: Document, folder: Path) -> Iterator[Step]:
    for device in document.devices:
        yield put_device(device.message(folder))
    for token in document.tokens:
        request = token.message()

        def put_token(channel: grpc.Channel, dry_run: bool, request: object = request) -> Outcome:
            request.dry_run = dry_run  # type: ignore[attr-defined]  # a PutTokenRequest, bound early
            answer = vault_pb2_grpc.VaultStub(channel).PutToken(request, timeout=CALL_TIMEOUT_S)  # type: ignore[arg-type]  # as above
            return change_name(answer.change), [f"token_id: {answer.token_id}"] if answer.token_id else []

        yield Step(kind="token", id=f"{token.operator}/{token.label}", run=put_token)
    for entitlement in document.entitlements:
        yield put_entitlement(entitlement.message())


def change_name(change: registry_pb2.Change.ValueType) -> str:
    """ "none", "created" or "updated"."""
    return registry_pb2.Change.Name(change).removeprefix("CHANGE_").lower()


def _outcome(answer: registry_pb2.PutResponse) -> Outcome:
    return change_name(answer.change), list(answer.differences)


def put_operator(operator: registry_pb2.Operator) -> Step:
    """Put an operator."""
    return Step(
        kind="operator",
        id=operator.operator_id,
        run=lambda channel, dry_run: _outcome(
            registry_pb2_grpc.RegistryStub(channel).PutOperator(
                registry_pb2.PutOperatorRequest(operator=operator, dry_run=dry_run), timeout=CALL_TIMEOUT_S
            )
        ),
    )


def put_site(site: registry_pb2.Site) -> Step:
    """Put a site."""
    return Step(
        kind="site",
        id=site.site_id,
        run=lambda channel, dry_run: _outcome(
            registry_pb2_grpc.RegistryStub(channel).PutSite(
                registry_pb2.PutSiteRequest(site=site, dry_run=dry_run), timeout=CALL_TIMEOUT_S
            )
        ),
    )


def put_gateway(gateway: registry_pb2.Gateway) -> Step:
    """Put a gateway."""
    return Step(
        kind="gateway",
        id=gateway.gateway_id,
        run=lambda channel, dry_run: _outcome(
            registry_pb2_grpc.RegistryStub(channel).PutGateway(
                registry_pb2.PutGatewayRequest(gateway=gateway, dry_run=dry_run), timeout=CALL_TIMEOUT_S
            )
        ),
    )


def put_tariff(tariff: registry_pb2.Tariff) -> Step:
    """Put a version of a tariff."""
    return Step(
        kind="tariff",
        id=f"{tariff.operator_id}/{tariff.tariff.tariff_id}/{tariff.tariff.version}",
        run=lambda channel, dry_run: _outcome(
            registry_pb2_grpc.RegistryStub(channel).PutTariff(
                registry_pb2.PutTariffRequest(tariff=tariff, dry_run=dry_run), timeout=CALL_TIMEOUT_S
            )
        ),
    )


def put_device(device: registry_pb2.Device) -> Step:
    """Put a device."""
    return Step(
        kind="device",
        id=device.record.device_id,
        run=lambda channel, dry_run: _outcome(
            registry_pb2_grpc.RegistryStub(channel).PutDevice(
                registry_pb2.PutDeviceRequest(device=device, dry_run=dry_run), timeout=CALL_TIMEOUT_S
            )
        ),
    )


def put_entitlement(entitlement: registry_pb2.Entitlement) -> Step:
    """Put an entitlement."""
    return Step(
        kind="entitlement",
        id=f"{entitlement.operator_id}/{entitlement.record.entitlement_id}",
        run=lambda channel, dry_run: _outcome(
            registry_pb2_grpc.RegistryStub(channel).PutEntitlement(
                registry_pb2.PutEntitlementRequest(entitlement=entitlement, dry_run=dry_run), timeout=CALL_TIMEOUT_S
            )
        ),
    )


def _put_agency(agency: settlement_pb2.Agency) -> Step:
    return Step(
        kind="agency",
        id=f"{agency.operator_id}/{agency.agency_id}",
        needs=(f"operator {agency.operator_id}",),
        run=lambda channel, dry_run: _outcome(
            settlement_pb2_grpc.SettlementStub(channel).PutAgency(
                settlement_pb2.PutAgencyRequest(agency=agency, dry_run=dry_run), timeout=CALL_TIMEOUT_S
            )
        ),
    )


def _put_split_rule(rule: settlement_pb2.SplitRule) -> Step:
    return Step(
        kind="split rule",
        id=f"{rule.site_id}/{rule.version}",
        needs=(
            f"site {rule.site_id}",
            f"split rule {rule.site_id}/{rule.version - 1}",
            *(f"agency {rule.operator_id}/{part.path.removeprefix('agency/')}" for part in rule.parts),
        ),
        run=lambda channel, dry_run: _outcome(
            settlement_pb2_grpc.SettlementStub(channel).PutSplitRule(
                settlement_pb2.PutSplitRuleRequest(rule=rule, dry_run=dry_run), timeout=CALL_TIMEOUT_S
            )
        ),
    )


def _put_account(account: Account) -> Step:
    request = account.message()

    def run(channel: grpc.Channel, dry_run: bool) -> Outcome:
        stub = ledger_pb2_grpc.LedgerStub(channel)
        old = _shown_account(stub, request)
        request.dry_run = dry_run
        answer = stub.CreateAccount(request, timeout=CALL_TIMEOUT_S)
        if not answer.changed:
            return NONE, []
        if old is None:
            return CREATED, []
        return UPDATED, [
            f"{name}: {format_micros(getattr(old, name))} -> {format_micros(getattr(request, name))}"
            for name in ("credit_limit_micros", "debt_limit_micros", "preload_micros")
            if getattr(old, name) != getattr(request, name)
        ]

    return Step(kind="account", id=f"{account.operator}/{account.id}", needs=(f"operator {account.operator}",), run=run)


def _shown_account(
    stub: ledger_pb2_grpc.LedgerStub, request: ledger_pb2.CreateAccountRequest
) -> ledger_pb2.PayerAccount | None:
    try:
        return stub.ShowAccount(
            ledger_pb2.ShowAccountRequest(operator_id=request.operator_id, account_id=request.account_id),
            timeout=CALL_TIMEOUT_S,
        ).account
    except grpc.RpcError as err:
        if err.code() == grpc.StatusCode.NOT_FOUND:
            return None
        raise


def _fund(funding: Funding, currency: str | None) -> Step:
    def run(channel: grpc.Channel, dry_run: bool) -> Outcome:
        stub = ledger_pb2_grpc.LedgerStub(channel)
        known = currency
        if known is None:
            # An account that another file created: it knows its currency.
            known = stub.ShowAccount(
                ledger_pb2.ShowAccountRequest(operator_id=funding.operator, account_id=funding.account),
                timeout=CALL_TIMEOUT_S,
            ).account.currency
        request = funding.message(known)
        request.dry_run = dry_run
        answer = stub.FundAccount(request, timeout=CALL_TIMEOUT_S)
        if not answer.changed:
            return NONE, []
        return CREATED, [f"available: {format_micros(answer.available_micros)} {known}"]

    return Step(
        kind="funding",
        id=f"{funding.operator}/{funding.payment_id}",
        needs=(f"account {funding.operator}/{funding.account}",),
        run=run,
    )


def execute(steps: list[Step], channel: grpc.Channel, *, dry_run: bool) -> Iterator[tuple[Step, Outcome]]:
    """Run the steps in order. A dry run takes what an earlier step would create as there."""
    created: set[str] = set()
    for step in steps:
        if dry_run and created.intersection(step.needs):
            # Its service does not know what it stands on yet, and would refuse it for that alone.
            outcome: Outcome = (CREATED, [])
        else:
            outcome = step.run(channel, dry_run)
        if outcome[0] == CREATED:
            created.add(step.name)
        yield step, outcome


apply_command = typer.Typer()


@apply_command.command()
def apply(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="TOML: operators, agencies, sites, gateways, … as tables of arrays.")],
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Make the back office what FILE says; the same again changes nothing."""
    try:
        steps = plan(read_document(file), file.parent)
    except ConfigError as err:
        fail(str(err))
    rows: list[Row] = []
    at: Step | None = None
    try:
        with back_office(ctx) as channel:
            progress = execute(steps, channel, dry_run=dry_run)
            for index, step in enumerate(steps):
                at = step
                _, (change, differences) = next(progress)
                rows.append({"kind": step.kind, "id": step.id, "change": change, "differences": differences})
                at = None if index == len(steps) - 1 else at
    except typer.Exit:
        if at is not None:
            typer.echo(f"at {at.name}; {len(rows)} of {len(steps)} done, applying again goes on from here", err=True)
        raise
    _report(rows, dry_run=dry_run, as_json=as_json)


def _report(rows: list[Row], *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        show(rows, (), as_json=True)
        return
    # What is new is in the file already: people want to see what differs from before.
    changed: list[Row] = [
        row if row["change"] == UPDATED else {**row, "differences": ()} for row in rows if row["change"] != NONE
    ]
    if changed:
        show(changed, ("kind", "id", "change", "differences"), as_json=False)
    counts: Mapping[str, int] = {name: sum(row["change"] == name for row in rows) for name in (CREATED, UPDATED, NONE)}
    would = "would be " if dry_run else ""
    typer.echo(f"{counts[CREATED]} {would}created, {counts[UPDATED]} {would}updated, {counts[NONE]} unchanged")
