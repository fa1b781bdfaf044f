"""The simulator's own truth about prices, against figures computed by hand."""

import pytest
from simulation.cast import tariff
from simulation.prices import Heard, Point

from farthing.clock import SECOND_US, Instant


def began(name: str = "chg-time") -> Heard:
    return Heard(tariff=tariff(name), unit="Wh", start=7_000, started_at=Instant(0), latest=Instant(0))


def point(value: int, at_s: int, *, closing: bool = False) -> Point:
    return Point(value, Instant(at_s * SECOND_US), closing)


#: What is heard, and the net that is due after each: 0.333333 a kWh, 1.2 an hour in steps of a minute at the end.
HEARD = {
    "time while it moves": ([point(8_000, 600)], [333_333 + 200_000]),
    "all time to the end when no reading was heard": ([point(8_600, 1_230, closing=True)], [533_332 + 420_000]),
    "no time while it stood still": (
        [point(8_000, 600), point(8_000, 1_200), point(8_600, 1_230, closing=True)],
        [333_333 + 200_000, 333_333 + 200_000, 533_332 + 220_000],
    ),
    "no time by a clock that went back, and none twice": (
        [point(8_000, 600), point(8_500, 300), point(8_500, 590), point(8_600, 630, closing=True)],
        [333_333 + 200_000, 499_999 + 200_000, 499_999 + 200_000, 533_332 + 220_000],
    ),
    "nothing for nothing": ([point(7_000, 900), point(7_000, 900, closing=True)], [0, 0]),
}


@pytest.mark.parametrize(("said", "due"), HEARD.values(), ids=HEARD)
def test_what_is_due_follows_from_what_was_heard(said: list[Point], due: list[int]) -> None:
    heard = began()
    assert [heard.hear(each)[0] for each in said] == due


def test_where_only_the_width_counts_no_reading_matters() -> None:
    first, second = began("chg-3"), began("chg-3")
    second.hear(point(7_500, 60))
    end = point(8_000, 600, closing=True)
    assert first.hear(end) == second.hear(end) == (750_000, 150_000)
