"""Published parking rates of two cities as OCPI tariff objects: San Diego's meter texts and Seattle's rates by block face.

Rule 1: a row becomes a tariff only if everything that its price depends on is written in it; else it is refused, with the reason.
Nothing is guessed: a rate that does not say per what, or on which days, is no rate.
Rule 2: outside the hours that a rate names parking costs nothing, because no element holds; how long one may stay is no price.
Rule 3: a row that is dated becomes a dated version; the versions of one block face are numbered in the order of their dates.
"""

import csv
import gzip
import io
import json
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from farthing.clock import SECOND_US
from farthing.tariff import TariffError, parse
from farthing.tariff.timetable import instant_of
from farthing.tariff.zones import zone

TIME_ZONE = "America/Los_Angeles"
CURRENCY = "USD"
#: Ten times the larger of the two files.
MAX_FILE_SIZE = 64 * 1024 * 1024

_WEEKDAYS = ("MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY", "SUNDAY")


class RatesError(ValueError):
    """A file that is not the one it should be."""


class _Refused(Exception):  # a row that is no tariff is no error
    """Why a row cannot become a tariff."""


class Band(NamedTuple):
    """A price per hour from one minute of the day to another (not included), on some days."""

    days: tuple[str, ...]
    start_minute: int
    end_minute: int
    dollars_per_hour: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """A version of a tariff, and how many rows of the file say the same."""

    tariff_id: str
    version: int
    ocpi_json: bytes
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What became of every row of a file: tariffs, or reasons and how many rows have them."""

    rows: int
    tariffs: tuple[Converted, ...]
    refused: Mapping[str, int]


def read_rows(file: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, gzipped or not; raise ``RatesError`` or ``OSError``."""
    data = file.read_bytes()
    if file.suffix == ".gz":
        try:
            with gzip.open(io.BytesIO(data)) as unpacked:
                data = unpacked.read(MAX_FILE_SIZE + 1)
        except (gzip.BadGzipFile, EOFError, zlib.error) as err:
            raise RatesError(f"{file} is not gzipped, or damaged") from err
    if len(data) > MAX_FILE_SIZE:
        raise RatesError(f"{file} has more than {MAX_FILE_SIZE} bytes")
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig")))
        # Some of Seattle's column names begin with blanks.
        return [{(name or "").strip(): (value or "").strip() for name, value in row.items()} for row in reader]
    except (UnicodeDecodeError, csv.Error, AttributeError) as err:
        raise RatesError(f"{file} is not a CSV file in UTF-8") from err


def _element(band: Band) -> dict[str, Any]:
    restrictions: dict[str, Any] = {}
    if band.start_minute or band.end_minute != 24 * 60:
        restrictions["start_time"] = _clock(band.start_minute)
        restrictions["end_time"] = _clock(band.end_minute % (24 * 60))
    if len(band.days) < len(_WEEKDAYS):
        restrictions["day_of_week"] = list(band.days)
    component = {"type": "TIME", "price": band.dollars_per_hour, "step_size": 1}
    return {"price_components": [component], **({"restrictions": restrictions} if restrictions else {})}


def _clock(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"


#: A rate on its way through the JSON writer, which knows no decimals: its digits are put in afterwards, so that no price is ever a float.
_MARKED = re.compile(r'"rate:([0-9]+(?:\.[0-9]+)?)"')


class _Exact(json.JSONEncoder):
    """Decimals of a rate as marked text; :func:`_document` makes numbers of it."""

    def default(self, o: object) -> object:
        return f"rate:{o:f}" if isinstance(o, Decimal) else super().default(o)


def _document(tariff_id: str, bands: Iterable[Band], text: str, **dates: str) -> bytes:
    document = {
        "id": tariff_id,
        "currency": CURRENCY,
        **dates,
        "tariff_alt_text": [{"language": "en", "text": text}],
        "elements": [_element(band) for band in bands],
    }
    return _MARKED.sub(r"\1", json.dumps(document, cls=_Exact)).encode()


@lru_cache(maxsize=4_096)
def _check(bands: tuple[Band, ...]) -> None:
    """Raise for bands that no tariff can have; a city has a few dozen kinds."""
    try:
        parse(_document("checked", bands, ""))
    except TariffError as err:
        raise _Refused(f"no tariff: {err}") from err


# San Diego ------------------------------------------------------------------------------------------------------------

# What stands in a text and says nothing of the price: how to pay, where, and when nobody may park at all.
_NO_PRICE = re.compile(
    r"\((?:Mobile Pay|Fort Stockton|Normal Street)\)|, ?\d+ Min Passenger Loading|, ?No Parking [\d:apm]+-[\d:apm]+"
    r"|[\d:apm]+-[\d:apm]+ \"TOW AWAY\"|\.$|^MSPM "
)
_RATE = re.compile(r"\d+ (?:Hour|Min) Max \$(?P<rate>\d+\.\d\d)(?P<hour> HR)? (?P<hours>.+)\Z")
_HOUR = r"\d{1,2}(?::\d\d)?[ap]m"
_DAYS = r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun|M)(?:-(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun))?|Daily"
_WINDOW = re.compile(
    rf"(?P<start>{_HOUR})-(?P<end>{_HOUR}) (?P<days>{_DAYS})|(?P<days2>{_DAYS}) (?P<start2>{_HOUR})-(?P<end2>{_HOUR})"
)
_SHORT = {name[:3].title(): index for index, name in enumerate(_WEEKDAYS)} | {"M": 0}


