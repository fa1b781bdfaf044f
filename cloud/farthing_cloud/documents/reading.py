"""What documents ask others: the ledger what it posted, the registry what things are called."""

from dataclasses import dataclass, field

import grpc
import grpc.aio

from farthing.evidence.classes import name_of
from farthing.money import Currency, parse_currency
from farthing.v1 import (
    ledger_pb2,
    ledger_pb2_grpc,
    movements_pb2,
    movements_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
)
from farthing_cloud.documents.billing import Billed, GivenBack, Key
from farthing_cloud.documents.statements import Figures, Moved
from farthing_cloud.refusals import Refused

#: A peer answers within this, or the call is made again by who asked us.
PEER_TIMEOUT_S = 10.0
#: The state of a ledger that is not being restored.
OPEN = "open"
#: An account's movements are read in one go: a year of a busy fleet takes seconds.
MOVEMENTS_TIMEOUT_S = 60.0
#: Accounts in one answer of the ledger.
ACCOUNTS_AT_ONCE = 1_000
#: Rows of one answer that are held in memory, about 1 kB each; a document of more is no document: take a shorter period.
MAX_ROWS = 100_000


@dataclass(slots=True)
class Told:
    """One account between two places of the audit chain."""

    currency: Currency
    after_position: int
    to_position: int
    to_head: bytes
    opening: Figures
    closing: Figures
    moved: list[Moved] = field(default_factory=list)
    billed: list[Billed] = field(default_factory=list)
    given_back: list[GivenBack] = field(default_factory=list)


class Peers:
    """The other services; what they refuse is refused on, with who said it."""

    def __init__(self, *, ledger: grpc.aio.Channel, registry: grpc.aio.Channel) -> None:
        self._ledger = ledger_pb2_grpc.LedgerStub(ledger)
        self._movements = movements_pb2_grpc.MovementsStub(ledger)
        self._registry = registry_pb2_grpc.RegistryStub(registry)

    async def movements(self, request: movements_pb2.ListMovementsRequest) -> Told:
        """What happened to an account."""
        told: Told | None = None
        rows = 0
        try:
            async for item in self._movements.ListMovements(request, timeout=MOVEMENTS_TIMEOUT_S):
                rows += 1
                if rows > MAX_ROWS:
                    raise Refused(
                        grpc.StatusCode.OUT_OF_RANGE,
                        f"account {request.account_id} has more than {MAX_ROWS} movements there: take a shorter period",
                    )
                if told is None:
                    told = _told(item.head)
                    continue
                match item.WhichOneof("item"):
                    case "movement":
                        told.moved.append(_moved(item.movement, request.account_id))
                    case "billing":
                        told.billed.append(_billed(item.billing))
                    case "credit":
                        told.given_back.append(_given_back(item.credit))
                    case _:
                        raise Refused(grpc.StatusCode.INTERNAL, "the ledger says something that documents do not know")
        except grpc.aio.AioRpcError as err:
            raise _refused("the ledger", err) from err
        if told is None:
            raise Refused(grpc.StatusCode.INTERNAL, "the ledger's answer has no head")
        return told

    async def use(self, operator_id: str, authorization_id: bytes, gateway_id: str) -> movements_pb2.ShowUseResponse:
        """What a use was billed."""
        request = movements_pb2.ShowUseRequest(
            operator_id=operator_id, authorization_id=authorization_id, gateway_id=gateway_id
        )
        try:
            return await self._movements.ShowUse(request, timeout=PEER_TIMEOUT_S)
        except grpc.aio.AioRpcError as err:
            raise _refused("the ledger", err) from err

    async def epoch(self) -> int:
        """The ledger's epoch; refused while it is being restored, when what it says may still change."""
        try:
            answer = await self._ledger.ShowEpoch(
                ledger_pb2.ShowEpochRequest(without_gateways=True), timeout=PEER_TIMEOUT_S
            )
        except grpc.aio.AioRpcError as err:
            raise _refused("the ledger", err) from err
        if answer.state != OPEN:
            raise Refused(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"the ledger is {answer.state} ({answer.why}): documents are issued when it is open again",
            )
        return answer.ledger_epoch

    async def accounts(self, operator_id: str) -> list[str]:
        """The accounts of an operator."""
        request = ledger_pb2.ListAccountsRequest(operator_id=operator_id, limit=ACCOUNTS_AT_ONCE)
        found: list[str] = []
        try:
            while True:
                page = (await self._ledger.ListAccounts(request, timeout=PEER_TIMEOUT_S)).accounts
                found += [account.account_id for account in page]
                if len(page) != ACCOUNTS_AT_ONCE:  # the last; a ledger of before sends all of them at once
                    break
                request.after_account_id = found[-1]
        except grpc.aio.AioRpcError as err:
            raise _refused("the ledger", err) from err
        return found

    async def operator(self, operator_id: str) -> registry_pb2.Operator:
        """An operator; refused where there is none."""
        try:
            answer = await self._registry.ListOperators(registry_pb2.ListOperatorsRequest(), timeout=PEER_TIMEOUT_S)
        except grpc.aio.AioRpcError as err:
            raise _refused("the registry", err) from err
        for operator in answer.operators:
            if operator.operator_id == operator_id:
                return operator
        raise Refused(
            grpc.StatusCode.NOT_FOUND, f"no operator {operator_id}: 'farthing-admin operators list' names them"
        )

    async def register(self, operator_id: str, device_id: str, register_id: str, epoch: int) -> tuple[str, int]:
        """(unit, modulus) of a register; ("", 0) where the registry does not name it any more."""
        try:
            answer = await self._registry.ListDevices(
                registry_pb2.ListDevicesRequest(operator_id=operator_id), timeout=PEER_TIMEOUT_S
            )
        except grpc.aio.AioRpcError as err:
            raise _refused("the registry", err) from err
        for device in answer.devices:
            if device.record.device_id == device_id:
                for register in device.record.registers:
                    if (register.register_id, register.register_epoch) == (register_id, epoch):
                        return register.unit, register.modulus
        return "", 0

    async def tariffs(self, operator_id: str) -> dict[tuple[str, int], bytes]:
        """All versions of an operator's tariffs, as they were published."""
        try:
            answer = await self._registry.ListTariffs(
                registry_pb2.ListTariffsRequest(operator_id=operator_id), timeout=PEER_TIMEOUT_S
            )
        except grpc.aio.AioRpcError as err:
            raise _refused("the registry", err) from err
        return {(each.tariff.tariff_id, each.tariff.version): each.tariff.ocpi_json for each in answer.tariffs}

    async def entitlements(self, operator_id: str) -> dict[str, str]:
        """Accounts that are entitlements, and what they are called."""
        try:
            answer = await self._registry.ListEntitlements(
                registry_pb2.ListEntitlementsRequest(operator_id=operator_id), timeout=PEER_TIMEOUT_S
            )
        except grpc.aio.AioRpcError as err:
            raise _refused("the registry", err) from err
        return {each.record.paid_by_account_id: each.record.entitlement_id for each in answer.entitlements}


