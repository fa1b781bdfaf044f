"""From the ledger's micros to a document's minor units, by the rule of EN 16931.

Rule 1: amounts are summed exactly first, per tax rate and over the whole document, and rounded once, half up.
Rule 2: the tax of a rate is its *rounded* taxable amount times the rate, rounded (BR-CO-17); what the ledger booked stands beside it.
Rule 3: what rounding adds or takes is a figure of the document; it moves no money: the payer was charged the exact sum.
Rule 4: what is taken back of a document takes what its rounding had given: credited whole, invoice and credit notes sum to 0.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from farthing.money import MICROS, PPM, Currency, MoneyError, minor_unit_exponent


@dataclass(frozen=True, slots=True, kw_only=True)
class RateSum:
    """What stands under one tax rate, exact; micros."""

    rate_ppm: int
    net_micros: int
    tax_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundedRate:
    """One tax rate of a document: exact in micros, and in whole minor units (cents, yen)."""

    rate_ppm: int
    net_micros: int
    tax_micros: int
    taxable_minor: int
    tax_minor: int

    @property
    def gross_minor(self) -> int:
        """Taxable amount and tax."""
        return self.taxable_minor + self.tax_minor


def unit_micros(currency: Currency) -> int:
    """Micros of one minor unit. Raise ``MoneyError`` for a currency that has none, or one smaller than a micro."""
    exponent = minor_unit_exponent(currency)
    if exponent > 6:
        raise MoneyError(f"{currency} has minor units smaller than a micro")
    unit: int = MICROS // 10**exponent
    return unit


def half_up(amount: int, unit: int) -> int:
    """How many ``unit`` are nearest to ``amount``, halves up; 0 below 0 (a net may be micros short of what its tax has too much)."""
    return max(0, (2 * amount + unit) // (2 * unit))


def summed(parts: Iterable[RateSum]) -> tuple[RateSum, ...]:
    """One sum for each rate, the lowest rate first."""
    sums: dict[int, tuple[int, int]] = {}
    for part in parts:
        net, tax = sums.get(part.rate_ppm, (0, 0))
        sums[part.rate_ppm] = net + part.net_micros, tax + part.tax_micros
    return tuple(RateSum(rate_ppm=rate, net_micros=net, tax_micros=tax) for rate, (net, tax) in sorted(sums.items()))


def rounded(sums: Sequence[RateSum], currency: Currency) -> tuple[RoundedRate, ...]:
    """Each rate's sum (of :func:`summed`) rounded by the rules above."""
    unit = unit_micros(currency)
    return tuple(_rounded(each, unit) for each in sums)


def _rounded(sums: RateSum, unit: int) -> RoundedRate:
    taxable = half_up(sums.net_micros, unit)
    return RoundedRate(
        rate_ppm=sums.rate_ppm,
        net_micros=sums.net_micros,
        tax_micros=sums.tax_micros,
        taxable_minor=taxable,
        tax_minor=half_up(taxable * sums.rate_ppm, PPM),
    )


def credited(left: Sequence[RateSum], taken: Sequence[RateSum], currency: Currency) -> tuple[RoundedRate, ...]:
    """What a credit note says of ``taken`` when ``left`` was left of its invoice: rounded(left) − rounded(left − taken).

    What is taken may differ from what is left by micros between net and tax (the ledger cuts what ``risk`` bore off a sum of both), never
    in the sum. Raise ``MoneyError`` where more is taken than is left.
    """
    before = {each.rate_ppm: each for each in rounded(left, currency)}
    found = []
    for part in taken:
        of = before.get(part.rate_ppm)
        if of is None or part.net_micros + part.tax_micros > of.net_micros + of.tax_micros:
            raise MoneyError(f"more is credited at {part.rate_ppm} ppm than is left of the invoice")
        rest = RateSum(
            rate_ppm=part.rate_ppm,
            net_micros=of.net_micros - part.net_micros,
            tax_micros=of.tax_micros - part.tax_micros,
        )
        nothing = RateSum(rate_ppm=part.rate_ppm, net_micros=0, tax_micros=0)
        after = _rounded(rest if rest.net_micros + rest.tax_micros else nothing, unit_micros(currency))
        found.append(
            RoundedRate(
                rate_ppm=part.rate_ppm,
                net_micros=part.net_micros,
                tax_micros=part.tax_micros,
                taxable_minor=of.taxable_minor - after.taxable_minor,
                tax_minor=of.tax_minor - after.tax_minor,
            )
        )
    return tuple(found)


def spread(total_minor: int, exact_micros: Sequence[int], currency: Currency) -> tuple[int, ...]:
    """Whole minor units for each of ``exact_micros`` that sum to ``total_minor``, each rounded along the running sum.

    ``total_minor`` is the rounded sum, or nearly: what is missing or too much goes to the largest.
    """
    unit = unit_micros(currency)
    shares, running, before = [], 0, 0
    for micros in exact_micros:
        running += micros
        here = half_up(running, unit)
        shares.append(here - before)
        before = here
    if shares and before != total_minor:
        largest = max(range(len(shares)), key=shares.__getitem__)
        shares[largest] += total_minor - before
    return tuple(shares)
