"""Published rates become tariff objects: what converts, what is refused and why, over the whole files."""

import gzip
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from farthing.tariff import parse
from farthing.tariff.session import parse_session, price_session
from farthing_cloud.admin.city_rates import Conversion, RatesError, read_rows, san_diego, seattle
from farthing_cloud.admin.command import app


def paid(conversion: Conversion, tariff_id: str, version: int, start_local: str, hours: int) -> int:
    """Micros for so many hours of parking."""
    found = next(each for each in conversion.tariffs if (each.tariff_id, each.version) == (tariff_id, version))
    session = {
        "time_zone": "America/Los_Angeles",
        "start_local": start_local,
        "periods": [{"kind": "charging", "duration_s": hours * 3_600, "energy_wh": 0}],
    }
    tariff = parse(found.ocpi_json)
    assert tariff.fits("s")
    return price_session(tariff, parse_session(json.dumps(session).encode(), tariff)).priced.net_micros


def test_san_diego_whole(shared_data: Callable[[str], Path]) -> None:
    conversion = san_diego(read_rows(shared_data("data/parking_san_diego_meters.csv.gz")))
    assert conversion.rows == 4_931
    assert conversion.refused == {"the text names no rate": 279, "the rate does not say per what": 2}
    assert sum(tariff.rows for tariff in conversion.tariffs) == 4_650
    assert len(conversion.tariffs) == 21
    for tariff in conversion.tariffs:
        assert parse(tariff.ocpi_json).id == tariff.tariff_id
    usual = "san-diego-125-mon-sat-0800-1800"
    # Friday 16:00 to 20:00: two hours are paid; Sunday: none.
    assert paid(conversion, usual, 1, "2026-05-08T16:00", 4) == 2_500_000
    assert paid(conversion, usual, 1, "2026-05-10T09:00", 4) == 0
    # 8am-4pm on weekdays, 8am-6pm on Saturdays.
    two = "san-diego-125-mon-fri-0800-1600-sat-sat-0800-1800"
    assert paid(conversion, two, 1, "2026-05-08T15:00", 2) == 1_250_000
    assert paid(conversion, two, 1, "2026-05-09T15:00", 2) == 2_500_000


def test_seattle_whole(shared_data: Callable[[str], Path]) -> None:
    conversion = seattle(read_rows(shared_data("data/parking_seattle_blockface_rates.csv.gz")))
    assert conversion.rows == 13_706
    assert conversion.refused == {
        "not paid parking": 2_306,
        "no rate, or a rate of 0": 1_500,
        "a rate that does not say on which days": 4_057,
    }
    assert sum(tariff.rows for tariff in conversion.tariffs) == 5_843
    assert len({tariff.tariff_id for tariff in conversion.tariffs}) == 1_474
    versions = [parse(tariff.ocpi_json) for tariff in conversion.tariffs if tariff.tariff_id == "seattle-70865"]
    assert len(versions) == 6
    for earlier, later in itertools.pairwise(versions):
        assert earlier.valid_until is not None
        assert later.valid_from is not None
        assert earlier.valid_until <= later.valid_from
    # 2.50 until 11:00, 3.50 until 18:00, and that from 2015-05-28 on.
    assert paid(conversion, "seattle-70865", 3, "2015-06-01T10:00", 2) == 6_000_000
    assert paid(conversion, "seattle-70865", 3, "2015-06-07T10:00", 2) == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("--", "the text names no rate"),
        ("MSPM Ballpark Special Event", "the text names no rate"),
        ("15 Min Max $1.25 7am-7pm Daily", "the rate does not say per what"),
        ("2 Hour Max $1.25 HR whenever", "the hours are written in no form that is known"),
        ("$1.25", "the text is written in no form that is known"),
        (
            "2 Hour Max $1.25 HR 6pm-6pm Mon-Sat",
            "no tariff: start_time and end_time are the same: is it the whole day, or none of it?",
        ),
    ],
)
def test_a_text_that_does_not_say_its_price_is_refused(text: str, reason: str) -> None:
    assert san_diego([{"config_name": text}]).refused == {reason: 1}


def test_another_file_is_not_converted(tmp_path: Path) -> None:
    with pytest.raises(RatesError, match="config_name"):
        san_diego([{"other": "x"}])
    with pytest.raises(RatesError, match="ElementKey"):
        seattle([{"other": "x"}])
    broken = tmp_path / "rates.csv.gz"
    # None, one whose head alone is whole, and one that was cut off.
    whole = gzip.compress(b"pole,config_name")
    for content in (b"not gzip", whole[:10] + b"\xff" * 20, whole[:-4]):
        broken.write_bytes(content)
        with pytest.raises(RatesError, match="not gzipped, or damaged"):
            read_rows(broken)


def test_the_command_writes_one_file_a_version(tmp_path: Path) -> None:
    rates = tmp_path / "meters.csv"
    rates.write_text('pole,config_name\na,"2 Hour Max $1.25 HR 8am-6pm Mon-Sat"\nb,--\n')
    run = CliRunner().invoke(
        app, ["tariffs", "convert", "san-diego", str(rates), "--out", str(tmp_path / "out"), "--json"]
    )
    assert run.exit_code == 0, run.stderr
    assert json.loads(run.stdout) == [
        {"rows": 1, "became": "1 tariff versions"},
        {"rows": 1, "became": "refused: the text names no rate"},
    ]
    (written,) = (tmp_path / "out").iterdir()
    assert parse(written.read_bytes()).id == written.name.removesuffix("-v1.json")
    for arguments in (["paris", str(rates)], ["seattle", str(rates)], ["seattle", str(tmp_path / "none")]):
        assert CliRunner().invoke(app, ["tariffs", "convert", *arguments]).exit_code == 1
