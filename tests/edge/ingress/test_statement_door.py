"""What the door refuses, by number and in order, and what it hands on."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from farthing.clock import Instant
from farthing.device.cose import VerifyingKey, encode_sign1
from farthing.device.messages import (
    AnswerStatus,
    End,
    Envelope,
    Grant,
    Intent,
    TariffVersion,
    decode_answer,
    encode,
)
from farthing.hsm import HsmBusy
from farthing.ids import authorization_id
from farthing.refusal import Refusal
from farthing_edge.ingress.statements import Rejected, Verified, verify

pytestmark = pytest.mark.real  # token refs are made in a token


def check(payload: bytes, meter: Any, said: Any, *, peer: str = "meter-1", known: bool = True) -> Verified | Rejected:
    key = VerifyingKey.from_spki(meter.spki)
    return verify(
        payload,
        peer=peer,
        gateway="gw-1",
        key_of=lambda _: key if known else None,
        grant_key=VerifyingKey.from_spki(said.GRANTER.spki),
    )  # type: ignore[arg-type]  # an id is a str


def refusal(checked: Verified | Rejected) -> Refusal | None:
    return checked.refusal if isinstance(checked, Rejected) else None


def test_the_first_broken_rule_names_the_refusal(said: Any, meter: Any) -> None:
    good = said.intent(1)
    other = said.SoftElement()

    def sealed(statement: Any = good, element: Any = meter, **parts: Any) -> bytes:
        return encode(Envelope(statement=element.sign(statement), **{"token": said.CARD, "salt": said.SALT, **parts}))

    wrong_token = {"token": b"another card"}
    rows: list[tuple[bytes, dict[str, Any], Refusal | None]] = [
        (bytes(5000), {}, Refusal.TOO_LARGE),
        (b"\x00", {}, Refusal.MALFORMED),
        (encode(Envelope(statement=b"\x84")), {}, Refusal.MALFORMED),
        # Each also breaks every later rule it can.
        (sealed(replace(good, device="meter-2", recipient="gw-2"), other, **wrong_token), {}, Refusal.CHANNEL_DIFFERS),
        (sealed(replace(good, recipient="gw-2"), other, **wrong_token), {"known": False}, Refusal.RECIPIENT_DIFFERS),
        (sealed(element=other, **wrong_token), {"known": False}, Refusal.DEVICE_UNKNOWN),
        (sealed(element=other, **wrong_token), {}, Refusal.SIGNATURE_INVALID),
        (sealed(**wrong_token), {}, Refusal.COMMITMENT_DIFFERS),
        (sealed(token=None, salt=None), {}, Refusal.COMMITMENT_DIFFERS),
        (sealed(salt=None), {}, Refusal.COMMITMENT_DIFFERS),
        (sealed(), {}, None),
    ]
    assert [refusal(check(payload, meter, said, **how)) for payload, how, _ in rows] == [number for *_, number in rows]


def ended(said: Any, **changes: Any) -> tuple[Intent, End, Grant]:
    """An intent, the end of what it began, and the grant between them."""
    intent = said.intent(1, recipient=changes.pop("recipient", "gw-1"))
    name = authorization_id(intent.device, 1, 1, intent.recipient)
    tariff = TariffVersion(tariff_id="t", version=1)
    head = {part: getattr(intent, part) for part in ("recipient", "device", "device_epoch", "register", "commitment")}
    end = End(**head, counter=7, at=Instant(9), authorization=name, tariff=tariff)
    grant = Grant(
        recipient=intent.device,
        gateway=intent.recipient,
        witness=said.WITNESS,
        at=Instant(6),
        authorization=name,
        intent_epoch=1,
        intent_counter=1,
        tariff=tariff,
        register_id="bay",
        register_epoch=1,
        start=0,
        limit=10,
        held=(),
        currency="EUR",
        net_micros=0,
        tax_micros=0,
        report_interval_s=60,
        commitment=intent.commitment,
    )
    return intent, end, replace(grant, **changes)


def test_what_is_shown_is_signed_by_this_device_and_this_gateway(said: Any, meter: Any) -> None:
    intent, end, grant = ended(said)
    other = said.SoftElement()
    good = {"statement": meter.sign(end), "grant": said.GRANTER.sign(grant), "first": meter.sign(intent)}
    checked = check(encode(Envelope(**good)), meter, said)
    assert isinstance(checked, Verified)
    assert checked.shown is not None
    assert (checked.shown.grant, checked.shown.first, checked.shown.first_payload) == (grant, intent, encode(intent))
    rows: list[tuple[dict[str, Any], Refusal]] = [
        ({"grant": other.sign(grant)}, Refusal.SIGNATURE_INVALID),
        ({"grant": b"rubbish"}, Refusal.MALFORMED),
        ({"first": other.sign(intent)}, Refusal.SIGNATURE_INVALID),
        ({"first": meter.sign(end)}, Refusal.MALFORMED),
        ({"first": meter.sign(replace(intent, recipient="gw-2"))}, Refusal.MALFORMED),
        ({"first": None}, Refusal.MALFORMED),
    ]
    assert [refusal(check(encode(Envelope(**{**good, **how})), meter, said)) for how, _ in rows] == [
        no for _, no in rows
    ]


def test_an_end_for_another_gateway_comes_in_with_its_grant_and_nothing_else_does(said: Any, meter: Any) -> None:
    intent, end, grant = ended(said, recipient="gw-2")
    # The other gateway's key is the cloud's to know; the device's is ours.
    good = {"statement": meter.sign(end), "grant": said.SoftElement().sign(grant), "first": meter.sign(intent)}
    checked = check(encode(Envelope(**good)), meter, said)
    assert isinstance(checked, Verified)
    assert checked.shown is not None
    assert checked.shown.grant_cose == good["grant"]
    rows: list[tuple[dict[str, Any], Refusal]] = [
        ({"grant": None}, Refusal.RECIPIENT_DIFFERS),
        ({"first": None}, Refusal.RECIPIENT_DIFFERS),
        ({"statement": meter.sign(intent)}, Refusal.RECIPIENT_DIFFERS),
        ({"statement": said.SoftElement().sign(end)}, Refusal.SIGNATURE_INVALID),
        ({"first": said.SoftElement().sign(intent)}, Refusal.SIGNATURE_INVALID),
    ]
    assert [refusal(check(encode(Envelope(**{**good, **how})), meter, said)) for how, _ in rows] == [
        no for _, no in rows
    ]


async def test_a_one_shot_use_that_was_answered_is_shown_without_its_token(
    open_door: Any, said: Any, meter: Any
) -> None:
    intent, _, grant = ended(said)
    use = replace(intent, one_shot=1)
    statement = meter.sign(use)
    good = {"statement": statement, "grant": said.GRANTER.sign(grant), "first": statement}
    checked = check(encode(Envelope(**good)), meter, said)
    assert isinstance(checked, Verified)
    assert checked.shown is not None
    assert checked.shown.first == use
    door = open_door()
    await door.door.answer(encode(Envelope(**good)), channel="mqtt", peer="meter-1")
    (heard,) = door.engine.heard
    assert heard.token_ref is None
    assert heard.shown is not None
    # Without its grant, or with another intent, or for a session it is an intent that says nobody's token.
    for how in (
        {"grant": None},
        {"first": meter.sign(intent)},
        {"statement": meter.sign(intent), "first": meter.sign(intent)},
    ):
        assert refusal(check(encode(Envelope(**{**good, **how})), meter, said)) is Refusal.COMMITMENT_DIFFERS


async def test_before_all_directives_are_heard_an_unknown_device_is_told_to_come_later(
    open_door: Any, said: Any, meter: Any
) -> None:
    door = open_door()
    door.engine.keys.clear()
    payload = said.envelope(meter, said.intent(1))
    known = decode_answer(await door.door.answer(payload, channel="mqtt", peer="meter-1"))
    door.engine.complete = False
    later = decode_answer(await door.door.answer(payload, channel="mqtt", peer="meter-1"))
    assert (known.status, known.refusal) == (AnswerStatus.REFUSED, Refusal.DEVICE_UNKNOWN)
    assert (later.status, later.refusal) == (AnswerStatus.LATER, Refusal.NOT_AUTHORIZING)
    assert later.answers == (1, 1)
    assert door.engine.heard == []


def test_a_signature_for_another_gateway_is_no_signature_here(said: Any, meter: Any) -> None:
    """Payload says gw-1, the signature was made for gw-2."""
    statement = said.intent(1)
    for_another = meter.sign(replace(statement, recipient="gw-2"))
    payload = encode(statement)
    forged = encode_sign1(VerifyingKey.from_spki(meter.spki).key_id, payload, for_another[-64:])
    envelope = encode(Envelope(statement=forged, token=said.CARD, salt=said.SALT))
    assert refusal(check(envelope, meter, said)) is Refusal.SIGNATURE_INVALID


async def test_the_same_token_has_the_same_reference_and_another_has_another(
    open_door: Any, said: Any, meter: Any
) -> None:
    door = open_door()
    for counter, card in enumerate([b"card A", b"card A", b"card B"]):
        statement = said.intent(counter, token=card)
        await door.door.answer(said.envelope(meter, statement, token=card), channel="mqtt", peer="meter-1")

    first, again, other = (heard.token_ref for heard in door.engine.heard)
    assert first == again != other
    assert len(first) == 32


async def test_without_a_site_key_the_engine_is_told_so(open_door: Any, said: Any, meter: Any) -> None:
    door = open_door()
    door.engine.key = None
    await door.door.answer(said.envelope(meter, said.intent(1)), channel="mqtt", peer="meter-1")
    assert [(heard.token_ref, heard.key_epoch) for heard in door.engine.heard] == [(None, None)]


async def test_over_its_rate_a_peer_is_told_when_and_another_is_served(open_door: Any, said: Any, meter: Any) -> None:
    door = open_door(peer_rate_per_s=1, peer_burst=2)
    answers = [
        decode_answer(await door.door.answer(said.envelope(meter, said.intent(n)), channel="mqtt", peer="meter-1"))
        for n in range(3)
    ]
    assert [answer.status for answer in answers] == [AnswerStatus.RECORDED] * 2 + [AnswerStatus.LATER]
    assert answers[2].refusal is Refusal.OVERLOADED
    assert answers[2].retry_after_ms is not None
    assert 0 < answers[2].retry_after_ms <= 1000

    other = decode_answer(await door.door.answer(b"\x00", channel="coap", peer="meter-9"))
    assert other.refusal is Refusal.MALFORMED


async def test_rubbish_in_a_devices_name_uses_up_nothing_of_its_budget(open_door: Any, said: Any, meter: Any) -> None:
    """A stolen transport key floods one channel; what the device signs comes over the other, up to its own budget."""
    door = open_door(peer_rate_per_s=1, peer_burst=8, device_rate_per_s=1, device_burst=3)
    for _ in range(20):
        await door.door.answer(b"rubbish", channel="mqtt", peer="meter-1")
    answers = [
        decode_answer(await door.door.answer(said.envelope(meter, said.intent(n)), channel="coap", peer="meter-1"))
        for n in range(1, 6)
    ]
    assert [answer.status for answer in answers] == [AnswerStatus.RECORDED] * 3 + [AnswerStatus.LATER] * 2
    # What verified is named, and told when.
    assert [answer.answers for answer in answers[3:]] == [(1, 4), (1, 5)]
    assert all(answer.retry_after_ms for answer in answers[3:])
    assert [heard.statement.counter for heard in door.engine.heard] == [1, 2, 3]


async def test_a_flood_is_told_when_to_come_again_once_and_then_dropped_unread(open_door: Any) -> None:
    now_ns = [0]
    door = open_door(clock=lambda: now_ns[0], peer_rate_per_s=10, peer_burst=2, retry_after_ms=500)

    def knock(peer: str = "meter-1") -> str:
        away = door.door.turn_away_quietly(peer, channel="mqtt")
        return "come in" if away is None else "later" if away else "silence"

    assert [knock() for _ in range(6)] == ["come in", "come in", "later", "silence", "silence", "silence"]
    assert knock("meter-2") == "come in"
    now_ns[0] = 499_000_000
    assert [knock() for _ in range(4)] == ["come in", "come in", "silence", "silence"]
    now_ns[0] = 500_000_000
    assert knock() == "later"
    assert door.metrics.registry.get_sample_value("farthing_edge_turned_away_total") == 5
    assert door.refusals(int(Refusal.OVERLOADED)) == 2


async def test_who_is_served_keeps_room_that_new_uses_cannot_fill(open_door: Any, said: Any, meter: Any) -> None:
    door = open_door(statements_in_flight=4)

    def send(statement: Any) -> "asyncio.Task[bytes]":
        payload = said.envelope(meter, statement, token=said.CARD if statement.kind == "intent" else None)
        return asyncio.create_task(door.door.answer(payload, channel="mqtt", peer="meter-1"))

    # 999 waits until it is let go: two intents fill their half.
    waiting = [send(said.intent(999)), send(said.intent(999))]
    while len(door.engine.heard) < 2:
        door.engine.something_heard.clear()
        await door.engine.something_heard.wait()
    assert decode_answer(await send(said.intent(3))).status is AnswerStatus.LATER
    assert decode_answer(await send(said.reading(4))).status is AnswerStatus.RECORDED
    door.engine.let_go.set()
    assert {decode_answer(await each).status for each in waiting} == {AnswerStatus.RECORDED}


async def test_above_what_may_be_in_flight_the_answer_is_later(open_door: Any, said: Any, meter: Any) -> None:
    door = open_door(statements_in_flight=1)
    slow = asyncio.create_task(door.door.answer(said.envelope(meter, said.intent(999)), channel="mqtt", peer="meter-1"))
    await door.engine.something_heard.wait()

    refused = decode_answer(
        await door.door.answer(said.envelope(meter, said.intent(1)), channel="mqtt", peer="meter-1")
    )
    assert (refused.status, refused.refusal) == (AnswerStatus.LATER, Refusal.OVERLOADED)
    door.engine.let_go.set()
    assert decode_answer(await slow).status is AnswerStatus.RECORDED


async def test_a_busy_token_means_later(
    open_door: Any, said: Any, meter: Any, monkeypatch: pytest.MonkeyPatch, token: Any
) -> None:
    async def busy(label: str, data: list[bytes]) -> list[bytes]:
        raise HsmBusy("full")

    monkeypatch.setattr(token, "hmac_many", busy)
    door = open_door()
    answer = decode_answer(await door.door.answer(said.envelope(meter, said.intent(4)), channel="mqtt", peer="meter-1"))
    assert (answer.status, answer.answers) == (AnswerStatus.LATER, (1, 4))
    assert door.engine.heard == []


async def test_no_sample_and_no_log_line_holds_a_token(
    open_door: Any, said: Any, meter: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    door = open_door()
    secret = b"SECRET-CARD-4711"
    statement = said.intent(1, token=b"what it committed to")
    await door.door.answer(said.envelope(meter, statement, token=secret), channel="mqtt", peer="meter-1")
    await door.door.answer(
        said.envelope(meter, said.intent(2, token=secret), token=secret), channel="mqtt", peer="meter-1"
    )

    samples = repr(door.rubbish.samples())
    printed = capsys.readouterr()
    for place in (samples, printed.out, printed.err):
        assert secret.decode() not in place
        assert secret.hex() not in place
    assert door.refusals(int(Refusal.COMMITMENT_DIFFERS)) == 1
