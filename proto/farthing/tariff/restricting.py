"""When an element of a tariff holds: OCPI's restrictions as values, and read (OCPI 2.2.1, section 11.4.6).

Rule 1: what is not understood refuses the tariff: a restriction that is ignored prices uses it excludes.
Rule 2: so does what no use can meet, or what means two things (a day that begins when it ends): nobody wanted that.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import StrEnum, unique
from fractions import Fraction
from typing import Any

from farthing.tariff.error import TariffError

_MINUTES_A_DAY = 24 * 60
_TIME = re.compile(r"([01]\d|2[0-3]):([0-5]\d)\Z")
_DATE = re.compile(r"\d{4}-\d\d-\d\d\Z")
_WEEKDAYS = {
    name: number
    for number, name in enumerate(("MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY", "SUNDAY"))
}
#: Ten years. A longer one never begins or never ends.
_MAX_DURATION_S = 10 * 365 * 86_400
#: More than any register of one use counts.
_MAX_QUANTITY = 10**15

_KEYS = frozenset(
    {
        *("start_time", "end_time", "start_date", "end_date", "day_of_week", "reservation"),
        *(f"{end}_{what}" for what in ("kwh", "units", "power", "current", "duration") for end in ("min", "max")),
    }
)


@unique
class Reservation(StrEnum):
    """The part of a reservation that an element is for (OCPI 2.2.1, section 11.4.5 ReservationRestrictionType)."""

    HELD = "RESERVATION"
    EXPIRED = "RESERVATION_EXPIRES"


@dataclass(frozen=True, slots=True, kw_only=True)
class Restrictions:
    """When an element holds (OCPI 2.2.1, section 11.4.6 TariffRestrictions; ``min_units`` and ``max_units`` are ours).

    Of every pair the first counts and the second no longer does; None is no restriction. Times of day (minutes since midnight),
    dates and weekdays (Monday is 0; empty is every day) are the site's. ``min_units`` and ``max_units`` are in the register's unit, for
    registers that count no energy.
    """

    start_minute: int | None = None
    end_minute: int | None = None
    start_date: date | None = None
    end_date: date | None = None
    weekdays: frozenset[int] = frozenset()
    min_wh: int | None = None
    max_wh: int | None = None
    min_units: int | None = None
    max_units: int | None = None
    min_watt: Fraction | None = None
    max_watt: Fraction | None = None
    min_ampere: Fraction | None = None
    max_ampere: Fraction | None = None
    min_duration_s: int | None = None
    max_duration_s: int | None = None
    reservation: Reservation | None = None

    @property
    def by_calendar(self) -> bool:
        """Whether the date, the weekday or the time of day matters."""
        return bool(self.weekdays) or any(
            bound is not None for bound in (self.start_minute, self.end_minute, self.start_date, self.end_date)
        )


UNRESTRICTED = Restrictions()


def parse_restrictions(members: Mapping[str, Any]) -> Restrictions:
    """The restrictions of one element; raise ``TariffError`` naming what cannot be priced."""
    unknown = sorted(set(members) - _KEYS)
    if unknown:
        raise TariffError(
            f"an element restricted by {', '.join(unknown)} cannot be priced: OCPI 2.2.1 knows no such restriction"
        )
    given = {key: value for key, value in members.items() if value is not None}
    restrictions = Restrictions(
        **_times(given),
        start_date=_date(given, "start_date"),
        end_date=_date(given, "end_date"),
        weekdays=_weekdays(given),
        min_wh=_whole(given, "min_kwh", 1_000),
        max_wh=_whole(given, "max_kwh", 1_000),
        min_units=_whole(given, "min_units", 1),
        max_units=_whole(given, "max_units", 1),
        min_watt=_exact(given, "min_power", 1_000),
        max_watt=_exact(given, "max_power", 1_000),
        min_ampere=_exact(given, "min_current", 1),
        max_ampere=_exact(given, "max_current", 1),
        min_duration_s=_seconds(given, "min_duration"),
        max_duration_s=_seconds(given, "max_duration"),
        reservation=_reservation(given),
    )
    for first, last, what in (
        (restrictions.start_date, restrictions.end_date, "start_date and end_date"),
        (restrictions.min_wh, restrictions.max_wh, "min_kwh and max_kwh"),
        (restrictions.min_units, restrictions.max_units, "min_units and max_units"),
        (restrictions.min_watt, restrictions.max_watt, "min_power and max_power"),
        (restrictions.min_ampere, restrictions.max_ampere, "min_current and max_current"),
        (restrictions.min_duration_s, restrictions.max_duration_s, "min_duration and max_duration"),
    ):
        if first is not None and last is not None and first >= last:  # type: ignore[operator]  # pairs are of one type
            raise TariffError(f"{what} leave nothing between them")
    return restrictions


def _times(given: Mapping[str, Any]) -> dict[str, int | None]:
    start, end = _minute(given, "start_time"), _minute(given, "end_time")
    if end == 0:
        # OCPI: "To stop at end of the day use: 00:00".
        end = _MINUTES_A_DAY
    if start is not None and start == end:
        raise TariffError("start_time and end_time are the same: is it the whole day, or none of it?")
    if start in (None, 0) and end in (None, _MINUTES_A_DAY):
        return {"start_minute": None, "end_minute": None}
    return {"start_minute": start, "end_minute": end}


def _minute(given: Mapping[str, Any], key: str) -> int | None:
    value = given.get(key)
    if value is None:
        return None
    found = _TIME.match(value) if isinstance(value, str) else None
    if found is None:
        raise TariffError(f"{key} is a time of day from 00:00 to 23:59, not {value!s:.40}")
    return int(found[1]) * 60 + int(found[2])


def _date(given: Mapping[str, Any], key: str) -> date | None:
    value = given.get(key)
    if value is None:
        return None
    try:
        # Without the pattern, Python takes other forms of ISO 8601 too.
        return date.fromisoformat(value if isinstance(value, str) and _DATE.match(value) else "")
    except ValueError as err:
        raise TariffError(f"{key} is a date like 2026-01-31, not {value!s:.40}") from err


def _weekdays(given: Mapping[str, Any]) -> frozenset[int]:
    value = given.get("day_of_week")
    if value is None:
        return frozenset()
    if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
        raise TariffError("day_of_week is a list of weekdays, MONDAY to SUNDAY")
    unknown = [name for name in value if name not in _WEEKDAYS]
    if unknown:
        raise TariffError(f"day_of_week is a list of weekdays, MONDAY to SUNDAY, not {unknown[0]:.40}")
    days = frozenset(_WEEKDAYS[name] for name in value)
    # All seven restrict nothing.
    return days if len(days) < len(_WEEKDAYS) else frozenset()


def _exact(given: Mapping[str, Any], key: str, scale: int) -> Fraction | None:
    value = given.get(key)
    if value is None:
        return None
    if not isinstance(value, Decimal) or value < 0:
        raise TariffError(f"{key} is a number from 0 on")
    if value * scale > _MAX_QUANTITY:
        raise TariffError(f"{key} is larger than anything that is measured")
    return Fraction(value) * scale


def _whole(given: Mapping[str, Any], key: str, scale: int) -> int | None:
    exact = _exact(given, key, scale)
    if exact is None:
        return None
    if exact.denominator != 1:
        raise TariffError(f"{key} is finer than a register counts")
    return int(exact)


def _seconds(given: Mapping[str, Any], key: str) -> int | None:
    seconds = _whole(given, key, 1)
    if seconds is not None and seconds > _MAX_DURATION_S:
        raise TariffError(f"{key} is at most {_MAX_DURATION_S} seconds")
    return seconds


def _reservation(given: Mapping[str, Any]) -> Reservation | None:
    value = given.get("reservation")
    if value is None:
        return None
    if not isinstance(value, str) or value not in tuple(Reservation):
        raise TariffError(f"reservation is {' or '.join(Reservation)}, not {value!s:.40}")
    return Reservation(value)
