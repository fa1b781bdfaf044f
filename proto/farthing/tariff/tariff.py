"""A tariff as it was compiled for pricing."""

from dataclasses import dataclass
from enum import StrEnum, unique
from fractions import Fraction

from farthing.ids import TariffId
from farthing.money import Currency


class TariffError(ValueError):
    """A tariff that cannot be priced exactly, and therefore does not exist."""


@unique
class Dimension(StrEnum):
    """What a price component counts (OCPI 2.2.1, 11.4.5 TariffDimensionType; UNIT is ours)."""

    ENERGY = "ENERGY"
    FLAT = "FLAT"
    TIME = "TIME"
    PARKING_TIME = "PARKING_TIME"
    UNIT = "UNIT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One price component: micros per counted unit (Wh, s, register unit; FLAT: per use), exact; steps in that unit."""

    dimension: Dimension
    micros_per_unit: Fraction
    step: int
    rate_ppm: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """Components that hold together, where their restrictions hold."""

    components: tuple[Component, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A least or greatest price of a whole use, in micros: before tax and with it."""

    net_micros: Fraction
    gross_micros: Fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class Tariff:
    """A tariff that can be priced."""

    id: TariffId
    currency: Currency
    tax_included: bool
    elements: tuple[Element, ...]
    min_price: Bound | None
    max_price: Bound | None
