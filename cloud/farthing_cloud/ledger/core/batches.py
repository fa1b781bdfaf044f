"""Plan the posting of a batch (DESIGN 5.3, 5.5, 5.7, 5.8; every rule of the worked example).

Order: claims, lines, stopped and closed quotas, debt. A claim is cumulative: what exceeds the highest claim of its
authorization is due, and the front of its shares, billed before, is skipped; so replays, re-sealed chains and late
batches bill nothing twice.
"""

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from typing import NamedTuple

from farthing.clock import Instant
from farthing.evidence import classes
from farthing.ids import AccountId, AuthorizationId, GatewayId, QuotaId
from farthing.money import Currency, cut
from farthing.v1 import events_pb2
from farthing_cloud.ledger.core import carried as carried_ends
from farthing_cloud.ledger.core import paths
from farthing_cloud.ledger.core.book import Book
from farthing_cloud.ledger.core.carried import Carried, CarriedUse
from farthing_cloud.ledger.core.demand import spent
from farthing_cloud.ledger.core.directives import link
from farthing_cloud.ledger.core.posting import (
    BatchAdded,
    CaseAdded,
    Cause,
    DirectiveRow,
    Event,
    Parked,
    Posting,
)
from farthing_cloud.ledger.core.received import Claim, Line, ReceivedBatch
from farthing_cloud.ledger.core.rows import (
    Aside,
    CaseKind,
    Chain,
    Claimed,
    ClaimKey,
    Demand,
    Gateway,
    Quota,
    QuotaStatus,
    RegisterKey,
    Touch,
    View,
)
from farthing_cloud.ledger.core.waterfall import Due, pour, room_of


class ChainStep(StrEnum):
    """How a batch fits the chain it says it is in."""

    NEXT = "next"
    REPLAY = "replay"
    GAP = "gap"  # a batch before it is missing: send that first
    FORK = "fork"  # another batch stands at its place, or before it
    UNKNOWN_INCARNATION = "unknown incarnation"


def touch(batch: ReceivedBatch, currency: Currency, carried: Sequence[Carried] = ()) -> Touch:
    """The rows that posting ``batch`` looks at; ``carried``: its carried ends, read."""
    uses = [entry for entry in carried if isinstance(entry, CarriedUse)]
    accounts = dict.fromkeys(AccountId(line.account_id) for line in batch.lines if line.account_id)
    accounts.update(dict.fromkeys(use.account_id for use in uses if use.account_id is not None))
    quotas = dict.fromkeys(line.quota_id for line in batch.lines if line.quota_id is not None)
    quotas.update(dict.fromkeys(quota_id for quota_id, _ in batch.stopped))
    quotas.update(dict.fromkeys(batch.closed))
    quotas.update(dict.fromkeys(quota_id for use in uses for quota_id, _ in use.held))
    claims: dict[ClaimKey, tuple[RegisterKey, int, int]] = {
        (c.authorization_id, batch.gateway_id): (c.register, c.register_from, c.register_to) for c in batch.claims
    }
    claims.update({use.key: (use.register, use.register_from, use.register_to) for use in uses})
    return Touch(
        operator_id=batch.operator_id,
        currency=currency,
        gateway_ids=tuple(dict.fromkeys((batch.gateway_id, *(use.granted_by for use in uses)))),
        account_ids=tuple(accounts),
        quota_ids=tuple(quotas),
        claims=claims,
        demand=True,
        # A carried end is paid by whatever its gateway's quotas hold of who pays.
        account_quotas=bool(uses),
        chain=(batch.gateway_id, batch.incarnation, batch.sequence),
    )


def fit(view: View, batch: ReceivedBatch) -> ChainStep:
    """Tell replay, gap and fork apart; ``view`` was loaded with :func:`touch`."""
    gateway, chain = view.gateways[batch.gateway_id], view.chain
    assert chain is not None
    if batch.incarnation > gateway.incarnation:
        return ChainStep.UNKNOWN_INCARNATION
    if view.batch is not None:
        return ChainStep.REPLAY if view.batch.batch_hash == batch.batch_hash else ChainStep.FORK
    if batch.sequence > chain.sequence + 1:
        return ChainStep.GAP
    return ChainStep.NEXT if batch.previous_hash == chain.head_hash else ChainStep.FORK


