"""The first rule that fails names the refusal: one row for each, in order, each also breaking every later rule it can."""

import ast
from dataclasses import replace
from pathlib import Path

import pytest
from edge_playbook import DAY, Gateway, M, Meter, Policy, clock, fund, token_ref

from farthing.clock import SECOND_US, Instant
from farthing.device.messages import AnswerStatus, RegisterValue, TariffVersion
from farthing.ids import authorization_id
from farthing.refusal import Refusal
from farthing.v1 import directive_pb2
from farthing_edge.authorization.commands import HeadArrived, UplinkChanged
from farthing_edge.authorization.state import FLOOR_FUNDING
from farthing_edge.authorization.usage import day_of

#: The edge's tests.
TESTS = Path(__file__).parent.parent

SUSPENDED = directive_pb2.DEVICE_STATUS_SUSPENDED
BLOCKED = directive_pb2.DEVICE_STATUS_BLOCKED
DECOMMISSIONED = directive_pb2.DEVICE_STATUS_DECOMMISSIONED

#: In order; each row's world is broken in its own way and in all that follow.
ROWS = [
    Refusal.RECIPIENT_DIFFERS,
    Refusal.REGISTER_UNKNOWN,
    Refusal.MALFORMED,
    Refusal.DEVICE_SUSPENDED,
    Refusal.DEVICE_EPOCH_DIFFERS,
    Refusal.REGISTER_EPOCH_DIFFERS,
    Refusal.REGISTER_WENT_BACK,
    Refusal.COUNTER_TOO_OLD,
    Refusal.INCARNATION_DIFFERS,
    Refusal.NOT_AUTHORIZING,
    Refusal.TOKEN_DENIED,
    Refusal.TOKEN_UNKNOWN,
    Refusal.ACCOUNT_SUSPENDED,
    Refusal.TARIFF_MISSING,
    Refusal.TARIFF_DIFFERS,
    Refusal.CURRENCY_DIFFERS,
    Refusal.NOT_ENTITLED,
    Refusal.LIMIT_PER_AUTHORIZATION,
    Refusal.LIMIT_PER_DAY,
    Refusal.LIMIT_SINCE_CONTACT,
    Refusal.OUTSIDE_FENCE,
    Refusal.IMPOSSIBLE_TRAVEL,
    Refusal.RISK_TOO_HIGH,
    Refusal.NO_QUOTA,
]
#: Numbers that this table cannot have: the test that provokes each, here or in another file of the edge's tests.
ELSEWHERE = {
    Refusal.SIGNATURE_INVALID: "ingress/test_statement_door.py",
    Refusal.COMMITMENT_DIFFERS: "ingress/test_statement_door.py",
    Refusal.CHANNEL_DIFFERS: "ingress/test_statement_door.py",
    Refusal.TOO_LARGE: "ingress/test_statement_door.py",
    Refusal.CLOCK_UNTRUSTED: "authorization/test_timekeeping.py",
    Refusal.CLOCK_AHEAD: "authorization/test_timekeeping.py",
    Refusal.DEVICE_UNKNOWN: "authorization/test_refusals_in_order.py",
    Refusal.DEVICE_DECOMMISSIONED: "authorization/test_refusals_in_order.py",
    Refusal.DEVICE_BLOCKED: "authorization/test_refusals_in_order.py",
    Refusal.REGISTER_BUSY: "authorization/test_refusals_in_order.py",
    Refusal.REGISTER_TOO_FAST: "authorization/test_refusals_in_order.py",
    Refusal.COUNTER_REUSED: "authorization/test_refusals_in_order.py",
    Refusal.INTENT_ENDED: "authorization/test_refusals_in_order.py",
    Refusal.ACCOUNT_UNKNOWN: "authorization/test_refusals_in_order.py",
    Refusal.QUOTA_EXHAUSTED: "authorization/test_refusals_in_order.py",
    Refusal.FLOOR_EXHAUSTED: "authorization/test_refusals_in_order.py",
    Refusal.OVERLOADED: "engine/test_engine_writer.py",
    Refusal.STORAGE_FULL: "engine/test_engine_writer.py",
    Refusal.DIRECTIVES_TOO_OLD: "authorization/test_refusals_in_order.py",
    Refusal.AUTHORIZATION_UNKNOWN: "authorization/test_conversations.py",
}


