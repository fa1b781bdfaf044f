"""When the next payer comes to a device and what they want; what is drawn behind a standing meter.

Rule 1: everything follows from the seed, the device's name and the order of calls. Rule 2: a schedule knows no clock.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from farthing.clock import SECOND_US, Instant
from farthing.device.messages import SALT_SIZE, WORD_SIZE
from farthing.ids import GatewayId
from farthing_firmware_sim.config import Device, Kind, Traffic, token_bytes
from farthing_firmware_sim.device.values import Plan
from farthing_firmware_sim.traffic import statistics
from farthing_firmware_sim.traffic.files import Row

_PPM = 1_000_000
_HOUR_S = 3_600
#: An exponential gap is cut here, so that no device of a short run stays silent by bad luck.
_LONGEST_GAP = 3

MISSED = "its device was not free before it left"
NOT_YET_COME = "not yet come"


class Payers(Protocol):
    """Who comes to one device."""

    def due(self, now_us: Instant) -> bool:
        """Whether somebody stands before the device."""

    def take(self, now_us: Instant) -> Plan:
        """What they want; only after ``due``."""

    def left(self, now_us: Instant) -> None:
        """The use is over, or was refused."""

    def next_due_us(self) -> Instant | None:
        """When the next one comes, as far as is known; None: nobody will."""

    def report(self) -> dict[str, int]:
        """Of a replay: rows played and rows missed by reason."""


@dataclass(kw_only=True)
class _Draw:
    """What all payers have: token, salt, trace, gateways."""

    device: Device
    traffic: Traffic
    lot: random.Random
    token_lot: random.Random

    def plan(
        self, *, target: int, rate_per_hour: int, stay_s: int, wanted: int | None, source: str, one_shot: bool = False
    ) -> Plan:
        weights = self.device.gateway_weights or (1,) * len(self.device.gateways)
        names = list(self.device.gateways)
        first = self.lot.choices(names, weights)[0]
        others = [name for name in names if name != first]
        return Plan(
            token=token_bytes(self.lot.choice(self.device.tokens)),
            # From the operating system in a real device; here from a generator of its own, for the seed's sake.
            salt=self.token_lot.randbytes(SALT_SIZE),
            # It stands in no envelope, so it is as secret as the device keeps it.
            chain_secret=self.token_lot.randbytes(WORD_SIZE) if self.device.kind.unit_per_tick else b"",
            trace_id=self.token_lot.randbytes(16),
            gateways=tuple(GatewayId(name) for name in (first, *(() if one_shot else others))),
            target=target,
            rate_per_hour=min(rate_per_hour, self.device.meter.rated_per_hour),
            stay_us=stay_s * SECOND_US,
            patience_real_us=None if one_shot else self.traffic.patience_ms * 1_000,
            elsewhere_real_us=None if one_shot else self.traffic.elsewhere_ms * 1_000,
            wanted=wanted,
            source=source,
        )

    def rank(self) -> int:
        return self.lot.randint(0, _PPM)

    def gap_us(self, mean_s: int) -> int:
        return int(min(self.lot.expovariate(1.0), _LONGEST_GAP) * mean_s * SECOND_US)


@dataclass(kw_only=True)
class Drawn(_Draw):
    """Payers from statistics."""

    next_us: int
    uses_left: int | None
    longest_stay_s: int = field(init=False)
    mean_gap_s: int = field(init=False)

    def __post_init__(self) -> None:
        stays, meters = zip(*statistics.SAN_DIEGO_LONGEST_STAY_MIN, strict=True)
        self.longest_stay_s = 60 * int(self.lot.choices(stays, meters)[0])
        self.mean_gap_s = (
            self.device.gap_s
            or {
                Kind.CHARGER: statistics.ASSUMED_CHARGER_GAP_S,
                Kind.PARKING: statistics.ASSUMED_PARKING_GAP_S,
                Kind.TOLL: statistics.ASSUMED_TOLL_GAP_S,
                Kind.VENDING: statistics.ASSUMED_VENDING_GAP_S,
                Kind.DISPENSER: statistics.ASSUMED_DISPENSER_GAP_S,
                Kind.SMART_METER: statistics.HALF_HOUR_S,
            }[self.device.kind]
        )
        # The first comes early: a run begins in the middle of a day.
        self.next_us += self.gap_us(self.mean_gap_s) // 4

    def due(self, now_us: Instant) -> bool:
        return self.uses_left != 0 and now_us >= self.next_us

    def take(self, now_us: Instant) -> Plan:
        if self.uses_left is not None:
            self.uses_left -= 1
        # Until `left` says otherwise nobody else comes.
        self.next_us = now_us + self.gap_us(self.mean_gap_s)
        match self.device.kind:
            case Kind.CHARGER:
                return self._charge()
            case Kind.PARKING:
                return self._park()
            case Kind.TOLL:
                return self.plan(target=1, rate_per_hour=0, stay_s=0, wanted=None, source=_STATISTICS, one_shot=True)
            case Kind.VENDING:
                cents = statistics.at_rank(statistics.VENDING_PAYMENT_CENTS, self.rank())
                return self.plan(
                    target=max(1, cents), rate_per_hour=0, stay_s=0, wanted=None, source=_STATISTICS, one_shot=True
                )
            case Kind.DISPENSER:
                rate = self.device.meter.rated_per_hour
                units = self.lot.randint(*statistics.ASSUMED_DISPENSER_UNITS)
                # Longer than it takes at its rate: it waits for a limit now and then.
                stay_s = 2 * (units * _HOUR_S // rate) + statistics.ASSUMED_DISPENSER_IDLE_S
                return self.plan(target=units, rate_per_hour=rate, stay_s=stay_s, wanted=units, source=_STATISTICS)
            case Kind.SMART_METER:
                raise AssertionError("nobody pays at a smart meter")

    def left(self, now_us: Instant) -> None:
        self.next_us = now_us + self.gap_us(self.mean_gap_s)

    def next_due_us(self) -> Instant | None:
        return None if self.uses_left == 0 else Instant(self.next_us)

    def report(self) -> dict[str, int]:
        return {}

    def _charge(self) -> Plan:
        if self.device.meter.rated_per_hour > statistics.ASSUMED_RAPID_FROM_W:
            energy_wh = statistics.at_rank(statistics.PERTH_KINROSS_ENERGY_WH, self.rank())
            power_w = statistics.at_rank(statistics.PERTH_KINROSS_POWER_W, self.rank())
            idle_s = 0
        else:
            energy_wh = statistics.at_rank(statistics.ACN_ENERGY_WH, self.rank())
            power_w = statistics.at_rank(statistics.ACN_POWER_W, self.rank())
            idle_s = statistics.at_rank(statistics.ACN_IDLE_S, self.rank()) // statistics.ASSUMED_IDLE_DIVISOR
        # Below a kilowatt a car is balancing its cells, not charging; such a tail would fill the run.
        power_w = max(1_000, min(power_w, self.device.meter.rated_per_hour))
        charging_s = -(-energy_wh * _HOUR_S // power_w)
        return self.plan(
            target=energy_wh,
            rate_per_hour=power_w,
            stay_s=charging_s + idle_s,
            wanted=None,
            source=_STATISTICS,
        )

    def _park(self) -> Plan:
        cents = statistics.at_rank(statistics.VENDING_PAYMENT_CENTS, self.rank())
        stay_s = min(cents * _HOUR_S // statistics.SAN_DIEGO_PRICE_CENTS_PER_HOUR, self.longest_stay_s)
        return self.plan(target=stay_s, rate_per_hour=_HOUR_S, stay_s=stay_s, wanted=stay_s, source=_STATISTICS)


_STATISTICS = "statistics"


@dataclass(kw_only=True)
class Replayed(_Draw):
    """Payers from the rows of a file, at the times the file says, seen from ``begins_us``.

    ``in_turn``: a row that comes while the device is taken is served after it, as long as it stayed; else it must leave when it left.
    """

    rows: Sequence[Row]
    #: Business instant at which the slice begins, and the same moment in the file.
    begins_us: int
    begins_s: int
    in_turn: bool = False
    at: int = 0
    played: int = 0
    missed: Counter[str] = field(default_factory=Counter)

    def due(self, now_us: Instant) -> bool:
        while not self.in_turn and self.at < len(self.rows) and self._is_gone(self.rows[self.at], now_us):
            self.missed[MISSED] += 1
            self.at += 1
        return self.at < len(self.rows) and now_us >= self._here(self.rows[self.at].begun_s)

    def take(self, now_us: Instant) -> Plan:
        row = self.rows[self.at]
        self.at += 1
        self.played += 1
        if row.gone_s == row.begun_s:
            return self.plan(
                target=row.quantity, rate_per_hour=0, stay_s=0, wanted=None, source=f"row {row.name}", one_shot=True
            )
        stay_s = row.gone_s - row.begun_s if self.in_turn else (self._here(row.gone_s) - now_us) // SECOND_US
        return self.plan(
            target=row.quantity,
            # Rounded up: what was drawn in that time is drawn, and then the device stops by itself.
            rate_per_hour=row.per_hour,
            # The car leaves when it left, however long it took to get a yes.
            stay_s=max(1, stay_s),
            wanted=None,
            source=f"row {row.name}",
        )

    def left(self, now_us: Instant) -> None:
        """The next row's time is the file's."""

    def next_due_us(self) -> Instant | None:
        return None if self.at >= len(self.rows) else Instant(self._here(self.rows[self.at].begun_s))

    def report(self) -> dict[str, int]:
        return {"played": self.played, **self.missed, NOT_YET_COME: len(self.rows) - self.at}

    def _is_gone(self, row: Row, now_us: Instant) -> bool:
        # What is sold at once is sold whenever the device is free.
        return row.gone_s > row.begun_s and now_us >= self._here(row.gone_s)

    def _here(self, file_s: int) -> int:
        return self.begins_us + (file_s - self.begins_s) * SECOND_US


class Load(Protocol):
    """What is drawn behind a standing meter."""

    def due(self, now_us: Instant) -> bool:
        """Whether the draw changes."""

    def take(self, now_us: Instant) -> int:
        """Units per hour from now on."""

    def next_due_us(self) -> Instant | None:
        """When it changes next; None: never again."""


@dataclass(kw_only=True)
class ReplayedHousehold:
    """A household of a file: each row's mean while it lasts, nothing where the file has nothing."""

    rows: Sequence[Row]
    rated_per_hour: int
    begins_us: int
    begins_s: int
    #: The row that is drawn now, and how many were begun.
    drawn: Row | None = None
    at: int = 0

    def due(self, now_us: Instant) -> bool:
        next_us = self.next_due_us()
        return next_us is not None and now_us >= next_us

    def take(self, now_us: Instant) -> int:
        while self.at < len(self.rows) and now_us >= self._here(self.rows[self.at].begun_s):
            self.drawn = self.rows[self.at]
            self.at += 1
        if self.drawn is None or now_us >= self._here(self.drawn.gone_s):
            self.drawn = None
            return 0
        return min(self.drawn.quantity * _HOUR_S // (self.drawn.gone_s - self.drawn.begun_s), self.rated_per_hour)

    def next_due_us(self) -> Instant | None:
        ends = None if self.drawn is None else self._here(self.drawn.gone_s)
        begins = None if self.at >= len(self.rows) else self._here(self.rows[self.at].begun_s)
        known = [each for each in (ends, begins) if each is not None]
        return Instant(min(known)) if known else None

    def report(self) -> dict[str, int]:
        """Rows whose draw began, and the others."""
        return {"played": self.at, NOT_YET_COME: len(self.rows) - self.at}

    def _here(self, file_s: int) -> int:
        return self.begins_us + (file_s - self.begins_s) * SECOND_US


@dataclass(kw_only=True)
class Household:
    """What is drawn behind a smart meter: a new mean every half hour."""

    lot: random.Random
    rated_per_hour: int
    next_us: int

    def due(self, now_us: Instant) -> bool:
        """Whether the draw changes."""
        return now_us >= self.next_us

    def take(self, now_us: Instant) -> int:
        """Units per hour from now on."""
        self.next_us = now_us + statistics.HALF_HOUR_S * SECOND_US
        half_hour_wh = statistics.at_rank(statistics.LOW_CARBON_LONDON_HALF_HOUR_WH, self.lot.randint(0, _PPM))
        return min(2 * half_hour_wh, self.rated_per_hour)

    def next_due_us(self) -> Instant | None:
        """The next half hour."""
        return Instant(self.next_us)


def lots(seed: int, device: str) -> tuple[random.Random, random.Random, random.Random]:
    """Independent generators of a device: for its payers, its salts, its network."""
    return (
        random.Random(f"{seed}/{device}/payers"),  # noqa: S311  # reproducible input, nothing secret
        random.Random(f"{seed}/{device}/salts"),  # noqa: S311  # a simulated payer's salt; the protocol's care is the device's
        random.Random(f"{seed}/{device}/network"),  # noqa: S311  # reproducible faults
    )
