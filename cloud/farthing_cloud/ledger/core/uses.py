"""What was billed for one use, found again in what was posted: who paid which part of it, and how it was split.

Transfers stand for lines, and a line may sum several authorizations; so the claims and shares of the batches are gone through once
more, by the rule they were posted by (``core.batches``): what exceeds, skipping the front of the shares.

A part is named by (posting, line): the line of a batch; below 0, counted from -1, the parts of what was posted for the authorization
alone: a released case, or an end that another gateway carried.

Rule 1: no part gives more back than was posted for it, nor its line more than was posted for the line.
Rule 2: what risk bore is tallied per line: all authorizations of a line are of one account.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from farthing.ids import AccountId, AuthorizationId, GatewayId, SiteId
from farthing.money import cut
from farthing.v1 import batch_pb2
from farthing_cloud.ledger.core import paths
from farthing_cloud.ledger.core.posting import Cause, Transfer, TransferKind
from farthing_cloud.ledger.core.rows import Aside, CaseStatus, ClaimKey, CorrectedPart, CorrectionKind, KeptSplit

#: Causes of transfers that bill a use.
BILLED = frozenset({Cause.USE, Cause.OVERRUN, Cause.LATE, Cause.FLOOR})
#: Corrections that take of a use, and the one that gives it back.
_TAKES = {CorrectionKind.REFUND: 1, CorrectionKind.DISPUTE: 1, CorrectionKind.DISPUTE_WON: -1}

_NO_SITE: Final = SiteId("")
_NO_ACCOUNT: Final = AccountId("")

#: (gateway, incarnation, sequence).
BatchKey: TypeAlias = tuple[GatewayId, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class UseBatch:
    """A posted batch that says something of the use. ``carried``: (net, tax) so far, of an end that it carried, micros."""

    posting_id: int
    key: BatchKey
    site_id: SiteId
    batch: bytes
    proven: bool
    #: The posting that proved it; None for one that was proven at once, or is not.
    proven_by: int | None
    parked: frozenset[int]
    carried: tuple[int, int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class UseCase:
    """A case of the authorization, and the posting that decided it."""

    status: CaseStatus
    asides: tuple[Aside, ...]
    decided_by: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class UseHistory:
    """All rows there are of a use, each in the order of posting."""

    batches: tuple[UseBatch, ...]
    cases: tuple[UseCase, ...]
    #: (posting, transfer) of the postings above.
    transfers: tuple[tuple[int, Transfer], ...]
    #: What corrections took of these postings, of whatever authorization.
    corrected: tuple[tuple[CorrectionKind, CorrectedPart], ...]
    #: (posting, window, the rules it was split by).
    closings: tuple[tuple[int, str, tuple[KeptSplit, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class UsePart:
    """A part of a use, with what is left of it; micros."""

    posting_id: int
    line: int
    #: Whose account was billed; empty where nobody's was.
    account_id: AccountId
    site_id: SiteId
    tax_path: str
    net_micros: int
    tax_micros: int
    #: Net and tax that risk bore and that did not go back to it: of all parts with this (posting, line).
    risk_micros: int
    risk_of: tuple[int, int]
    #: The closed window whose split paid it out; empty while it stands in the open clearing.
    window: str
    split: KeptSplit | None
    #: The batch that still has to be proven, if its net stands in clearing unproven.
    unproven: BatchKey | None

    @property
    def left_micros(self) -> int:
        """Net and tax."""
        return self.net_micros + self.tax_micros


def parts_of(history: UseHistory, key: ClaimKey) -> tuple[UsePart, ...]:
    """The parts of the use ``key`` with what is left of each, in the order of posting."""
    authorization_id, gateway_id = key
    lines, alone = _posted(history, authorization_id)
    taken, risk_taken, line_taken = _taken(history)
    asides = {(a.gateway_id, a.incarnation, a.sequence, a.line) for case in history.cases for a in case.asides}
    batches = {batch.key: batch for batch in history.batches}
    found: list[UsePart] = []

    def add(
        place: tuple[int, int],
        amount: tuple[int, int],
        sums: "_Sums",
        pool: tuple[int, int, AuthorizationId],
        account_id: AccountId,
        batch: UseBatch | None,
    ) -> None:
        gone = taken.get((*place, authorization_id), (0, 0))
        net, tax = amount[0] - gone[0], amount[1] - gone[1]
        risk = sums.risk - risk_taken.get(pool, 0)
        most = sums.gross - line_taken.get(pool, 0)
        if net + tax > most:
            net, tax = cut(net, tax, max(0, most))
        settled = place[0] if batch is None else _settled(place[0], batch)
        window, split = _split_of(history, sums.site_id, settled)
        found.append(
            UsePart(
                posting_id=place[0],
                line=place[1],
                account_id=account_id,
                site_id=sums.site_id,
                tax_path=sums.tax_path,
                net_micros=net,
                tax_micros=tax,
                risk_micros=risk,
                risk_of=pool[:2],
                window=window,
                split=split,
                unproven=batch.key if batch is not None and settled is None else None,
            )
        )

    so_far = _SoFar()
    for batch in history.batches:
        said = batch_pb2.Batch.FromString(batch.batch)
        if batch.key[0] == gateway_id:
            for line, net, tax in so_far.adds(said, authorization_id, batch.key[1]):
                sums = lines.get((batch.posting_id, line))
                if sums is None or line in batch.parked or (*batch.key, line) in asides or net + tax == 0:
                    continue
                pool = (batch.posting_id, line, AuthorizationId(b""))
                add(
                    (batch.posting_id, line),
                    (net, tax),
                    sums,
                    pool,
                    AccountId(said.lines[line].account_id),
                    batch,
                )
        if batch.carried is not None:
            so_far.carried(batch.carried)
            for number, sums in enumerate(alone.get(batch.posting_id, ()), 1):
                pool = (batch.posting_id, -number, authorization_id)
                # What a carried end billed was proven when it was posted.
                add((batch.posting_id, -number), sums.amount, sums, pool, sums.account_id, None)
    for case in history.cases:
        if case.status is CaseStatus.RELEASED and case.decided_by is not None:
            # A release posts every aside in full; what risk bore of it is known for all of them together.
            pool = (case.decided_by, -1, authorization_id)
            whole = _Sums()
            for each in alone.get(case.decided_by, ()):
                whole.net, whole.tax, whole.risk = whole.net + each.net, whole.tax + each.tax, whole.risk + each.risk
            for number, aside in enumerate(case.asides, 1):
                released = _Sums(
                    site_id=aside.site_id,
                    tax_path=paths.tax(aside.rate_ppm),
                    net=whole.net,
                    tax=whole.tax,
                    risk=whole.risk,
                )
                add(
                    (case.decided_by, -number),
                    (aside.net_micros, aside.tax_micros),
                    released,
                    pool,
                    aside.account_id,
                    batches[aside.gateway_id, aside.incarnation, aside.sequence],
                )
    return tuple(found)


@dataclass(slots=True)
class _Sums:
    """What was posted for one line, or for one rate of what was posted for an authorization alone; micros."""

    site_id: SiteId = _NO_SITE
    tax_path: str = ""
    account_id: AccountId = _NO_ACCOUNT
    net: int = 0
    tax: int = 0
    risk: int = 0

    @property
    def amount(self) -> tuple[int, int]:
        return self.net, self.tax

    @property
    def gross(self) -> int:
        return self.net + self.tax

    def count(self, transfer: Transfer) -> None:
        kind, _, rest = transfer.credit.partition("/")
        if kind == "tax":
            self.tax_path, self.tax = transfer.credit, self.tax + transfer.amount_micros
        else:
            self.site_id = SiteId(rest.partition("/")[0])
            self.net += transfer.amount_micros
        if transfer.debit == paths.RISK:
            self.risk += transfer.amount_micros
        else:
            self.account_id = AccountId(transfer.debit.partition("/")[2])


def _posted(
    history: UseHistory, authorization_id: AuthorizationId
) -> tuple[dict[tuple[int, int], _Sums], dict[int, list[_Sums]]]:
    """What was billed per (posting, line), and per posting for the authorization alone, one for each tax rate."""
    lines: dict[tuple[int, int], _Sums] = {}
    own: dict[int, list[Transfer]] = {}
    for posting_id, transfer in history.transfers:
        if transfer.kind is not TransferKind.POST or transfer.cause not in BILLED:
            continue
        if transfer.line is not None:
            lines.setdefault((posting_id, transfer.line), _Sums()).count(transfer)
        elif transfer.authorization_id == authorization_id:
            own.setdefault(posting_id, []).append(transfer)
    alone: dict[int, list[_Sums]] = {}
    for posting_id, transfers in own.items():
        for of_rate in by_rate(transfers):
            before = alone.setdefault(posting_id, [])
            sums = _Sums(site_id=before[-1].site_id) if before else _Sums()
            for transfer in of_rate:
                sums.count(transfer)
            before.append(sums)
    return lines, alone


def by_rate(transfers: Sequence[Transfer]) -> list[list[Transfer]]:
    """What was billed of one authorization alone, one group for each tax rate, in the order of posting.

    A net's rate is that of the tax that the same step of the waterfall posts after it; without tax it stays with what came before.
    """
    groups: list[list[Transfer]] = []
    rate_now = ""
    for transfer, follower in zip(transfers, (*transfers[1:], None), strict=True):
        rate = transfer.credit if transfer.credit.startswith("tax/") else ""
        if not rate and follower is not None and follower.credit.startswith("tax/"):
            same_step = (follower.debit, follower.quota_id) == (transfer.debit, transfer.quota_id)
            rate = follower.credit if same_step else ""
        if not groups or (rate and rate_now not in ("", rate)):
            groups.append([])
            rate_now = ""
        rate_now = rate or rate_now
        groups[-1].append(transfer)
    return groups


def _taken(
    history: UseHistory,
) -> tuple[
    dict[tuple[int, int, AuthorizationId], tuple[int, int]],
    dict[tuple[int, int, AuthorizationId], int],
    dict[tuple[int, int, AuthorizationId], int],
]:
    """What corrections took: (net, tax) of each part, and of each line what risk got back and all in all."""
    taken: dict[tuple[int, int, AuthorizationId], tuple[int, int]] = {}
    risk: dict[tuple[int, int, AuthorizationId], int] = {}
    of_line: dict[tuple[int, int, AuthorizationId], int] = {}
    released = {case.decided_by for case in history.cases if case.decided_by is not None}
    for kind, part in history.corrected:
        sign = _TAKES.get(kind, 0)
        place = (part.posting_id, part.line, part.authorization_id)
        if part.line >= 0:
            pool = (part.posting_id, part.line, AuthorizationId(b""))
        elif part.posting_id in released:
            pool = (part.posting_id, -1, part.authorization_id)
        else:
            pool = place
        net, tax = taken.get(place, (0, 0))
        taken[place] = net + sign * part.net_micros, tax + sign * part.tax_micros
        of_line[pool] = of_line.get(pool, 0) + sign * (part.net_micros + part.tax_micros)
        risk[pool] = risk.get(pool, 0) + part.risk_micros
    return taken, risk, of_line


def _settled(posting_id: int, batch: UseBatch) -> int | None:
    """The posting from which on the next closing splits it; None while it is not proven."""
    if not batch.proven:
        return None
    return max(posting_id, batch.proven_by or 0)


def _split_of(history: UseHistory, site_id: SiteId, settled: int | None) -> tuple[str, KeptSplit | None]:
    if settled is None:
        return "", None
    for posting_id, window, splits in history.closings:
        if posting_id > settled:
            return window, next((split for split in splits if split.site_id == site_id), None)
    return "", None


@dataclass(slots=True)
class _SoFar:
    """The claim as its gateway's batches raised it, one after another; micros."""

    net: int = 0
    tax: int = 0
    register: tuple[str, str, int, int] | None = None
    register_to: int = 0
    incarnation: int = 0
    by_another: bool = False

    def adds(
        self, said: batch_pb2.Batch, authorization_id: AuthorizationId, incarnation: int
    ) -> Sequence[tuple[int, int, int]]:
        """(line, net, tax) that the batch bills of it; nothing where the claim was not posted (``core.batches._claims``)."""
        claim = next((claim for claim in said.claims if claim.authorization_id == authorization_id), None)
        if claim is None:
            return ()
        register = (claim.device_id, claim.register_id, claim.register_epoch, claim.register_from)
        lower = claim.net_micros < self.net or claim.tax_micros < self.tax or claim.register_to < self.register_to
        if self.register is not None and (
            register != self.register or (lower and not self.by_another and incarnation == self.incarnation)
        ):
            return ()
        due = max(0, claim.net_micros - self.net) + max(0, claim.tax_micros - self.tax)
        skip = max(0, sum(share.net_micros + share.tax_micros for share in claim.shares) - due)
        out: dict[int, tuple[int, int]] = {}
        for share in claim.shares:
            gross = share.net_micros + share.tax_micros
            done = min(skip, gross)
            skip -= done
            done_net, done_tax = cut(share.net_micros, share.tax_micros, done)
            net, tax = out.get(share.line, (0, 0))
            out[share.line] = net + share.net_micros - done_net, tax + share.tax_micros - done_tax
        raised = (max(self.net, claim.net_micros), max(self.tax, claim.tax_micros))
        if self.register is None or raised != (self.net, self.tax) or claim.register_to > self.register_to:
            self.incarnation, self.by_another = incarnation, False
        (self.net, self.tax), self.register = raised, register
        self.register_to = max(self.register_to, claim.register_to)
        return [(line, net, tax) for line, (net, tax) in out.items()]

    def carried(self, so_far: tuple[int, int]) -> None:
        """Another gateway's batch raised it."""
        self.net, self.tax, self.by_another = max(self.net, so_far[0]), max(self.tax, so_far[1]), True


def disputed_micros(history: UseHistory, authorization_id: AuthorizationId) -> int:
    """Net and tax that open disputes set aside of a use."""
    signs = {CorrectionKind.DISPUTE: 1, CorrectionKind.DISPUTE_WON: -1, CorrectionKind.DISPUTE_LOST: -1}
    return sum(
        signs.get(kind, 0) * (part.net_micros + part.tax_micros)
        for kind, part in history.corrected
        if part.authorization_id == authorization_id
    )


def accounts_of(parts: Sequence[UsePart]) -> Mapping[AccountId, None]:
    """Whose accounts were billed, each once."""
    return dict.fromkeys(part.account_id for part in parts if part.account_id)
