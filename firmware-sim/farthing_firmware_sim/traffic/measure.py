"""Compute the statistics of :mod:`farthing_firmware_sim.traffic.statistics` from the public files.

Rule 1: quantiles are by nearest rank over whole numbers, so that anyone gets the same figures.
Rule 2: a row that cannot be true (no energy, an end before its start, 287 kWh) is left out, and the rule says so.
"""

import csv
import gzip
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

#: 0 %, 5 %, …, 100 %.
STEPS = 20
#: The largest battery of a car on sale holds about 200 kWh; a session above it is a defect.
MAX_SESSION_WH = 200_000
MAX_STAY_S = 86_400
_ACN_TIME = "%a, %d %b %Y %H:%M:%S GMT"


def quantiles(values: Iterable[int]) -> tuple[int, ...]:
    """21 values: the least, each further 5 % by nearest rank, the largest."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no value to take quantiles of")
    ranks = (max(1, -(-len(ordered) * step // STEPS)) for step in range(STEPS + 1))
    return tuple(ordered[rank - 1] for rank in ranks)


def acn_time(text: str) -> int:
    """Seconds since 1970 of ACN-Data's ``Mon, 30 Dec 2019 17:43:48 GMT``."""
    return int(datetime.strptime(text, _ACN_TIME).replace(tzinfo=UTC).timestamp())


def wh(kwh: object) -> int:
    """Whole watt-hours of a number or text in kWh, rounded down."""
    return int(Decimal(str(kwh)) * 1000)


def acn(file: Path) -> Mapping[str, tuple[int, ...]]:
    """ACN-Data: energy (Wh), mean power until charging is done (W), time plugged in after that (s)."""
    with gzip.open(file, "rb") as stream:
        items: Sequence[Mapping[str, Any]] = json.load(stream)["_items"]
    energies, powers, idles = [], [], []
    for item in items:
        energy_wh = wh(item["kWhDelivered"])
        if not 0 < energy_wh <= MAX_SESSION_WH:
            continue
        energies.append(energy_wh)
        if item["doneChargingTime"] is None:
            continue
        begun, done, gone = (acn_time(item[key]) for key in ("connectionTime", "doneChargingTime", "disconnectTime"))
        if begun < done <= gone:
            powers.append(energy_wh * 3600 // (done - begun))
            idles.append(gone - done)
    return {"energy_wh": quantiles(energies), "power_w": quantiles(powers), "idle_s": quantiles(idles)}


def perth_kinross(file: Path) -> Mapping[str, tuple[int, ...]]:
    """Perth & Kinross Council: energy (Wh), mean power over the whole stay (W)."""
    energies, powers = [], []
    for row in _rows(file):
        try:
            energy_wh = wh(row["Total kWh"])
        except InvalidOperation:
            continue
        begun, ended = (
            datetime.strptime(f"{row[f'{which} Date']} {row[f'{which} Time']}", "%d/%m/%Y %H:%M").replace(tzinfo=UTC)
            for which in ("Start", "End")
        )
        stay_s = int((ended - begun).total_seconds())
        if 0 < energy_wh <= MAX_SESSION_WH and 0 < stay_s <= MAX_STAY_S:
            energies.append(energy_wh)
            powers.append(energy_wh * 3600 // stay_s)
    return {"energy_wh": quantiles(energies), "power_w": quantiles(powers)}


def low_carbon_london(*files: Path) -> Mapping[str, tuple[int, ...]]:
    """Low Carbon London: consumption of half an hour (Wh)."""
    return {"half_hour_wh": quantiles(wh(row["kwhh"]) for file in files for row in _rows(file))}


def vending(file: Path) -> Mapping[str, tuple[int, ...]]:
    """Vending machines: what one card payment comes to (cents), each transaction once."""
    totals = {
        row["Transaction"]: int(Decimal(row["TransTotal"]) * 100) for row in _rows(file) if row["Status"] == "Processed"
    }
    return {"payment_cents": quantiles(totals.values())}


def san_diego(file: Path) -> Mapping[str, tuple[tuple[int, int], ...] | int]:
    """San Diego's meters: (longest stay in minutes, how many meters), and the commonest price in cents an hour."""
    stays: Counter[int] = Counter()
    prices: Counter[int] = Counter()
    pattern = re.compile(r"(\d+) (Hour|Min) Max \$(\d+)\.(\d\d) HR")
    for row in _rows(file):
        found = pattern.search(row["config_name"])
        if found:
            stays[int(found[1]) * (60 if found[2] == "Hour" else 1)] += 1
            prices[int(found[3]) * 100 + int(found[4])] += 1
    return {"longest_stay_min": tuple(sorted(stays.items())), "price_cents_per_hour": prices.most_common(1)[0][0]}


def everything(folder: Path) -> Mapping[str, Mapping[str, object]]:
    """All statistics from the files in ``folder``, by the names that :mod:`statistics <.statistics>` uses."""
    sources: Mapping[str, Callable[[], Mapping[str, object]]] = {
        "acn_caltech_2020": lambda: acn(folder / "ev_acn_caltech_2020.json.gz"),
        "perth_kinross": lambda: perth_kinross(folder / "ev_perth_kinross.csv.gz"),
        "low_carbon_london": lambda: low_carbon_london(
            folder / "meter_lcl_MAC000584.csv.gz", folder / "meter_lcl_MAC000985.csv.gz"
        ),
        "vending": lambda: vending(folder / "vending_machine_sales.csv.gz"),
        "san_diego": lambda: san_diego(folder / "parking_san_diego_meters.csv.gz"),
    }
    return {name: measure() for name, measure in sources.items()}


def _rows(file: Path) -> Iterator[dict[str, str]]:
    with gzip.open(file, "rt", encoding="utf-8-sig", newline="") as stream:
        yield from csv.DictReader(stream)