class _Second(NamedTuple):
    """What one claim has due on one line, and is set aside."""

    authorization_id: AuthorizationId
    net_micros: int
    tax_micros: int


class _DueLines:
    """What claims have due on each line of a batch, micros. Mutable only inside :func:`plan`."""

    def __init__(self, lines: int) -> None:
        self.nets = [0] * lines
        self.taxes = [0] * lines
        self.seconds: dict[int, list[_Second]] = {}

    def add(self, line: int, net: int, tax: int, aside_for: AuthorizationId | None) -> None:
        """``aside_for``: the authorization that it is set aside for; None where it is posted."""
        if aside_for is not None:
            self.seconds.setdefault(line, []).append(_Second(aside_for, net, tax))
        else:
            self.nets[line] += net
            self.taxes[line] += tax


def plan(view: View, batch: ReceivedBatch, carried: Sequence[Carried] = (), *, now: Instant) -> Posting:
    """What posting ``batch`` writes; it must be the next of its chain. ``carried``: its carried ends, read."""
    assert fit(view, batch) is ChainStep.NEXT
    gateway = view.gateways[batch.gateway_id]
    book = Book(view)
    raised, due, opened, missing = _claims(view, batch)
    clearing, tax_paths = paths.clearing(batch.site_id, view.window), dict[int, str]()
    # Lines name the same accounts and quotas again and again.
    funded: dict[tuple[str, QuotaId | None], tuple[Quota | None, str]] = {}

    beyond_micros = net_micros = tax_micros = aside_micros = late_micros = 0
    demand: dict[AccountId, int] = {}
    floor: dict[AccountId, int] = {}
    parked: list[Parked] = []
    touched: set[str] = set()
    over: list[CaseAdded] = []
    unknown: dict[tuple[str, str, QuotaId | None], list[Aside]] = {}
    asides: dict[AuthorizationId, list[Aside]] = {}
    seconds, post_use = due.seconds, book.post_use
    for index, (line, net, tax) in enumerate(zip(batch.lines, due.nets, due.taxes, strict=True)):
        account_id, quota_id, _, rate_ppm, _, _, evidence_class, fault = line
        names = account_id, quota_id
        found = funded.get(names)
        if found is None:
            quota = view.quotas.get(quota_id) if quota_id is not None else None
            found = funded[names] = quota, _fault(view, batch, line, quota)
        quota, fault_of_names = found
        second = seconds.get(index) if seconds else None
        if fault or fault_of_names:
            for part in second or ():
                net, tax = net + part.net_micros, tax + part.tax_micros
            if fault:
                parked.append(Parked(line=index, reason=fault, net_micros=net, tax_micros=tax))
                continue
            # It adds up, but names what the ledger does not know (yet): people post it once it does.
            parked.append(Parked(line=index, reason=fault_of_names, net_micros=0, tax_micros=0))
            if gross := net + tax:
                book.post(
                    paths.suspense(batch.site_id), paths.unearned(batch.site_id), gross, Cause.UNKNOWN_NAME, line=index
                )
                aside_micros += gross
                unknown.setdefault((fault_of_names, account_id, quota_id), []).append(
                    _aside_of(batch, line, index, net, tax)
                )
            continue

        if second:
            amount = sum(part.net_micros + part.tax_micros for part in second)
            for part in second:
                asides.setdefault(part.authorization_id, []).append(
                    _aside_of(batch, line, index, part.net_micros, part.tax_micros)
                )
            book.post(
                paths.suspense(batch.site_id),
                paths.unearned(batch.site_id),
                amount,
                Cause.SECOND_CLAIM,
                line=index,
                authorization_id=second[0].authorization_id if len(second) == 1 else None,
            )
            aside_micros += amount
            if quota is not None:
                book.void(quota, min(amount, book.held(quota)), Cause.SECOND_CLAIM, line=index)
        if account_id not in touched:
            touched.add(account_id)
            book.touch(account_id)
        gross = net + tax
        if gross == 0:
            continue
        if evidence_class != classes.DEVICE_SIGNED and classes.is_below(evidence_class, gateway.least_class):
            # Below what its site takes: nobody's bill before people have looked, and no hold waits for it.
            book.post(
                paths.suspense(batch.site_id), paths.unearned(batch.site_id), gross, Cause.EVIDENCE_CLASS, line=index
            )
            aside_micros += gross
            if quota is not None:
                book.void(quota, min(gross, book.held(quota)), Cause.EVIDENCE_CLASS, line=index)
            over.append(_below(batch, line, index, gateway.least_class, net, tax))
            continue
        if quota is not None:
            tax_path = tax_paths.get(rate_ppm)
            if tax_path is None:
                tax_path = tax_paths[rate_ppm] = paths.tax(rate_ppm)
            # The ordinary line: its hold pays it whole, and nothing else has to be looked at.
            if post_use(quota, clearing, net, tax_path, tax, index):
                payer_id = quota.account_id
                demand[payer_id] = demand.get(payer_id, 0) + gross
                net_micros += net
                tax_micros += tax
                continue
        room = room_of(
            book,
            batch.gateway_id,
            exposure_micros=gateway.exposure_micros,
            beyond_micros=gateway.beyond_micros + beyond_micros,
        )
        poured = pour(
            book,
            Due(
                account_id=line.account_id,
                site_id=batch.site_id,
                window=view.window,
                rate_ppm=line.rate_ppm,
                net_micros=net,
                tax_micros=tax,
                line=index,
            ),
            hold=quota,
            cause=_CAUSES[line.funding],
            room_micros=room,
        )
        beyond_micros += poured.beyond_micros
        if quota is not None:
            late_micros += poured.beyond_micros
        if line.account_id:
            demand[AccountId(line.account_id)] = demand.get(AccountId(line.account_id), 0) + net + tax
        net_micros += poured.net_micros
        tax_micros += poured.tax_micros
        if line.funding == "floor" and poured.account_micros:
            account_id = AccountId(line.account_id)
            floor[account_id] = floor.get(account_id, 0) + poured.account_micros
        above = poured.above_net_micros + poured.above_tax_micros
        if above:
            suspense, unearned = paths.suspense(batch.site_id), paths.unearned(batch.site_id)
            book.post(suspense, unearned, above, Cause.EXPOSURE, line=index)
            aside_micros += above
            over.append(
                CaseAdded(
                    case_id=None,
                    kind=CaseKind.EXPOSURE,
                    device_id="",
                    authorization_id=b"",
                    other_authorization_id=b"",
                    asides=(_aside_of(batch, line, index, poured.above_net_micros, poured.above_tax_micros),),
                )
            )

    others = carried_ends.bill(
        view,
        book,
        carried_ends.From(gateway_id=batch.gateway_id, incarnation=batch.incarnation, sequence=batch.sequence),
        carried,
        {claim.key: claim for claim in raised.values()} if carried else {},
    )
    events, in_use = _stop_and_close(view, batch, book, now)
    book.pay_debts()

    over.extend(_unknown(*names, waiting) for names, waiting in unknown.items())
    cases = [*_with_asides(view, batch.gateway_id, opened, asides, raised), *over, *others.cases]
    clearing_micros = net_micros
    net_micros, tax_micros = net_micros + others.net_micros, tax_micros + others.tax_micros
    aside_micros += others.aside_micros
    taken_over = _taken_over(view, batch)
    parked_micros = missing + sum(entry.net_micros + entry.tax_micros for entry in parked)
    # Positions only grow; an empty batch names last < first, and an old incarnation is no witness of the present one.
    present = batch.incarnation == gateway.incarnation
    ahead = present and not gateway.waits_because and batch.last_position >= gateway.witness_position
    added = BatchAdded(
        gateway_id=batch.gateway_id,
        site_id=batch.site_id,
        incarnation=batch.incarnation,
        sequence=batch.sequence,
        batch_hash=batch.batch_hash,
        previous_hash=batch.previous_hash,
        batch=batch.batch,
        signature=batch.signature,
        key_id=batch.key_id,
        start_id=batch.start_id,
        first_position=batch.first_position,
        last_position=batch.last_position,
        directive_version=batch.directive_version,
        sealed_at=batch.sealed_at,
        merkle_root=batch.merkle_root,
        leaf_count=batch.leaf_count,
        lines=len(batch.lines),
        claims=len(batch.claims),
        due_micros=net_micros + tax_micros + aside_micros + parked_micros,
        net_micros=net_micros,
        tax_micros=tax_micros,
        aside_micros=aside_micros,
        parked_micros=parked_micros,
        beyond_micros=beyond_micros + sum(taken_over.values()),
        # Money without leaves is never proven: there is nothing that could show it.
        proven=batch.leaf_count == 0 and not batch.lines,
        parked=tuple(parked),
        parked_statements=batch.parked_count,
        clearing_micros=clearing_micros,
        carried=tuple(others.raised.values()),
        floor=floor,
    )
    gateway = replace(
        gateway,
        beyond_micros=gateway.beyond_micros + (0 if added.proven else beyond_micros),
        adopted=gateway.adopted or present,
        witness_start_id=batch.start_id if ahead else gateway.witness_start_id,
        witness_position=batch.last_position if ahead else gateway.witness_position,
        contact_at=Instant(max(now, gateway.contact_at)),
        sealed_sequence=max(batch.sequence, gateway.sealed_sequence) if present else gateway.sealed_sequence,
        late_micros=gateway.late_micros + late_micros,
    )
    # What it takes over stands against it already.
    gateways, directives = _tell(view, gateway, others, now)
    return Posting(
        kind="batch",
        operator_id=view.operator_id,
        currency=view.currency,
        posted_at=now,
        business_at=batch.sealed_at,
        transfers=book.transfers(),
        changes=book.changes(),
        gateways=gateways,
        directives=directives,
        in_use=in_use,
        demand=tuple(
            (batch.gateway_id, account_id, _demand(view, batch.gateway_id, account_id, micros, now))
            for account_id, micros in demand.items()
        ),
        chain=(batch.gateway_id, _next(view.chain, batch, proven=added.proven)),
        quotas=book.quotas(view.quotas.values()),
        claims=(*raised.values(), *others.raised.values()),
        carried_beyond=dict.fromkeys(taken_over, 0) | others.stands,
        cases=tuple(cases),
        events=(
            Event(kind="batch.posted", key=batch.gateway_id, value=_posted(batch, added, beyond_micros)),
            *events,
            *_case_events(view, batch.gateway_id, cases),
        ),
        batch=added,
    )


