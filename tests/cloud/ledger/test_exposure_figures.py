"""Maximum loss now, and demand: the formulas against what they stand for, spelled out one micro at a time."""

from collections import deque
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from farthing.clock import Instant
from farthing.ids import GatewayId, OperatorId, SiteId
from farthing.money import MAX_AMOUNT_MICROS, Currency
from farthing_cloud.ledger import measure_exposure
from farthing_cloud.ledger.core.demand import HALF_LIFE_US, decayed, spent
from farthing_cloud.ledger.core.exposure import Loss, loss_of, total
from farthing_cloud.ledger.core.rows import Demand, Gateway

NOW = Instant(1_000_000)
HEARD = Gateway(
    gateway_id=GatewayId("G1"),
    operator_id=OperatorId("op"),
    site_id=SiteId("S1"),
    currency=Currency("EUR"),
    exposure_micros=0,
    beyond_micros=0,
    floor_micros=0,
    incarnation=1,
    adopted=True,
    quarantined=False,
    directive_version=1,
    directive_hash=bytes(32),
    time_zone="UTC",
    batch_key=b"",
    grant_key=b"",
    witness_start_id=b"s" * 16,
    witness_position=1,
    contact_at=NOW,
)


def worst(*, exposure: int, held: int, floor: int, billed: int, ours: bool) -> int:
    """The most that can still be lost, found by trying: every micro is a step, from every state that can be reached.

    A stolen gateway spends what it holds, gives its floor away, and bills beyond both as long as all of it together is below the exposure. What a
    gateway spends whose journal we have witnessed is covered: its payers' money was held for it.
    """
    best = 0
    states = deque([(0, 0, 0)])
    seen = {(0, 0, 0)}
    while states:
        spent_held, given, beyond = states.popleft()
        lost = billed + given + beyond + (0 if ours else spent_held)
        best = max(best, lost)
        steps = []
        if spent_held < held:
            steps.append((spent_held + 1, given, beyond))
        if given < floor:
            steps.append((spent_held, given + 1, beyond))
        if held + floor + billed + beyond < exposure:
            steps.append((spent_held, given, beyond + 1))
        for step in steps:
            if step not in seen:
                seen.add(step)
                states.append(step)
    return best


small = st.integers(0, 7)


@given(exposure=st.integers(0, 24), held=small, floor=small, billed=small, ours=st.booleans())
@example(exposure=3, held=7, floor=2, billed=1, ours=False)  # an exposure that was lowered
def test_the_figure_is_the_worst_that_can_be_reached(
    exposure: int, held: int, floor: int, billed: int, ours: bool
) -> None:
    gateway = replace(HEARD, exposure_micros=exposure, floor_micros=floor, beyond_micros=billed)
    if not ours:
        gateway = replace(gateway, contact_at=Instant(NOW - 11))
    loss = loss_of(gateway, open_micros=held, silent_us=10, now=NOW)
    assert loss.maximum_micros == worst(exposure=exposure, held=held, floor=floor, billed=billed, ours=ours)
    # In one expression, as the ledger's SQL has it.
    assert loss.maximum_micros == max(exposure, held + floor + billed) - (held if ours else 0)


@pytest.mark.parametrize(
    "change",
    [
        {"contact_at": Instant(NOW - 11)},
        {"adopted": False},
        {"witness_start_id": b""},
        {"quarantined": True},
        {"waits_because": "its journal is lost"},
    ],
)
def test_what_a_gateway_holds_counts_while_nobody_vouches_for_it(change: dict[str, object]) -> None:
    gateway = replace(HEARD, exposure_micros=20)
    assert loss_of(gateway, open_micros=5, silent_us=10, now=NOW).quotas_micros == 0
    changed = replace(gateway, **change)  # type: ignore[arg-type]  # a table of fields
    loss = loss_of(changed, open_micros=5, silent_us=10, now=NOW)
    assert (loss.quotas_micros, loss.maximum_micros) == (5, 20)
    assert (loss.silent, loss.unwitnessed) == ((1, 0) if "contact_at" in change else (0, 1))


