"""A tariff, as the operator wrote it and as it was compiled for pricing.

Rule 1: what cannot be priced exactly does not become a ``Tariff``.
Rule 2: everything that can be worked out before a use is known is worked out here, once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum, unique
from fractions import Fraction

from farthing.clock import Instant
from farthing.ids import TariffId
from farthing.money import Currency
from farthing.tariff.restricting import UNRESTRICTED, Reservation, Restrictions
from farthing.tariff.timetable import Timetable


@unique
class Dimension(StrEnum):
    """What a price component counts (OCPI 2.2.1, section 11.5 TariffDimensionType; UNIT is ours)."""

    FLAT = "FLAT"
    ENERGY = "ENERGY"
    TIME = "TIME"
    PARKING_TIME = "PARKING_TIME"
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
    """Components that hold together, while their restrictions do.

    Of each dimension the first element that has it and holds counts (OCPI 2.2.1, section 11.3).
    """

    components: tuple[Component, ...]
    restrictions: Restrictions = UNRESTRICTED


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

    amount = (flat + per_unit × units) / denominator micros.
    """

    rate_ppm: int
    denominator: int
    flat: int
    per_unit: int
    #: What is due at this rate once the greatest price of the whole use is reached; None without one.
    cap: Amount | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Least:
    """The least closing price. With one tax rate ``fixed`` is all of it; with several, ``bound`` says what the sums have to reach."""

    bound: Bound
    fixed: Amount | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What holds whatever is used: the greatest and the least price of a whole use."""

    #: As the operator wrote it; None without one.
    most: Bound | None
    #: From here on the greatest price holds as a constant, where nothing is restricted; None without one.
    cap_net_micros: int | None
    cap_gross_micros: int | None
    #: Never less than this at closing.
    least: Least | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How uses of one measure are priced where nothing is restricted: from their width alone."""

    rates: tuple[RatePlan, ...]
    tax_included: bool
    #: The register's quantity is rounded up to a multiple of this at closing.
    unit_step: int
    limits: Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One price component of a plan that places: what falls to it is counted in units, in µs, or once."""

    dimension: Dimension
    #: Index of its tax rate in the plan's ``rates``.
    rate: int
    #: Price of one unit, µs or use, as a numerator over its rate's denominator.
    price: int
    #: The same in micros, with tax.
    gross_micros: Fraction
    #: In units or µs.
    step: int
    #: The element it stands in, as a bit.
    row: int
    reservation: Reservation | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotRate:
    """One tax rate of a plan that places; ``cap`` as in ``RatePlan``."""

    rate_ppm: int
    denominator: int
    cap: Amount | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedPlan:
    """How uses of one measure are priced where it matters when, how fast or after how much something was used."""

    rates: tuple[SlotRate, ...]
    slots: tuple[Slot, ...]
    tax_included: bool
    #: What the register counts: ENERGY, UNIT, or TIME for one that counts seconds.
    counted: Dimension
    #: The step of the first component that counts it; others may have others.
    unit_step: int
    #: One for each element, in order.
    rows: tuple[Restrictions, ...]
    #: Indices of slots by dimension, those of reservations apart, in the order of the elements.
    by_dimension: Mapping[Dimension, tuple[int, ...]]
    by_reservation: Mapping[Dimension, tuple[int, ...]]
    #: Units from the start and seconds from the start at which an element begins or ends to hold, ascending.
    unit_bounds: tuple[int, ...]
    duration_bounds_s: tuple[int, ...]
    #: Whether the site's time zone is needed.
    by_calendar: bool
    #: Without restrictions a greatest price, once reached, is one constant.
    is_restricted: bool
    limits: Limits
    #: Worked out when first asked for, by time zone: a gateway has one site, IANA has 600 names.
    timetables: dict[str, Timetable] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tariff:
    """A tariff that can be priced. ``plans`` has the measures that it fits, ``unfit`` says of the others why it does not."""

    id: TariffId
    currency: Currency
    tax_included: bool
    elements: tuple[Element, ...]
    min_price: Bound | None
    max_price: Bound | None
    #: In force from here on (included) up to there (not included); None is open.
    valid_from: Instant | None
    valid_until: Instant | None
    plans: Mapping[Measure, Plan | PlacedPlan] = field(repr=False, compare=False)
    unfit: Mapping[Measure, str] = field(repr=False, compare=False)

    def fits(self, unit: str) -> bool:
        """Whether uses of a register that counts ``unit`` can be priced."""
        return measure_of(unit) in self.plans

    def fits_at_once(self, unit: str) -> bool:
        """Whether a use that is over in the moment in which it begins can be priced: no time passes in it, so what only costs by time costs nothing."""
        counted = COUNTED[measure_of(unit)]
        return self.fits(unit) and (
            self.min_price is not None
            or any(
                component.dimension in (Dimension.FLAT, counted)
                for element in self.elements
                if element.restrictions.reservation is None
                for component in element.components
            )
        )

    def why_not(self, unit: str) -> str:
        """Why uses of a register that counts ``unit`` cannot be priced; empty where they can."""
        return self.unfit.get(measure_of(unit), "")

    def is_in_force(self, at: Instant) -> bool:
        """Whether a use may begin at ``at``. One that has begun keeps its version."""
        return (self.valid_from is None or at >= self.valid_from) and (
            self.valid_until is None or at < self.valid_until
        )


def measure_of(unit: str) -> Measure:
    """What a register that counts ``unit`` feeds: "Wh" energy, "s" time, everything else units."""
    return _MEASURES.get(unit, Measure.UNIT)


_MEASURES = {"Wh": Measure.ENERGY, "s": Measure.TIME}
#: The component that prices what is counted.
COUNTED = {Measure.ENERGY: Dimension.ENERGY, Measure.TIME: Dimension.TIME, Measure.UNIT: Dimension.UNIT}