def ask_with(*broken: Refusal) -> Refusal | None:
    """Ask with a world in which exactly these rules are broken."""
    gateway = Gateway("G1", "S1", at=clock("10:00"))
    gateway.told(tariff=Policy.tariff("chg-3"))
    suspended = Refusal.ACCOUNT_SUSPENDED in broken
    fund(
        gateway,
        "P",
        "other-card" if Refusal.TOKEN_UNKNOWN in broken else "card",
        currency="SEK" if Refusal.CURRENCY_DIFFERS in broken else "EUR",
        status=directive_pb2.ACCOUNT_STATUS_SUSPENDED if suspended else directive_pb2.ACCOUNT_STATUS_ACTIVE,
    )
    meter = Meter("c1", 5_000)
    if Refusal.TOKEN_DENIED in broken:
        gateway.told(token_denied=directive_pb2.TokenDenied(token_ref=token_ref("card"), key_epoch=1, reason="lost"))
    gateway.told(device=Policy.device("c0"))
    gateway.told(device=Policy.device("c1"))
    break_policies(gateway, broken)
    register = gateway.state.devices["c1"].registers["r1"]
    if Refusal.REGISTER_WENT_BACK in broken:
        register.last_value, register.last_at = 6_000, gateway.at
    if Refusal.COUNTER_TOO_OLD in broken:
        gateway.state.devices["c1"].highest = 10_000
    gateway.told(
        device=Policy.device(
            "c1",
            status=SUSPENDED if Refusal.DEVICE_SUSPENDED in broken else directive_pb2.DEVICE_STATUS_ACTIVE,
            tariff_id="gone" if Refusal.TARIFF_MISSING in broken else "chg-3",
            entitled_only=Refusal.NOT_ENTITLED in broken,
            position=place(2_000 if Refusal.OUTSIDE_FENCE in broken else 900),
            # What can be cut is granted less; what cannot is refused.
            stoppable=not {Refusal.LIMIT_PER_AUTHORIZATION, Refusal.LIMIT_SINCE_CONTACT} & set(broken),
        )
    )
    if Refusal.NO_QUOTA not in broken:
        gateway.told(quota_granted=Policy.quota("q1", "P", 50 * M, clock("20:00"), currency="EUR"))
    if Refusal.NOT_AUTHORIZING in broken:
        gateway.state.rollback_suspected = "the cloud has seen more"
    intent = meter.intent(
        gateway,
        incarnation=7 if Refusal.INCARNATION_DIFFERS in broken else 1,
        one_shot=3 if Refusal.MALFORMED in broken else None,
        device_epoch=9 if Refusal.DEVICE_EPOCH_DIFFERS in broken else 1,
        register=RegisterValue(
            register_id="r9" if Refusal.REGISTER_UNKNOWN in broken else "r1",
            register_epoch=4 if Refusal.REGISTER_EPOCH_DIFFERS in broken else 1,
            value=5_000,
        ),
        recipient="G9" if Refusal.RECIPIENT_DIFFERS in broken else "G1",
        tariff=TariffVersion(tariff_id="chg-3", version=2 if Refusal.TARIFF_DIFFERS in broken else 1),
    )
    reply = gateway.say(intent, meter.token)
    assert reply is not None
    return reply.refusal


