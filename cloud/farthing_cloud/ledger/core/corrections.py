"""Nothing posted changes: what must go back goes back by transfers of its own, under an id that its caller gives (DESIGN 7).

Rule 1: a correction names the use, the payment or the account it is about, and takes at most what is left of it.
Rule 2: a refund goes through the open window's clearing, first to ``risk`` what it bore, then to the payer, the part billed last
first; what was split comes back from each party by the rule of then, and below 0 where the party was paid already.
Rule 3: our own decisions spend no more than there is (P1); what is taken from outside beyond that is debt.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from farthing.clock import Instant
from farthing.ids import AccountId, AuthorizationId, GatewayId, OperatorId, parse_id
from farthing.money import MAX_AMOUNT_MICROS, cut, format_micros, parse_amount_micros, round_down_to_minor_unit
from farthing.v1 import events_pb2, ledger_pb2
from farthing_cloud.ledger.core import paths, paybacks, quotas
from farthing_cloud.ledger.core.book import Book
from farthing_cloud.ledger.core.differences import PlannedBack, excess, left_of, takes
from farthing_cloud.ledger.core.directives import account_record, link
from farthing_cloud.ledger.core.funds import LedgerRefusal, OtherContent, UnknownName
from farthing_cloud.ledger.core.posting import BatchReleased, Cause, DirectiveRow, Event, Posting
from farthing_cloud.ledger.core.rows import (
    AccountStatus,
    CorrectedPart,
    Correction,
    CorrectionKind,
    Gateway,
    KeptSplit,
    Payer,
    View,
)
from farthing_cloud.ledger.core.uses import UsePart
from farthing_cloud.ledger.core.windows import SplitRule

_USE: Final = frozenset({"authorization_id", "gateway_id", "amount_micros"})
#: What each kind names; everything else stays empty. An amount of 0 is all that is left, where the kind knows what is left.
_NAMES: Final[Mapping[CorrectionKind, frozenset[str]]] = {
    CorrectionKind.REFUND: _USE,
    CorrectionKind.DISPUTE: _USE,
    CorrectionKind.DISPUTE_WON: frozenset({"dispute_id"}),
    CorrectionKind.DISPUTE_LOST: frozenset({"dispute_id"}),
    CorrectionKind.GOODWILL: frozenset({"account_id", "amount_micros"}),
    CorrectionKind.PAYBACK: frozenset({"account_id", "amount_micros", "path"}),
    CorrectionKind.PAYBACK_APPROVED: frozenset({"payback_id", "approved_hash"}),
    CorrectionKind.PAYBACK_HANDED: frozenset({"payback_id"}),
    CorrectionKind.PAYBACK_SENT: frozenset({"payback_id", "payment_id"}),
    CorrectionKind.PAYBACK_FAILED: frozenset({"payback_id"}),
    CorrectionKind.PAYBACK_RETURNED: frozenset({"payback_id", "payment_id"}),
    CorrectionKind.CHARGEBACK: frozenset({"account_id", "payment_id", "amount_micros"}),
    CorrectionKind.WRITE_OFF: frozenset({"account_id", "amount_micros"}),
    CorrectionKind.CLOSING: frozenset({"account_id"}),
}
_FIELDS: Final = frozenset().union(*_NAMES.values())
_NO_ACCOUNT: Final = AccountId("")
_NO_AUTHORIZATION: Final = AuthorizationId(b"")
_NO_GATEWAY: Final = GatewayId("")
#: Names and texts of callers, as the wire bounds them.
MAX_TEXT: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What somebody asks for; fields as in ``CorrectionContent``. Raises ``LedgerRefusal`` for one that cannot be meant."""

    operator_id: OperatorId
    correction_id: str
    kind: CorrectionKind
    reason: str
    account_id: AccountId = _NO_ACCOUNT
    authorization_id: AuthorizationId = _NO_AUTHORIZATION
    gateway_id: GatewayId = _NO_GATEWAY
    payment_id: str = ""
    dispute_id: str = ""
    payback_id: str = ""
    path: str = ""
    amount_micros: int = 0
    #: SHA-256 of the content that was seen and is approved.
    approved_hash: bytes = b""
    #: SHA-256 of the plan that it executes, and which item of it.
    plan_hash: bytes = b""
    plan_item: int = 0

    def __post_init__(self) -> None:
        parse_id(self.correction_id)
        if not 1 <= len(self.reason) <= MAX_TEXT or not self.reason.isprintable():
            raise LedgerRefusal(f"a correction has a reason of 1 to {MAX_TEXT} printable characters")
        parse_amount_micros(self.amount_micros)
        wanted = _NAMES[self.kind]
        for name in sorted(_FIELDS):
            given = bool(getattr(self, name))
            if given and name not in wanted:
                raise LedgerRefusal(f"a {self.kind} names no {name}")
            if not given and name in wanted and (name != "amount_micros" or self.kind is CorrectionKind.GOODWILL):
                raise LedgerRefusal(f"a {self.kind} names its {name}")
        if self.path and self.path.partition("/")[0] not in ("bank", "psp"):
            raise LedgerRefusal('money leaves from "bank/..." or "psp/..."')
        if self.path:
            parse_id(self.path.partition("/")[2])

    def content(self) -> bytes:
        """What is kept of it: the same order gives the same bytes."""
        return ledger_pb2.CorrectionContent(
            operator_id=self.operator_id,
            correction_id=self.correction_id,
            kind=self.kind.value,
            account_id=self.account_id,
            authorization_id=self.authorization_id,
            gateway_id=self.gateway_id,
            payment_id=self.payment_id,
            dispute_id=self.dispute_id,
            payback_id=self.payback_id,
            path=self.path,
            amount_micros=self.amount_micros,
            reason=self.reason,
            plan_hash=self.plan_hash,
            plan_item=self.plan_item,
            approved_hash=self.approved_hash,
        ).SerializeToString(deterministic=True)

    @property
    def plan_id(self) -> str:
        """The plan that it executes; empty for none."""
        return self.correction_id.rpartition("-")[0] if self.plan_hash else ""


