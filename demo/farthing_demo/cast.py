"""Who takes part: one operator, two sites, twelve devices, the people who pay, and what they are charged.

Everything here is an assumption of ours, chosen to be small enough to follow and wide enough to meet each rule: an account
used at both sites at once, one that is used up, a charger that cannot be stopped, meters without anyone present.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

OPERATOR = "metro"
CURRENCY = "EUR"
PERSON = "clerk"


@dataclass(frozen=True, slots=True, kw_only=True)
class SitePart:
    """A site and its one gateway."""

    site: str
    gateway: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePart:
    """A device: ``kind`` is parking, charger, smart-meter or toll; it is known at ``sites``."""

    device: str
    kind: str
    sites: tuple[str, ...]
    account: str | None = None
    stoppable: bool = True
    #: Where it differs from others of its kind.
    rated_per_hour: int | None = None
    report_interval_s: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountPart:
    """An account, what it is funded with (decimal text), and the tokens that spend from it."""

    account: str
    funds: str
    preload: str
    tokens: tuple[str, ...] = ()
    debt_limit: str = "5.00"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    """Who is there in one run."""

    devices: tuple[DevicePart, ...]
    accounts: tuple[AccountPart, ...]
    #: Tokens each kind of device is shown, or one device.
    tokens_by_kind: Mapping[str, tuple[str, ...]]
    tokens_by_device: Mapping[str, tuple[str, ...]]
    #: What each gateway may be trusted with, decimal text.
    exposure: str

    def tokens_of(self, device: DevicePart) -> tuple[str, ...]:
        """What payers present there."""
        return self.tokens_by_device.get(device.device, self.tokens_by_kind.get(device.kind, ()))


SITES = (SitePart(site="harbour", gateway="gw-1"), SitePart(site="market", gateway="gw-2"))

_DEVICES = (
    DevicePart(device="park-1", kind="parking", sites=("harbour",)),
    DevicePart(device="park-2", kind="parking", sites=("harbour",)),
    DevicePart(device="park-3", kind="parking", sites=("market",)),
    DevicePart(device="park-4", kind="parking", sites=("market",)),
    DevicePart(device="charge-1", kind="charger", sites=("harbour",)),
    DevicePart(device="charge-2", kind="charger", sites=("harbour",), stoppable=False),
    DevicePart(device="charge-3", kind="charger", sites=("market",)),
    DevicePart(device="charge-4", kind="charger", sites=("market",)),
    DevicePart(device="house-1", kind="smart-meter", sites=("harbour",), account="home-1"),
    DevicePart(device="house-2", kind="smart-meter", sites=("market",), account="home-2"),
    DevicePart(device="toll-1", kind="toll", sites=("harbour", "market")),
    DevicePart(device="toll-2", kind="toll", sites=("harbour", "market")),
)
#: Its element is copied; the copy passes at the other site.
CLONED = "toll-1"

#: Shared by drivers at both sites at once: what it holds can be spent there, and nothing more.
SHARED = "fleet"
#: Used up early; then refused by number.
SMALL = "visitor"
#: Charges where nothing can be stopped: uses more than it has, and owes it.
LATE = "late-payer"

#: Whose invoice is shown.
INVOICED = "bela"

_ACCOUNTS = (
    AccountPart(account=SHARED, funds="60.00", preload="12.00", tokens=("fleet-card-a", "fleet-card-b")),
    AccountPart(account=SMALL, funds="2.00", preload="1.00", tokens=("visitor-card",)),
    AccountPart(account=LATE, funds="4.00", preload="4.00", tokens=("late-card",), debt_limit="1.00"),
    AccountPart(account="anna", funds="40.00", preload="8.00", tokens=("anna-card",)),
    AccountPart(account="bela", funds="40.00", preload="8.00", tokens=("bela-card",)),
    AccountPart(account="home-1", funds="20.00", preload="4.00"),
    AccountPart(account="home-2", funds="20.00", preload="4.00"),
    AccountPart(account="lorry-1", funds="60.00", preload="12.00", tokens=("lorry-tag-1",)),
    AccountPart(account="lorry-2", funds="60.00", preload="12.00", tokens=("lorry-tag-2",)),
)

_TOKENS_BY_KIND = {
    "parking": ("fleet-card-a", "anna-card", "visitor-card", "bela-card"),
    "charger": ("fleet-card-b", "bela-card", "anna-card"),
}
_TOKENS_BY_DEVICE = {"charge-2": ("late-card", "bela-card"), "toll-1": ("lorry-tag-1",), "toll-2": ("lorry-tag-2",)}

#: Register, rating and reporting by kind. Ratings: 11 kW chargers, a 14 kW house connection; a parking meter counts seconds.
KINDS: dict[str, dict[str, Any]] = {
    "parking": {
        "profile": "session", "tariff": "park", "unit": "s", "modulus": 2**32, "rated_per_hour": 3_600, "report_interval_s": 900,
    },
    "charger": {
        "profile": "session", "tariff": "charge", "unit": "Wh", "modulus": 10**9, "rated_per_hour": 11_000, "report_interval_s": 720,
    },
    "smart-meter": {
        "profile": "standing", "tariff": "house", "unit": "Wh", "modulus": 10**9, "rated_per_hour": 14_000, "report_interval_s": 1_800,
    },
    "toll": {
        "profile": "one-shot", "tariff": "toll", "unit": "passage", "modulus": 2**32, "rated_per_hour": 3_600, "report_interval_s": 3_600,
    },
    "vending": {
        "profile": "one-shot", "tariff": "vend", "unit": "cent", "modulus": 2**32, "rated_per_hour": 1_000_000, "report_interval_s": 3_600,
    },
}  # fmt: skip

#: Price components of OCPI 2.2.1 tariff objects, as JSON text so that no price passes through a float. UNIT and tax_included are our
#: extensions for what is neither energy nor time.
TARIFFS = {
    "park": '{"elements": [{"price_components": [{"type": "TIME", "price": 1.80, "step_size": 60, "vat": 19}]}]}',
    "charge": '{"elements": [{"price_components": [{"type": "FLAT", "price": 0.35, "step_size": 1, "vat": 20},'
    ' {"type": "ENERGY", "price": 0.39, "step_size": 100, "vat": 20}]}]}',
    "house": '{"elements": [{"price_components": [{"type": "ENERGY", "price": 0.28, "step_size": 1, "vat": 20}]}]}',
    "toll": '{"tax_included": true,'
    ' "elements": [{"price_components": [{"type": "UNIT", "price": 1.20, "step_size": 1, "vat": 7}]}]}',
    # What the machine asks is in its own unit already: a cent costs a cent.
    "vend": '{"tax_included": true,'
    ' "elements": [{"price_components": [{"type": "UNIT", "price": 0.01, "step_size": 1, "vat": 7}]}]}',
}

AGENCIES = ("transit", "grid")
SPLIT = (("agency/transit", "60"), ("agency/grid", "30"), ("fee/metro", "10"))
REMAINDER = "agency/transit"

#: These speak MQTT; the others CoAP.
MQTT_KINDS = ("parking", "charger")
#: Registers are not new: they stand where years of use have left them.
STARTS_AT = {"parking": 4_812_000, "charger": 812_340, "smart-meter": 15_400_000, "toll": 41, "vending": 90_210}
#: ASSUMPTION: mean business seconds between two passages of a lorry on a toll ring.
GAP_S = {"toll": 2_400}

#: The day that the demo plays.
DAY = Cast(
    devices=_DEVICES,
    accounts=_ACCOUNTS,
    tokens_by_kind=_TOKENS_BY_KIND,
    tokens_by_device=_TOKENS_BY_DEVICE,
    exposure="400.00",
)


def with_vending() -> Cast:
    """The day's cast and two machines, for a file of what machines sold."""
    machines = (
        DevicePart(device="vend-1", kind="vending", sites=("harbour",)),
        DevicePart(device="vend-2", kind="vending", sites=("market",)),
    )
    return replace(
        DAY,
        devices=(*DAY.devices, *machines),
        tokens_by_kind={**DAY.tokens_by_kind, "vending": ("anna-card", "bela-card")},
    )


