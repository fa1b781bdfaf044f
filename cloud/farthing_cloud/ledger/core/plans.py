"""Mass corrections: a plan of what goes back for many uses that were priced by the wrong tariff, approved and then executed.

Rule 1: a plan is bytes that never change; what is approved is their SHA-256, by another person than the one who planned.
Rule 2: each use keeps what it should have cost; what earlier corrections gave back counts. What cannot be computed from proven detail is
left out by name.
Rule 3: nobody is billed more afterwards than what he was told (docs/adr, "Mass corrections only pay back").
Rule 4: executing an item posts one refund under an id that follows from plan and item, also where nothing is due any more: so a plan
executed again, or from several sides at once, is executed once.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from farthing.clock import QUARTER_US, Instant
from farthing.ids import AccountId, AuthorizationId, GatewayId, OperatorId, SiteId, parse_id
from farthing.money import Currency, format_micros
from farthing.tariff import TIME_ZONE_DATA
from farthing.v1 import ledger_pb2
from farthing_cloud.ledger.core.corrections import MAX_TEXT, Order
from farthing_cloud.ledger.core.differences import NetAndTaxes, PlannedBack, excess, left_of
from farthing_cloud.ledger.core.funds import LedgerRefusal, UnknownName
from farthing_cloud.ledger.core.posting import Posting
from farthing_cloud.ledger.core.rows import Claimed, CorrectionKind, CorrectionPlan, View
from farthing_cloud.ledger.core.uses import UseHistory, disputed_micros, parts_of

#: A plan is read and approved by people, and held in memory whole: about 10 MB. A larger mistake is several plans, by site or time.
MAX_ITEMS: Final = 50_000

_NO_ACCOUNT: Final = AccountId("")
_NOTHING: Final = NetAndTaxes()


class Outcome(StrEnum):
    """What becomes of an affected use."""

    REFUND = "refund"
    EVEN = "even"
    UNDERCHARGED = "undercharged"
    SETTLED = "settled"
    LEFT_OUT = "left-out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """Which uses are looked at, and what they should have been priced by. Raises ``LedgerRefusal`` for what cannot be meant."""

    operator_id: OperatorId
    site_id: SiteId
    tariff_id: str
    #: Empty: every version.
    tariff_versions: frozenset[int]
    from_at: Instant
    to_at: Instant
    by_ocpi_json: bytes
    by_name: str
    reason: str

    def __post_init__(self) -> None:
        parse_id(self.tariff_id)
        if self.from_at % QUARTER_US or self.to_at % QUARTER_US or not 0 <= self.from_at < self.to_at:
            raise LedgerRefusal("a plan is from one quarter of an hour to a later one: lines know nothing finer")
        for name, text in (("reason", self.reason), ("name of the tariff to price by", self.by_name)):
            if not 1 <= len(text) <= MAX_TEXT or not text.isprintable():
                raise LedgerRefusal(f"a plan's {name} has 1 to {MAX_TEXT} printable characters")

    def is_about(self, tariff_id: str, version: int, quarter: int) -> bool:
        """Whether a line is of what went wrong."""
        return (
            tariff_id == self.tariff_id
            and (not self.tariff_versions or version in self.tariff_versions)
            and self.from_at <= quarter * QUARTER_US < self.to_at
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What becomes of one use, and why; micros. ``posting_ids``: the postings that billed it."""

    authorization_id: AuthorizationId
    gateway_id: GatewayId
    tariff_version: int
    outcome: Outcome
    why: str = ""
    account_id: AccountId = _NO_ACCOUNT
    billed_net_micros: int = 0
    billed_tax_micros: int = 0
    given_back_micros: int = 0
    should: NetAndTaxes | None = None
    back: NetAndTaxes = _NOTHING
    posting_ids: tuple[int, ...] = ()

    def message(self) -> ledger_pb2.CorrectionPlanItem:
        """As it stands in the plan."""
        said = ledger_pb2.CorrectionPlanItem(
            authorization_id=self.authorization_id,
            gateway_id=self.gateway_id,
            account_id=self.account_id,
            outcome=self.outcome.value,
            why=self.why,
            tariff_version=self.tariff_version,
            billed_net_micros=self.billed_net_micros,
            billed_tax_micros=self.billed_tax_micros,
            given_back_micros=self.given_back_micros,
            posting_ids=self.posting_ids,
        )
        if self.should is not None:
            said.should.CopyFrom(_message(self.should))
        if self.outcome is Outcome.REFUND:
            said.back.CopyFrom(_message(self.back))
        return said


def _message(amounts: NetAndTaxes) -> ledger_pb2.NetAndTaxes:
    return ledger_pb2.NetAndTaxes(
        net_micros=amounts.net_micros,
        taxes=[ledger_pb2.TaxAmount(path=path, amount_micros=micros) for path, micros in amounts.taxes],
    )


def _amounts(said: ledger_pb2.NetAndTaxes) -> NetAndTaxes:
    return NetAndTaxes(net_micros=said.net_micros, taxes=tuple((tax.path, tax.amount_micros) for tax in said.taxes))


def not_over(claim: Claimed) -> str:
    """Why nothing of a use can be planned yet; empty when it can."""
    if claim.aside:
        return "it overlaps another use: its case is decided first"
    if claim.raised_by is not None:
        return f"gateway {claim.raised_by} carried its end: no record shows its price"
    return "" if claim.final else "it goes on: more may be billed"


