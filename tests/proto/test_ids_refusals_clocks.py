"""The small words of the contract: names, numbers, time."""

import hashlib

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing import clock, ids
from farthing.refusal import Refusal


@pytest.mark.parametrize("name", ["a", "gw-1", "A" * 64, "-", "0"])
def test_ids(name: str) -> None:
    assert ids.parse_id(name) == name


@pytest.mark.parametrize("name", ["", "a" * 65, "a/b", "a+", "#", "a b", "a\n", "ä", "..", 7, None, b"a", "a_b"])
def test_not_ids(name: object) -> None:
    with pytest.raises(ids.IdError):
        ids.parse_id(name)


@pytest.mark.parametrize("value", [b"", bytes(15), bytes(17), "x" * 16, None, bytearray(16)])
def test_not_bytes(value: object) -> None:
    with pytest.raises(ids.IdError):
        ids.parse_bytes(value, 16)


@given(device_epoch=st.integers(0, 2**32 - 1), counter=st.integers(0, 2**63 - 1))
def test_an_authorization_is_of_one_array_whatever_its_numbers(device_epoch: int, counter: int) -> None:
    body = cbor2.dumps(["farthing/authorization/1", "meter-7", device_epoch, counter, "gw-1"])
    assert ids.authorization_id("meter-7", device_epoch, counter, "gw-1") == hashlib.sha256(body).digest()[:16]


def test_authorizations_follow_from_intent_and_gateway() -> None:
    """Any implementation must come to these bytes; they are part of the contract."""
    body = cbor2.dumps(["farthing/authorization/1", "meter-7", 1, 42, "gw-1"])
    assert ids.authorization_id("meter-7", 1, 42, "gw-1") == hashlib.sha256(body).digest()[:16]
    assert ids.authorization_id("meter-7", 1, 42, "gw-1").hex() == "51c24d0fa431873cf27f37393df81f62"
    standing = ids.standing_authorization_id("meter-7", 1, "m1", 0, "gw-1")
    assert standing.hex() == "ff3891b1e8d5162da3cd873586822b90"
    seen = {
        ids.authorization_id("meter-7", 1, 42, "gw-1"),
        ids.authorization_id("meter-7", 1, 42, "gw-2"),
        ids.authorization_id("meter-7", 1, 43, "gw-1"),
        ids.authorization_id("meter-7", 2, 42, "gw-1"),
        ids.authorization_id("meter-8", 1, 42, "gw-1"),
        ids.standing_authorization_id("meter-7", 1, "42", 0, "gw-1"),
    }
    assert len(seen) == 6


def test_a_commitment_binds_salt_and_token() -> None:
    assert ids.token_commitment(b"token", bytes(16)) == hashlib.sha256(bytes(16) + b"token").digest()


def test_refusals_keep_their_numbers() -> None:
    """The list may grow; what stands here is written in journals and devices for ever."""
    assert {refusal.name: refusal.value for refusal in Refusal} == {
        "MALFORMED": 100,
        "SIGNATURE_INVALID": 101,
        "RECIPIENT_DIFFERS": 102,
        "COMMITMENT_DIFFERS": 103,
        "CHANNEL_DIFFERS": 104,
        "TOO_LARGE": 105,
        "REGISTER_UNKNOWN": 106,
        "DEVICE_UNKNOWN": 200,
        "DEVICE_SUSPENDED": 201,
        "DEVICE_DECOMMISSIONED": 202,
        "DEVICE_EPOCH_DIFFERS": 203,
        "DEVICE_BLOCKED": 204,
        "REGISTER_EPOCH_DIFFERS": 205,
        "REGISTER_BUSY": 206,
        "REGISTER_WENT_BACK": 207,
        "REGISTER_TOO_FAST": 208,
        "CLOCK_AHEAD": 209,
        "COUNTER_REUSED": 300,
        "COUNTER_TOO_OLD": 301,
        "INTENT_ENDED": 302,
        "TOKEN_DENIED": 400,
        "TOKEN_UNKNOWN": 500,
        "ACCOUNT_SUSPENDED": 600,
        "ACCOUNT_UNKNOWN": 601,
        "CURRENCY_DIFFERS": 700,
        "TARIFF_MISSING": 701,
        "TARIFF_DIFFERS": 702,
        "NOT_ENTITLED": 800,
        "LIMIT_PER_AUTHORIZATION": 900,
        "LIMIT_PER_DAY": 901,
        "LIMIT_SINCE_CONTACT": 902,
        "OUTSIDE_FENCE": 1000,
        "IMPOSSIBLE_TRAVEL": 1001,
        "RISK_TOO_HIGH": 1100,
        "QUOTA_EXHAUSTED": 1200,
        "NO_QUOTA": 1201,
        "FLOOR_EXHAUSTED": 1202,
        "OVERLOADED": 1300,
        "STORAGE_FULL": 1301,
        "NOT_AUTHORIZING": 1302,
        "DIRECTIVES_TOO_OLD": 1303,
        "CLOCK_UNTRUSTED": 1304,
        "INCARNATION_DIFFERS": 1400,
        "AUTHORIZATION_UNKNOWN": 1401,
    }


