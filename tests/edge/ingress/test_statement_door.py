"""What the door refuses, by number and in order, and what it hands on."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from farthing.device.cose import VerifyingKey, encode_sign1
from farthing.device.messages import AnswerStatus, Envelope, decode_answer, encode
from farthing.hsm import HsmBusy
from farthing.refusal import Refusal
from farthing_edge.ingress.statements import Rejected, Verified, verify

pytestmark = pytest.mark.real  # token refs are made in a token


def check(payload: bytes, meter: Any, *, peer: str = "meter-1", known: bool = True) -> Verified | Rejected:
    key = VerifyingKey.from_spki(meter.spki)
    return verify(payload, peer=peer, gateway="gw-1", key_of=lambda _: key if known else None)  # type: ignore[arg-type]  # an id is a str


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
    assert [refusal(check(payload, meter, **how)) for payload, how, _ in rows] == [number for *_, number in rows]


def test_a_signature_for_another_gateway_is_no_signature_here(said: Any, meter: Any) -> None:
    """Payload says gw-1, the signature was made for gw-2."""
    statement = said.intent(1)
    for_another = meter.sign(replace(statement, recipient="gw-2"))
    payload = encode(statement)
    forged = encode_sign1(VerifyingKey.from_spki(meter.spki).key_id, payload, for_another[-64:])
    envelope = encode(Envelope(statement=forged, token=said.CARD, salt=said.SALT))
    assert refusal(check(envelope, meter)) is Refusal.SIGNATURE_INVALID


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
