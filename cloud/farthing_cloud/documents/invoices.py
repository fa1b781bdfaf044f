"""Invoices and credit notes: which lines they have, and what they add up to.

Rule 1: an invoice's lines are what was billed of one site, tariff version, tax rate and evidence class; each billed part stands on one.
Rule 2: what is given back stands on a credit note of the invoice that billed it, line by line, and never more than is left of a line (net
and tax together: between them the ledger's cuts may differ by micros).
Rule 3: an invoice is never changed: what is wrong about it is credited whole, and billed again by an invoice that names it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from farthing.money import Currency
from farthing_cloud.documents.billing import Billed, GivenBack, Key
from farthing_cloud.documents.rounding import RateSum, RoundedRate, credited, rounded, spread, summed


class InvoiceError(ValueError):
    """What was given back was never billed, or more than that: books that do not fit together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of an invoice or credit note, exact; micros. ``number`` counts from 1 on the invoice that billed it."""

    number: int
    site_id: str
    tariff_id: str
    tariff_version: int
    rate_ppm: int
    evidence: str
    #: The first and the last quarter of an hour (UTC, since 1970) of use; 0 where none is known.
    first_quarter: int
    last_quarter: int
    net_micros: int
    tax_micros: int
    authorization_ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Invoice:
    """What an invoice says of money."""

    lines: tuple[Line, ...]
    rates: tuple[RoundedRate, ...]
    #: Each line's net in whole minor units; they sum to the rates' taxable amounts.
    line_minor: tuple[int, ...]
    #: Of the exact total, what was not paid from the account's balance when it was billed.
    debt_micros: int

    @property
    def exact_micros(self) -> int:
        """Net and tax as the ledger has them."""
        return sum(line.net_micros + line.tax_micros for line in self.lines)

    @property
    def gross_minor(self) -> int:
        """The total with tax, in whole minor units."""
        return sum(rate.gross_minor for rate in self.rates)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """An invoice that stands, with what is left of each of its lines; ``root`` is the first number these lines had."""

    number: str
    root: str
    left: tuple[Line, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditNote:
    """What a credit note takes of an invoice."""

    of: Standing
    lines: tuple[Line, ...]
    rates: tuple[RoundedRate, ...]
    line_minor: tuple[int, ...]
    given_back: tuple[GivenBack, ...]

    @property
    def exact_micros(self) -> int:
        """Net and tax as the ledger gave them back."""
        return sum(line.net_micros + line.tax_micros for line in self.lines)

    @property
    def gross_minor(self) -> int:
        """The total with tax, in whole minor units."""
        return sum(rate.gross_minor for rate in self.rates)


def _group(billed: Billed) -> tuple[str, str, int, int, str]:
    return billed.site_id, billed.tariff_id, billed.tariff_version, billed.rate_ppm, billed.evidence


def lines_of(billed: Sequence[Billed]) -> tuple[tuple[Line, ...], Mapping[Key, int]]:
    """The lines of an invoice, and on which one each billed part stands."""
    groups: dict[tuple[str, str, int, int, str], list[Billed]] = {}
    for each in billed:
        groups.setdefault(_group(each), []).append(each)
    lines, stands = [], {}
    for number, (group, parts) in enumerate(sorted(groups.items()), 1):
        site_id, tariff_id, tariff_version, rate_ppm, evidence = group
        quarters = [part.quarter for part in parts if part.quarter]
        lines.append(
            Line(
                number=number,
                site_id=site_id,
                tariff_id=tariff_id,
                tariff_version=tariff_version,
                rate_ppm=rate_ppm,
                evidence=evidence,
                first_quarter=min(quarters, default=0),
                last_quarter=max(quarters, default=0),
                net_micros=sum(part.net_micros for part in parts),
                tax_micros=sum(part.tax_micros for part in parts),
                authorization_ids=tuple(sorted({each for part in parts for each in part.authorization_ids})),
            )
        )
        stands.update({part.key: number for part in parts})
    if len(stands) != len(billed):
        raise InvoiceError("one part was billed twice")
    return tuple(lines), stands


def invoice_of(lines: Sequence[Line], currency: Currency, *, debt_micros: int) -> Invoice:
    """Add the lines up."""
    rates = rounded(summed(_sums(lines)), currency)
    return Invoice(
        lines=tuple(lines), rates=rates, line_minor=_line_minor(lines, rates, currency), debt_micros=debt_micros
    )


def credit_of(
    standing: Standing, taken: Mapping[int, tuple[int, int]], currency: Currency, given_back: Sequence[GivenBack] = ()
) -> CreditNote:
    """A credit note that takes (net, tax) of lines, by number. Raises ``InvoiceError`` for more than is left of one."""
    lines = []
    for left in standing.left:
        net, tax = taken.get(left.number, (0, 0))
        if net + tax > left.net_micros + left.tax_micros:
            raise InvoiceError(
                f"of line {left.number} of {standing.number} {left.net_micros} + {left.tax_micros} micros are left,"
                f" not {net} + {tax}"
            )
        if net + tax:
            lines.append(replace(left, net_micros=net, tax_micros=tax))
    unknown = taken.keys() - {left.number for left in standing.left}
    if unknown or not lines:
        raise InvoiceError(f"{standing.number} has no line {min(unknown, default=0)} to take of")
    rates = credited(summed(_sums(standing.left)), summed(_sums(lines)), currency)
    return CreditNote(
        of=standing,
        lines=tuple(lines),
        rates=rates,
        line_minor=_line_minor(lines, rates, currency),
        given_back=tuple(given_back),
    )


def whole(standing: Standing) -> Mapping[int, tuple[int, int]]:
    """All that is left, as :func:`credit_of` takes it."""
    return {
        line.number: (line.net_micros, line.tax_micros) for line in standing.left if line.net_micros + line.tax_micros
    }


def _sums(lines: Iterable[Line]) -> Iterable[RateSum]:
    return (RateSum(rate_ppm=line.rate_ppm, net_micros=line.net_micros, tax_micros=line.tax_micros) for line in lines)


def _line_minor(lines: Sequence[Line], rates: Sequence[RoundedRate], currency: Currency) -> tuple[int, ...]:
    """Per rate the lines' nets sum to the taxable amount (BR-CO-10 and BR-CO-13 then hold for the whole)."""
    found: dict[int, int] = {}
    for rate in rates:
        mine = [line for line in lines if line.rate_ppm == rate.rate_ppm]
        shares = spread(rate.taxable_minor, [line.net_micros for line in mine], currency)
        found.update({line.number: share for line, share in zip(mine, shares, strict=True)})
    return tuple(found[line.number] for line in lines)
