"""Ticks at the core: what they prove is billed, whatever is lost, late, repeated or false; and never more."""

import hashlib
import itertools

import pytest
from edge_playbook import TARIFFS
from hypothesis import given, settings
from hypothesis import strategies as st
from signed_uses import Site

from farthing.device.messages import AnswerStatus, Disclaimer
from farthing.evidence import payword
from farthing.refusal import Refusal
from farthing.v1 import directive_pb2
from farthing_edge.authorization import commands, events
from farthing_edge.authorization.witnesses import vouches

SECRET = b"s" * 32
WATER = {
    "id": "water-1",
    "currency": "EUR",
    "elements": [{"price_components": [{"type": "UNIT", "price": 0.02, "vat": 7.0, "step_size": 1}]}],
}


@pytest.fixture(autouse=True, scope="module")
def water() -> None:
    TARIFFS["water-1"] = WATER


def fountain(**changes: int) -> Site:
    """A dispenser: a unit a second at most, a limit for two minutes ahead."""
    return Site(
        **{
            "modulus": 10**6,
            "rated_per_hour": 3_600,
            "report_interval_s": 120,
            "tariff": "water-1",
            "unit": "L",
            **changes,
        }
    )


def start(site: Site, shown: int = 500, secret: bytes = SECRET, *, unit: int = 1, length: int = 1_000):
    use = site.begin(shown)
    assert site.say(site.chain(shown, secret, unit=unit, length=length)).status is AnswerStatus.RECORDED
    return use, payword.words(secret, length)


def test_ticks_are_written_down_one_by_one_and_billed_together() -> None:
    site = fountain()
    use, chain = start(site)
    quiet = 0
    for index in range(1, 200):
        site.wait(1)
        reply = site.tick((index, chain[index]))
        quiet += reply is None
        if reply is not None:
            # A new limit: a record costs many ticks.
            assert (reply.status, reply.ticked, reply.answers) == (AnswerStatus.RECORDED, index, (1, use.chain.counter))
            # It came without a witness: the answer must not take the place of the one that its device has.
            assert not vouches(site.gateway.state, reply)
            assert use.told.limit == 500 + index + 120
    assert quiet > 190
    assert use.value == 699
    assert use.recorded_to < 699
    site.wait(1)
    assert site.end(699).closed
    site.seal()
    claim = site.claims()[use.id]
    assert (claim.register_from, claim.register_to, claim.net_micros) == (500, 699, 199 * 20_000)
    # Every record but the last rests on a tick, and the batch's detail has proven each.
    ticks = [leaf.leaf.tick[0] for leaf in site.proven[0] if leaf.leaf.tick]
    assert ticks == sorted(ticks)
    assert len(ticks) == 199 - quiet


def test_a_tick_costs_no_more_than_what_it_says() -> None:
    site = fountain()
    _, chain = start(site)
    site.wait(5)
    site.tick((1, chain[1]))
    event = site.gateway.journal[-1]
    assert isinstance(event, events.Ticked)
    assert len(events.encode(event)[1]) < 80


def test_lost_ticks_are_proven_by_the_next_and_repeated_ones_change_nothing() -> None:
    site = fountain()
    use, chain = start(site)
    site.wait(50)
    site.tick((40, chain[40]))
    position = site.gateway.state.position
    for index in (40, 39, 1, 40):
        assert site.tick((index, chain[index])) is None
    assert site.gateway.state.position == position
    assert use.value == 540


@pytest.mark.parametrize(
    "shown",
    [
        (5, b"x" * 32),
        (6, payword.word(SECRET, 1_000, 5)),
        (1_001, SECRET),
        (5, payword.word(b"t" * 32, 1_000, 5)),
    ],
)
def test_what_proves_nothing_changes_nothing_and_is_counted(shown: tuple[int, bytes]) -> None:
    site = fountain()
    use, _ = start(site)
    site.wait(50)
    position = site.gateway.state.position
    assert site.tick(shown) is None
    assert site.gateway.last.refused is Refusal.MALFORMED
    assert (site.gateway.state.position, use.value) == (position, 500)


def test_more_than_rated_power_allows_is_not_even_hashed() -> None:
    site = fountain()
    use, chain = start(site)
    site.wait(10)
    site.tick((400, chain[400]))
    assert use.value == 500
    site.tick((9, chain[9]), (400, chain[400]))
    assert use.value == 509


