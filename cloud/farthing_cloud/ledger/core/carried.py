"""Ends that another gateway carries: what they prove, and where the money comes from (DESIGN 4 *Devices keep their word*).

Rule 1: nothing is believed of who carries. A device's signed end and the other gateway's signed grant say everything, or there is no claim.
Rule 2: the ledger computes the price; what exceeds the highest claim so far is due, the front of it was billed before.
Rule 3: what the newest grant held pays for what came after it, each quota and the floor no more than the grant held there, in the grant's order: so its
gateway has it too, and what else it holds is for others. What was billed before that grant, and is not reported, stood on one of the gateway's quotas, and no
grant says on which: it comes from what the grant's quotas hold beside, then from the others for who pays. What no grant covered comes from the grant's quotas.
What is left goes down the waterfall: as ``overrun`` what the grant never covered, as ``late`` the rest. Who pays is the account that the grant names, else its
quotas'. A grant that names neither leaves it to the operator. A standing authorization holds nothing between readings: what its gateway's quotas hold
for who pays comes first, and what is left is ``overrun``.
Rule 4: a claim that is final stays what its payer is billed. An end at or before its place says nothing new; what one further on adds is set aside, with a case.
Its gateway holds nothing for a use that has ended, and spends what it let go on others: no hold is given back for what waits then.
Rule 5: what is taken beyond holds is bounded by the exposure of the gateway that signed the grants, as if it had billed it itself: a
stolen one may sign whatever it likes. What is above is set aside. That the device measured it is proven when it is posted; who pays is still
that gateway's word alone. So it stands against its exposure until its own chain claims the use as far, and that batch's detail is verified.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from farthing.ids import AccountId, AuthorizationId, GatewayId, QuotaId, SiteId
from farthing.money import cut
from farthing.v1 import directive_pb2
from farthing_cloud.ledger.core import paths
from farthing_cloud.ledger.core.book import Book
from farthing_cloud.ledger.core.incarnations import claim_message
from farthing_cloud.ledger.core.posting import CaseAdded, Cause
from farthing_cloud.ledger.core.rows import Aside, CaseKind, Claimed, ClaimKey, Gateway, Quota, RegisterKey, View
from farthing_cloud.ledger.core.waterfall import Due, pour, room_of


@dataclass(frozen=True, slots=True, kw_only=True)
class CarriedUse:
    """A carried end that proves itself, priced; ``parts`` are (tax rate ppm, net, tax) micros, as the tariff gives them."""

    authorization_id: AuthorizationId
    granted_by: GatewayId
    #: Who pays, as the grant says; None where it does not.
    account_id: AccountId | None
    register: RegisterKey
    register_from: int
    register_to: int
    parts: tuple[tuple[int, int, int], ...]
    #: The grant's hold: its quotas with what it holds of each, in its order, and what on the floor; the incarnation that gave it.
    held: tuple[tuple[QuotaId, int], ...]
    floor_micros: int
    granted_incarnation: int
    #: Whether it is the last word. Readings of a standing authorization are not: it has no grant, and goes on.
    final: bool
    #: What the newest grant said the use had cost, and all that it might cost by then: billed so far, and with what was held.
    billed_micros: int
    covered_micros: int
    statements: tuple[bytes, ...]

    @property
    def key(self) -> ClaimKey:
        """The claim that it raises."""
        return self.authorization_id, self.granted_by


@dataclass(frozen=True, slots=True, kw_only=True)
class NotProven:
    """A carried end that proves nothing: ``index`` in its batch, and why."""

    index: int
    reason: str


Carried: TypeAlias = CarriedUse | NotProven


class _Source(NamedTuple):
    """What may pay a part of a carried use: a quota's hold, or the waterfall; and the cause of what goes beyond.

    ``budgets``: each a sum, micros, that all sources which share it may pay; what one pays leaves it.
    """

    hold: Quota | None
    cause: Cause
    budgets: tuple[list[int], ...]

    def most(self, book: Book, micros: int) -> int:
        """How much of ``micros`` it may pay."""
        most = min((micros, *(budget[0] for budget in self.budgets)))
        return most if self.hold is None else min(most, book.held(self.hold))

    def pays(self, micros: int) -> None:
        for budget in self.budgets:
            budget[0] -= micros


@dataclass(frozen=True, slots=True, kw_only=True)
class From:
    """The batch that carries."""

    gateway_id: GatewayId
    incarnation: int
    sequence: int


@dataclass(slots=True)
class Outcome:
    """What became of a batch's carried ends; mutable only inside one decision."""

    raised: dict[ClaimKey, Claimed]
    cases: list[CaseAdded]
    directives: list[tuple[GatewayId, directive_pb2.EndCarried]]
    #: By the gateway that gave them: billed beyond holds, and what of it was on quotas.
    beyond: dict[GatewayId, int]
    late: dict[GatewayId, int]
    #: By claim: billed beyond holds in all, and not yet claimed by the gateway that gave it.
    stands: dict[ClaimKey, int]
    net_micros: int = 0
    tax_micros: int = 0
    aside_micros: int = 0