@dataclass(slots=True)
class _Plan:
    """What a kind adds to the posting that all of them share."""

    account_id: str
    amount_micros: int
    parts: tuple[CorrectedPart, ...] = ()
    released: tuple[BatchReleased, ...] = ()
    recalled: Posting | None = None
    payers: tuple[Payer, ...] = ()
    gateways: tuple[Gateway, ...] = ()
    directives: tuple[DirectiveRow, ...] = ()
    floors_forgotten: tuple[AccountId, ...] = ()


def correct(
    view: View,
    order: Order,
    parts: Sequence[UsePart],
    *,
    told: tuple[GatewayId, ...],
    person: str,
    now: Instant,
    planned: PlannedBack | None = None,
    payback_alone_micros: int = MAX_AMOUNT_MICROS,
) -> Posting | None:
    """Carry ``order`` out; None when it was before. ``parts``: of the use it is about; ``told``: gateways that know the account.

    ``planned``: what the plan that it executes says of the use: what is above its price goes back, which may be nothing by now.
    ``payback_alone_micros``: a payback above it wants another person's approval.

    Raises ``OtherContent`` for an id that was used for another order, and ``LedgerRefusal`` for what is not left.
    """
    content = order.content()
    if view.correction is not None:
        if view.correction.content != content:
            before = hashlib.sha256(view.correction.content).hexdigest()
            raise OtherContent(f"correction {order.correction_id} was posted before with other content ({before})")
        return None
    book = Book(view)
    if order.account_id and order.account_id not in view.payers:
        raise UnknownName(f"no account {order.account_id} in {view.currency}")
    match order.kind:
        case CorrectionKind.REFUND if planned is not None:
            plan = _of_plan(view, book, order, parts, planned)
        case CorrectionKind.REFUND | CorrectionKind.DISPUTE:
            plan = _of_use(view, book, order, parts)
        case CorrectionKind.DISPUTE_WON | CorrectionKind.DISPUTE_LOST:
            plan = _end(view, book, order, parts)
        case CorrectionKind.GOODWILL:
            plan = _goodwill(view, book, order)
        case CorrectionKind.PAYBACK:
            plan = _payback(view, book, order)
        case (
            CorrectionKind.PAYBACK_APPROVED
            | CorrectionKind.PAYBACK_HANDED
            | CorrectionKind.PAYBACK_SENT
            | CorrectionKind.PAYBACK_FAILED
            | CorrectionKind.PAYBACK_RETURNED
        ):
            said = paybacks.say(
                view,
                book,
                order.kind,
                order.payback_id,
                order.payment_id,
                approved_hash=order.approved_hash,
                person=person,
                alone_micros=payback_alone_micros,
            )
            plan = _Plan(account_id=said.account_id, amount_micros=said.amount_micros)
        case CorrectionKind.CHARGEBACK:
            plan = _chargeback(view, book, order, now)
        case CorrectionKind.WRITE_OFF:
            plan = _write_off(view, book, order)
        case CorrectionKind.CLOSING:
            plan = _close(view, book, order, told, now)
    book.pay_debts()
    correction = Correction(
        correction_id=order.correction_id,
        kind=order.kind,
        account_id=plan.account_id,
        authorization_id=order.authorization_id,
        gateway_id=order.gateway_id,
        payment_id=order.payment_id,
        dispute_id=order.dispute_id,
        payback_id=order.payback_id,
        amount_micros=plan.amount_micros,
        content=content,
        person=person,
        at=now,
        parts=plan.parts,
        plan_id=order.plan_id,
    )
    recalled = plan.recalled
    return Posting(
        kind="correction",
        operator_id=view.operator_id,
        currency=view.currency,
        posted_at=now,
        business_at=now,
        transfers=book.transfers(),
        changes=book.changes(),
        correction=correction,
        released=plan.released,
        payers=plan.payers,
        floors_forgotten=plan.floors_forgotten,
        gateways=recalled.gateways if recalled is not None else plan.gateways,
        directives=recalled.directives if recalled is not None else plan.directives,
        quotas=recalled.quotas if recalled is not None else (),
        # What a plan found settled moves nothing, and is nothing that anybody has to be told.
        events=(_event(view, order, plan),) if plan.amount_micros or planned is None else (),
    )