def _demand(view: View, gateway_id: GatewayId, account_id: AccountId, micros: int, now: Instant) -> Demand:
    return spent(view.demand.get((gateway_id, account_id)), micros, now=now)


def _tell(
    view: View, gateway: Gateway, others: carried_ends.Outcome, now: Instant
) -> tuple[tuple[Gateway, ...], tuple[DirectiveRow, ...]]:
    """Tell the gateways whose sessions were ended elsewhere; ``gateway`` is the one whose batch it is."""
    gateways = {gateway.gateway_id: gateway}
    directives = []
    for gateway_id, body in others.directives:
        told = gateways.get(gateway_id, view.gateways[gateway_id])
        gateways[gateway_id], row = link(told, body, dated_at=now)
        directives.append(row)
    for gateway_id, beyond_micros in others.beyond.items():
        told = gateways[gateway_id]
        gateways[gateway_id] = replace(
            told,
            beyond_micros=told.beyond_micros + beyond_micros,
            late_micros=told.late_micros + others.late.get(gateway_id, 0),
        )
    return tuple(gateways.values()), tuple(directives)


def _taken_over(view: View, batch: ReceivedBatch) -> dict[ClaimKey, int]:
    """What carried ends billed beyond holds of uses that this batch claims as far as they did: its own detail has to prove it now, micros.

    A batch without detail proves nothing, so it takes nothing over.
    """
    out = {}
    if view.carried_beyond and batch.leaf_count:
        for claim in batch.claims:
            key = claim.authorization_id, batch.gateway_id
            stood = view.carried_beyond.get(key, 0)
            if stood and claim.register_to >= view.claimed[key].register_to:
                out[key] = stood
    return out