def bill(
    view: View, book: Book, carrier: From, carried: Sequence[Carried], claimed: Mapping[ClaimKey, Claimed]
) -> Outcome:
    """Post what carried ends add. ``claimed``: claims of the same batch, which a carried one may overlap too."""
    out = Outcome(raised={}, cases=[], directives=[], beyond={}, late={}, stands={})
    faults = [entry for entry in carried if isinstance(entry, NotProven)]
    if faults:
        # One case for a batch: who carries rubbish opens no more of them than it seals batches.
        which = ", ".join(str(fault.index) for fault in faults)
        detail = (
            f"batch {carrier.sequence} of {carrier.gateway_id}, incarnation {carrier.incarnation}, carried end {which}"
        )
        out.cases.append(_case(CaseKind.CARRIED, None, detail=f"{detail}: {faults[0].reason}"))
    for use in carried:
        if isinstance(use, CarriedUse):
            _bill_one(view, book, carrier, use, out, {**claimed, **out.raised})
    return out


def _case(kind: CaseKind, use: CarriedUse | None, **more: object) -> CaseAdded:
    fields: dict[str, object] = {
        "case_id": None,
        "kind": kind,
        "device_id": use.register.device_id if use is not None else "",
        "authorization_id": use.authorization_id if use is not None else b"",
        "other_authorization_id": b"",
        "asides": (),
    }
    return CaseAdded(**{**fields, **more})  # type: ignore[arg-type]  # names and types stand in the call sites


def _bill_one(
    view: View, book: Book, carrier: From, use: CarriedUse, out: Outcome, in_batch: Mapping[ClaimKey, Claimed]
) -> None:
    stored = out.raised.get(use.key) or view.claimed.get(use.key)
    if stored is not None and (stored.register, stored.register_from) != (use.register, use.register_from):
        out.cases.append(_case(CaseKind.REGISTER_DIFFERS, use, detail=f"an end carried by {carrier.gateway_id}"))
        return
    if stored is not None and stored.final and use.register_to <= stored.register_to:
        # Said again. Its gateway priced it with every reading in between, so that price stands, be this one more or less.
        return
    net, tax = sum(part[1] for part in use.parts), sum(part[2] for part in use.parts)
    before = (stored.net_micros, stored.tax_micros) if stored is not None else (0, 0)
    due = max(0, net - before[0]) + max(0, tax - before[1])
    # As for every claim: what was claimed first and is only said again stays as it was.
    overlap = _overlap(view, use, in_batch) if stored is None or due else None
    # It was ended already, by its device's word or a decision (docs/adr/0011): what a later word adds is for people.
    ended = stored is not None and stored.final and due > 0
    aside = overlap is not None or ended or (stored is not None and stored.aside)
    after = Claimed(
        authorization_id=use.authorization_id,
        register=use.register,
        register_from=use.register_from,
        register_to=max(use.register_to, stored.register_to if stored is not None else 0),
        net_micros=max(net, before[0]),
        tax_micros=max(tax, before[1]),
        final=use.final or (stored is not None and stored.final),
        aside=aside,
        gateway_id=use.granted_by,
        incarnation=carrier.incarnation,
        sequence=carrier.sequence,
        raised_by=carrier.gateway_id,
    )
    if stored is not None and _same(stored, after):
        return
    out.raised[use.key] = after
    body = directive_pb2.EndCarried(
        claim=claim_message(after), statements=use.statements, carried_by=carrier.gateway_id
    )
    out.directives.append((use.granted_by, body))
    parts = _due_parts(use.parts, due)
    sources = _sources(view, use, due_micros=due, claimed_micros=sum(before))
    if aside:
        _set_aside(view, book, carrier, use, parts, () if ended else sources, overlap, ended, out)
    else:
        _post(view, book, carrier, use, parts, sources, out)


