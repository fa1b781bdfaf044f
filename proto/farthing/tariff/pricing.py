"""What a use costs so far, what it costs in the end, and how far a sum of money goes."""

from dataclasses import dataclass

from farthing.clock import Instant
from farthing.tariff.tariff import Tariff, TariffError


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """One authorization so far: a register (``unit`` "Wh", "s", "passage"...) from ``start`` to ``end``, cumulative and
    unrolled (a rollover has its modulus added), between two instants."""

    unit: str
    start: int
    end: int
    started_at: Instant
    ended_at: Instant


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What is due at one tax rate."""

    rate_ppm: int
    net_micros: int
    tax_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """What is due in all; ``parts`` ascend by tax rate."""

    parts: tuple[Part, ...]
    net_micros: int
    tax_micros: int

    @property
    def gross_micros(self) -> int:
        """Net and tax, in micros."""
        return self.net_micros + self.tax_micros


def price(tariff: Tariff, use: Use, *, closing: bool) -> Priced:
    """The price of ``use``: interim a lower bound that never falls, at closing all of it."""
    raise TariffError("not written yet")


def limit(tariff: Tariff, use: Use, *, most: int, until: Instant, budget_micros: int) -> int:
    """The largest quantity q in 0..most beyond ``use.start`` whose closing price by ``until`` is within ``budget_micros``."""
    raise TariffError("not written yet")