def _aside_of(batch: ReceivedBatch, line: Line, index: int, net_micros: int, tax_micros: int) -> Aside:
    return Aside(
        gateway_id=batch.gateway_id,
        incarnation=batch.incarnation,
        sequence=batch.sequence,
        line=index,
        account_id=AccountId(line.account_id),
        site_id=batch.site_id,
        rate_ppm=line.rate_ppm,
        net_micros=net_micros,
        tax_micros=tax_micros,
    )


def _below(batch: ReceivedBatch, line: Line, index: int, least: int, net_micros: int, tax_micros: int) -> CaseAdded:
    return CaseAdded(
        case_id=None,
        kind=CaseKind.EVIDENCE_CLASS,
        device_id="",
        authorization_id=b"",
        other_authorization_id=b"",
        asides=(_aside_of(batch, line, index, net_micros, tax_micros),),
        detail=f"{classes.name_of(line.evidence_class)}; its site takes {classes.name_of(least)} or better",
    )


def _unknown(reason: str, account_id: str, quota_id: QuotaId | None, asides: list[Aside]) -> CaseAdded:
    return CaseAdded(
        case_id=None,
        kind=CaseKind.UNKNOWN_NAME,
        device_id="",
        authorization_id=b"",
        other_authorization_id=b"",
        asides=tuple(asides),
        detail=f"{reason}: account {account_id or '-'}, quota {quota_id or '-'}",
    )