def _event(view: View, order: Order, plan: _Plan) -> Event:
    return Event(
        kind="correction.posted",
        key=plan.account_id or order.correction_id,
        value=events_pb2.CorrectionPosted(
            operator_id=view.operator_id,
            correction_id=order.correction_id,
            kind=order.kind.value,
            account_id=plan.account_id,
            authorization_id=order.authorization_id,
            gateway_id=order.gateway_id,
            amount_micros=plan.amount_micros,
            currency=view.currency,
        ).SerializeToString(),
    )


# --- uses -------------------------------------------------------------------------------------------------------------


def _of_use(view: View, book: Book, order: Order, parts: Sequence[UsePart]) -> _Plan:
    """A refund, or a dispute that sets aside what the use earned."""
    left = sum(part.left_micros for part in parts)
    amount = order.amount_micros or left
    if left == 0 or amount > left:
        use = f"authorization {order.authorization_id.hex()} of {order.gateway_id}"
        raise LedgerRefusal(_too_much(view, use, left, amount))
    taken = []
    rest = amount
    for part in reversed(parts):
        take = min(rest, part.left_micros)
        if take:
            rest -= take
            taken.append((part, *cut(part.net_micros, part.tax_micros, take)))
    assert rest == 0
    return _taken_of_use(view, book, order, parts, taken)