def san_diego(rows: Sequence[Mapping[str, str]]) -> Conversion:
    """Tariffs of the texts in ``config_name``; poles with the same price share one. Raise ``RatesError``."""
    if rows and "config_name" not in rows[0]:
        raise RatesError("San Diego's meters have a column config_name")
    counts: Counter[tuple[Band, ...]] = Counter()
    texts: dict[tuple[Band, ...], str] = {}
    refused: Counter[str] = Counter()
    for row in rows:
        try:
            bands = parse_text(row["config_name"])
            _check(bands)
        except _Refused as why:
            refused[str(why)] += 1
            continue
        counts[bands] += 1
        texts.setdefault(bands, row["config_name"])
    tariffs = []
    for bands, count in counts.items():
        tariff_id = _san_diego_id(bands)
        document = _document(tariff_id, bands, texts[bands])
        tariffs.append(Converted(tariff_id=tariff_id, version=1, ocpi_json=document, rows=count))
    return Conversion(
        rows=len(rows), tariffs=tuple(sorted(tariffs, key=lambda tariff: tariff.tariff_id)), refused=dict(refused)
    )


def parse_text(text: str) -> tuple[Band, ...]:
    """The bands of a text such as "2 Hour Max $1.25 HR 8am-6pm Mon-Sat"; raise for one that does not say all of its price."""
    core, found = text, 1
    while found:
        core, found = _NO_PRICE.subn("", core.strip())
    core = re.sub(r"\s+", " ", core).strip()
    if not re.search(r"\d", core) or "$" not in core:
        raise _Refused("the text names no rate")
    said = _RATE.match(core)
    if said is None:
        raise _Refused("the text is written in no form that is known")
    if said["hour"] is None:
        raise _Refused("the rate does not say per what")
    bands = []
    rest = said["hours"].replace("/", " ")
    while rest:
        window = _WINDOW.match(rest)
        if window is None:
            raise _Refused("the hours are written in no form that is known")
        start, end = (_minute(window[key] or window[f"{key}2"]) for key in ("start", "end"))
        days = _days(window["days"] or window["days2"])
        bands.append(Band(days, start, end, Decimal(said["rate"])))
        rest = rest[window.end() :].strip()
    return tuple(bands)


def _minute(text: str) -> int:
    hour, _, minute = text[:-2].partition(":")
    return (int(hour) % 12 + (12 if text.endswith("pm") else 0)) * 60 + int(minute or 0)


def _days(text: str) -> tuple[str, ...]:
    if text == "Daily":
        return _WEEKDAYS
    first, _, last = text.partition("-")
    return _WEEKDAYS[_SHORT[first] : _SHORT[last or first] + 1]


def _san_diego_id(bands: Sequence[Band]) -> str:
    parts = [f"san-diego-{int(bands[0].dollars_per_hour * 100)}"]
    for band in bands:
        hours = f"{_clock(band.start_minute)}-{_clock(band.end_minute)}".replace(":", "")
        parts.append(f"{band.days[0][:3]}-{band.days[-1][:3]}-{hours}".lower())
    return "-".join(parts)


# Seattle --------------------------------------------------------------------------------------------------------------

