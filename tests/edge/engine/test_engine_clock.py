"""A wall clock that is stepped under a running engine, and between two of its starts, on a real journal."""

from contextlib import closing
from dataclasses import replace

from edge_playbook import M, Meter, clock, until
from engine_site import Here, Site, said

from farthing.clock import STEP_US
from farthing.refusal import Refusal
from farthing_edge.authorization import commands
from farthing_edge.authorization.events import ClockStepped, Event, Started, decode
from farthing_edge.engine.view import ClockView
from farthing_edge.gateway import clock_faults
from farthing_edge.journal.store import checked_entries, read_anchor
from farthing_edge.metrics import Metrics

HOUR_US = 3_600_000_000


def journaled(bench, kind: type[Event]) -> list[tuple[int, Event]]:
    """(written at, event) of one kind, in the journal's order."""
    with closing(bench.journal.reader()) as connection:
        anchor = read_anchor(connection)
        entries = checked_entries(connection, anchor.position, anchor.chain, bench.journal.position)
        found = [(entry.at_us, decode(entry.kind, entry.body)) for entry, _ in entries]
    return [(at, event) for at, event in found if isinstance(event, kind)]


async def test_a_step_is_followed_before_anything_is_decided_by_it(bench) -> None:
    meter = Meter("c1", 0)
    async with bench.running() as engine:
        await Site(engine).open(quota=10 * M)
        assert engine.view.clock.trusted
        before = engine.now()
        bench.hand.synchronised = False
        bench.hand.stepped_ns = HOUR_US * 1_000
        # The quota is to be spent until 20:00: by the stepped clock it is 10:00, and the answer rests on that.
        answer = await engine.submit(said(meter.intent(Here()), "card"))
        assert answer.refusal is None
        ((at, step),) = journaled(bench, ClockStepped)
        assert (at, step.step_us, step.trusted) == (before + HOUR_US, HOUR_US, False)
        assert engine.now() == before + HOUR_US
        assert engine.view.clock.steps == 1
        # What only slews is no step.
        bench.hand.stepped_ns += STEP_US * 1_000
        await engine.submit(commands.UplinkChanged(online=True))
        assert len(journaled(bench, ClockStepped)) == 1
        bench.hand.stepped_ns = 0
        bench.hand.synchronised = True
        await until(lambda: engine.view.clock.steps == 2 and engine.view.clock.trusted)


async def test_a_clock_that_was_set_back_while_nobody_ran_gives_no_deadline_more_time(bench) -> None:
    async with bench.running() as engine:
        await Site(engine).open(quota=10 * M)
        bench.hand.ns = 12 * HOUR_US * 1_000
        await engine.submit(commands.HeadArrived(version=engine.view.directive_version, at=clock("21:00")))
    bench.hand.synchronised = False
    bench.hand.stepped_ns = -12 * HOUR_US * 1_000
    async with bench.running() as engine:
        assert not engine.view.clock.trusted
        assert engine.view.clock.behind_s == 12 * 3_600
        answer = await engine.submit(said(Meter("c1", 0).intent(Here()), "card"))
        assert answer.refusal in (Refusal.QUOTA_EXHAUSTED, Refusal.NO_QUOTA)
        started = [event for _, event in journaled(bench, Started)]
        assert [event.step_us for event in started] == [0, -12 * HOUR_US]


def test_people_are_told_what_is_wrong_with_the_clock() -> None:
    right = ClockView(trusted=True, behind_s=0, steps=3, last_step_s=-1.5, doubted_s=0)
    assert clock_faults(right) == []
    (untrusted,) = clock_faults(replace(right, trusted=False))
    assert "behind" not in untrusted
    (behind,) = clock_faults(replace(right, trusted=False, behind_s=90))
    assert "90 s behind" in behind
    (doubted,) = clock_faults(replace(right, doubted_s=100_000))
    assert "100000 s ahead" in doubted
    metrics = Metrics()
    metrics.clock(replace(right, trusted=False, behind_s=90))
    page = metrics.page().decode()
    for line in ("clock_trusted 0.0", "clock_behind_seconds 90.0", "clock_steps 3.0"):
        assert f"farthing_edge_{line}" in page