def _of_plan(view: View, book: Book, order: Order, parts: Sequence[UsePart], planned: PlannedBack) -> _Plan:
    """What of a use is above its price by the plan, at most what was planned; nothing where earlier corrections gave it back."""
    claim = view.claimed[AuthorizationId(order.authorization_id), GatewayId(order.gateway_id)]
    if (claim.net_micros, claim.tax_micros) != planned.billed_micros:
        raise LedgerRefusal(f"authorization {order.authorization_id.hex()} has billed more since it was planned")
    back = excess(left_of(parts), planned.should, planned.back)
    return _taken_of_use(view, book, order, parts, takes(parts, back))


def _taken_of_use(
    view: View, book: Book, order: Order, parts: Sequence[UsePart], taken: Sequence[tuple[UsePart, int, int]]
) -> _Plan:
    """Take (part, net, tax) of a use, in this order."""
    risk_left = {part.risk_of: part.risk_micros for part in parts}
    corrected: list[CorrectedPart] = []
    released: list[BatchReleased] = []
    for part, net, tax in taken:
        risk = 0
        set_aside: tuple[tuple[str, int], ...] = ()
        sources = _sources(view, part, net)
        if order.kind is CorrectionKind.REFUND:
            risk = _give_back(view, book, order.authorization_id, part, net, tax, risk_left)
            clearing = paths.clearing(part.site_id, view.window)
            for path, micros in sources:
                if path != clearing:
                    book.post(path, clearing, micros, Cause.SPLIT_BACK, authorization_id=order.authorization_id)
        else:
            set_aside = sources
            for path, micros in sources:
                dispute = paths.dispute(order.correction_id)
                book.post(path, dispute, micros, Cause.DISPUTE, authorization_id=order.authorization_id)
        if part.unproven is not None:
            gateway_id, incarnation, sequence = part.unproven
            released.append(
                BatchReleased(gateway_id=gateway_id, incarnation=incarnation, sequence=sequence, net_micros=-net)
            )
        corrected.append(
            CorrectedPart(
                posting_id=part.posting_id,
                line=part.line,
                authorization_id=order.authorization_id,
                gateway_id=order.gateway_id,
                net_micros=net,
                tax_micros=tax,
                risk_micros=risk,
                set_aside=set_aside,
            )
        )
    return _Plan(
        account_id=next((part.account_id for part in parts if part.account_id), AccountId("")),
        amount_micros=sum(net + tax for _, net, tax in taken),
        parts=tuple(corrected),
        released=tuple(released),
    )


def _sources(view: View, part: UsePart, net_micros: int) -> tuple[tuple[str, int], ...]:
    """Where ``net_micros`` of a part stand: with those its window was split to, or in the open clearing."""
    if not part.window:
        return ((paths.clearing(part.site_id, view.window), net_micros),)
    if part.split is None:
        raise LedgerRefusal(f"how site {part.site_id} was split in window {part.window} was not kept")
    return tuple((path, micros) for path, micros in _rule(part.split).split(net_micros) if micros)


def _rule(split: KeptSplit) -> SplitRule:
    return SplitRule(rule_version=split.rule_version, parts=split.parts, remainder_path=split.remainder_path)


def _give_back(
    view: View,
    book: Book,
    authorization_id: AuthorizationId,
    part: UsePart,
    net: int,
    tax: int,
    risk_left: dict[tuple[int, int], int],
) -> int:
    """Net and tax out of the open clearing and the tax account: first to risk what it bore, then to the payer. What risk got."""
    risk = net + tax
    payer = paths.RISK
    if part.account_id in view.payers:
        risk = min(risk, risk_left[part.risk_of])
        payer = paths.payer(part.account_id)
        book.touch(part.account_id)
    risk_left[part.risk_of] -= risk
    clearing = paths.clearing(part.site_id, view.window)
    first = cut(net, tax, risk)
    for credit, (step_net, step_tax) in ((paths.RISK, first), (payer, (net - first[0], tax - first[1]))):
        book.post(clearing, credit, step_net, Cause.REFUND, authorization_id=authorization_id)
        if step_tax:
            book.post(part.tax_path, credit, step_tax, Cause.REFUND, authorization_id=authorization_id)
    return risk


