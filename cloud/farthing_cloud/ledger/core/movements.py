"""What a posting meant for one payer: what it billed, line by line, and what a correction gave back.

Rule 1: what is billed to an account is what came from it or became its debt; what ``risk`` bore is not.
Rule 2: every transfer that bills the account is counted in one billing, and the billings sum to the transfers.
Rule 3: a correction gives back by the parts it took, each first to ``risk`` (``core.corrections``); the rest is the payer's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from farthing.clock import QUARTER_US, is_date, quarter_of
from farthing.device.cose import decode_sign1
from farthing.device.messages import decode_statement
from farthing.evidence.carried import authorization_of, named_by
from farthing.evidence.detail import EvidenceError
from farthing.ids import AccountId, AuthorizationId, GatewayId
from farthing.money import cut
from farthing.v1 import batch_pb2
from farthing_cloud.ledger.core import paths
from farthing_cloud.ledger.core.posting import Transfer, TransferKind
from farthing_cloud.ledger.core.rows import Aside, ClaimKey, CorrectedPart
from farthing_cloud.ledger.core.uses import BILLED, BatchKey, UseHistory, by_rate, parts_of


class MovementsError(Exception):
    """What was posted does not say what was billed: a bug of ours, named by its posting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BillingKey:
    """Names what a posting billed: its place in the audit chain, and a line as :mod:`core.uses` names parts."""

    position: int
    line: int
    #: Empty for a line of a batch, and for what a case of exposure released.
    authorization_id: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """Under what something was billed. ``quarter``: of an hour since 1970, UTC, 0 where nothing says; ``rate_ppm`` of tax."""

    gateway_id: str
    tariff_id: str
    tariff_version: int
    rate_ppm: int
    evidence_class: int
    quarter: int
    authorization_ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Billing:
    """What one line or part billed to the account; micros."""

    key: BillingKey
    site_id: str
    priced: Priced
    net_micros: int
    tax_micros: int
    #: Of both together.
    debt_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Posted:
    """A posting with all its transfers, and what it stands on: its batch, or the asides of the case that it released."""

    position: int
    transfers: tuple[Transfer, ...]
    batch: bytes | None = None
    asides: tuple[Aside, ...] = ()
    #: Of a case: whose it is, empty for one of exposure; and the batches that its asides stand in, by (gateway, incarnation, sequence).
    case_authorization_id: bytes = b""
    aside_batches: Mapping[BatchKey, bytes] | None = None


def billings_of(posted: Posted, account_id: AccountId) -> tuple[Billing, ...]:
    """What ``posted`` billed to the account. Raises ``MovementsError`` for what cannot be named."""
    billed = [t for t in posted.transfers if t.kind is TransferKind.POST and t.cause in BILLED]
    mine = (paths.payer(account_id), paths.debt(account_id))
    if not any(transfer.debit in mine for transfer in billed):
        return ()
    if posted.asides:
        found = _released(posted, billed, account_id)
    elif posted.batch is not None:
        batch = batch_pb2.Batch.FromString(posted.batch)
        found = [*_lines(posted, batch, billed, account_id), *_carried(posted, batch, billed, account_id)]
    else:
        raise MovementsError(
            f"posting {posted.position} bills account {account_id}, and stands on nothing that says what"
        )
    ours = sum(transfer.amount_micros for transfer in billed if transfer.debit in mine)
    if sum(billing.net_micros + billing.tax_micros for billing in found) != ours:
        raise MovementsError(
            f"posting {posted.position} bills {ours} micros to account {account_id}, and its parts differ"
        )
    return tuple(found)


def _sum(
    position: int,
    line: int,
    authorization_id: bytes,
    transfers: Sequence[Transfer],
    priced: Priced,
    account_id: AccountId,
) -> Billing | None:
    net = tax = owed = 0
    for transfer in transfers:
        kind = transfer.credit.partition("/")[0]
        if transfer.debit not in (paths.payer(account_id), paths.debt(account_id)):
            continue
        if kind == "tax":
            tax += transfer.amount_micros
        else:
            net += transfer.amount_micros
        if transfer.debit == paths.debt(account_id):
            owed += transfer.amount_micros
    if net + tax == 0:
        return None
    site_id = next((t.credit.split("/")[1] for t in transfers if t.credit.startswith("clearing/")), "")
    key = BillingKey(position=position, line=line, authorization_id=authorization_id)
    return Billing(key=key, site_id=site_id, priced=priced, net_micros=net, tax_micros=tax, debt_micros=owed)