@given(st.lists(st.tuples(small, small, small, st.booleans()), max_size=6))
def test_losses_of_gateways_add_up(gateways: list[tuple[int, int, int, bool]]) -> None:
    losses = [
        loss_of(
            replace(HEARD, exposure_micros=9, floor_micros=floor, beyond_micros=billed, adopted=adopted),
            open_micros=held,
            silent_us=10,
            now=NOW,
        )
        for held, floor, billed, adopted in gateways
    ]
    assert total(losses).maximum_micros == sum(loss.maximum_micros for loss in losses)
    assert total([]) == Loss()


# --- demand -----------------------------------------------------------------------------------------------------------

instants = st.integers(0, 50 * HALF_LIFE_US)


@given(micros=st.integers(0, MAX_AMOUNT_MICROS), times=st.lists(instants, min_size=2, max_size=2))
def test_demand_halves_with_its_half_life_and_never_grows_by_itself(micros: int, times: list[int]) -> None:
    sooner, later = sorted(times)
    demand = Demand(micros=micros, at=Instant(0))
    assert 0 <= decayed(demand, now=Instant(later)) <= decayed(demand, now=Instant(sooner)) <= micros
    assert decayed(demand, now=Instant(0)) == micros
    assert decayed(demand, now=Instant(sooner + HALF_LIFE_US)) in (
        decayed(demand, now=Instant(sooner)) // 2,
        decayed(demand, now=Instant(sooner)) // 2 + 1,
    )


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, HALF_LIFE_US)), max_size=20))
def test_demand_is_at_most_what_was_spent_and_close_to_the_exact_sum(spending: list[tuple[int, int]]) -> None:
    demand, now = None, 0
    spent_at: list[tuple[int, int]] = []
    for micros, wait in spending:
        now += wait
        demand = spent(demand, micros, now=Instant(now))
        spent_at.append((micros, now))
    assert decayed(demand, now=Instant(now)) <= sum(micros for micros, _ in spent_at)
    exact = sum(micros * 0.5 ** ((now - at) / HALF_LIFE_US) for micros, at in spent_at)
    # A straight line instead of a curve: at most 6.1 % above it in a half-life, and each step floors one micro.
    steps = 1.062 ** len(spending)
    assert exact - 2 * len(spending) - 1 <= decayed(demand, now=Instant(now)) <= exact * steps + 1


def test_a_clock_that_went_back_takes_nothing_off() -> None:
    demand = Demand(micros=100, at=Instant(10))
    assert decayed(demand, now=Instant(5)) == 100
    assert spent(demand, 7, now=Instant(5)) == Demand(micros=107, at=Instant(10))
    assert decayed(None, now=Instant(5)) == 0
    assert spent(Demand(micros=MAX_AMOUNT_MICROS, at=NOW), 1, now=NOW).micros == MAX_AMOUNT_MICROS


# --- metrics ----------------------------------------------------------------------------------------------------------


def test_the_figures_are_measured_for_each_gateway_and_forgotten_with_it() -> None:
    def value(name: str, **labels: str) -> float | None:
        return REGISTRY.get_sample_value(name, {"operator": "op", **labels})

    loss = "farthing_ledger_maximum_loss_micros"
    here = {"site": "S1", "gateway": "G1", "currency": "EUR"}
    waiting = replace(HEARD, exposure_micros=20, floor_micros=3, late_micros=4, waits_because="no journal")
    measure_exposure([(waiting, 5)], silent_us=10, now=NOW)
    assert [value(loss, **here, part=part) for part in ("quotas", "floors", "overrun")] == [5, 3, 12]
    assert value("farthing_ledger_late_micros", **here) == 4
    assert value("farthing_ledger_gateways_waiting") == 1
    measure_exposure([], silent_us=10, now=NOW)
    assert value(loss, **here, part="quotas") is None
