"""Whatever devices and the cloud say in whatever order: no quota is overspent, every use is billed once and exactly."""

from dataclasses import replace

from edge_playbook import Gateway, M, Meter, Policy, clock, fund
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.clock import SECOND_US, Instant
from farthing.device.messages import AnswerStatus
from farthing.evidence import merkle
from farthing.money import cut
from farthing.refusal import Refusal
from farthing.tariff import Part, Use, parse, price
from farthing.v1 import batch_pb2, directive_pb2
from farthing_edge.authorization.state import FLOOR_FUNDING, OVERRUN_FUNDING, Quota
from farthing_edge.metering.detail import Placed, leaves_of_entries
from farthing_edge.metering.funding import Purse, bill, hold
from farthing_edge.metering.funding import due as what_is_due

NOW = clock("10:00")


def quota(name: str, amount: int, *, held: int, stopped: bool) -> Quota:
    made = Quota(
        quota_id=name,
        account_id="P",
        currency="EUR",
        amount_micros=amount,
        spend_until=Instant(NOW + 1),
        report_until=Instant(NOW + 2),
        incarnation=1,
    )
    made.held_micros, made.stopped = held, stopped
    return made


@st.composite
def purses(draw) -> Purse:
    quotas, holds = [], {}
    for number in range(draw(st.integers(0, 4))):
        amount = draw(st.integers(0, 3_000))
        own = draw(st.integers(0, amount))
        others = draw(st.integers(0, amount - own))
        made = quota(f"q{number}", amount, held=own + others, stopped=draw(st.booleans()))
        quotas.append(made)
        if own:
            holds[made.id] = own
    floor_held = draw(st.integers(0, 500))
    if floor_held:
        holds[FLOOR_FUNDING] = floor_held
    return Purse(quotas, holds, draw(st.integers(0, 1_000)))


parts = st.lists(st.tuples(st.integers(0, 4_000), st.integers(0, 900)), min_size=1, max_size=2).map(
    lambda rows: tuple(Part(70_000 * (i + 1), n, t) for i, (n, t) in enumerate(rows))
)


@given(purse=purses(), due=parts)
def test_charges_sum_to_what_is_due_and_never_exceed_a_source(purse: Purse, due: tuple[Part, ...]) -> None:
    charges = bill(purse, due, NOW)
    for part in due:
        mine = [charge for charge in charges if charge.rate_ppm == part.rate_ppm]
        assert sum(charge.net_micros for charge in mine) == part.net_micros
        assert sum(charge.tax_micros for charge in mine) == part.tax_micros
    paid: dict[str, int] = {}
    for charge in charges:
        assert charge.net_micros >= 0
        assert charge.tax_micros >= 0
        paid[charge.funding] = paid.get(charge.funding, 0) + charge.net_micros + charge.tax_micros
    room = 0
    for source in purse.quotas:
        most = purse.holds.get(source.id, 0) + source.usable_micros(NOW)
        assert paid.get(source.id, 0) <= most
        room += most
    floor = purse.floor_room_micros + purse.holds.get(FLOOR_FUNDING, 0)
    assert paid.get(FLOOR_FUNDING, 0) <= floor
    # Overrun only when everything else is used up.
    if paid.get(OVERRUN_FUNDING, 0):
        assert sum(paid.values()) - paid[OVERRUN_FUNDING] == room + floor


@given(purse=purses(), due=parts, need=st.integers(-5, 6_000), floor=st.booleans())
def test_a_hold_fits_into_what_is_left_and_stopped_quotas_only_shrink(
    purse: Purse, due: tuple[Part, ...], need: int, floor: bool
) -> None:
    charges = bill(purse, due, NOW)
    held = hold(purse, charges, need, NOW, floor=floor)
    assert sum(amount for _, amount in held.parts) + held.missing_micros == max(0, need)
    paid: dict[str, int] = {}
    for charge in charges:
        paid[charge.funding] = paid.get(charge.funding, 0) + charge.net_micros + charge.tax_micros
    for source in purse.quotas:
        own, now = purse.holds.get(source.id, 0), dict(held.parts).get(source.id, 0)
        assert source.spent_micros + paid.get(source.id, 0) + source.held_micros - own + now <= source.amount_micros
        if source.stopped:
            assert now <= max(0, own - paid.get(source.id, 0))
    assert floor or FLOOR_FUNDING not in dict(held.parts)


