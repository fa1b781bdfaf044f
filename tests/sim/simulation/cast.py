"""Who plays: gateways, devices, accounts, and how bad the air is. Drawn from the seed, and part of the story."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from functools import cache
from random import Random
from typing import Literal

from farthing.clock import SECOND_US, Instant
from farthing.ids import OperatorId
from farthing.money import Currency
from farthing.tariff import Tariff
from farthing.tariff import parse as parse_tariff

OP, EUR = OperatorId("op"), Currency("EUR")
#: Of all sites: what a clock on the wall shows.
TIME_ZONE = "Europe/Berlin"
M = 1_000_000
#: An evening in 2026, four minutes before midnight by the sites' clocks: days end while stories are told.
START = Instant(1_790_000_000 // 86_400 * 86_400 * SECOND_US + (21 * 60 + 56) * 60 * SECOND_US)
MODULUS = 10**9


def _component(kind: str, price: float, vat: float, step: int) -> dict[str, object]:
    return {"type": kind, "price": price, "vat": vat, "step_size": step}


_TARIFFS: dict[str, dict[str, object]] = {
    "chg-3": {
        "elements": [{"price_components": [_component("FLAT", 0.5, 20, 1), _component("ENERGY", 0.25, 20, 100)]}]
    },
    # Two tax rates and the time that passes.
    "chg-time": {
        "elements": [{"price_components": [_component("ENERGY", 0.333333, 20, 1), _component("TIME", 1.2, 7, 60)]}]
    },
    "chg-max": {
        "elements": [{"price_components": [_component("FLAT", 0.5, 20, 1), _component("ENERGY", 0.4, 10, 1)]}],
        "max_price": {"excl_vat": 1.5, "incl_vat": 1.7},
    },
    # Cheaper from midnight on, four minutes after a story's begin: sessions stand across the change.
    "chg-clock": {
        "elements": [
            {
                "price_components": [_component("ENERGY", 0.6, 20, 1), _component("TIME", 0.9, 20, 1)],
                "restrictions": {"start_time": "18:00", "end_time": "00:00"},
            },
            {"price_components": [_component("ENERGY", 0.3, 7, 1)]},
        ]
    },
    "park": {
        "elements": [{"price_components": [_component("TIME", 3.6, 0, 60)]}],
        "min_price": {"incl_vat": 0.3},
    },
    "toll-1": {"tax_included": True, "elements": [{"price_components": [_component("UNIT", 1.2, 7, 1)]}]},
    "water": {"elements": [{"price_components": [_component("UNIT", 0.0004, 7, 1)]}]},
    "water-first": {
        "elements": [{"price_components": [_component("FLAT", 0.2, 7, 1), _component("UNIT", 0.0003, 19, 500)]}]
    },
    "kwh": {"elements": [{"price_components": [_component("ENERGY", 0.3, 19, 1)]}]},
    # What a unit takes from an entitlement: one component, so that money is units.
    "pass-wh": {"elements": [{"price_components": [_component("ENERGY", 0.2, 0, 1)]}]},
    "pass-ride": {"elements": [{"price_components": [_component("UNIT", 1, 0, 1)]}]},
    "pass-ml": {"elements": [{"price_components": [_component("UNIT", 0.0002, 0, 1)]}]},
}
#: What one unit takes from an entitlement, micros, by what it is a unit of and under which tariff.
PASSES: dict[str, tuple[str, int]] = {"Wh": ("pass-wh", 200), "passage": ("pass-ride", M), "ml": ("pass-ml", 200)}


def ocpi(name: str) -> bytes:
    """A tariff as directives carry it."""
    return json.dumps({"id": name, "currency": "EUR"} | _TARIFFS[name]).encode()


@cache
def tariff(name: str) -> Tariff:
    """A tariff, parsed."""
    return parse_tariff(ocpi(name))


def prices_time(name: str) -> bool:
    """Whether time that passes costs something under a tariff."""
    elements = json.loads(ocpi(name))["elements"]
    kinds = {component["type"] for element in elements for component in element["price_components"]}
    return not kinds.isdisjoint({"TIME", "PARKING_TIME"})


Profile = Literal["session", "one-shot", "standing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRole:
    """A device. ``gateways`` is whom it can reach; a standing one reports to the first, and tells the others when that is gone."""

    name: str
    profile: Profile
    unit: str
    tariff: str
    gateways: tuple[str, ...]
    rated_per_hour: int
    stoppable: bool
    report_interval_s: int
    value: int
    #: A dispenser ticks once for so many units; 0: readings prove what is used.
    unit_per_tick: int = 0
    #: It can show what entitlements cost, so they cover uses of it; and it may serve nobody without one.
    takes_passes: bool = False
    entitled_only: bool = False

    @property
    def tariffs(self) -> tuple[str, ...]:
        """All that its payers can be shown."""
        return (self.tariff, PASSES[self.unit][0]) if self.takes_passes else (self.tariff,)


@dataclass(frozen=True, slots=True, kw_only=True)
class PassRole:
    """An entitlement of an account: so many units, prepaid, for uses that begin from one moment of the story until another."""

    account: str
    unit: str
    units: int
    from_s: int
    until_s: int
    priority: int

    @property
    def tariff(self) -> str:
        """What one unit costs."""
        return PASSES[self.unit][0]

    @property
    def unit_micros(self) -> int:
        """What one unit takes."""
        return PASSES[self.unit][1]

    @property
    def paid_by(self) -> AccountRole:
        """The account that pays for it: it has what its units are worth, and nobody lends it more."""
        return AccountRole(
            name=f"pass-{self.account}-{self.unit}",
            funds_micros=self.units * self.unit_micros,
            credit_micros=0,
            debt_micros=0,
            preload_micros=0,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountRole:
    """Who pays, with the token ``t-<name>``; micros."""

    name: str
    funds_micros: int
    credit_micros: int
    debt_micros: int
    preload_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How the ledger grants, and what gateways may do on their own."""

    share_ppm: int
    smallest_micros: int
    lifetime_s: int
    outage_s: int
    exposure_micros: int
    floor_token_micros: int
    floor_account_micros: int
    floor_total_micros: int
    #: The most that one authorization may cost, and what a token may use in a day at one gateway; 0: no limit.
    limit_use_micros: int
    limit_token_day_micros: int
    #: The same of a device, how many uses of either may begin in a day, and what all may use while the cloud is not heard of.
    limit_device_day_micros: int = 0
    limit_token_day_count: int = 0
    limit_device_day_count: int = 0
    limit_offline_micros: int = 0
    limit_offline_count: int = 0
    #: How long after its intent a yes lets a use begin; 0: for ever.
    lapse_s: int = 0

    @property
    def are_limited(self) -> bool:
        """Whether gateways are told of any limit."""
        return any(getattr(self, field.name) for field in fields(self) if field.name.startswith("limit_"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Air:
    """How bad the network is: parts of all messages."""

    loss: float
    doubling: float
    late: float
    #: How late a late message may be, seconds.
    late_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    """Everybody, and for how long they play before everything heals."""

    minutes: int
    gateways: tuple[str, ...]
    devices: tuple[DeviceRole, ...]
    accounts: tuple[AccountRole, ...]
    terms: Terms
    air: Air
    passes: tuple[PassRole, ...] = ()

    @property
    def purses(self) -> tuple[AccountRole, ...]:
        """Every account that money or units are on."""
        return (*self.accounts, *(each.paid_by for each in self.passes))


def draw_cast(rng: Random) -> Cast:
    """Small on purpose: many short histories find more than few long ones."""
    gateways = tuple(f"gw-{number}" for number in range(1, 1 + rng.choice((1, 2, 2, 2, 3))))
    accounts = (
        AccountRole(
            name="rich", funds_micros=200 * M, credit_micros=0, debt_micros=M, preload_micros=rng.choice((0, 5 * M))
        ),
        AccountRole(
            name="poor",
            funds_micros=rng.randint(0, 6) * M,
            credit_micros=0,
            debt_micros=rng.choice((0, M)),
            preload_micros=0,
        ),
        AccountRole(
            name="credit",
            funds_micros=0,
            credit_micros=rng.choice((2, 8)) * M,
            debt_micros=M // 2,
            preload_micros=2 * M,
        ),
    )
    terms = Terms(
        share_ppm=rng.choice((250_000, 500_000, 1_000_000)),
        smallest_micros=rng.choice((1, M // 2)),
        lifetime_s=rng.choice((120, 400, 7_200)),
        outage_s=rng.choice((90, 6 * 3600, 6 * 3600)),
        exposure_micros=rng.choice((12, 40)) * M,
        floor_token_micros=rng.choice((0, 2 * M)),
        floor_account_micros=3 * M,
        floor_total_micros=4 * M,
        limit_use_micros=rng.choice((0, 0, M // 2)),
        limit_token_day_micros=rng.choice((0, 0, M // 2, 2 * M)),
        limit_device_day_micros=rng.choice((0, 0, 0, M)),
        limit_token_day_count=rng.choice((0, 0, 0, 2)),
        limit_device_day_count=rng.choice((0, 0, 0, 3)),
        limit_offline_micros=rng.choice((0, 0, 0, M)),
        limit_offline_count=rng.choice((0, 0, 0, 2)),
    )
    calm = rng.random() < 0.1
    air = Air(
        loss=0.0 if calm else rng.choice((0.03, 0.12, 0.3)),
        doubling=0.0 if calm else rng.choice((0.03, 0.15)),
        late=0.0 if calm else rng.choice((0.03, 0.15)),
        late_s=rng.choice((20, 150)),
    )
    minutes, devices = rng.choice((3, 6, 10)), _draw_devices(rng, gateways)
    passes = _draw_passes(rng, devices, accounts, minutes * 60) if rng.random() < 0.4 else ()
    if passes:
        devices = tuple(_entitled(rng, device) if device.unit in PASSES else device for device in devices)
    terms = replace(terms, lapse_s=rng.choice((0, 30, 120, 900)))
    return Cast(
        minutes=minutes, gateways=gateways, devices=devices, accounts=accounts, terms=terms, air=air, passes=passes
    )


def _draw_passes(
    rng: Random, devices: tuple[DeviceRole, ...], accounts: tuple[AccountRole, ...], length_s: int
) -> tuple[PassRole, ...]:
    """Some of what devices here count is prepaid by somebody; mostly less than is used."""
    units = sorted({device.unit for device in devices if device.profile != "standing" and device.unit in PASSES})
    most = {"Wh": 3_000, "passage": 6, "ml": 3_000}
    return tuple(
        PassRole(
            account=account.name,
            unit=unit,
            units=rng.randint(1, most[unit]),
            from_s=rng.choice((0, 0, length_s // 3)),
            until_s=rng.choice((length_s // 2, 2 * length_s)),
            priority=rng.choice((0, 1)),
        )
        for unit in units
        for account in accounts
        if rng.random() < 0.7
    )


def _entitled(rng: Random, device: DeviceRole) -> DeviceRole:
    if device.profile == "standing":
        return device
    return replace(device, takes_passes=True, entitled_only=rng.random() < 0.15)


def _draw_devices(rng: Random, gateways: tuple[str, ...]) -> tuple[DeviceRole, ...]:
    def reach() -> tuple[str, ...]:
        # Who can reach one gateway only has nobody else to tell when it is gone.
        return rng.choice((gateways, (*gateways[1:], gateways[0]))) if rng.random() < 0.75 else (rng.choice(gateways),)

    makers = {"charger": _charger, "bay": _bay, "dispenser": _dispenser, "toll": _toll, "meter": _meter}
    kinds = ["charger", rng.choice(("charger", "toll")), *rng.choices(sorted(makers), k=rng.randint(0, 3))]
    devices = [makers[kind](rng, f"{kind}-{number}", reach()) for number, kind in enumerate(kinds)]
    # Some come round while they are looked at: a passage or a few minutes of use before.
    return tuple(
        replace(device, value=MODULUS - 1 - rng.randrange(1 + device.rated_per_hour // 60))
        if rng.random() < 0.2
        else device
        for device in devices
    )


def _charger(rng: Random, name: str, gateways: tuple[str, ...]) -> DeviceRole:
    return DeviceRole(
        name=name,
        profile="session",
        unit="Wh",
        tariff=rng.choice(("chg-3", "chg-time", "chg-max", "chg-clock")),
        gateways=gateways,
        rated_per_hour=22_000,
        stoppable=rng.random() < 0.6,
        report_interval_s=rng.choice((30, 90, 600)),
        value=rng.randrange(10**6),
    )


def _dispenser(rng: Random, name: str, gateways: tuple[str, ...]) -> DeviceRole:
    """It signs a chain, then ticks: twice a minute, or nearly every time that it is looked at."""
    return DeviceRole(
        name=name,
        profile="session",
        unit="ml",
        tariff=rng.choice(("water", "water-first")),
        gateways=gateways,
        rated_per_hour=36_000,
        stoppable=True,
        report_interval_s=rng.choice((30, 90)),
        value=rng.randrange(10**6),
        unit_per_tick=rng.choice((1, 25, 250)),
    )


def _bay(rng: Random, name: str, gateways: tuple[str, ...]) -> DeviceRole:
    return DeviceRole(
        name=name,
        profile="session",
        unit="s",
        tariff="park",
        gateways=gateways,
        rated_per_hour=3_600,
        stoppable=True,
        report_interval_s=120,
        value=rng.randrange(10**6),
    )


def _toll(rng: Random, name: str, gateways: tuple[str, ...]) -> DeviceRole:
    return DeviceRole(
        name=name,
        profile="one-shot",
        unit="passage",
        tariff="toll-1",
        gateways=gateways,
        rated_per_hour=600,
        stoppable=True,
        report_interval_s=720,
        value=rng.randrange(100),
    )


def _meter(rng: Random, name: str, gateways: tuple[str, ...]) -> DeviceRole:
    return DeviceRole(
        name=name,
        profile="standing",
        unit="Wh",
        tariff="kwh",
        gateways=gateways,
        rated_per_hour=9_000,
        stoppable=True,
        report_interval_s=rng.choice((60, 120)),
        value=rng.randrange(10**6),
    )
