"""The worked example's day at both gateways, through the real core: tables T1, T2 and T3 to the last micro."""

from collections.abc import Callable
from pathlib import Path

from example_day import Day, rows_under


def test_the_day_of_the_example_at_both_gateways(shared_data: Callable[[str], Path]) -> None:
    text = shared_data("example/EXAMPLE.md").read_text(encoding="utf-8")
    day = Day()
    day.play()
    assert day.t1["G1"] + day.t1["G2"] == rows_under(text, "auth, when")
    assert day.t2 == rows_under(text, "when")
    assert day.t3() == rows_under(text, "batch")


def test_stop_and_close_are_said_in_two_steps() -> None:
    day = Day()
    day.play()
    said = {
        name: [
            ({s.quota_id: s.still_held_micros for s in batch.stopped}, list(batch.closed_quota_ids))
            for batch in batches
        ]
        for name, batches in day.batches.items()
    }
    assert said["G1"] == [({}, []), ({}, ["q1"]), ({}, ["q3"])]
    assert said["G2"] == [({}, []), ({"q2": 78_000}, []), ({}, ["q2"])]


def test_replay_of_the_journal_gives_the_same_state() -> None:
    day = Day()
    day.play()
    for gateway in day.gateways.values():
        again = gateway.replayed()
        assert again.position == gateway.state.position
        assert again.batch_hash == gateway.state.batch_hash
        assert {q.id: (q.spent_micros, q.held_micros) for q in again.quotas.values()} == {
            q.id: (q.spent_micros, q.held_micros) for q in gateway.state.quotas.values()
        }
        assert again.floor == gateway.state.floor
