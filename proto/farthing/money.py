"""Money is integer micros and a currency; there is no float between a reading and a payout.

Rule 1: a micro is 10⁻⁶ of the currency's major unit; one amount is at most ``MAX_AMOUNT_MICROS``.
Rule 2: rounding happens in the functions of this module only, always down, and the remainder goes where they say.
"""

import re
from typing import NewType

from iso4217 import Currency as Iso4217Currency

#: Largest amount one message may carry: every JSON and CBOR reader holds it exactly (2⁵³), about nine billion units.
MAX_AMOUNT_MICROS = 2**53
MICROS = 1_000_000
#: One cent. Banks and cards move no smaller part, so plans are rounded down to it and the rest is carried.
CENT_MICROS = 10_000
#: Tax rates are parts per million, so that 5.5 % is an integer: 55_000.
PPM = 1_000_000
MAX_TAX_RATE_PPM = PPM

#: An ISO 4217 alphabetic code.
Currency = NewType("Currency", str)

_ALPHA_3 = re.compile(r"[A-Z]{3}\Z")
_EXACT = re.compile(r"(-)?([0-9]{1,32})(?:\.([0-9]{1,6}))?\Z")


class MoneyError(ValueError):
    """An amount, rate or currency that no party may send."""


def parse_currency(code: str) -> Currency:
    """Return ``code`` as a currency; raise ``MoneyError`` unless ISO 4217 knows it."""
    if not _ALPHA_3.match(code):
        raise MoneyError(f"not an ISO 4217 code: {code!r}")
    try:
        Iso4217Currency(code)
    except ValueError as err:
        raise MoneyError(f"not an ISO 4217 code: {code!r}") from err
    return Currency(code)


def parse_amount_micros(value: object) -> int:
    """Return ``value`` as an amount in micros, 0 ≤ amount ≤ ``MAX_AMOUNT_MICROS``; raise ``MoneyError`` otherwise."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise MoneyError(f"an amount is an integer of micros, not {type(value).__name__}")
    if not 0 <= value <= MAX_AMOUNT_MICROS:
        raise MoneyError(f"amount out of range: {value}")
    return value


def minor_unit_exponent(currency: Currency) -> int:
    """How many decimals a currency has: 2 for cents, 0 for yen.

    Raise ``MoneyError`` for a currency without minor units (gold, test codes): nobody is paid in it.
    """
    exponent = Iso4217Currency(currency).exponent
    if exponent is None:
        raise MoneyError(f"{currency} has no minor unit to pay in")
    return int(exponent)


def round_down_to_minor_unit(amount_micros: int, currency: Currency) -> int:
    """The whole minor units (cents, yen) in ``amount_micros``; the rest stays with whom it is owed to.

    Raise ``MoneyError`` for a currency without minor units (gold, test codes): nobody is paid in it.
    """
    unit_micros: int = MICROS // 10 ** minor_unit_exponent(currency)
    return amount_micros // unit_micros * unit_micros


def tax_micros(net_micros: int, rate_ppm: int) -> int:
    """Tax on ``net_micros`` at ``rate_ppm``, rounded down: of the net *so far*, so a record bills the difference."""
    return net_micros * rate_ppm // PPM


def net_of_gross_micros(gross_micros: int, rate_ppm: int) -> int:
    """Net part of a price that includes its tax: floor(gross × 1 / (1 + rate)); the rest is tax."""
    return gross_micros * PPM // (PPM + rate_ppm)


def cut(net_micros: int, tax_micros: int, amount_micros: int) -> tuple[int, int]:
    """The first ``amount_micros`` of a sum of net and tax, as (net, tax), both in micros.

    One rule for quota shares and for the steps of the waterfall: net = floor(amount × net / gross), the rest is tax.
    """
    gross = net_micros + tax_micros
    if not 0 <= amount_micros <= gross:
        raise MoneyError(f"cannot cut {amount_micros} from {gross}")
    if gross == 0:
        return 0, 0
    net = amount_micros * net_micros // gross
    return net, amount_micros - net


def rate_name(rate_ppm: int) -> str:
    """The percentage as written in an account's name: 200_000 is "20", 55_000 is "5.5"."""
    whole, rest = divmod(rate_ppm, 10_000)
    return str(whole) if not rest else f"{whole}.{rest:04d}".rstrip("0")


def format_micros(amount_micros: int) -> str:
    """An amount for people: at least two decimals, never more than are needed, exact."""
    sign = "-" if amount_micros < 0 else ""
    whole, rest = divmod(abs(amount_micros), MICROS)
    return f"{sign}{whole}.{f'{rest:06d}'.rstrip('0'):0<2}"


def exact_micros(text: str) -> int:
    """Read what :func:`format_micros` wrote; raise ``MoneyError`` for what is no exact amount of at most six decimals."""
    match = _EXACT.match(text)
    if match is None:
        raise MoneyError(f"not an exact amount: {text!r:.40}")
    micros = int(match[2]) * MICROS + int(f"{match[3] or '':0<6}")
    return -micros if match[1] else micros