#: Payers of a whole file: it names none, so each use is one of these, drawn by the seed.
_FILE_CARDS = tuple(f"card-{number}" for number in range(8))
#: What a council's rapid chargers and a household's connection give; a station whose rows show more is rated for that.
_FILE_RATED = {"charger": 120_000, "smart-meter": 20_000}
#: A reading a quarter of a day, since sessions of a file are ended by their rows.
_FILE_REPORT_S = {"charger": 6 * 3_600}


def of_file(kind: str, stations: Mapping[str, Mapping[str, int]]) -> Cast:
    """One device for each station of a file, shared out among the sites; every account has enough, as the file's payers had."""
    devices = []
    for number, (station, told) in enumerate(stations.items()):
        devices.append(
            DevicePart(
                device=station,
                kind=kind,
                sites=(SITES[number % len(SITES)].site,),
                account=f"home-{station}" if kind == "smart-meter" else None,
                rated_per_hour=max(_FILE_RATED[kind], told["most_per_hour"]) if kind in _FILE_RATED else None,
                report_interval_s=_FILE_REPORT_S.get(kind),
            )
        )
    enough = AccountPart(account="", funds="2000000.00", preload="20000.00", debt_limit="0.00")
    payers = [replace(enough, account=card, tokens=(f"{card}-token",)) for card in _FILE_CARDS]
    homes = [replace(enough, account=device.account) for device in devices if device.account is not None]
    return Cast(
        devices=tuple(devices),
        accounts=tuple(homes or payers),
        tokens_by_kind={} if homes else {kind: tuple(f"{card}-token" for card in _FILE_CARDS)},
        tokens_by_device={},
        exposure="5000000.00",
    )