_CAUSES = {"quota": Cause.LATE, "floor": Cause.FLOOR, "overrun": Cause.OVERRUN}


def _claims(
    view: View, batch: ReceivedBatch
) -> tuple[dict[AuthorizationId, Claimed], _DueLines, dict[AuthorizationId, CaseAdded], int]:
    """The claims after this batch, what they have due on each line, cases, and what no share covers."""
    due_lines = _DueLines(len(batch.lines))
    raised: dict[AuthorizationId, Claimed] = {}
    cases: dict[AuthorizationId, CaseAdded] = {}
    in_batch: dict[RegisterKey, list[Claimed]] = {}
    missing_micros = 0
    gateway_id, incarnation, sequence = batch.gateway_id, batch.incarnation, batch.sequence
    known, overlaps, nets, taxes = view.claimed, view.overlaps, due_lines.nets, due_lines.taxes
    for claim in batch.claims:
        authorization_id, register, start, end, net, tax, final, shares = claim
        stored = known.get((authorization_id, gateway_id))
        before = in_batch.get(register)
        if stored is None and before is None and not overlaps:
            # The ordinary claim: the first of its authorization, alone on its register, and its shares are what it says.
            shared = 0
            for _, share_net, share_tax in shares:
                shared += share_net + share_tax
            if shared == net + tax:
                for line, share_net, share_tax in shares:
                    nets[line] += share_net
                    taxes[line] += share_tax
                said = authorization_id, register, start, end, net, tax, final
                after = tuple.__new__(Claimed, (*said, False, gateway_id, incarnation, sequence, None))
                raised[authorization_id] = after
                in_batch[register] = [after]
                continue
        overlap = _overlap(view, gateway_id, in_batch, claim)
        if stored is None:
            due = claim.net_micros + claim.tax_micros
            # What it adds while it overlaps: what was claimed first and is only said again stays as it was.
            aside = overlap is not None
        else:
            due = max(0, claim.net_micros - stored.net_micros) + max(0, claim.tax_micros - stored.tax_micros)
            aside = (overlap is not None and due > 0) or stored.aside
        case: tuple[CaseKind, AuthorizationId, int] | None = None

        if stored is not None and (stored.register != claim.register or stored.register_from != claim.register_from):
            # Another register or start under a known authorization: what it is about cannot be said, so nothing is due.
            case = (CaseKind.REGISTER_DIFFERS, AuthorizationId(b""), 0)
            after = stored
        elif stored is not None and _went_down(stored, claim, batch):
            case = (CaseKind.WENT_DOWN, AuthorizationId(b""), 0)
            after = stored
        else:
            shared = 0
            for _, share_net, share_tax in claim.shares:
                shared += share_net + share_tax
            if due > shared:
                case = (CaseKind.SHARES_MISSING, AuthorizationId(b""), due - shared)
                missing_micros += due - shared
            skip = max(0, shared - due)
            for line, share_net, share_tax in claim.shares:
                # The front of the shares was billed before.
                if skip:
                    done = min(skip, share_net + share_tax)
                    skip -= done
                    done_net, done_tax = cut(share_net, share_tax, done)
                    share_net, share_tax = share_net - done_net, share_tax - done_tax
                if share_net or share_tax:
                    due_lines.add(line, share_net, share_tax, authorization_id if aside else None)
            after = _raise(stored, claim, batch, aside=aside)
            if overlap is not None and due:
                case = (CaseKind.OVERLAP, overlap, max(0, due - shared))
        if after is not stored:
            raised[authorization_id] = after
        in_batch.setdefault(claim.register, []).append(after)
        if case is not None:
            kind, other, missing = case
            cases[authorization_id] = CaseAdded(
                case_id=None,
                kind=kind,
                device_id=claim.register.device_id,
                authorization_id=authorization_id,
                other_authorization_id=other,
                asides=(),
                missing_micros=missing,
            )
    return raised, due_lines, cases, missing_micros