def _lines(posted: Posted, batch: batch_pb2.Batch, billed: Sequence[Transfer], account_id: AccountId) -> list[Billing]:
    by_line: dict[int, list[Transfer]] = {}
    for transfer in billed:
        if transfer.line is not None:
            by_line.setdefault(transfer.line, []).append(transfer)
    shares: dict[int, list[bytes]] = {}
    for claim in batch.claims:
        for share in claim.shares:
            shares.setdefault(share.line, []).append(claim.authorization_id)
    sums = (
        _sum(posted.position, line, b"", transfers, _priced(batch, line, shares.get(line, ())), account_id)
        for line, transfers in sorted(by_line.items())
    )
    return [billing for billing in sums if billing is not None]


def _priced(batch: batch_pb2.Batch, index: int, authorization_ids: Sequence[bytes]) -> Priced:
    line = batch.lines[index]
    return Priced(
        gateway_id=batch.gateway_id,
        tariff_id=line.tariff_id,
        tariff_version=line.tariff_version,
        rate_ppm=line.tax_rate_ppm,
        evidence_class=line.evidence_class,
        quarter=_quarter(line.quarter),
        authorization_ids=tuple(dict.fromkeys(authorization_ids)),
    )


def _quarter(said: int) -> int:
    """What a gateway or a device says, if it is a date: documents write it down, and could not be issued otherwise."""
    return said if is_date(said * QUARTER_US) else 0


def _carried(
    posted: Posted, batch: batch_pb2.Batch, billed: Sequence[Transfer], account_id: AccountId
) -> list[Billing]:
    """Ends that other gateways' devices handed over: posted for their authorization, without a line."""
    own: dict[bytes, list[Transfer]] = {}
    for transfer in billed:
        if transfer.line is None:
            own.setdefault(transfer.authorization_id or b"", []).append(transfer)
    found: list[Billing] = []
    for authorization_id, transfers in own.items():
        site_id = next((t.credit.split("/")[1] for t in transfers if t.credit.startswith("clearing/")), "")
        for number, of_rate in enumerate(by_rate(transfers), 1):
            priced = carried_price(batch, authorization_id, _rate_ppm(of_rate))
            billing = _sum(posted.position, -number, authorization_id, of_rate, priced, account_id)
            if billing is not None:
                # A rate may have tax alone: its net was cut off before.
                found.append(billing if billing.site_id else replace(billing, site_id=site_id))
    return found


def _rate_ppm(transfers: Sequence[Transfer]) -> int:
    """The rate that the tax account is named after; 0 where no tax was posted."""
    taxed = next((t.credit for t in transfers if t.credit.startswith("tax/")), "tax/0")
    whole, _, rest = taxed.removeprefix("tax/").partition(".")
    return int(whole) * 10_000 + int(f"{rest:0<4}")


def carried_price(batch: batch_pb2.Batch, authorization_id: bytes, rate_ppm: int) -> Priced:
    """What the carried end of ``authorization_id`` was billed under, as its signed grant, or where there is none its first reading, and its last statement say."""
    for entry in batch.carried:
        if authorization_of(GatewayId(entry.granted_by), entry.statements) != authorization_id:
            continue
        try:
            tariff, _ = named_by(entry.grant, entry.statements)
        except EvidenceError:
            continue  # another word about it, which proved nothing
        return Priced(
            gateway_id=entry.granted_by,
            tariff_id=tariff.tariff_id,
            tariff_version=tariff.version,
            rate_ppm=rate_ppm,
            evidence_class=batch_pb2.EVIDENCE_CLASS_DEVICE_SIGNED,
            quarter=_quarter(quarter_of(decode_statement(decode_sign1(entry.statements[-1]).payload).at)),
            authorization_ids=(authorization_id,),
        )
    raise MovementsError(f"batch {batch.gateway_id}/{batch.sequence} carries no end of {authorization_id.hex()}")


