"""A one-shot use of a lost journal, from its intent and its grant."""

from dataclasses import replace

import pytest
from edge_playbook import Gateway, M, Meter, Policy, clock, fund
from word_playbook import passage, reborn, say, signed

from farthing.device.messages import (
    AnswerStatus,
    Grant,
    Intent,
    TariffVersion,
    encode,
)
from farthing.refusal import Refusal
from farthing.v1 import directive_pb2
from farthing_edge.authorization.commands import Shown


def shown_use(intent: Intent, grant: Grant, **changes: object) -> Shown:
    return Shown(
        grant=replace(grant, **changes),
        grant_cose=b"g",
        first=intent,
        first_cose=signed(intent),
        first_payload=encode(intent),
    )


def test_a_one_shot_use_of_a_lost_journal_is_billed_once_from_its_intent_and_its_grant(site: Gateway) -> None:
    intent, grant = passage(site)
    new = reborn(site)
    # Without its grant it is a wish like any other, and speaks to another incarnation.
    assert say(new, intent).refusal is Refusal.INCARNATION_DIFFERS
    reply = say(new, intent, token_ref=None, shown=shown_use(intent, grant))
    assert (reply.status, reply.closed, reply.grant_of) == (AnswerStatus.GRANTED, True, grant.authorization)
    before = new.state.position
    assert say(new, intent, token_ref=None, shown=shown_use(intent, grant)).status is AnswerStatus.GRANTED
    assert new.state.position == before
    assert new.replayed().quotas["q1"].spent_micros == new.state.quotas["q1"].spent_micros == 1_200_000
    batch = new.seal()
    (claim,) = batch.claims
    assert (claim.authorization_id, claim.final, claim.granted_incarnation) == (grant.authorization, True, 1)
    assert [line.quota_id for line in batch.lines] == ["q1"]


def test_a_yes_that_is_shown_beats_a_no_that_was_said_since(site: Gateway) -> None:
    intent, grant = passage(site)
    new = reborn(site)
    x1 = Policy.device("x1", profile="one-shot", tariff_id="toll-1", unit="passage", rated_per_hour=3_600)
    x1.status = directive_pb2.DEVICE_STATUS_SUSPENDED
    new.told(device=x1)
    assert say(new, intent).refusal is Refusal.DEVICE_SUSPENDED
    other = replace(intent, one_shot=2)
    assert say(new, other, token_ref=None, shown=shown_use(other, grant)).refusal is Refusal.COUNTER_REUSED
    assert say(new, intent, token_ref=None, shown=shown_use(intent, grant)).closed
    assert say(new, intent).status is AnswerStatus.GRANTED
    assert new.replayed().quotas["q1"].spent_micros == new.state.quotas["q1"].spent_micros == 1_200_000
    assert new.seal().claims[0].final


def test_a_shown_use_is_not_paid_by_a_quota_that_was_over_when_it_was_given(site: Gateway) -> None:
    # An earlier quota of the same account: long closed, as the ledger knows, and this journal no more.
    site.told(quota_granted=Policy.quota("q0", "P", 50 * M, clock("09:30")))
    intent, grant = passage(site)
    new = reborn(site)
    assert say(new, intent, token_ref=None, shown=shown_use(intent, grant)).closed
    assert (new.state.quotas["q0"].spent_micros, new.state.quotas["q1"].spent_micros) == (0, 1_200_000)


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"recipient": "c1"}, Refusal.MALFORMED),
        ({"gateway": "G2"}, Refusal.MALFORMED),
        ({"intent_counter": 9}, Refusal.MALFORMED),
        ({"start": 40}, Refusal.MALFORMED),
        ({"limit": 41}, Refusal.MALFORMED),
        ({"commitment": bytes(32)}, Refusal.MALFORMED),
        ({"authorization": bytes(16)}, Refusal.MALFORMED),
        ({"tariff": TariffVersion(tariff_id="gone", version=1)}, Refusal.TARIFF_MISSING),
    ],
    ids=str,
)
def test_a_shown_use_that_its_grant_does_not_prove_bills_nothing(
    site: Gateway, changes: dict, refusal: Refusal
) -> None:
    intent, grant = passage(site)
    new = reborn(site)
    before = new.state.position
    assert say(new, intent, token_ref=None, shown=shown_use(intent, grant, **changes)).refusal is refusal
    assert new.state.position == before
    # A journal that has it needs no showing: it says what it said.
    assert say(site, intent, token_ref=None, shown=shown_use(intent, grant)).status is AnswerStatus.GRANTED


def test_what_only_costs_by_time_is_no_price_of_what_takes_none() -> None:
    """It would cost nothing, and whoever chose the tariff would hear of it from the books."""
    gateway = Gateway("G1", "S1", at=clock("10:00"))
    gateway.told(tariff=Policy.tariff("park-1"))
    fund(gateway, "P", "card")
    gateway.told(quota_granted=Policy.quota("q1", "P", 50 * M, clock("20:00")))
    passages = Meter("x1", 7, tariff="park-1")
    gateway.told(device=Policy.device("x1", profile="one-shot", tariff_id="park-1", unit="passage"))
    assert gateway.say(passages.intent(gateway, one_shot=1), "card").refusal is Refusal.TARIFF_MISSING
    # An entitlement's price is held to the same, and an account that is entitled so pays as ever.
    gateway.told(tariff=Policy.tariff("toll-1"))
    gateway.told(device=Policy.device("x1", profile="one-shot", tariff_id="toll-1", unit="passage"))
    fund(gateway, "PASS", "none")
    gateway.told(
        entitlement=directive_pb2.EntitlementRecord(
            entitlement_id="e1",
            account_id="P",
            paid_by_account_id="PASS",
            tariff_id="park-1",
            tariff_version=1,
            until_us=clock("23:00"),
        )
    )
    assert gateway.say(passages.intent(gateway, one_shot=1), "card").grant_of is not None
    assert gateway.state.quotas["q1"].spent_micros == 1_200_000
    # Seconds that are bought are counted: they have a price by time.
    gateway.told(device=Policy.device("x2", profile="one-shot", tariff_id="park-1", unit="s"))
    assert gateway.say(Meter("x2", 7, tariff="park-1").intent(gateway, one_shot=600), "card").refusal is None