def judge(item: Item, claim: Claimed, history: UseHistory, should: NetAndTaxes) -> Item:
    """What becomes of a use that should have cost ``should``; ``item`` says which, ``history`` what was posted of it and taken back."""
    before = parts_of(replace(history, corrected=()), claim.key)
    parts = parts_of(history, claim.key)
    posted, left = left_of(before), left_of(parts)
    account_id = next((part.account_id for part in before if part.account_id), _NO_ACCOUNT)
    item = replace(
        item, account_id=account_id, given_back_micros=posted.gross_micros - left.gross_micros, should=should
    )
    billed = claim.net_micros + claim.tax_micros
    if posted.gross_micros != billed:
        return left_out(
            item, f"of what it billed only {format_micros(posted.gross_micros)} was found posted and proven"
        )
    if should.gross_micros > billed:
        return replace(item, outcome=Outcome.UNDERCHARGED, why="it should have cost more: nothing is billed afterwards")
    if disputed_micros(history, claim.authorization_id):
        return left_out(item, "it is disputed: the dispute ends first")
    if should == posted:
        return replace(item, outcome=Outcome.EVEN)
    taxed = dict(posted.taxes)
    dearer = [path for path, tax in should.taxes if tax > taxed.get(path, 0)]
    if dearer or should.net_micros > posted.net_micros:
        return left_out(item, f"{dearer[0] if dearer else 'its net'} should have been more, other parts less")
    back = excess(left, should)
    if not back.gross_micros:
        return replace(item, outcome=Outcome.SETTLED, why="earlier corrections gave back as much")
    return replace(item, outcome=Outcome.REFUND, back=back)


def left_out(item: Item, why: str) -> Item:
    """Named, and nothing goes back."""
    return replace(item, outcome=Outcome.LEFT_OUT, why=why)


def content_of(
    wish: Wish, currency: Currency, items: Sequence[Item], *, person: str, now: Instant
) -> ledger_pb2.CorrectionPlanContent:
    """The plan's content; items by gateway and authorization."""
    ordered = sorted(items, key=lambda item: (item.gateway_id, item.authorization_id))
    return ledger_pb2.CorrectionPlanContent(
        operator_id=wish.operator_id,
        site_id=wish.site_id,
        currency=currency,
        tariff_id=wish.tariff_id,
        tariff_versions=sorted(wish.tariff_versions),
        from_us=wish.from_at,
        to_us=wish.to_at,
        by_ocpi_json=wish.by_ocpi_json,
        by_name=wish.by_name,
        time_zone_data=TIME_ZONE_DATA,
        reason=wish.reason,
        planned_by=person,
        planned_at_us=now,
        items=[item.message() for item in ordered],
    )


def propose(view: View, said: ledger_pb2.CorrectionPlanContent) -> tuple[CorrectionPlan, Posting]:
    """The plan as it is kept, by the person and at the time that it names."""
    content = said.SerializeToString(deterministic=True)
    content_hash = hashlib.sha256(content).digest()
    backs = [_amounts(item.back).gross_micros for item in said.items if item.outcome == Outcome.REFUND]
    now = Instant(said.planned_at_us)
    plan = CorrectionPlan(
        plan_id="p-" + content_hash.hex()[:16],
        operator_id=view.operator_id,
        currency=view.currency,
        content=content,
        content_hash=content_hash,
        items=len(said.items),
        refunds=len(backs),
        back_micros=sum(backs),
        planned_by=said.planned_by,
        planned_at=now,
    )
    posting = Posting(
        kind="correction-plan",
        operator_id=view.operator_id,
        currency=view.currency,
        posted_at=now,
        business_at=now,
        planned=plan,
    )
    return plan, posting


def approve(view: View, plan_id: str, *, content_hash: bytes, person: str, now: Instant) -> Posting | None:
    """Another person approves exactly what was planned; None when this person did before."""
    plan = view.plan
    if plan is None:
        raise UnknownName(f"no plan {plan_id}")
    if plan.content_hash != content_hash:
        raise LedgerRefusal(f"{plan_id} has the content {plan.content_hash.hex()}, not this one")
    if plan.approved_by:
        if plan.approved_by == person:
            return None
        raise LedgerRefusal(f"{plan_id} was approved by {plan.approved_by} before")
    if plan.planned_by == person:
        raise LedgerRefusal(f"{person} planned {plan_id}: another person has to approve it")
    return Posting(
        kind="correction-plan",
        operator_id=view.operator_id,
        currency=view.currency,
        posted_at=now,
        business_at=now,
        plan_approved=replace(plan, approved_by=person, approved_at=now),
    )


def order_of_item(
    plan: CorrectionPlan, said: ledger_pb2.CorrectionPlanContent, index: int
) -> tuple[Order, PlannedBack]:
    """The refund that executes item number ``index`` (from 0) of an approved plan."""
    item = said.items[index]
    back = _amounts(item.back)
    order = Order(
        operator_id=plan.operator_id,
        correction_id=f"{plan.plan_id}-{index}",
        kind=CorrectionKind.REFUND,
        reason=said.reason,
        authorization_id=AuthorizationId(item.authorization_id),
        gateway_id=GatewayId(item.gateway_id),
        amount_micros=back.gross_micros,
        plan_hash=plan.content_hash,
        plan_item=index,
    )
    planned = PlannedBack(
        billed_micros=(item.billed_net_micros, item.billed_tax_micros),
        should=_amounts(item.should),
        back=back,
        posting_ids=tuple(item.posting_ids),
    )
    return order, planned
