"""GCRA: what conforms, what does not, and that one peer's rate is nobody else's."""

from hypothesis import given
from hypothesis import strategies as st

from farthing.refusal import Refusal
from farthing_edge.ingress.guard import PeerRates, RubbishRing

SECOND_NS = 1_000_000_000


def test_a_burst_passes_then_the_rate_holds() -> None:
    rates = PeerRates(rate_per_s=10, burst=3, peers=8)
    assert [rates.admit("a", now_ns=0) for _ in range(4)] == [0, 0, 0, SECOND_NS // 10]
    assert rates.admit("a", now_ns=SECOND_NS // 10) == 0
    assert rates.admit("b", now_ns=0) == 0


def test_what_is_told_to_wait_passes_after_that_wait() -> None:
    rates = PeerRates(rate_per_s=3, burst=1, peers=8)
    assert rates.admit("a", now_ns=5) == 0
    wait_ns = rates.admit("a", now_ns=6)
    assert rates.admit("a", now_ns=6 + wait_ns) == 0


@given(st.lists(st.integers(0, SECOND_NS // 4), min_size=1, max_size=200), st.integers(1, 50), st.integers(1, 20))
def test_never_more_than_burst_and_rate_allow(gaps_ns: list[int], rate: int, burst: int) -> None:
    rates = PeerRates(rate_per_s=rate, burst=burst, peers=8)
    now_ns, passed = 0, 0
    for gap_ns in gaps_ns:
        now_ns += gap_ns
        passed += rates.admit("a", now_ns=now_ns) == 0
    assert passed <= burst + now_ns * rate // SECOND_NS + 1


def test_the_peer_unheard_of_longest_is_forgotten() -> None:
    rates = PeerRates(rate_per_s=1, burst=1, peers=2)
    for peer in ("a", "b", "c"):
        rates.admit(peer, now_ns=0)
    assert len(rates) == 2
    assert rates.admit("a", now_ns=1) == 0
    assert rates.admit("c", now_ns=1) > 0


def test_the_ring_keeps_the_last_few_and_no_head_of_a_short_message() -> None:
    ring = RubbishRing(samples=2)
    for n in range(5):
        ring.add(channel="mqtt", peer="m", refusal=Refusal.MALFORMED, payload=bytes([n]) * 100)
    assert [(sample.size, sample.head) for sample in ring.samples()] == [(100, "")] * 2
    ring.add(channel="mqtt", peer="m", refusal=Refusal.MALFORMED, payload=b"\xa1\x01" + bytes(400))
    assert ring.samples()[-1].head == "a101" + "00" * 62