@given(net=st.integers(0, 10**9), tax=st.integers(0, 10**8), amount=st.integers(0, 10**9))
def test_a_cut_and_its_rest_are_the_whole(net: int, tax: int, amount: int) -> None:
    amount = min(amount, net + tax)
    part = cut(net, tax, amount)
    assert sum(part) == amount
    assert 0 <= part[0] <= net
    assert 0 <= part[1] <= tax


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("use"), st.integers(0, 2), st.integers(0, 3_000), st.integers(0, 1_200)),
        st.tuples(st.just("end"), st.integers(0, 2), st.integers(0, 500), st.integers(0, 600)),
        st.tuples(st.just("again"), st.integers(0, 30), st.just(0), st.just(0)),
        st.tuples(st.just("quota"), st.integers(1, 5), st.integers(1, 300), st.just(0)),
        st.tuples(st.just("recall"), st.integers(0, 5), st.just(0), st.just(0)),
        st.tuples(st.just("seal"), st.just(0), st.just(0), st.just(0)),
    ),
    max_size=40,
)


@settings(max_examples=120, deadline=None)
@given(steps=STEPS, stoppable=st.booleans(), floor=st.booleans())
def test_any_conversation_bills_each_use_once_and_exactly(steps, stoppable: bool, floor: bool) -> None:
    gateway = Gateway("G1", "S1", at=NOW)
    gateway.told(tariff=Policy.tariff("chg-3"))
    fund(gateway, "P", "card")
    if floor:
        gateway.told(
            floor=directive_pb2.FloorPolicy(
                currency="EUR", per_token_micros=M, per_account_micros=M, all_tokens_micros=2 * M
            )
        )
    meters = []
    for number in range(3):
        gateway.told(device=Policy.device(f"c{number}", stoppable=stoppable, rated_per_hour=10_000))
        meters.append(Meter(f"c{number}", 100 * number))
    said, batches, quotas = [], [], []
    used: dict[bytes, list] = {}
    for kind, which, amount, seconds in steps:
        gateway.at = Instant(gateway.at + seconds * SECOND_US)
        if kind in ("use", "end"):
            meter = meters[which]
            if meter.authorization is None:
                if kind == "end":
                    continue
                statement, token = meter.intent(gateway), "card"
                reply = gateway.say(statement, token)
                if reply.status is AnswerStatus.GRANTED:
                    meter.authorization = reply.grant_of
                    grant = gateway.grant_of(reply)
                    assert grant.limit > grant.start
                    used[meter.authorization] = [meter.value, statement.at, meter.value, statement.at, False]
                else:
                    assert reply.refusal in {
                        Refusal.NO_QUOTA,
                        Refusal.QUOTA_EXHAUSTED,
                        Refusal.FLOOR_EXHAUSTED,
                    }
            else:
                token = None
                value = meter.value + amount
                # At its rated power: faster nobody would believe.
                gateway.at = Instant(gateway.at + amount * 3600 * SECOND_US // 10_000)
                statement = meter.end(gateway, value) if kind == "end" else meter.reading(gateway, value)
                reply = gateway.say(statement)
                assert reply.status is AnswerStatus.RECORDED
                used[meter.authorization][2:] = [value, statement.at, kind == "end"]
                if kind == "end":
                    meter.authorization = None
            said.append((statement, token, reply))
        elif kind == "again" and said:
            statement, token, first = said[which % len(said)]
            before = gateway.state.position
            reply = gateway.say(statement, token)
            assert gateway.state.position == before
            assert (reply.status, reply.refusal) == (first.status, first.refusal)
            other = gateway.say(replace(statement, at=Instant(statement.at + 1)), token)
            assert other.refusal is Refusal.COUNTER_REUSED
            assert gateway.state.position == before
        elif kind == "quota":
            quotas.append(f"q{len(quotas)}")
            until = Instant(gateway.at + amount * 60 * SECOND_US)
            gateway.told(quota_granted=Policy.quota(quotas[-1], "P", which * 700_000, until))
        elif kind == "recall" and quotas:
            name = quotas[which % len(quotas)]
            gateway.told(quota_recalled=directive_pb2.QuotaRecalled(quota_id=name, reason="test"))
        elif kind == "seal":
            _seal(gateway, batches)
        _check_money(gateway)
    for meter in meters:
        if meter.authorization is not None:
            gateway.at = Instant(gateway.at + SECOND_US)
            statement = meter.end(gateway, meter.value)
            assert gateway.say(statement).closed
            used[meter.authorization][3:] = [statement.at, True]
    for name in quotas:
        gateway.told(quota_recalled=directive_pb2.QuotaRecalled(quota_id=name, reason="over"))
    _seal(gateway, batches)
    assert gateway.state.quotas == {}
    assert gateway.state.floor.total_micros == sum(
        line.net_micros + line.tax_micros for batch in batches for line in batch.lines if line.floor
    )
    _check_claims(used, batches)
    again = gateway.replayed()
    assert (again.position, again.batch_hash, again.sequence) == (
        gateway.state.position,
        gateway.state.batch_hash,
        gateway.state.sequence,
    )


def _seal(gateway: Gateway, batches: list[batch_pb2.Batch]) -> None:
    batch = gateway.seal()
    if batch is None:
        return
    batches.append(batch)
    # What was sealed can be shown again from the journal alone.
    durable = [event for event in gateway.journal if type(event).__name__ not in {"UplinkSeen", "HeadSeen"}]
    leaves = leaves_of_entries(
        (Placed(position, durable[position - 1]) for position in range(batch.first_position, batch.last_position + 1)),
        gateway_id="G1",
        event_at=lambda position: durable[position - 1],
        start_id_at=lambda _: bytes(16),
    )
    assert merkle.root(leaves) == batch.merkle_root
    assert len(leaves) == batch.leaf_count


def _check_money(gateway: Gateway) -> None:
    """P1 at the edge: spent + held never exceeds what was granted, and holds are exactly those of open sessions."""
    held: dict[str, int] = {}
    for authorization in gateway.state.authorizations.values():
        for funding, amount in authorization.holds.items():
            held[funding] = held.get(funding, 0) + amount
    for name, made in gateway.state.quotas.items():
        assert made.spent_micros + made.held_micros <= made.amount_micros
        assert made.held_micros == held.get(name, 0)
    assert gateway.state.floor.total_micros <= M


def _check_claims(used: dict[bytes, list], batches: list[batch_pb2.Batch]) -> None:
    claims, shared = {}, {}
    for batch in batches:
        for claim in batch.claims:
            claims[claim.authorization_id] = claim
            for share in claim.shares:
                before = shared.get(claim.authorization_id, 0)
                shared[claim.authorization_id] = before + share.net_micros + share.tax_micros
        for index, line in enumerate(batch.lines):
            on_line = [share for claim in batch.claims for share in claim.shares if share.line == index]
            assert line.net_micros == sum(share.net_micros for share in on_line)
            assert line.tax_micros == sum(share.tax_micros for share in on_line)
    assert set(claims) == set(used)
    tariff = parse(Policy.tariff("chg-3").ocpi_json)
    for authorization, (start, started_at, end, ended_at, closed) in used.items():
        due = price(
            tariff,
            Use(unit="Wh", start=start, end=end, started_at=started_at, ended_at=ended_at),
            closing=True,
        )
        claim = claims[authorization]
        assert closed
        assert claim.final
        assert (claim.register_from, claim.register_to) == (start, end)
        assert claim.net_micros + claim.tax_micros == shared.get(authorization, 0) == due.gross_micros


BILLED = st.dictionaries(st.sampled_from([70_000, 200_000]), st.tuples(st.integers(0, 9), st.integers(0, 9)))


@given(billed=BILLED, net=st.lists(st.integers(0, 9), min_size=4, max_size=4), closing=st.booleans())
def test_what_is_due_makes_what_was_billed_the_price_or_is_nothing(
    billed: dict[int, tuple[int, int]], net: list[int], closing: bool
) -> None:
    parts = (Part(70_000, net[0], net[1]), Part(200_000, net[2], net[3]))
    added = what_is_due(billed, parts, closing=closing)
    before = [sum(part[side] for part in billed.values()) for side in (0, 1)]
    more = [sum(part.net_micros for part in added), sum(part.tax_micros for part in added)]
    price = [net[0] + net[2], net[1] + net[3]]
    assert all(part.net_micros >= 0 and part.tax_micros >= 0 for part in added)
    assert [had + new for had, new in zip(before, more, strict=True)] == (price if added else before)
    fell = any(
        part.net_micros < billed.get(part.rate_ppm, (0, 0))[0] or part.tax_micros < billed.get(part.rate_ppm, (0, 0))[1]
        for part in parts
    )
    if not fell or (closing and before[0] <= price[0] and before[1] <= price[1]):
        assert [had + new for had, new in zip(before, more, strict=True)] == price
