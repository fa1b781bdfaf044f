"""A tariff, as the operator wrote it and as it was compiled for pricing.

Rule 1: what cannot be priced exactly does not become a ``Tariff``.
Rule 2: everything that can be worked out before a use is known is worked out here, once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum, unique
from fractions import Fraction

from farthing.ids import TariffId
from farthing.money import Currency


class TariffError(ValueError):
    """A tariff, or a use of it, that cannot be priced exactly: it has no price, which is not a price of 0."""


@unique
class Dimension(StrEnum):
    """What a price component counts (OCPI 2.2.1, section 11.5 TariffDimensionType; UNIT is ours).

    PARKING_TIME is not here: one register does not tell charging from parking.
    """

    FLAT = "FLAT"
    ENERGY = "ENERGY"
    TIME = "TIME"
    UNIT = "UNIT"


@unique
class Measure(StrEnum):
    """What a register's unit feeds."""

    ENERGY = "Wh"
    TIME = "s"
    UNIT = "any other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One price component.

    ``micros`` per Wh, second or register unit (FLAT: per use), exact; ``step`` in that unit; before tax, or with it where the
    tariff says so.
    """

    dimension: Dimension
    micros: Fraction
    step: int
    rate_ppm: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """Components that hold together. Of each dimension the first element that has it counts (OCPI 2.2.1, section 11.3)."""

    components: tuple[Component, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A least or greatest price of a whole use; None where the operator set none on that side."""

    net_micros: int | None
    gross_micros: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """Net and tax."""

    net_micros: int
    tax_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RatePlan:
    """All that is due at one tax rate, as integers over one denominator.

    amount = (flat + per_unit × units + per_us × microseconds) / denominator micros.
    """

    rate_ppm: int
    denominator: int
    flat: int
    per_unit: int
    per_us: int
    #: What is due at this rate once the greatest price of the whole use is reached; None without one.
    cap: Amount | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How uses of one measure are priced."""

    rates: tuple[RatePlan, ...]
    tax_included: bool
    #: The register's quantity is rounded up to a multiple of this at closing.
    unit_step: int
    #: So is the time between the boundary statements, in µs.
    time_step_us: int
    #: From here on the greatest price holds; None without one.
    cap_net_micros: int | None
    cap_gross_micros: int | None
    #: Never less than this at closing; only with a single tax rate.
    minimum: Amount | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tariff:
    """A tariff that can be priced. ``plans`` has the measures that it fits."""

    id: TariffId
    currency: Currency
    tax_included: bool
    elements: tuple[Element, ...]
    min_price: Bound | None
    max_price: Bound | None
    plans: Mapping[Measure, Plan] = field(repr=False, compare=False)

    def fits(self, unit: str) -> bool:
        """Whether uses of a register that counts ``unit`` can be priced."""
        return measure_of(unit) in self.plans


def measure_of(unit: str) -> Measure:
    """What a register that counts ``unit`` feeds: "Wh" energy, "s" time, everything else units."""
    return _MEASURES.get(unit, Measure.UNIT)


_MEASURES = {"Wh": Measure.ENERGY, "s": Measure.TIME}
