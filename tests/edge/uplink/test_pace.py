"""The cap on what goes up: a bucket over bytes, with time given; batches before detail, never more than the cap in the long run."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing_edge.uplink.pace import OVERHEAD_BYTES, Bucket, Progress

SECOND = 10**9
RATE = 1_000


def bucket() -> Bucket:
    return Bucket(bytes_per_s=RATE, now_ns=0)


def test_a_seconds_worth_goes_at_once_and_what_is_owed_is_waited_for() -> None:
    of = bucket()
    assert of.batch(3_000 - OVERHEAD_BYTES, 0) == 0  # more than there is, and nobody is held back for it
    assert of.batch(1, 0) == 2 * SECOND + 1
    assert of.batch(1, 2 * SECOND) == 1
    assert of.batch(1, 2 * SECOND + 1) == 0


def test_detail_saves_up_and_a_batch_takes_what_was_saved() -> None:
    of = bucket()
    size = 10_000 - OVERHEAD_BYTES
    assert of.detail(size, 0) == 9 * SECOND
    assert of.detail(size, 8 * SECOND) == SECOND
    # A batch comes: it goes, and detail waits for as much longer.
    assert of.batch(2_000 - OVERHEAD_BYTES, 8 * SECOND) == 0
    assert of.detail(size, 9 * SECOND) == 2 * SECOND
    assert of.detail(size, 11 * SECOND) == 0
    # It owes nothing, and nothing is left.
    assert of.batch(1, 11 * SECOND) == 1


def test_a_pause_gives_no_more_than_a_second_and_what_is_said_at_once_is_counted() -> None:
    of = bucket()
    of.take_now(1_500 - OVERHEAD_BYTES, 0)
    assert of.batch(1, 0) == SECOND // 2 + 1
    assert of.batch(1_000 - OVERHEAD_BYTES, 100 * SECOND) == 0
    assert of.batch(1, 100 * SECOND) == 1


@pytest.mark.parametrize("at", [5 * SECOND, 0])
def test_a_clock_that_goes_back_gives_nothing(at: int) -> None:
    of = bucket()
    assert of.batch(1_000 - OVERHEAD_BYTES, 5 * SECOND) == 0
    assert of.batch(1, at) == 1


@given(
    st.integers(1_000, 10**8),
    st.lists(st.tuples(st.sampled_from(["batch", "detail", "now"]), st.integers(0, 300_000)), min_size=1, max_size=40),
)
def test_no_order_of_wishes_exceeds_the_cap(rate: int, wishes: list[tuple[str, int]]) -> None:
    of = Bucket(bytes_per_s=rate, now_ns=0)
    now, sent, largest = 0, 0, 0
    for kind, size in wishes:
        if kind == "now":
            of.take_now(size, now)
        else:
            ask = of.batch if kind == "batch" else of.detail
            waited = 0
            while wait := ask(size, now):
                now += wait
                waited += 1
            # Nobody else is asking: one wait is enough.
            assert waited <= 1
            if kind == "detail":
                # It has saved up, for what went before too.
                assert (sent + size + OVERHEAD_BYTES) * SECOND <= rate * (now + SECOND) + len(wishes) * rate
        sent += size + OVERHEAD_BYTES
        largest = max(largest, size + OVERHEAD_BYTES)
    owed = sum(size + OVERHEAD_BYTES for kind, size in wishes if kind == "now")
    assert sent * SECOND <= rate * (now + SECOND) + (largest + owed) * SECOND


def test_the_end_of_a_backlog_is_estimated_from_the_last_minute() -> None:
    progress = Progress()
    assert progress.drains_in_s(0, 0) == 0
    assert progress.drains_in_s(5, 0) == math.inf
    progress.began(0)
    assert (progress.drains_in_s(5, SECOND), progress.bytes_of(5)) == (math.inf, 0)
    for second in range(1, 101):
        progress.receipted(2, 500, second * SECOND)
    assert progress.bytes_of(8) == 2_000
    assert progress.drains_in_s(60, 100 * SECOND) == pytest.approx(30, rel=0.05)
    # It stands: the estimate grows.
    assert progress.drains_in_s(60, 160 * SECOND) > 50
    progress.began(200 * SECOND)
    assert progress.drains_in_s(60, 201 * SECOND) == math.inf