def _end(view: View, book: Book, order: Order, parts: Sequence[UsePart]) -> _Plan:
    """A dispute ends: what was set aside goes back to where it came from, or on to the payer."""
    dispute = view.dispute
    if dispute is None or dispute.kind is not CorrectionKind.DISPUTE:
        raise UnknownName(f"no dispute {order.dispute_id}")
    if view.dispute_ended is not None:
        ended = view.dispute_ended
        raise LedgerRefusal(f"dispute {order.dispute_id} has ended before: {ended.kind} by {ended.correction_id}")
    here = {(part.posting_id, part.line): part for part in parts}
    risk_left = {part.risk_of: part.risk_micros for part in parts}
    aside = paths.dispute(order.dispute_id)
    authorization_id = AuthorizationId(dispute.authorization_id)
    corrected: list[CorrectedPart] = []
    released: list[BatchReleased] = []
    for taken in dispute.parts:
        part = here[taken.posting_id, taken.line]
        clearing = paths.clearing(part.site_id, view.window)
        risk = 0
        if order.kind is CorrectionKind.DISPUTE_LOST:
            risk = _give_back(view, book, authorization_id, part, taken.net_micros, taken.tax_micros, risk_left)
            book.post(aside, clearing, taken.net_micros, Cause.DISPUTE_LOST, authorization_id=authorization_id)
        else:
            for path, micros in taken.set_aside:
                # A window that was open then may be closed by now: the open one takes its place.
                back = clearing if path.startswith("clearing/") else path
                book.post(aside, back, micros, Cause.DISPUTE_WON, authorization_id=authorization_id)
            if part.unproven is not None:
                gateway_id, incarnation, sequence = part.unproven
                released.append(
                    BatchReleased(
                        gateway_id=gateway_id,
                        incarnation=incarnation,
                        sequence=sequence,
                        net_micros=taken.net_micros,
                    )
                )
        corrected.append(replace(taken, risk_micros=risk, set_aside=()))
    return _Plan(
        account_id=dispute.account_id,
        amount_micros=dispute.amount_micros,
        parts=tuple(corrected),
        released=tuple(released),
    )


# --- accounts ---------------------------------------------------------------------------------------------------------


def _goodwill(view: View, book: Book, order: Order) -> _Plan:
    if view.payers[order.account_id].status is AccountStatus.CLOSED:
        raise LedgerRefusal(f"account {order.account_id} is closed")
    book.post(paths.OWN, paths.payer(order.account_id), order.amount_micros, Cause.GOODWILL)
    book.touch(order.account_id)
    return _Plan(account_id=order.account_id, amount_micros=order.amount_micros)


def _own(view: View, book: Book, account_id: AccountId) -> int:
    """What of an account is its payer's own money; its limit is not."""
    return book.available(account_id) - view.payers[account_id].credit_limit_micros


def _no_quotas(view: View, account_id: AccountId, what: str) -> None:
    if view.quotas:
        names = ", ".join(sorted(view.quotas))
        raise LedgerRefusal(f"{what} {account_id} only when all its quotas are closed: recall {names}")


def _too_much(view: View, of: str, left_micros: int, amount_micros: int) -> str:
    if left_micros == 0:
        return f"nothing is left of {of}"
    return f"of {of} {_money(view, left_micros)} is left, not {_money(view, amount_micros)}"


def _money(view: View, amount_micros: int) -> str:
    return f"{format_micros(amount_micros)} {view.currency}"


