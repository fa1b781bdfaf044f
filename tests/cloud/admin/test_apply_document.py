"""The file of ``farthing-admin apply``: read exactly, refused by place, planned in the order in which things need each other."""

import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import grpc
import pytest

from farthing.configuration import ConfigError
from farthing.policy import entitlement_of, scorecard_of
from farthing.v1 import directive_pb2
from farthing_cloud.admin.apply import CREATED, NONE, Step, execute, plan
from farthing_cloud.admin.document import exact_json, read_document, token_bytes

SMALL = """
[[tokens]]
operator = "city"
account = "acme"
label = "card"
token = "hex:04a2"

[[fundings]]
operator = "city"
account = "acme"
amount = "10.000001"
payment_id = "pay-1"
source = "bank/main"

[[accounts]]
id = "acme"
operator = "city"
currency = "EUR"

[[tariffs]]
id = "t"
operator = "city"
version = 1
currency = "EUR"
ocpi = { id = "t", price = 0.10, count = 3, sure = true, at = 2026-03-01T00:00:00Z, name = "Straße" }

[[operators]]
id = "city"
name = "City"
currency = "EUR"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "all.toml"
    path.write_text(text)
    return path


def test_amounts_and_prices_stay_what_was_written(tmp_path: Path) -> None:
    document = read_document(write(tmp_path, SMALL))
    assert document.fundings[0].amount == 10_000_001
    tariff = document.tariffs[0].message(tmp_path)
    assert tariff.tariff.ocpi_json == (
        '{"id":"t","price":0.10,"count":3,"sure":true,"at":"2026-03-01T00:00:00Z","name":"Straße"}'.encode()
    )
    assert exact_json([Decimal("1E+2"), None]) == "[100,null]"
    with pytest.raises(ConfigError, match="JSON has no"):
        exact_json(Decimal("NaN"))
    assert token_bytes("hex:04a2") == b"\x04\xa2"
    assert token_bytes("PLATE 1") == b"PLATE 1"


POLICIES = """
[[sites]]
id = "S1"
operator = "city"
time_zone = "Europe/Berlin"
seal = { amount = "5.00", records = 200, age_s = 2 }
usage_limits = { per_authorization = "25.00", token_day_count = 12, offline = "500.00" }
online_check = { percent = "0.5" }
[sites.place]
centre = { latitude = "52.520008", longitude = "-13.4" }
fence_radius_m = 5000
travel_distance_m = 500
travel_speed_km_per_h = 130
[sites.scorecard]
version = 1
amount = [{ start = "10.00", points = 5 }]
recent = [{ start = 3, points = 10 }]
tiers = [{ start = 10, action = "shrink", hold = "2.00" }, { start = 20, action = "online-only" }]
"""


def test_a_site_s_policies_are_read_exactly(tmp_path: Path) -> None:
    site = read_document(write(tmp_path, POLICIES)).sites[0].message()
    assert site.usage_limits == directive_pb2.UsageLimits(
        per_authorization_micros=25_000_000, token_day_count=12, offline_micros=500_000_000
    )
    assert site.online_check.share_ppm == 5_000
    assert site.place == directive_pb2.PlacePolicy(
        centre=directive_pb2.Position(latitude_microdegrees=52_520_008, longitude_microdegrees=-13_400_000),
        fence_radius_m=5_000,
        travel_distance_m=500,
        travel_speed_m_per_h=130_000,
    )
    card = scorecard_of(site.scorecard)
    assert card is not None
    assert (card.amount.points_of(9_999_999), card.amount.points_of(10_000_000)) == (0, 5)
    assert [card.tier_of(points) and card.tier_of(points).hold_micros for points in (9, 10, 20)] == [None, 2_000_000, 0]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"52.520008"', "52.520008", "latitude"),
        ('"52.520008"', '"52.5200081"', "latitude"),
        ('"52.520008"', '"90.000001"', "latitude"),
        ('"shrink"', '"maybe"', "action"),
        ("token_day_count = 12", "token_day_count = -1", "token_day_count"),
    ],
)
def test_a_policy_s_fault_is_named_by_its_place(tmp_path: Path, old: str, new: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_document(write(tmp_path, POLICIES.replace(old, new)))


PASS = """
[[entitlements]]
id = "pass-1"
operator = "city"
account = "acme"
paid_by = "acme-pass"
tariff = "pass-kwh"
device_tariffs = ["charge"]
unit = "Wh"
start = "2026-03-01T00:00:00+01:00"
until = "2026-04-01T00:00:00+02:00"
sites = ["S1"]
"""


def test_an_entitlement_is_read_with_its_instants(tmp_path: Path) -> None:
    document = read_document(write(tmp_path, SMALL + PASS))
    message = document.entitlements[0].message()
    entitlement = entitlement_of(message.record)
    assert (entitlement.account_id, entitlement.paid_by, entitlement.tariff.version) == ("acme", "acme-pass", 1)
    # March has an hour less.
    assert entitlement.ends_at - entitlement.begins_at == (31 * 24 - 1) * 3600 * 1_000_000
    assert list(message.site_ids) == ["S1"]
    assert [step.kind for step in plan(document, tmp_path)][-1] == "entitlement"
    for wrong in ('"2026-04-01T00:00:00"', "2026-04-01", '"April"'):
        with pytest.raises(ConfigError, match="until"):
            read_document(write(tmp_path, PASS.replace('"2026-04-01T00:00:00+02:00"', wrong)))


def test_steps_come_after_what_they_need(tmp_path: Path) -> None:
    steps = plan(read_document(write(tmp_path, SMALL)), tmp_path)
    assert [step.kind for step in steps] == ["operator", "tariff", "account", "funding", "token"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"10.000001"', '"10.0000001"', "fundings.0.amount"),
        ('"10.000001"', "10.0", 'fundings.0.amount: write it as text, for example "12.50"'),
        ('"10.000001"', '"-1"', "fundings.0.amount"),
        ('label = "card"', 'label = "card"\ncolour = "red"', "unknown key tokens.0.colour"),
        ("[[operators]]", "[[operatros]]", "unknown key operatros"),
        ("version = 1", 'version = "1"', "tariffs.0.version"),
        ('token = "hex:04a2"', "", "tokens.0.token is missing: add it"),
    ],
)
def test_a_fault_is_named_by_its_place(tmp_path: Path, old: str, new: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_document(write(tmp_path, SMALL.replace(old, new)))
    assert words in str(caught.value)
    assert "04a2" not in str(caught.value)


def test_what_is_missing_beside_the_file_is_found_before_the_first_call(tmp_path: Path) -> None:
    wrong = SMALL.replace("hex:04a2", "hex:04a")
    with pytest.raises(ConfigError, match="pairs of hexadecimal digits") as caught:
        plan(read_document(write(tmp_path, wrong)), tmp_path)
    assert "04a" not in str(caught.value)
    both = SMALL.replace("ocpi = {", 'file = "t.json"\nocpi = {')
    with pytest.raises(ConfigError, match="either ocpi"):
        plan(read_document(write(tmp_path, both)), tmp_path)
    gone = "[[gateways]]\nid = 'gw-1'\noperator = 'city'\nsite = 'S1'\nexposure = '1'\nparty = 'nowhere'\n"
    with pytest.raises(ConfigError, match=r"gateway gw-1: no party in .*nowhere"):
        plan(read_document(write(tmp_path, gone)), tmp_path)


def test_a_dry_run_asks_nobody_about_what_stands_on_what_is_new() -> None:
    asked: list[tuple[str, bool]] = []

    def step(name: str, change: str, *needs: str) -> Step:
        def run(channel: grpc.Channel, dry_run: bool) -> tuple[str, list[str]]:
            asked.append((name, dry_run))
            return change, []

        return Step(kind="account", id=name, run=run, needs=needs)

    steps = [
        step("old", NONE),
        step("new", CREATED),
        step("on-old", NONE, "account old"),
        step("on-new", NONE, "account new"),
    ]
    with grpc.insecure_channel("127.0.0.1:1") as channel:
        changes = [change for _, (change, _) in execute(steps, channel, dry_run=True)]
        assert changes == [NONE, CREATED, NONE, CREATED]
        assert asked == [("old", True), ("new", True), ("on-old", True)]
        asked.clear()
        assert [change for _, (change, _) in execute(steps, channel, dry_run=False)] == [NONE, CREATED, NONE, NONE]
        assert len(asked) == 4


def test_a_command_loads_only_what_it_needs() -> None:
    """Half of what a person waits for is imports."""
    script = (
        "import sys; from farthing_cloud.admin.command import app\n"
        "heavy = {'grpc', 'rich.table', 'pydantic', 'pkcs11', 'psycopg', 'structlog', 'uvicorn', 'cryptography'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "from farthing_cloud.admin.registry import operators; from farthing_cloud.admin.connection import Connection\n"
        "print(sorted({'psycopg', 'structlog', 'uvicorn', 'starlette'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == ["[]", "[]"]
