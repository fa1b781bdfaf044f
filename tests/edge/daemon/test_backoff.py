"""Waits grow up to a cap and never come in step."""

from farthing_edge.backoff import Backoff


def test_it_doubles_up_to_the_cap_and_starts_again() -> None:
    backoff = Backoff(least_s=1, most_s=5, chance=lambda: 1.0)
    assert [backoff.next_s() for _ in range(5)] == [1, 2, 4, 5, 5]
    backoff.reset()
    assert backoff.next_s() == 1


def test_half_of_a_wait_is_by_chance() -> None:
    assert Backoff(least_s=1, most_s=5, chance=lambda: 0.0).next_s() == 0.5