def _same(stored: Claimed, after: Claimed) -> bool:
    figures = (stored.register_to, stored.net_micros, stored.tax_micros, stored.final, stored.aside)
    return figures == (after.register_to, after.net_micros, after.tax_micros, after.final, after.aside)


def _overlap(view: View, use: CarriedUse, in_batch: Mapping[ClaimKey, Claimed]) -> AuthorizationId | None:
    if use.register_from >= use.register_to:
        return None
    found = view.overlaps.get(use.key)
    if found is not None:
        return found
    for key, other in in_batch.items():
        if key == use.key or other.register != use.register or other.register_from >= other.register_to:
            continue
        if other.register_from < use.register_to and use.register_from < other.register_to:
            return other.authorization_id
    return None


def _due_parts(parts: tuple[tuple[int, int, int], ...], due: int) -> list[tuple[int, int, int]]:
    """The back of ``parts``, as much as is due: the front was billed before."""
    skip = max(0, sum(net + tax for _, net, tax in parts) - due)
    out = []
    for rate_ppm, net, tax in parts:
        done = min(skip, net + tax)
        skip -= done
        done_net, done_tax = cut(net, tax, done)
        if net + tax > done:
            out.append((rate_ppm, net - done_net, tax - done_tax))
    return out


def _account_of(view: View, use: CarriedUse) -> str:
    named = [use.account_id] if use.account_id is not None else []
    quotas = [view.quotas[quota_id] for quota_id, _ in use.held if quota_id in view.quotas]
    named += [quota.account_id for quota in quotas if quota.gateway_id == use.granted_by]
    return next((account_id for account_id in named if account_id in view.payers), "")


def _sources(view: View, use: CarriedUse, *, due_micros: int, claimed_micros: int) -> tuple[_Source, ...]:
    """What pays for the use, in this order; of it ``claimed_micros`` were billed before."""
    account_id = _account_of(view, use)

    def is_theirs(quota: Quota) -> bool:
        return (quota.gateway_id, quota.account_id) == (use.granted_by, account_id)

    # Billed before the newest grant: no part of what that one held.
    front = min(due_micros, max(0, use.billed_micros - claimed_micros))
    since, before, uncovered = [due_micros - front], [front], [_not_covered(use)]
    # A claim that came further than the grant has taken the first of its hold.
    taken = max(0, claimed_micros - use.billed_micros)
    named: list[Quota] = []
    held: list[_Source] = []
    for quota_id, micros in use.held:
        left = max(0, micros - taken)
        taken -= micros - left
        quota = view.quotas.get(quota_id)
        if quota is not None and is_theirs(quota):
            named.append(quota)
            held.append(_Source(quota, Cause.LATE, ([left], since)))
    # What else the journal that gave the grant had of the account, spent the way gateways spend: the earliest to end first.
    names = {quota_id for quota_id, _ in use.held}
    others = sorted(
        (
            quota
            for quota in view.quotas.values()
            if is_theirs(quota) and quota.incarnation <= use.granted_incarnation and quota.quota_id not in names
        ),
        key=lambda quota: (quota.spend_until, quota.quota_id),
    )
    return (
        *held,
        _Source(None, Cause.FLOOR, ([max(0, use.floor_micros - taken)], since)),
        *(_Source(quota, Cause.LATE, (before,)) for quota in (*named, *others)),
        *(_Source(quota, Cause.LATE, (uncovered,)) for quota in named),
        _Source(None, Cause.OVERRUN, (uncovered,)),
        # A grant on the floor alone: what was billed before it was on the floor too.
        _Source(None, Cause.FLOOR if use.floor_micros and not use.held else Cause.LATE, ()),
    )


def _site_of(view: View, use: CarriedUse) -> SiteId:
    return view.gateways[use.granted_by].site_id


