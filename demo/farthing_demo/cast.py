"""Who takes part: one operator, two sites, twelve devices, the people who pay, and what they are charged.

Everything here is an assumption of ours, chosen to be small enough to follow and wide enough to meet each rule: an account
used at both sites at once, one that is used up, a charger that cannot be stopped, meters without anyone present.
"""

from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountPart:
    """An account, what it is funded with (decimal text), and the tokens that spend from it."""

    account: str
    funds: str
    preload: str
    tokens: tuple[str, ...] = ()
    debt_limit: str = "5.00"


SITES = (SitePart(site="harbour", gateway="gw-1"), SitePart(site="market", gateway="gw-2"))

DEVICES = (
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

ACCOUNTS = (
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

#: Tokens each kind of device is shown, by device for transponders.
TOKENS_BY_KIND = {
    "parking": ("fleet-card-a", "anna-card", "visitor-card", "bela-card"),
    "charger": ("fleet-card-b", "bela-card", "anna-card"),
}
TOKENS_BY_DEVICE = {"charge-2": ("late-card", "bela-card"), "toll-1": ("lorry-tag-1",), "toll-2": ("lorry-tag-2",)}

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
}

AGENCIES = ("transit", "grid")
SPLIT = (("agency/transit", "60"), ("agency/grid", "30"), ("fee/metro", "10"))
REMAINDER = "agency/transit"
EXPOSURE = "400.00"

#: These speak MQTT; the others CoAP.
MQTT_KINDS = ("parking", "charger")
#: Registers are not new: they stand where years of use have left them.
STARTS_AT = {"parking": 4_812_000, "charger": 812_340, "smart-meter": 15_400_000, "toll": 41}
#: ASSUMPTION: mean business seconds between two passages of a lorry on a toll ring.
GAP_S = {"toll": 2_400}
