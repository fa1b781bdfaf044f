"""Where a due amount goes: its hold, what the account has available, debt up to its limit, risk (DESIGN 5.7).

Rule 1: every step is cut into net and tax by the one rule of :func:`farthing.money.cut`.
Rule 2: what a gateway bills beyond holds counts, with its open quotas, against its exposure; above that it is set aside.
"""

from dataclasses import dataclass

from farthing.ids import GatewayId, SiteId
from farthing.money import cut
from farthing_cloud.ledger.core import paths
from farthing_cloud.ledger.core.book import Book
from farthing_cloud.ledger.core.posting import Cause
from farthing_cloud.ledger.core.rows import Gateway, Quota


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """One amount to post, micros."""

    account_id: str
    site_id: SiteId
    window: str
    rate_ppm: int
    net_micros: int
    tax_micros: int
    line: int | None
    authorization_id: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Poured:
    """What became of it: posted to clearing (net) and tax, beyond the hold, and what was above the exposure."""

    net_micros: int
    tax_micros: int
    beyond_micros: int
    above_net_micros: int
    above_tax_micros: int
    #: Of what was posted, what the account paid or owes now; the rest is risk.
    account_micros: int


def pour(book: Book, due: Due, *, hold: Quota | None, cause: Cause, room_micros: int | None) -> Poured:
    """Post ``due``. ``room_micros`` is what the gateway may bill beyond holds once this hold has ended; None: no bound.

    ``cause`` names what goes beyond the hold. What is above the room is left to the caller, who sets it aside.
    """
    net, tax = due.net_micros, due.tax_micros
    clearing, tax_path = paths.clearing(due.site_id, due.window), paths.tax(due.rate_ppm)

    def step(source: str, most: int, why: Cause, quota: Quota | None) -> int:
        nonlocal net, tax
        amount = min(most, net + tax)
        if amount <= 0:
            return 0
        step_net, step_tax = cut(net, tax, amount)
        net, tax = net - step_net, tax - step_tax
        book.post_parts(
            source,
            ((clearing, step_net), (tax_path, step_tax)),
            why,
            quota=quota,
            line=due.line,
            authorization_id=due.authorization_id,
        )
        return amount

    held = step(paths.payer(due.account_id), book.held(hold), Cause.USE, hold) if hold is not None else 0
    rest = net + tax
    # Posting from the hold made that much room: the open quotas are smaller now.
    allowed = rest if room_micros is None else max(0, min(rest, room_micros + held))
    left, risk = allowed, 0
    if left:
        account = due.account_id
        if account:
            left -= step(paths.payer(account), min(left, book.available(account)), cause, None)
            left -= step(paths.debt(account), min(left, book.debt_room(account)), cause, None)
        risk = step(paths.RISK, left, cause, None)
        left -= risk
    assert left == 0
    return Poured(
        net_micros=due.net_micros - net,
        tax_micros=due.tax_micros - tax,
        beyond_micros=allowed,
        above_net_micros=net,
        above_tax_micros=tax,
        account_micros=held + allowed - risk,
    )


def room_of(book: Book, gateway_id: GatewayId, *, exposure_micros: int, beyond_micros: int) -> int:
    """What a gateway may still bill beyond holds."""
    return exposure_micros - book.open_with(gateway_id) - beyond_micros


def free_of(book: Book, gateway: Gateway) -> int:
    """What of the exposure is neither held, nor the floor's, nor billed beyond holds; micros, below 0 after it was lowered."""
    room = room_of(
        book, gateway.gateway_id, exposure_micros=gateway.exposure_micros, beyond_micros=gateway.beyond_micros
    )
    return room - gateway.floor_micros