def test_nobody_else_ticks_for_a_device() -> None:
    site = fountain()
    use, chain = start(site)
    site.describe()
    site.gateway.told(device=site.gateway.policy.device("d2", tariff_id="water-1", unit="L"))
    command = commands.TicksArrived(device="d2", authorization=use.id, shown=((1, chain[1]),))
    reply = site.gateway.do(command).reply
    assert (reply.device, reply.refusal, reply.answers) == ("d2", Refusal.AUTHORIZATION_UNKNOWN, None)
    assert use.value == 500


def test_at_the_limit_the_last_tick_is_answered_again_until_it_is_heard() -> None:
    site = fountain()
    use, chain = start(site)
    site.gateway.told(quota_recalled=directive_pb2.QuotaRecalled(quota_id="q1", reason="over"))
    limit = use.told.limit - 500
    for index in range(1, limit + 1):
        site.wait(1)
        last = site.tick((index, chain[index]))
    assert use.told.limit == 500 + limit  # nothing more to hold
    assert last is not None
    again = site.tick((limit, chain[limit]))
    assert (again.status, again.ticked, again.grant_of) == (AnswerStatus.RECORDED, limit, use.id)


def test_a_device_that_lost_its_chain_commits_a_new_one_where_its_register_stands() -> None:
    site = fountain()
    use, chain = start(site)
    site.wait(60)
    site.tick((30, chain[30]))
    site.wait(10)
    # It had gone on to 35 without being heard.
    other = b"o" * 32
    assert site.say(site.chain(535, other, length=50)).status is AnswerStatus.RECORDED
    assert use.value == 535
    # The old chain proves nothing more, be it ever so right.
    assert site.tick((40, chain[40])) is None
    site.wait(60)
    site.tick((20, payword.word(other, 50, 20)))
    assert use.value == 555
    site.wait(10)
    site.end(556)
    site.seal()
    assert site.claims()[use.id].net_micros == 56 * 20_000
    # Below what was proven it commits nothing.
    again, _ = start(site, 556)
    site.wait(60)
    site.tick((30, payword.word(SECRET, 1_000, 30)))
    assert site.say(site.chain(570, other)).refusal is Refusal.REGISTER_WENT_BACK
    assert again.value == 586


def test_a_reading_that_ticks_have_overtaken_is_recorded() -> None:
    site = fountain()
    use, chain = start(site)
    site.wait(30)
    reading = site.device.reading(site.gateway, 520)
    site.tick((28, chain[28]))
    assert site.say(reading).status is AnswerStatus.RECORDED
    assert use.value == 528
    assert site.gateway.state.parked == 0


def test_a_decision_closes_at_the_last_tick() -> None:
    site = fountain()
    use, chain = start(site)
    site.wait(30)
    site.tick((25, chain[25]))
    site.gateway.told(use_closed=directive_pb2.UseClosed(device_id="d1", decision="case 2"))
    site.seal()
    claim = site.claims()[use.id]
    assert (claim.register_to, claim.net_micros, claim.closed_by) == (525, 25 * 20_000, "case 2")
    # It is still said that it is over, to whoever ticks on.
    reply = site.tick((30, chain[30]))
    assert (reply.status, reply.closed) == (AnswerStatus.RECORDED, True)
    assert use.value == 525


def test_a_reading_and_a_chain_of_one_instant_prove_the_ticks_that_follow() -> None:
    site = fountain()
    use = site.begin(500)
    site.wait(30)
    # A device whose clock counts in seconds signs both in one.
    assert site.read(520).status is AnswerStatus.RECORDED
    assert site.say(site.chain(520, SECRET, unit=1, length=1_000)).status is AnswerStatus.RECORDED
    chain = payword.words(SECRET, 1_000)
    site.wait(60)
    assert site.tick((70, chain[70])).ticked == 70
    site.seal()  # its detail proves itself
    assert site.claims()[use.id].register_to == 590


@pytest.mark.parametrize(("after_s", "statements"), [((0,), 2), ((0, 0), 2), ((0, 5), 3), ((0, 5, -5), 3)])
def test_ticks_of_a_chain_name_a_reading_beside_it_only_for_a_later_time(
    after_s: tuple[int, ...], statements: int
) -> None:
    """A device's first reading, in the second of its chain, says the same time: what its ticks bill rests on the chain alone."""
    site = fountain()
    site.begin(500)
    words = payword.words(SECRET, 1_000)
    site.wait(30)
    assert site.say(site.chain(500, SECRET)).status is AnswerStatus.RECORDED
    signed_at = site.gateway.at
    for seconds in after_s:
        site.wait(seconds)
        assert site.read(500).status is AnswerStatus.RECORDED
    site.wait(60)
    assert site.tick((70, words[70])).ticked == 70
    site.seal()  # its detail proves itself
    ((proven,),) = site.proven
    assert (proven.leaf.register_to, len(proven.leaf.statements)) == (570, statements)
    assert proven.leaf.at == signed_at + max(itertools.accumulate(after_s)) * 1_000_000