def _overlap(
    view: View, gateway_id: GatewayId, in_batch: dict[RegisterKey, list[Claimed]], claim: Claim
) -> AuthorizationId | None:
    """Another authorization that has claimed a part of this interval; an interval without width overlaps nothing."""
    if claim.register_from >= claim.register_to:
        return None
    stored = view.overlaps.get((claim.authorization_id, gateway_id))
    if stored is not None:
        return stored
    for other in in_batch.get(claim.register, ()):
        if other.authorization_id == claim.authorization_id or other.register_from >= other.register_to:
            continue
        if other.register_from < claim.register_to and claim.register_from < other.register_to:
            return other.authorization_id
    return None


def _went_down(stored: Claimed, claim: Claim, batch: ReceivedBatch) -> bool:
    """A later batch of the same chain says less. (Another chain may know less: it is only late; so is who has not come as far as a carried end.)"""
    if stored.raised_by is not None or stored.incarnation != batch.incarnation:
        return False
    return (
        claim.net_micros < stored.net_micros
        or claim.tax_micros < stored.tax_micros
        or claim.register_to < stored.register_to
    )


def _raise(stored: Claimed | None, claim: Claim, batch: ReceivedBatch, *, aside: bool) -> Claimed:
    if stored is None:
        return Claimed(
            claim.authorization_id,
            claim.register,
            claim.register_from,
            claim.register_to,
            claim.net_micros,
            claim.tax_micros,
            claim.final,
            aside,
            batch.gateway_id,
            batch.incarnation,
            batch.sequence,
        )
    after = stored._replace(
        register_to=max(stored.register_to, claim.register_to),
        net_micros=max(stored.net_micros, claim.net_micros),
        tax_micros=max(stored.tax_micros, claim.tax_micros),
        final=claim.final or stored.final,
        aside=aside,
    )
    if after == stored:
        return stored  # a replay in another chain raises nothing: whose claim it was stays
    is_behind = (claim.register_to, claim.net_micros, claim.tax_micros) != (
        after.register_to,
        after.net_micros,
        after.tax_micros,
    )
    if is_behind and (stored.raised_by is not None or stored.incarnation != batch.incarnation):
        # A carried end, or a chain whose journal is lost, says more (each of net and tax for itself, as rates differ). Who comes after it
        # has not heard all of that: it comes as far batch by batch, and nothing it says meanwhile goes down.
        return after
    return after._replace(incarnation=batch.incarnation, sequence=batch.sequence, raised_by=None)


def _fault(view: View, batch: ReceivedBatch, line: Line, quota: Quota | None) -> str:
    """Why the ledger cannot understand a well-formed line; empty when it can."""
    if line.account_id and AccountId(line.account_id) not in view.payers:
        return "its account is unknown"
    if line.quota_id is not None:
        if quota is None:
            return "its quota is unknown"
        if quota.gateway_id != batch.gateway_id:
            return "its quota belongs to another gateway"
        if quota.account_id != line.account_id:
            return "its quota belongs to another account"
    return ""