def _refused(who: str, err: grpc.aio.AioRpcError) -> Refused:
    return Refused(err.code(), f"{who}: {err.details()}")


def _told(head: movements_pb2.MovementsHead) -> Told:
    return Told(
        currency=parse_currency(head.currency),
        after_position=head.after_position,
        to_position=head.to_position,
        to_head=head.to_head,
        opening=_figures(head.opening),
        closing=_figures(head.closing),
    )


def _figures(balances: movements_pb2.PayerBalances) -> Figures:
    return Figures(
        balance_micros=int(balances.credits_posted) - int(balances.debits_posted),
        held_micros=int(balances.held),
        debt_micros=int(balances.debt),
    )


def _moved(movement: movements_pb2.Movement, account_id: str) -> Moved:
    payer, debt, amount = f"payer/{account_id}", f"debt/{account_id}", movement.amount_micros
    balance = held = owes = 0
    if movement.kind != "post":
        held = amount if movement.kind == "hold" else -amount
    else:
        balance = amount * ((movement.credit_path == payer) - (movement.debit_path == payer))
        owes = amount * ((movement.debit_path == debt) - (movement.credit_path == debt))
        held = -amount if movement.quota_id and movement.debit_path == payer else 0
    return Moved(
        position=movement.position,
        transfer_id=movement.transfer_id,
        kind=movement.kind,
        cause=movement.cause,
        subject=_subject(movement),
        quota_id=movement.quota_id,
        line=movement.line,
        posted_at_us=movement.posted_at_us,
        business_at_us=movement.business_at_us,
        balance_micros=balance,
        held_micros=held,
        debt_micros=owes,
    )


def _subject(movement: movements_pb2.Movement) -> str:
    """What a posting is about, for people: a correction's id without its hash and without who asked for it; of new terms nothing."""
    if movement.posting_kind == "correction":
        return movement.subject.rsplit("/", 2)[0]
    if movement.posting_kind == "account":
        return ""
    return movement.subject


def _key(key: movements_pb2.BillingKey) -> Key:
    return Key(key.position, key.line, key.authorization_id)


def _billed(billing: movements_pb2.Billing) -> Billed:
    return Billed(
        key=_key(billing.key),
        site_id=billing.site_id,
        tariff_id=billing.tariff_id,
        tariff_version=billing.tariff_version,
        rate_ppm=billing.tax_rate_ppm,
        evidence=name_of(billing.evidence_class),
        quarter=billing.quarter,
        net_micros=billing.net_micros,
        tax_micros=billing.tax_micros,
        debt_micros=billing.debt_micros,
        posted_at_us=billing.posted_at_us,
        authorization_ids=tuple(billing.authorization_ids),
    )


def _given_back(credit: movements_pb2.Credit) -> GivenBack:
    return GivenBack(
        position=credit.position,
        correction_id=credit.correction_id,
        kind=credit.kind,
        reason=credit.reason,
        of=_key(credit.of),
        authorization_id=credit.authorization_id,
        net_micros=credit.net_micros,
        tax_micros=credit.tax_micros,
        posted_at_us=credit.posted_at_us,
    )
