"""Time zones out of one known edition of the IANA data: a wall clock that two parties read differently is two prices.

Rule 1: zones come from the ``tzdata`` package only, never from the operating system, so that the edition has a name.
Rule 2: a zone that this edition does not know has no wall clock: it raises, it never becomes UTC.
"""

from functools import lru_cache
from importlib import resources
from zoneinfo import ZoneInfo

import tzdata

from farthing.tariff.error import TariffError

#: The edition of the time-zone data that prices are computed with, e.g. "2026a".
TIME_ZONE_DATA: str = tzdata.IANA_VERSION

#: There are 600 names in all.
_MAX_ZONES = 1_024
_MAX_NAME = 64


@lru_cache(maxsize=_MAX_ZONES)
def zone(name: str) -> ZoneInfo:
    """The time zone ``name`` ("Europe/Berlin"); raise ``TariffError`` for one that the data does not know."""
    parts = name.split("/")
    named = all(part.replace("_", "").replace("-", "").replace("+", "").isalnum() for part in parts)
    if not name.isascii() or len(name) > _MAX_NAME or not named:
        raise TariffError(f"not the name of a time zone: {name!r:.70}")
    try:
        with resources.files("tzdata.zoneinfo").joinpath(*parts).open("rb") as file:
            return ZoneInfo.from_file(file, key=name)
    except (OSError, ValueError) as err:
        raise TariffError(f"time zone {name} is not in the time-zone data {TIME_ZONE_DATA}") from err
