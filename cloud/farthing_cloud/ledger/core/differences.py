"""What a use should have cost, and what of it goes back: net, and tax by ledger account.

Rule 1: a use keeps what it should have cost; all above that goes back, and what went back before counts.
Rule 2: net and tax go back each from where they were posted; what one of them lacks, another does not give.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from farthing_cloud.ledger.core import paths
from farthing_cloud.ledger.core.uses import UsePart


@dataclass(frozen=True, slots=True, kw_only=True)
class NetAndTaxes:
    """Net, and (tax account, tax) pairs by account, none of 0; micros."""

    net_micros: int = 0
    taxes: tuple[tuple[str, int], ...] = ()

    @property
    def tax_micros(self) -> int:
        """Of all rates."""
        return sum(micros for _, micros in self.taxes)

    @property
    def gross_micros(self) -> int:
        """Net and tax."""
        return self.net_micros + self.tax_micros


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedBack:
    """What a plan says of one use: billed (net, tax), what it should have cost, what was to go back; micros. ``posting_ids`` billed it."""

    billed_micros: tuple[int, int]
    should: NetAndTaxes
    back: NetAndTaxes
    posting_ids: tuple[int, ...]


def net_and_taxes(net_micros: int, taxes: Mapping[str, int]) -> NetAndTaxes:
    """In its one form: taxes by account, those of 0 left out."""
    return NetAndTaxes(net_micros=net_micros, taxes=tuple(sorted((path, tax) for path, tax in taxes.items() if tax)))


def of_rates(rates: Sequence[tuple[int, int, int]]) -> NetAndTaxes:
    """From (rate in ppm, net, tax)."""
    taxes: dict[str, int] = {}
    for rate_ppm, _, tax in rates:
        taxes[paths.tax(rate_ppm)] = taxes.get(paths.tax(rate_ppm), 0) + tax
    return net_and_taxes(sum(net for _, net, _ in rates), taxes)


def left_of(parts: Sequence[UsePart]) -> NetAndTaxes:
    """What is left of a use's parts."""
    taxes: dict[str, int] = {}
    for part in parts:
        taxes[part.tax_path] = taxes.get(part.tax_path, 0) + part.tax_micros
    return net_and_taxes(sum(part.net_micros for part in parts), taxes)


def excess(left: NetAndTaxes, should: NetAndTaxes, most: NetAndTaxes | None = None) -> NetAndTaxes:
    """What of ``left`` is above ``should``, net and each tax for itself, in all no more than the sums differ; at most ``most``."""
    room = max(0, left.gross_micros - should.gross_micros)
    net = min(max(0, left.net_micros - should.net_micros), room)
    if most is not None:
        net = min(net, most.net_micros)
    room -= net
    kept, allowed = dict(should.taxes), dict(most.taxes) if most is not None else None
    taxes: dict[str, int] = {}
    for path, tax in left.taxes:
        back = min(max(0, tax - kept.get(path, 0)), room)
        if allowed is not None:
            back = min(back, allowed.get(path, 0))
        taxes[path] = back
        room -= back
    return net_and_taxes(net, taxes)


def takes(parts: Sequence[UsePart], back: NetAndTaxes) -> list[tuple[UsePart, int, int]]:
    """(part, net, tax) that make up ``back``, the part billed last first. The parts have as much."""
    net, taxes = back.net_micros, dict(back.taxes)
    taken = []
    for part in reversed(parts):
        part_net = min(net, part.net_micros)
        part_tax = min(taxes.get(part.tax_path, 0), part.tax_micros)
        if part_net or part_tax:
            net -= part_net
            if part_tax:
                taxes[part.tax_path] -= part_tax
            taken.append((part, part_net, part_tax))
    assert net == 0
    assert not any(taxes.values())
    return taken