def _released(posted: Posted, billed: Sequence[Transfer], account_id: AccountId) -> list[Billing]:
    """A released case posts its asides one after another, each whole."""
    found: list[Billing] = []
    rest = list(billed)
    for number, aside in enumerate(posted.asides, 1):
        own: list[Transfer] = []
        left = aside.gross_micros
        while left > 0 and rest:
            own.append(rest.pop(0))
            left -= own[-1].amount_micros
        if left:
            raise MovementsError(f"posting {posted.position} does not release aside {number} whole")
        priced = aside_price(posted, aside)
        billing = _sum(posted.position, -number, posted.case_authorization_id, own, priced, account_id)
        if billing is not None:
            found.append(billing)
    return found


def aside_price(posted: Posted, aside: Aside) -> Priced:
    """What an aside was claimed under: the line it stands on, or the end that was carried."""
    raw = (posted.aside_batches or {}).get((aside.gateway_id, aside.incarnation, aside.sequence))
    if raw is None:
        raise MovementsError(f"the batch of an aside of posting {posted.position} is missing")
    batch = batch_pb2.Batch.FromString(raw)
    of = (AuthorizationId(posted.case_authorization_id),) if posted.case_authorization_id else ()
    if aside.line >= 0:
        return _priced(batch, aside.line, of)
    if not of:
        # Above the exposure, of ends that were carried: one case for all of them, so no tariff is said.
        return Priced(
            gateway_id=aside.gateway_id,
            tariff_id="",
            tariff_version=0,
            rate_ppm=aside.rate_ppm,
            evidence_class=batch_pb2.EVIDENCE_CLASS_DEVICE_SIGNED,
            quarter=0,
            authorization_ids=(),
        )
    return carried_price(batch, posted.case_authorization_id, aside.rate_ppm)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a transfer, or a sum of them, adds to a payer's four figures; micros."""

    credits_micros: int = 0
    debits_micros: int = 0
    held_micros: int = 0
    debt_micros: int = 0

    def __add__(self, other: "Change") -> "Change":
        return Change(
            credits_micros=self.credits_micros + other.credits_micros,
            debits_micros=self.debits_micros + other.debits_micros,
            held_micros=self.held_micros + other.held_micros,
            debt_micros=self.debt_micros + other.debt_micros,
        )

    def __sub__(self, other: "Change") -> "Change":
        return Change(
            credits_micros=self.credits_micros - other.credits_micros,
            debits_micros=self.debits_micros - other.debits_micros,
            held_micros=self.held_micros - other.held_micros,
            debt_micros=self.debt_micros - other.debt_micros,
        )


def change_of(kind: str, debit: str, credit: str, amount_micros: int, *, from_hold: bool, account_id: str) -> Change:
    """What a transfer changes for the account."""
    payer, debt = paths.payer(account_id), paths.debt(account_id)
    if kind != TransferKind.POST:
        sign = 1 if kind == TransferKind.HOLD else -1
        return Change(held_micros=sign * amount_micros if debit == payer else 0)
    return Change(
        credits_micros=amount_micros if credit == payer else 0,
        debits_micros=amount_micros if debit == payer else 0,
        held_micros=-amount_micros if from_hold and debit == payer else 0,
        debt_micros=amount_micros * ((debit == debt) - (credit == debt)),
    )


def payers_share(part: CorrectedPart) -> tuple[int, int]:
    """(net, tax) of a corrected part that went to the payer: what is left after ``risk`` got back what it bore."""
    net, tax = cut(part.net_micros, part.tax_micros, part.risk_micros)
    return part.net_micros - net, part.tax_micros - tax


@dataclass(frozen=True, slots=True, kw_only=True)
class BilledPart:
    """A part of a use as it was billed, nothing taken back; micros. ``posting_id`` and ``line`` name it (:mod:`core.uses`)."""

    posting_id: int
    line: int
    account_id: str
    site_id: str
    priced: Priced
    net_micros: int
    tax_micros: int
    proven: bool
    #: Net and tax together, by what paid; ``unsplit``: the line stands for several uses and was paid in several ways.
    balance_micros: int
    debt_micros: int
    risk_micros: int
    unsplit_micros: int