@pytest.mark.parametrize("refusal", list(Refusal))
def test_a_refusal_names_its_rule(refusal: Refusal) -> None:
    assert 1 <= refusal.rule <= 14
    assert refusal.rule == int(refusal) // 100


class Hand:
    """Monotonic time moved by hand."""

    def __init__(self) -> None:
        self.ns = 5_000_000_000

    def __call__(self) -> int:
        return self.ns


@given(st.integers(1, clock.MAX_RATE), st.integers(0, 10**15))
def test_business_time_is_a_straight_line(rate: int, passed_ns: int) -> None:
    hand = Hand()
    line = clock.BusinessClock(
        epoch_us=1_000_000,
        real_epoch_us=500,
        rate=rate,
        anchor_real_us=700,
        anchor_monotonic_ns=hand.ns,
        monotonic_ns=hand,
    )
    assert line.now() == 1_000_000 + 200 * rate
    hand.ns += passed_ns
    assert line.now() == 1_000_000 + (200 + passed_ns // 1000) * rate


@pytest.mark.parametrize("rate", [0, -1, clock.MAX_RATE + 1])
def test_no_clock_runs_at_such_a_rate(rate: int) -> None:
    with pytest.raises(clock.ClockError):
        clock.simulated_clock(epoch_us=0, real_epoch_us=0, rate=rate)


def test_two_processes_with_one_epoch_agree() -> None:
    """Both started from the same configuration, at different moments."""
    one = clock.simulated_clock(epoch_us=10**15, real_epoch_us=10**15, rate=900)
    other = clock.simulated_clock(epoch_us=10**15, real_epoch_us=10**15, rate=900)
    apart_us = abs(one.now() - other.now())
    # Between the two readings lie some real microseconds, each of which is 900 of business time.
    assert apart_us < 900 * clock.SECOND_US


def test_real_time_never_goes_back() -> None:
    line = clock.real_clock()
    assert line.rate == 1
    first = line.now()
    assert line.now() >= first


@pytest.mark.parametrize(("at", "quarter"), [(0, 0), (899_999_999, 0), (900_000_000, 1)])
def test_quarters(at: int, quarter: int) -> None:
    assert clock.quarter_of(clock.Instant(at)) == quarter


def test_a_step_of_the_wall_clock_is_told_and_followed_only_when_asked() -> None:
    wall, monotonic = [10**18], [5 * 10**9]
    line = clock.BusinessClock(
        epoch_us=10**15,
        real_epoch_us=10**15,
        rate=2,
        anchor_real_us=10**15,
        anchor_monotonic_ns=5 * 10**9,
        monotonic_ns=lambda: monotonic[0],
        wall_ns=lambda: wall[0],
    )
    wall[0] += 10**9
    monotonic[0] += 10**9
    assert line.strayed_us() == 0
    assert line.now() == 10**15 + 2_000_000
    wall[0] += (clock.STEP_US + 1) * 1_000
    assert line.strayed_us() == clock.STEP_US + 1
    assert line.now() == 10**15 + 2_000_000
    stepped = line.put_on(line.strayed_us())
    assert stepped.strayed_us() == 0
    assert stepped.now() == line.now() + 2 * (clock.STEP_US + 1)


def test_a_processor_that_was_elsewhere_between_two_readings_is_no_step() -> None:
    readings = iter(range(0, 10**12, 10**9))
    line = clock.BusinessClock(
        epoch_us=0,
        real_epoch_us=0,
        rate=1,
        anchor_real_us=0,
        anchor_monotonic_ns=0,
        # Each look is a second after the one before.
        monotonic_ns=lambda: next(readings),
        wall_ns=lambda: next(readings) - 10**10,
    )
    assert line.strayed_us() == 0