def _post(
    view: View,
    book: Book,
    carrier: From,
    use: CarriedUse,
    parts: Sequence[tuple[int, int, int]],
    sources: Sequence[_Source],
    out: Outcome,
) -> None:
    account_id = _account_of(view, use)
    granter = view.gateways[use.granted_by]
    above: list[Aside] = []
    for rate_ppm, net, tax in parts:
        for source in sources:
            amount = source.most(book, net + tax)
            if amount <= 0:
                continue
            source.pays(amount)
            step_net, step_tax = cut(net, tax, amount)
            net, tax = net - step_net, tax - step_tax
            poured = pour(
                book,
                Due(
                    account_id=account_id,
                    site_id=_site_of(view, use),
                    window=view.window,
                    rate_ppm=rate_ppm,
                    net_micros=step_net,
                    tax_micros=step_tax,
                    line=None,
                    authorization_id=use.authorization_id,
                ),
                hold=source.hold,
                cause=source.cause,
                room_micros=room_of(
                    book,
                    granter.gateway_id,
                    exposure_micros=granter.exposure_micros,
                    beyond_micros=granter.beyond_micros + out.beyond.get(granter.gateway_id, 0),
                ),
            )
            out.net_micros += poured.net_micros
            out.tax_micros += poured.tax_micros
            _add(out.beyond, granter.gateway_id, poured.beyond_micros)
            if poured.beyond_micros:
                stood = out.stands.get(use.key, view.carried_beyond.get(use.key, 0))
                out.stands[use.key] = stood + poured.beyond_micros
            if source.cause is Cause.LATE and use.held:
                _add(out.late, granter.gateway_id, poured.beyond_micros)
            if poured.above_net_micros + poured.above_tax_micros:
                above.append(
                    _aside(carrier, account_id, granter, rate_ppm, poured.above_net_micros, poured.above_tax_micros)
                )
    book.touch(account_id)
    if above:
        amount = sum(part.net_micros + part.tax_micros for part in above)
        book.post(paths.suspense(granter.site_id), paths.unearned(granter.site_id), amount, Cause.EXPOSURE)
        out.aside_micros += amount
        out.cases.append(_case(CaseKind.EXPOSURE, None, asides=tuple(above)))


def _not_covered(use: CarriedUse) -> int:
    """What the use cost beyond all that its newest grant spoke of, micros: it could not be stopped."""
    return max(0, sum(net + tax for _, net, tax in use.parts) - use.covered_micros)


def _add(sums: dict[GatewayId, int], gateway_id: GatewayId, micros: int) -> None:
    sums[gateway_id] = sums.get(gateway_id, 0) + micros


def _aside(carrier: From, account_id: str, granter: Gateway, rate_ppm: int, net_micros: int, tax_micros: int) -> Aside:
    return Aside(
        gateway_id=carrier.gateway_id,
        incarnation=carrier.incarnation,
        sequence=carrier.sequence,
        line=NO_LINE,
        account_id=AccountId(account_id),
        site_id=granter.site_id,
        rate_ppm=rate_ppm,
        net_micros=net_micros,
        tax_micros=tax_micros,
    )


def _set_aside(
    view: View,
    book: Book,
    carrier: From,
    use: CarriedUse,
    parts: Sequence[tuple[int, int, int]],
    sources: Sequence[_Source],
    overlap: AuthorizationId | None,
    ended: bool,
    out: Outcome,
) -> None:
    site_id, account_id = _site_of(view, use), _account_of(view, use)
    asides = []
    left = 0
    for rate_ppm, net, tax in parts:
        book.post(
            paths.suspense(site_id),
            paths.unearned(site_id),
            net + tax,
            Cause.SECOND_CLAIM,
            authorization_id=use.authorization_id,
        )
        left += net + tax
        asides.append(_aside(carrier, account_id, view.gateways[use.granted_by], rate_ppm, net, tax))
    out.aside_micros += left
    for source in sources:
        # Its gateway hears of the end, and spends as much on a use that nobody is billed for.
        if source.hold is not None and (amount := source.most(book, left)) > 0:
            source.pays(amount)
            book.void(source.hold, amount, Cause.SECOND_CLAIM)
            left -= amount
    if asides or overlap is not None:
        out.cases.append(
            _case(
                CaseKind.AFTER_FINAL if ended and overlap is None else CaseKind.OVERLAP,
                use,
                case_id=view.open_cases.get(use.key),
                other_authorization_id=overlap or AuthorizationId(b""),
                asides=tuple(asides),
            )
        )


#: ``Aside.line`` of money that stands on no line: a carried end's.
NO_LINE = -1