def place(metres_north: int) -> directive_pb2.Position:
    return directive_pb2.Position(latitude_microdegrees=metres_north * 1_000_000 // 111_195)


def break_policies(gateway: Gateway, broken: tuple[Refusal, ...]) -> None:
    """Every policy is there, generous but for what is to be broken; the token was used a minute ago, 900 m from here."""
    gateway.told(
        place=directive_pb2.PlacePolicy(
            centre=place(0),
            fence_radius_m=1_500,
            travel_distance_m=500,
            travel_speed_m_per_h=5_000 if Refusal.IMPOSSIBLE_TRAVEL in broken else 500_000,
        )
    )
    gateway.told(device=Policy.device("c0", position=place(0)))
    gateway.told(quota_granted=Policy.quota("q0", "P", 50 * M, clock("20:00"), currency="EUR"))
    if "P" in gateway.state.accounts and gateway.state.accounts["P"].currency == "EUR":
        before = gateway.at
        gateway.at = Instant(before - 60 * SECOND_US)
        used = Meter("c0", 0, token="other-card" if Refusal.TOKEN_UNKNOWN in broken else "card")
        reply = gateway.say(used.intent(gateway), used.token)
        if reply.grant_of is not None:
            used.authorization = reply.grant_of
            gateway.say(used.end(gateway, 0))
        gateway.at = before
    gateway.told(quota_recalled=directive_pb2.QuotaRecalled(quota_id="q0", reason="test"))
    gateway.seal()
    gateway.told(
        usage_limits=directive_pb2.UsageLimits(
            per_authorization_micros=1 if Refusal.LIMIT_PER_AUTHORIZATION in broken else 50 * M,
            device_day_count=0,
            token_day_count=1 if Refusal.LIMIT_PER_DAY in broken else 9,
            offline_micros=1 if Refusal.LIMIT_SINCE_CONTACT in broken else 50 * M,
        )
    )
    if Refusal.LIMIT_PER_DAY in broken:
        day = day_of(gateway.state.time_zone, gateway.at)
        for tally in gateway.state.usage.tallies("id-card", "c1", day):
            tally.add(day, count=1, spent_micros=0, held_micros=0)
    action = directive_pb2.RISK_ACTION_REFUSE if Refusal.RISK_TOO_HIGH in broken else directive_pb2.RISK_ACTION_ALLOW
    tier = directive_pb2.ScoreTier(action=action)
    gateway.told(scorecard=directive_pb2.Scorecard(version=1, tiers=[tier]))


def test_every_number_is_provoked() -> None:
    assert set(ROWS) | set(ELSEWHERE) == set(Refusal)
    for refusal, name in ELSEWHERE.items():
        assert refusal in named_by_tests(TESTS / name), f"{name} has no test with {refusal.name}"


def named_by_tests(path: Path) -> set[Refusal]:
    """The refusals that a file's tests name, in themselves or among their parameters."""
    tests = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    ]
    return {
        Refusal[node.attr]
        for test in tests
        for node in ast.walk(test)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Refusal"
    }


@pytest.mark.parametrize("row", range(len(ROWS)), ids=[refusal.name for refusal in ROWS])
def test_first_broken_rule_names_the_refusal(row: int) -> None:
    # A wrong register hides what else is wrong with that register; both say so in turn.
    assert ask_with(*ROWS[row:]) is ROWS[row]


def test_nothing_broken_is_granted() -> None:
    assert ask_with() is None


@pytest.mark.parametrize(
    ("status", "refusal"),
    [
        (SUSPENDED, Refusal.DEVICE_SUSPENDED),
        (DECOMMISSIONED, Refusal.DEVICE_DECOMMISSIONED),
        (BLOCKED, Refusal.DEVICE_BLOCKED),
        (directive_pb2.DEVICE_STATUS_UNSPECIFIED, Refusal.DEVICE_UNKNOWN),
    ],
)
def test_a_device_that_may_not_ask_hears_why(site: Gateway, status: int, refusal: Refusal) -> None:
    site.told(device=Policy.device("c1", status=status))
    assert site.say(Meter("c1", 0).intent(site), "card").refusal is refusal


def test_a_device_that_no_directive_named(site: Gateway) -> None:
    # While the chain of directives is still to be heard, the device may yet be in it.
    site.state.recorded_head_at = Instant(0)
    later = site.say(Meter("nobody", 0).intent(site), "card")
    assert (later.status, later.refusal) == (AnswerStatus.LATER, Refusal.NOT_AUTHORIZING)
    site.do(HeadArrived(version=site.state.directive_version, at=site.at))
    before = site.state.position
    assert site.say(Meter("nobody", 0).intent(site), "card").refusal is Refusal.DEVICE_UNKNOWN
    assert site.say(Meter("nobody", 0).reading(site, 5)).refusal is Refusal.DEVICE_UNKNOWN
    assert site.state.position == before


def test_an_account_that_no_directive_named(site: Gateway) -> None:
    site.told(token=Policy.token("stray", "Q"))
    assert site.say(Meter("c1", 0, token="stray").intent(site), "stray").refusal is Refusal.ACCOUNT_UNKNOWN


def test_no_token_is_an_unknown_token(site: Gateway) -> None:
    assert site.say(Meter("c1", 0).intent(site)).refusal is Refusal.TOKEN_UNKNOWN


def test_a_reference_under_another_key_epoch_is_unknown(site: Gateway) -> None:
    assert site.say(Meter("c1", 0).intent(site), "card", key_epoch=2).refusal is Refusal.TOKEN_UNKNOWN


def test_one_open_authorization_per_register(site: Gateway) -> None:
    meter = Meter("c1", 0)
    assert site.say(meter.intent(site), "card").status is AnswerStatus.GRANTED
    assert site.say(meter.intent(site), "card").refusal is Refusal.REGISTER_BUSY


