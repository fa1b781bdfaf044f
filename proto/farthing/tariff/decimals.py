"""JSON whose numbers are decimals from the first character to the last: no float is ever made.

Rule 1: a number has a bounded number of digits, an object each key once; anything else raises, and never becomes something else.
"""

import json
from decimal import Decimal
from fractions import Fraction
from typing import Any

from farthing.tariff.error import TariffError

#: More digits than any price has; bounds what exact arithmetic has to carry.
MAX_DIGITS = 15
#: Places after the point of a number that no decimal is: a micro.
_PLACES = 6


def read_json(data: bytes) -> Any:
    """The value that ``data`` is, numbers as ``Decimal``; raise ``TariffError``, ``ValueError`` or ``RecursionError``."""
    return json.loads(
        data.decode(),
        parse_float=_decimal,
        parse_int=_decimal,
        parse_constant=_no_constant,
        object_pairs_hook=_no_second_key,
    )


def decimal_text(value: Fraction) -> str:
    """``value`` written as a decimal: exact where it is one, else cut off after six places."""
    places, rest = 0, value.denominator
    for prime in (2, 5):
        count = 0
        while rest % prime == 0:
            rest //= prime
            count += 1
        places = max(places, count)
    if rest != 1:
        places = _PLACES
    scaled = abs(value.numerator) * 10**places // value.denominator
    whole, part = divmod(scaled, 10**places)
    sign = "-" if value < 0 and scaled else ""
    return f"{sign}{whole}" + (f".{part:0{places}d}".rstrip("0").rstrip(".") if places else "")


def _decimal(text: str) -> Decimal:
    if len(text) > 2 * MAX_DIGITS:
        raise TariffError(f"a number has at most {MAX_DIGITS} digits on each side of the point")
    number = Decimal(text)
    exponent = number.as_tuple().exponent
    # An exponent can promise more digits than there is memory.
    if not isinstance(exponent, int) or exponent < -MAX_DIGITS or number.adjusted() > MAX_DIGITS:
        raise TariffError(f"a number has at most {MAX_DIGITS} digits on each side of the point")
    return number


def _no_constant(name: str) -> Any:
    raise TariffError(f"{name} is not a number")


def _no_second_key(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise TariffError("a key stands twice in one object")
    return members