def billed_parts(history: UseHistory, key: ClaimKey) -> tuple[BilledPart, ...]:
    """The parts of the use ``key`` as they were billed, in the order of posting."""
    authorization_id, _ = key
    batches = {batch.posting_id: batch for batch in history.batches}
    by_key = {batch.key: batch.batch for batch in history.batches}
    cases = {case.decided_by: case for case in history.cases if case.decided_by is not None}
    transfers: dict[int, list[Transfer]] = {}
    for posting_id, transfer in history.transfers:
        if transfer.kind is TransferKind.POST and transfer.cause in BILLED:
            transfers.setdefault(posting_id, []).append(transfer)
    found = []
    for part in parts_of(replace(history, corrected=()), key):
        billed = transfers[part.posting_id]
        batch = batches.get(part.posting_id)
        said = None if batch is None else batch_pb2.Batch.FromString(batch.batch)
        if said is not None and part.line >= 0:
            own = [transfer for transfer in billed if transfer.line == part.line]
            priced = _priced(said, part.line, (authorization_id,))
            stretch = _stretch(said, part.line, authorization_id, own)
        elif said is not None:
            alone = [t for t in billed if t.line is None and t.authorization_id == authorization_id]
            own = by_rate(alone)[-part.line - 1]
            priced = carried_price(said, authorization_id, _rate_ppm(own))
            stretch = (0, part.left_micros)
        else:
            case = cases[part.posting_id]
            posted = Posted(
                position=part.posting_id,
                transfers=(),
                asides=case.asides,
                case_authorization_id=authorization_id,
                aside_batches=by_key,
            )
            before = sum(aside.gross_micros for aside in case.asides[: -part.line - 1])
            own = billed
            priced = aside_price(posted, case.asides[-part.line - 1])
            stretch = (before, before + part.left_micros)
        paid = _paid(own, stretch, part.left_micros)
        found.append(
            BilledPart(
                posting_id=part.posting_id,
                line=part.line,
                account_id=part.account_id,
                site_id=part.site_id,
                priced=priced,
                net_micros=part.net_micros,
                tax_micros=part.tax_micros,
                proven=part.unproven is None,
                balance_micros=paid.get("payer", 0),
                debt_micros=paid.get("debt", 0),
                risk_micros=paid.get("risk", 0),
                unsplit_micros=paid.get("", 0),
            )
        )
    return tuple(found)


def _stretch(
    batch: batch_pb2.Batch, line: int, authorization_id: bytes, own: Sequence[Transfer]
) -> tuple[int, int] | None:
    """From where to where of a line's money is this authorization's, its claims in the batch's order; None where that is not known."""
    start = end = so_far = 0
    for claim in batch.claims:
        gross = sum(share.net_micros + share.tax_micros for share in claim.shares if share.line == line)
        if claim.authorization_id == authorization_id:
            start, end = so_far, so_far + gross
        so_far += gross
    # Something of it was billed before, set aside or parked: whose part that was is not said here.
    return (start, end) if so_far == sum(transfer.amount_micros for transfer in own) else None


def _paid(own: Sequence[Transfer], stretch: tuple[int, int] | None, amount_micros: int) -> dict[str, int]:
    """What paid a stretch of a line's money: its steps lie in the order of the waterfall."""
    sources = {transfer.debit.partition("/")[0] for transfer in own}
    if len(sources) == 1:
        return {sources.pop(): amount_micros}
    if stretch is None or stretch[1] - stretch[0] != amount_micros:
        return {"": amount_micros}
    paid: dict[str, int] = {}
    at = 0
    for transfer in own:
        inside = min(at + transfer.amount_micros, stretch[1]) - max(at, stretch[0])
        at += transfer.amount_micros
        if inside > 0:
            source = transfer.debit.partition("/")[0]
            paid[source] = paid.get(source, 0) + inside
    return paid