def test_who_disclaims_a_use_has_used_what_its_ticks_prove() -> None:
    site = fountain()
    use, chain = start(site)
    site.wait(30)
    assert site.tick((25, chain[25])) is None  # proven, and not billed yet
    assert use.net_micros == 0
    disclaimer = Disclaimer(**site.device.head(site.gateway), authorization=use.id)
    assert site.say(disclaimer).closed
    site.seal()
    claim = site.claims()[use.id]
    assert (claim.register_to, claim.net_micros, claim.final) == (525, 25 * 20_000, True)
    assert site.gateway.state.quotas["q1"].held_micros == 0
    assert site.gateway.replayed().quotas["q1"].spent_micros == site.gateway.state.quotas["q1"].spent_micros


def test_a_gateway_that_starts_again_goes_on_with_the_same_chain() -> None:
    site = fountain()
    use, chain = start(site)
    site.wait(90)
    site.tick((80, chain[80]))
    site.wait(10)
    site.tick((85, chain[85]))
    site.gateway.state = site.gateway.replayed()
    after = site.gateway.state.authorizations[use.id]
    assert (after.chain.index, after.chain.word, after.value) == (85, chain[85], use.value)
    site.wait(10)
    site.tick((90, chain[90]))
    site.wait(1)
    assert site.end(590).closed
    site.seal()
    assert site.claims()[use.id].net_micros == 90 * 20_000


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(1, 30)), min_size=1, max_size=12),
    st.integers(1, 9),
    st.randoms(use_true_random=False),
)
def test_billed_is_what_the_register_says_and_never_more(legs, unit, rng) -> None:
    """Ticks lost, late, repeated, reordered, false, restarts of either side: conservation, step by step."""
    site = fountain(rated_per_hour=3_600 * unit, report_interval_s=60)
    # Not from ``rng``, which likes zeros: two secrets are never the same, and nobody guesses one.
    fresh = (hashlib.sha256(number.to_bytes(4, "big")).digest() for number in itertools.count())
    secret, length = next(fresh), 40
    use, chain = start(site, 700, secret, unit=unit, length=length)
    shown, index, base = 700, 0, 700
    under_way: list[tuple[int, bytes]] = []
    for ticks, seconds in legs:
        site.wait(max(seconds, ticks))
        for _ in range(ticks):
            if index == length or rng.random() < 0.02:
                # Used up, or lost with its memory: a new one from where the register stands; none of its ticks is heard before it.
                secret, base, index = next(fresh), shown, 0
                chain = payword.words(secret, length)
                assert site.say(site.chain(shown, secret, unit=unit, length=length)).status is AnswerStatus.RECORDED
                assert use.value == shown
            index += 1
            shown = base + index * unit
            under_way.append((index, chain[index]))
        lost = rng.random() < 0.2
        batch = [tick for tick in under_way if rng.random() < 0.7] + [
            (rng.randint(1, length), b"no word of any chain".ljust(32))
        ]
        rng.shuffle(batch)
        if not lost:
            site.tick(*batch[:60])
        under_way = under_way[-20:]
        # Never more than the register has counted.
        assert use.value <= shown
        assert use.net_micros <= (shown - 700) * 20_000
        if rng.random() < 0.15:
            site.gateway.state = site.gateway.replayed()
            use = site.gateway.state.authorizations[use.id]
        if rng.random() < 0.2:
            site.seal()
    site.wait(1)
    assert site.end(shown).closed
    site.seal()
    claim = site.claims()[use.id]
    assert (claim.register_from, claim.register_to, claim.net_micros) == (700, shown, (shown - 700) * 20_000)
    assert site.gateway.state.quotas["q1"].held_micros == 0


def test_ticks_go_on_when_a_clock_that_stood_ahead_is_put_right() -> None:
    site = fountain()
    use, chain = start(site)
    site.wait(3_600)
    site.tick((1, chain[1]))
    site.step(-3_600)
    for index in range(2, 600):
        site.wait(1)
        site.tick((index, chain[index]))
    assert use.chain.index == 599
    # Time that has passed by nobody's clock makes room for nothing.
    site.step(-3_600)
    site.tick((999, chain[999]))
    assert use.chain.index == 599