def _stop_and_close(
    view: View, batch: ReceivedBatch, book: Book, now: Instant
) -> tuple[list[Event], tuple[tuple[QuotaId, Instant | None], ...]]:
    """Void what a stopped quota no longer holds, and the rest of a closed one; also which quotas are said to be in use."""
    events = []
    in_use: list[tuple[QuotaId, Instant | None]] = []

    def mine(quota: Quota | None) -> Quota | None:
        # Only the chain of the incarnation it was granted to can end a quota (DESIGN 5.5).
        if quota is None or (quota.gateway_id, quota.incarnation) != (batch.gateway_id, batch.incarnation):
            return None
        return quota if book.status(quota) is not QuotaStatus.CLOSED else None

    for quota_id, still_held in batch.stopped:
        if (quota := mine(view.quotas.get(quota_id))) is not None:
            book.void(quota, max(0, book.held(quota) - still_held), Cause.ABOVE_HELD)
            if book.status(quota) is not QuotaStatus.FROZEN:
                book.set_status(quota, QuotaStatus.STOPPED)
            in_use.append((quota_id, now if still_held else None))
    for quota_id in batch.closed:
        if (quota := mine(view.quotas.get(quota_id))) is not None:
            book.void(quota, book.held(quota), Cause.CLOSED)
            book.set_status(quota, QuotaStatus.CLOSED)
            value = events_pb2.QuotaChanged(
                operator_id=view.operator_id,
                quota_id=quota.quota_id,
                gateway_id=quota.gateway_id,
                account_id=quota.account_id,
                amount_micros=quota.amount_micros,
            )
            events.append(Event(kind="quota.closed", key=quota.account_id, value=value.SerializeToString()))
    return events, tuple(in_use)


def _with_asides(
    view: View,
    gateway_id: GatewayId,
    cases: dict[AuthorizationId, CaseAdded],
    asides: dict[AuthorizationId, list[Aside]],
    raised: dict[AuthorizationId, Claimed],
) -> list[CaseAdded]:
    """Give each case what was set aside for it; what follows of an authorization goes to its open case, or a new one."""
    out = []
    for authorization_id, case in cases.items():
        mine = tuple(asides.pop(authorization_id, ())) if case.kind is CaseKind.OVERLAP else ()
        open_case = view.open_cases.get((authorization_id, gateway_id)) if case.kind is CaseKind.OVERLAP else None
        if case.kind is not CaseKind.OVERLAP or mine:
            out.append(replace(case, asides=mine, case_id=open_case))
    for authorization_id, more in asides.items():
        out.append(
            CaseAdded(
                case_id=view.open_cases.get((authorization_id, gateway_id)),
                kind=CaseKind.OVERLAP,
                device_id=raised[authorization_id].register.device_id,
                authorization_id=authorization_id,
                other_authorization_id=view.overlaps.get((authorization_id, gateway_id), AuthorizationId(b"")),
                asides=tuple(more),
            )
        )
    return out


def _case_events(view: View, gateway_id: GatewayId, cases: Sequence[CaseAdded]) -> list[Event]:
    return [
        Event(
            kind="case.opened",
            key=case.device_id or gateway_id,
            value=events_pb2.CaseOpened(
                operator_id=view.operator_id,
                device_id=case.device_id,
                authorization_id=case.authorization_id,
                other_authorization_id=case.other_authorization_id,
                aside_micros=case.aside_micros,
            ).SerializeToString(),
            case=index,
        )
        for index, case in enumerate(cases)
        if case.case_id is None
    ]


def _next(chain: Chain | None, batch: ReceivedBatch, *, proven: bool) -> Chain:
    assert chain is not None
    gapless = proven and chain.proven_sequence == chain.sequence
    return replace(
        chain,
        sequence=batch.sequence,
        head_hash=batch.batch_hash,
        proven_sequence=batch.sequence if gapless else chain.proven_sequence,
    )


def _posted(batch: ReceivedBatch, added: BatchAdded, beyond_micros: int) -> bytes:
    return events_pb2.BatchPosted(
        operator_id=batch.operator_id,
        site_id=batch.site_id,
        gateway_id=batch.gateway_id,
        incarnation=batch.incarnation,
        sequence=batch.sequence,
        lines=added.lines,
        claims=added.claims,
        net_micros=added.net_micros,
        tax_micros=added.tax_micros,
        aside_micros=added.aside_micros,
        beyond_micros=beyond_micros,
        granted_online=batch.granted_online,
        granted_offline=batch.granted_offline,
    ).SerializeToString()
