"""What a use would have cost under another tariff: its records' statements, priced again (``farthing.tariff``).

Rule 1: only what devices signed and the ledger has proven counts; what no record shows is not guessed.
Rule 2: under a tariff that places, every reading that the records hold places its stretch; what they do not place costs the cheapest,
as it does at the gateway.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from farthing.clock import Instant
from farthing.device.cose import decode_sign1
from farthing.device.messages import Intent, MessageError, decode_statement
from farthing.evidence.detail import RegisterFacts
from farthing.evidence.leaf import Leaf
from farthing.tariff import Placed, Tariff, TariffError, Use, is_placed, one_shot_use, price
from farthing_cloud.ledger.core.differences import NetAndTaxes, of_rates
from farthing_cloud.ledger.core.rows import Claimed


class NotComputable(ValueError):
    """Why a use cannot be priced again; a sentence for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Point:
    """Where the register stood at a moment; unrolled."""

    at: Instant
    register_to: int


def reprice(
    tariff: Tariff, claim: Claimed, leaves: Sequence[Leaf], facts: RegisterFacts, time_zone: str
) -> NetAndTaxes:
    """The price of the whole use ``claim`` under ``tariff``; ``leaves``: all that bill it, in any order.

    Raises ``NotComputable``.
    """
    if not leaves:
        raise NotComputable("its detail is missing")
    records = sorted(leaves, key=_reached)
    last = records[-1]
    if (last.total_net_micros, last.total_tax_micros) != (claim.net_micros, claim.tax_micros):
        raise NotComputable("part of its detail is missing: the records do not reach what was billed")
    if last.register_to != claim.register_to:
        raise NotComputable("what it counted last has no record: it cost nothing more")
    try:
        first = decode_statement(decode_sign1(records[0].statements[0]).payload)
    except MessageError as err:
        raise NotComputable(f"its first statement cannot be read: {err.reason}") from err
    try:
        if isinstance(first, Intent) and first.one_shot is not None:
            quantity = last.register_to - claim.register_from
            use = one_shot_use(facts.unit, claim.register_from, quantity, first.at, time_zone)
            priced = price(tariff, use, closing=True)
        else:
            placed: Placed | None = None
            placed_to = claim.register_from
            points = _points(records) if is_placed(tariff, facts.unit) else [_point(last)]
            for point in points:
                use = Use(
                    unit=facts.unit,
                    start=claim.register_from,
                    end=point.register_to,
                    started_at=first.at,
                    ended_at=point.at,
                    placed=placed,
                    placed_to=placed_to,
                    time_zone=time_zone,
                )
                # The use is over, also where its last record was an interim one and the end cost nothing more.
                priced = price(tariff, use, closing=point is points[-1])
                placed, placed_to = priced.placed, point.register_to
    except TariffError as err:
        raise NotComputable(f"the tariff does not price it: {err}") from err
    return of_rates([(part.rate_ppm, part.net_micros, part.tax_micros) for part in priced.parts])


def _reached(leaf: Leaf) -> tuple[int, int, bool]:
    return leaf.register_to, leaf.total_net_micros + leaf.total_tax_micros, leaf.closing


def _point(leaf: Leaf) -> _Point:
    return _Point(at=leaf.at, register_to=leaf.register_to)


def _points(records: Sequence[Leaf]) -> list[_Point]:
    """Every moment that the records show, each once, in order; the last one is where the use ended."""
    shown = {(leaf.register_to, leaf.at) for leaf in records}
    shown |= {(leaf.stood.register_to, leaf.stood.placed.at) for leaf in records if leaf.stood is not None}
    points: list[_Point] = []
    for register_to, at in sorted(shown):
        # A clock that was set back takes no time away.
        points.append(_Point(at=max(at, points[-1].at) if points else at, register_to=register_to))
    return points