def test_same_counter_other_content(site: Gateway) -> None:
    meter = Meter("c1", 0)
    intent = meter.intent(site)
    assert site.say(intent, "card").status is AnswerStatus.GRANTED
    other = replace(intent, at=Instant(intent.at + 1))
    assert site.say(other, "card").refusal is Refusal.COUNTER_REUSED
    # It changed nothing: the first is still answered.
    assert site.say(intent, "card").status is AnswerStatus.GRANTED


def test_a_refused_intent_hears_the_same_number_again(site: Gateway) -> None:
    site.told(quota_recalled=directive_pb2.QuotaRecalled(quota_id="q1", reason="test"))
    meter = Meter("c1", 0)
    intent = meter.intent(site)
    assert site.say(intent, "card").refusal is Refusal.QUOTA_EXHAUSTED
    site.told(quota_granted=Policy.quota("q2", "P", 50 * M, clock("20:00")))
    before = site.state.position
    assert site.say(intent, "card").refusal is Refusal.QUOTA_EXHAUSTED
    assert site.state.position == before
    assert site.say(meter.intent(site), "card").status is AnswerStatus.GRANTED


def test_an_end_for_an_intent_that_never_came_refuses_it_for_ever(site: Gateway) -> None:
    meter = Meter("c1", 0)
    late = meter.intent(site)
    meter.authorization = authorization_id("c1", 1, late.counter, "G1")
    ended = site.say(meter.end(site, 0, tariff=None))
    assert (ended.status, ended.closed) == (AnswerStatus.RECORDED, True)
    assert site.say(late, "card").refusal is Refusal.INTENT_ENDED
    assert site.replayed().devices["c1"].cancelled == site.state.devices["c1"].cancelled
    assert site.say(meter.intent(site), "card").status is AnswerStatus.GRANTED


def denied(site: Gateway) -> None:
    site.told(token_denied=directive_pb2.TokenDenied(token_ref=token_ref("card"), key_epoch=1, reason="lost"))


def test_what_is_known_of_the_register_and_the_counter_is_said_before_the_token_is_looked_at(site: Gateway) -> None:
    used = Meter("c1", 0)
    first = used.intent(site)
    used.authorization = site.say(first, "card").grant_of
    other = replace(first, at=Instant(first.at + 1))
    denied(site)
    # What was said under this counter is settled, whatever became of it; a new word waits for the register.
    assert site.say(other, "card").refusal is Refusal.COUNTER_REUSED
    assert site.say(used.intent(site), "card").refusal is Refusal.REGISTER_BUSY
    assert site.say(used.end(site, 0)).closed
    assert site.say(other, "card").refusal is Refusal.COUNTER_REUSED
    late = used.intent(site)
    used.authorization = authorization_id("c1", 1, late.counter, "G1")
    assert site.say(used.end(site, 0, tariff=None)).closed
    assert site.say(late, "card").refusal is Refusal.INTENT_ENDED
    assert site.say(used.intent(site), "card").refusal is Refusal.TOKEN_DENIED
    site.told(device=Policy.device("c1", status=SUSPENDED))
    assert site.say(other, "card").refusal is Refusal.DEVICE_SUSPENDED
    assert site.say(late, "card").refusal is Refusal.DEVICE_SUSPENDED


@pytest.mark.parametrize("refusal", [Refusal.QUOTA_EXHAUSTED, Refusal.FLOOR_EXHAUSTED, Refusal.DIRECTIVES_TOO_OLD])
def test_risk_is_said_before_money_is_looked_at(site: Gateway, refusal: Refusal) -> None:
    site.told(quota_recalled=directive_pb2.QuotaRecalled(quota_id="q1", reason="test"))
    if refusal is Refusal.FLOOR_EXHAUSTED:
        caps = {"per_token_micros": 1, "per_account_micros": 1, "all_tokens_micros": 1}
        site.told(floor=directive_pb2.FloorPolicy(currency="EUR", **caps))

    def asks(device: str) -> Refusal | None:
        site.told(device=Policy.device(device))
        if refusal is Refusal.DIRECTIVES_TOO_OLD:
            site.at = Instant(site.at + site.settings.directive_max_age_us + 1)
        return site.say(Meter(device, 0).intent(site), "card").refusal

    assert asks("c2") is refusal
    tier = directive_pb2.ScoreTier(action=directive_pb2.RISK_ACTION_REFUSE)
    site.told(scorecard=directive_pb2.Scorecard(version=1, tiers=[tier]))
    assert asks("c3") is Refusal.RISK_TOO_HIGH


