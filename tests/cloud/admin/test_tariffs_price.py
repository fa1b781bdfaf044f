"""``farthing-admin tariffs price``: what a session costs, without any server, and why where it cannot be said."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from farthing_cloud.admin.command import app

TARIFF = {
    "id": "day-night",
    "currency": "EUR",
    "elements": [
        {"price_components": [{"type": "FLAT", "price": 0.5, "step_size": 1, "vat": 20}]},
        {
            "price_components": [{"type": "ENERGY", "price": 0.30, "step_size": 1, "vat": 10}],
            "restrictions": {"start_time": "06:00", "end_time": "22:00"},
        },
        {"price_components": [{"type": "ENERGY", "price": 0.10, "step_size": 500, "vat": 10}]},
    ],
}
SESSION = {
    "time_zone": "Europe/Berlin",
    "start_local": "2026-05-04T21:00",
    "periods": [{"kind": "charging", "duration_s": 7_200, "energy_wh": 4_100}],
}
Price = Callable[..., Result]


@pytest.fixture
def price(tmp_path: Path) -> Price:
    def run(tariff: Any = TARIFF, session: Any = SESSION, *options: str) -> Result:
        files = []
        for name, document in (("tariff", tariff), ("session", session)):
            files.append(tmp_path / f"{name}.json")
            files[-1].write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
        return CliRunner().invoke(app, ["tariffs", "price", *map(str, files), *options])

    return run


def test_the_lines_make_up_the_totals(price: Price) -> None:
    result = price(TARIFF, SESSION, "--json")
    assert result.exit_code == 0, result.stderr
    said = json.loads(result.stdout)
    # 0.50 + 2.05 kWh at 0.30 + 2.05 kWh at 0.10, rounded up to 4.5 kWh in all.
    assert said["total_excl_vat"] == "1.36"
    assert said["total_incl_vat"] == "1.546"
    assert [
        (line["for"], line["type"], line["element"], line["quantity"], line["amount"]) for line in said["lines"]
    ] == [
        ("use", "FLAT", 1, "1", "0.50"),
        ("use", "ENERGY", 2, "2050", "0.615"),
        ("use", "ENERGY", 3, "2050", "0.205"),
        ("step_size", "ENERGY", 3, "400", "0.04"),
    ]
    assert said["lines"][1]["to"] == said["lines"][2]["from"] == "2026-05-04T22:00:00+02:00"
    assert said["vat"] == [
        {"rate": "10", "excl_vat": "0.86", "vat": "0.086"},
        {"rate": "20", "excl_vat": "0.50", "vat": "0.10"},
    ]
    assert said["time_zone_data"]


def test_people_see_a_table(price: Price) -> None:
    result = price()
    assert result.exit_code == 0, result.stderr
    assert "1.36 EUR" in result.stdout
    assert "2026-05-04T22:00:00+02:00" in result.stdout


def test_what_a_least_or_greatest_price_changes_is_a_line(price: Price) -> None:
    least = price(TARIFF | {"min_price": {"excl_vat": 2}}, SESSION, "--json")
    assert json.loads(least.stdout)["lines"][-1]["for"] == "min_price"
    assert json.loads(least.stdout)["total_excl_vat"] == "2.00"
    most = json.loads(price(TARIFF | {"max_price": {"excl_vat": 1}}, SESSION, "--json").stdout)
    assert most["total_excl_vat"] == "1.00"
    assert [
        (line["for"], line["vat_rate"], line["amount"]) for line in most["lines"] if line["for"] == "max_price"
    ] == [("max_price", "20", "-0.36")]


def test_the_second_half_past_two(price: Price) -> None:
    """Which of two equal wall clocks is meant can be said by its offset."""
    tariff = {
        "id": "t",
        "currency": "EUR",
        "elements": [
            {
                "price_components": [{"type": "TIME", "price": 1, "step_size": 1}],
                "restrictions": {"end_time": "03:00"},
            }
        ],
    }
    periods = [{"kind": "charging", "duration_s": 10_800, "energy_wh": 0}]
    for start, total in (("2026-10-25T02:30", "1.50"), ("2026-10-25T02:30+01:00", "0.50")):
        session = {"time_zone": "Europe/Berlin", "start_local": start, "periods": periods}
        assert json.loads(price(tariff, session, "--json").stdout)["total_excl_vat"] == total


def test_an_expired_reservation_has_its_own_price(price: Price) -> None:
    def time(amount: float, what: str) -> dict[str, Any]:
        return {
            "price_components": [{"type": "TIME", "price": amount, "step_size": 60}],
            "restrictions": {"reservation": what},
        }

    tariff = {"id": "t", "currency": "EUR", "elements": [time(4, "RESERVATION"), time(6, "RESERVATION_EXPIRES")]}
    for kind, total in (("reservation", "1.00"), ("reservation_expired", "1.50")):
        session = SESSION | {"periods": [{"kind": kind, "duration_s": 900}]}
        assert json.loads(price(tariff, session, "--json").stdout)["total_excl_vat"] == total


def period(**changes: Any) -> dict[str, Any]:
    return SESSION | {"periods": [{"kind": "charging", "duration_s": 60, "energy_wh": 1} | changes]}


RESTRICTED_BY_CURRENT = {
    "id": "t",
    "currency": "EUR",
    "elements": [
        {
            "price_components": [{"type": "ENERGY", "price": 1, "step_size": 1}],
            "restrictions": {"max_current": 32},
        }
    ],
}


@pytest.mark.parametrize(
    ("tariff", "session", "named"),
    [
        (b"{", SESSION, "one JSON object"),
        ({"id": "t"}, SESSION, "currency"),
        (TARIFF | {"elements": []}, SESSION, "elements"),
        (TARIFF | {"surge": 2}, SESSION, "surge"),
        (TARIFF | {"start_date_time": "2027-01-01T00:00:00Z"}, SESSION, "not in force"),
        (RESTRICTED_BY_CURRENT, SESSION, "current_a"),
        (TARIFF, b"\xff", "one JSON object"),
        (TARIFF, [], "an object with time_zone"),
        (TARIFF, {"time_zone": "Europe/Berlin", "start_local": "2026-05-04T21:00"}, "lacks periods"),
        (TARIFF, SESSION | {"time_zone": "Mars/Olympus"}, "Mars/Olympus"),
        (TARIFF, SESSION | {"time_zone": 7}, "time zone"),
        (TARIFF, SESSION | {"start_local": "yesterday"}, "start_local"),
        (TARIFF, SESSION | {"start_local": "2026-03-29T02:30"}, "put forward"),
        (TARIFF, SESSION | {"start_local": "2026-05-04T21:00+05:00"}, "is not 2026-05-04T21:00"),
        (TARIFF, SESSION | {"start_local": "0001-01-01T00:00"}, "from 1970 to 9998"),
        (TARIFF, SESSION | {"start_local": "9999-12-31T23:59Z"}, "from 1970 to 9998"),
        (TARIFF, SESSION | {"start_local": "9999-06-01T00:00"}, "from 1970 to 9998"),
        (TARIFF, SESSION | {"periods": []}, "periods"),
        (TARIFF, SESSION | {"periods": ["charging"]}, "period 1"),
        (TARIFF, SESSION | {"discount": 1}, "discount"),
        (TARIFF, period(kind="dancing"), "dancing"),
        (TARIFF, period(duration_s=1.5), "duration_s"),
        (TARIFF, period(duration_s=None), "duration_s"),
        (TARIFF, period(energy_wh=None), "energy_wh"),
        (TARIFF, period(energy_wh="1"), "energy_wh"),
        (TARIFF, period(energy_wh=-1), "energy_wh"),
        (TARIFF, period(energy_kwh=1), "energy_kwh"),
        (TARIFF, period(kind="parking"), "uses nothing"),
        (TARIFF, period(duration_s=10**9), "lasts at most"),
        (
            TARIFF,
            SESSION | {"periods": [*SESSION["periods"], {"kind": "reservation", "duration_s": 1}]},
            "a reservation comes before",
        ),
    ],
)
def test_what_is_wrong_is_named(price: Price, tariff: Any, session: Any, named: str) -> None:
    result = price(tariff, session, "--json")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert named in result.stderr
    assert "Traceback" not in result.stderr


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["tariffs", "price", str(tmp_path / "none.json"), str(tmp_path / "none.json")])
    assert result.exit_code == 1
    assert "none.json" in result.stderr