_SEATTLE_COLUMNS = frozenset(
    {
        "ElementKey",
        "ParkingCategory",
        "EffectiveStartDate",
        "EffectiveEndDate",
        "WeekdayRate1",
        "SaturdayRate1",
        "SundayRate1",
    }
)
_DAY_KINDS = {"Weekday": _WEEKDAYS[:5], "Saturday": _WEEKDAYS[5:6], "Sunday": _WEEKDAYS[6:]}
_BANDS = 3


def seattle(rows: Sequence[Mapping[str, str]]) -> Conversion:
    """Tariffs by block face (``ElementKey``), one version for each period in which a rate was in effect. Raise ``RatesError``."""
    if rows and not set(rows[0]) >= _SEATTLE_COLUMNS:
        raise RatesError(f"Seattle's block faces lack the columns {', '.join(sorted(_SEATTLE_COLUMNS - set(rows[0])))}")
    refused: Counter[str] = Counter()
    periods: defaultdict[str, Counter[tuple[str, str, tuple[Band, ...]]]] = defaultdict(Counter)
    for row in rows:
        try:
            periods[row["ElementKey"]][(*_effective(row), _seattle_bands(row))] += 1
        except _Refused as why:
            refused[str(why)] += 1
    tariffs = []
    for key in sorted(periods, key=lambda key: (len(key), key)):
        ended = ""
        for version, (period, count) in enumerate(sorted(periods[key].items()), start=1):
            start, end, bands = period
            if version > 1 and (not ended or start < ended):
                refused["in effect while another rate of its block face is"] += count
                continue
            ended = end
            dates = {"start_date_time": start} | ({"end_date_time": end} if end else {})
            document = _document(f"seattle-{key}", bands, f"Block face {key}", **dates)
            tariffs.append(Converted(tariff_id=f"seattle-{key}", version=version, ocpi_json=document, rows=count))
    return Conversion(rows=len(rows), tariffs=tuple(tariffs), refused=dict(refused))


def _effective(row: Mapping[str, str]) -> tuple[str, str]:
    """From which instant, and until which, as OCPI writes them; the second is empty for a rate that still is in effect."""
    if row["ParkingCategory"] != "Paid Parking":
        raise _Refused("not paid parking")
    if not re.fullmatch(r"[A-Za-z0-9-]{1,56}", row["ElementKey"]):
        raise _Refused("no block face is named")
    if row["EffectiveStartDate"] == "NULL":
        raise _Refused("no date from which it is in effect")
    start = _midnight(row["EffectiveStartDate"], 0)
    end = "" if row["EffectiveEndDate"] == "NULL" else _midnight(row["EffectiveEndDate"], 1)
    if end and end <= start:
        raise _Refused("it ends before it begins")
    return start, end


def _midnight(text: str, days_later: int) -> str:
    try:
        day = datetime.strptime(text, "%d-%b-%y").date() + timedelta(days=days_later)  # noqa: DTZ007  # a date by the site's clock
        at = instant_of(datetime.combine(day, time()), zone(TIME_ZONE))
    except (ValueError, TariffError) as err:
        raise _Refused("a date that is none") from err
    return datetime.fromtimestamp(at // SECOND_US, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _seattle_bands(row: Mapping[str, str]) -> tuple[Band, ...]:
    bands = []
    for kind, days in _DAY_KINDS.items():
        for number in range(1, _BANDS + 1):
            rate, start, end = (row.get(f"{kind}{what}{number}", "NULL") for what in ("Rate", "Start", "End"))
            if rate == "NULL":
                continue
            try:
                # The last minute counts: 480 to 659 is 8:00 to 11:00.
                band = Band(days, int(start), int(end) + 1, Decimal(rate))
            except (ValueError, InvalidOperation) as err:
                raise _Refused("a rate without its hours") from err
            if band.dollars_per_hour:
                bands.append(band)
    if not bands:
        known = row.get("PaidParkingRate", "NULL") not in ("", "NULL")
        raise _Refused("a rate that does not say on which days" if known else "no rate, or a rate of 0")
    if any(not 0 <= band.start_minute < band.end_minute <= 24 * 60 for band in bands):
        raise _Refused("hours that end before they begin")
    _check(tuple(bands))
    return tuple(bands)


#: City → what reads its file.
CITIES = {"san-diego": san_diego, "seattle": seattle}
