"""Decimals of the file of ``farthing-admin apply``: written as text, read exactly, refused when they are not."""

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, TypeAlias

from pydantic import BeforeValidator

from farthing_cloud.admin.session import amount_micros, instant_us, share_ppm

_DEGREES = re.compile(r"-?[0-9]{1,3}(\.[0-9]{1,6})?\Z")


def exactly(read: Callable[[str], int], example: str = "12.50") -> Callable[[object], int]:
    """A validator that takes text only."""

    def parse(value: object) -> int:
        if not isinstance(value, str):
            # A TOML number with a point is a float to most readers: what is exact is written as text.
            raise ValueError(f'write it as text, for example "{example}"')  # noqa: TRY004 pydantic turns a ValueError into a fault
        try:
            return read(value)
        except Exception as err:
            raise ValueError(str(err)) from err

    return parse


def microdegrees(text: str) -> int:
    """ "52.520008" as millionths of a degree; raise ``ValueError`` for more than six decimals."""
    if not _DEGREES.match(text):
        raise ValueError('degrees with at most six decimals, for example "52.520008"')
    return int(Decimal(text).scaleb(6))


Micros: TypeAlias = Annotated[int, BeforeValidator(exactly(amount_micros))]
SharePpm: TypeAlias = Annotated[int, BeforeValidator(exactly(share_ppm))]
#: An instant with its time zone, µs since 1970.
InstantUs: TypeAlias = Annotated[int, BeforeValidator(exactly(instant_us, "2026-03-01T00:00:00+01:00"))]