def _payback(view: View, book: Book, order: Order) -> _Plan:
    _no_quotas(view, order.account_id, "the balance is paid back of")
    own = max(0, _own(view, book, order.account_id))
    amount = order.amount_micros or round_down_to_minor_unit(own, view.currency)
    if amount != round_down_to_minor_unit(amount, view.currency):
        raise LedgerRefusal(f"a bank cannot pay {_money(view, amount)}: that is no whole number of its smallest coins")
    if amount == 0 or amount > own:
        wanted = _money(view, amount) if amount else "enough for a bank to pay"
        raise LedgerRefusal(f"account {order.account_id} has {_money(view, own)} of its own, not {wanted}")
    book.post(paths.payer(order.account_id), paths.transit(order.correction_id), amount, Cause.PAYBACK)
    return _Plan(account_id=order.account_id, amount_micros=amount)


def _chargeback(view: View, book: Book, order: Order, now: Instant) -> _Plan:
    payment = view.payment
    if payment is None or payment.account_id != order.account_id:
        raise UnknownName(f"no payment {order.payment_id} of account {order.account_id}")
    left = payment.amount_micros - view.taken_back_micros
    amount = order.amount_micros or left
    if left == 0 or amount > left:
        raise LedgerRefusal(_too_much(view, f"payment {order.payment_id}", left, amount))
    available = min(amount, max(0, book.available(order.account_id)))
    book.post(paths.payer(order.account_id), payment.source, available, Cause.CHARGEBACK)
    # Nobody asked us: it ignores the debt limit.
    book.post(paths.debt(order.account_id), payment.source, amount - available, Cause.CHARGEBACK)
    recalled = quotas.recall(view, tuple(sorted(view.quotas)), order.reason, now=now)
    return _Plan(account_id=order.account_id, amount_micros=amount, recalled=recalled)


def _write_off(view: View, book: Book, order: Order) -> _Plan:
    owes = book.debt(order.account_id)
    amount = order.amount_micros or owes
    if owes == 0:
        raise LedgerRefusal(f"account {order.account_id} owes nothing")
    if amount > owes:
        raise LedgerRefusal(f"account {order.account_id} owes {_money(view, owes)}, not {_money(view, amount)}")
    book.post(paths.RISK, paths.debt(order.account_id), amount, Cause.WRITE_OFF)
    # What the operator bears gives no room on a floor back: else who cannot pay could use for ever.
    return _Plan(account_id=order.account_id, amount_micros=amount, floors_forgotten=(order.account_id,))


def _close(view: View, book: Book, order: Order, told: tuple[GatewayId, ...], now: Instant) -> _Plan:
    payer = view.payers[order.account_id]
    if payer.status is AccountStatus.CLOSED:
        raise LedgerRefusal(f"account {order.account_id} was closed before")
    _no_quotas(view, order.account_id, "an account is closed:")
    owes, own = book.debt(order.account_id), _own(view, book, order.account_id)
    if owes or own < 0:
        raise LedgerRefusal(
            f"account {order.account_id} owes {_money(view, owes or -own)}: it pays, or that is written off"
        )
    if round_down_to_minor_unit(own, view.currency):
        raise LedgerRefusal(f"account {order.account_id} has {_money(view, own)} of its own: pay that back first")
    # Less than the smallest coin: no bank can pay it.
    book.post(paths.payer(order.account_id), paths.OWN, own, Cause.PAYBACK)
    closed = replace(payer, status=AccountStatus.CLOSED, credit_limit_micros=0, debt_limit_micros=0, preload_micros=0)
    gateways, directives = [], []
    for gateway_id in told:
        after, row = link(view.gateways[gateway_id], account_record(closed, view.currency), dated_at=now)
        gateways.append(after)
        directives.append(row)
    return _Plan(
        account_id=order.account_id,
        amount_micros=own,
        payers=(closed,),
        gateways=tuple(gateways),
        directives=tuple(directives),
    )