def test_directives_that_are_too_old_leave_the_floor_only(site: Gateway) -> None:
    site.at = Instant(site.at + site.settings.directive_max_age_us + 1)
    intent = Meter("c1", 0).intent(site)
    reply = site.say(intent, "card")
    assert (reply.status, reply.refusal) == (AnswerStatus.LATER, Refusal.DIRECTIVES_TOO_OLD)
    site.told(
        floor=directive_pb2.FloorPolicy(
            currency="EUR", per_token_micros=5 * M, per_account_micros=5 * M, all_tokens_micros=5 * M
        )
    )
    site.at = Instant(site.at + site.settings.directive_max_age_us + 1)
    assert site.say(intent, "card").status is AnswerStatus.GRANTED
    assert site.state.floor.total_micros == 1_920_000
    assert site.state.quotas["q1"].held_micros == 0


@pytest.mark.parametrize(
    ("caps", "second", "third"),
    [
        # EUR 1.92 is held at first: what the next hold is, of the same token, of another one of the account, of another account.
        ({"per_token_micros": 3 * M, "per_account_micros": 90 * M, "all_tokens_micros": 90 * M}, 1_080_000, 1_920_000),
        ({"per_token_micros": 90 * M, "per_account_micros": 3 * M, "all_tokens_micros": 90 * M}, 1_080_000, 0),
        ({"per_token_micros": 90 * M, "per_account_micros": 90 * M, "all_tokens_micros": 3 * M}, 1_080_000, 0),
    ],
    ids=["token", "account", "all tokens"],
)
def test_each_of_the_floor_s_three_caps_binds_and_has_its_own_number(
    site: Gateway, caps: dict[str, int], second: int, third: int
) -> None:
    site.told(quota_recalled=directive_pb2.QuotaRecalled(quota_id="q1", reason="test"))
    site.told(floor=directive_pb2.FloorPolicy(currency="EUR", **caps))
    site.told(token=Policy.token("second card", "P"))
    fund(site, "Q", "card of Q")

    def floor_of(device: str, token: str) -> int:
        """What a use holds of the floor; 0 where it is refused, by the number that the floor has."""
        site.told(device=Policy.device(device))
        reply = site.say(Meter(device, 0, token=token).intent(site), token)
        if reply.status is AnswerStatus.REFUSED:
            assert reply.refusal is Refusal.FLOOR_EXHAUSTED
            return 0
        authorization = site.state.authorizations[reply.grant_of]
        assert set(authorization.holds) == {FLOOR_FUNDING}
        return authorization.holds[FLOOR_FUNDING]

    assert floor_of("c1", "card") == 1_920_000
    assert floor_of("c2", "card") == second
    assert floor_of("c3", "card") == 0
    assert floor_of("c4", "second card") == third
    # Another account's token: only the cap over all of them is its own too.
    assert floor_of("c5", "card of Q") == (0 if caps["all_tokens_micros"] == 3 * M else 1_920_000)


def test_an_online_intent_short_of_money_waits_once(site: Gateway) -> None:
    site.do(UplinkChanged(online=True))
    site.told(quota_recalled=directive_pb2.QuotaRecalled(quota_id="q1", reason="test"))
    intent = Meter("c1", 0).intent(site)
    assert site.say(intent, "card") is None
    assert site.last.wait is not None
    assert [type(event).__name__ for event in site.last.events] == ["QuotaRequested"]
    assert site.say(intent, "card", may_wait=False).refusal is Refusal.QUOTA_EXHAUSTED


@pytest.fixture
def site() -> Gateway:
    gateway = Gateway("G1", "S1", at=clock("10:00"))
    gateway.told(tariff=Policy.tariff("chg-3"))
    fund(gateway, "P", "card")
    gateway.told(device=Policy.device("c1"))
    gateway.told(quota_granted=Policy.quota("q1", "P", 50 * M, clock("20:00")))
    assert gateway.at > DAY
    return gateway


def test_a_reading_faster_than_rated_is_parked(site: Gateway) -> None:
    meter = Meter("c1", 0)
    meter.authorization = site.say(meter.intent(site), "card").grant_of
    assert site.say(meter.reading(site, 22_000)).refusal is Refusal.REGISTER_TOO_FAST
