"""``kill -9`` of the gateway at random moments, with a real broker and devices that repeat until they are answered: nothing lost, nothing
doubled.

What devices were told decides: each yes that any of them ever heard is billed once, each use ends at the value that its end said, and
nothing else is billed. ``FARTHING_KILLS`` sets how often it is killed (``make crash KILLS=1000`` is the long run).
"""

import os
import random
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import pytest
from small_town import FARE_MICROS, PARKING, SPARE, SUSPECT, Client, Speaker, Town

from farthing.clock import real_clock
from farthing.device.messages import (
    Answer,
    AnswerStatus,
    End,
    Envelope,
    Reading,
    Statement,
    decode_answer,
    encode,
)
from farthing.tariff import Use, parse, price

KILLS = int(os.environ.get("FARTHING_KILLS", "50"))
#: A device repeats after this long without an answer; less than a start takes, so that a start finds repeats waiting.
REPEAT_S = 0.3
#: A start that ends by itself within this after it was ready is a fault; a kill comes at a random moment of it.
LATEST_KILL_S = 0.4
#: At least so many uses between two kills, or a slow machine would only ever kill starts.
MOST_ANSWERS_BETWEEN = 12

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(120 + 10 * KILLS)]


@dataclass(kw_only=True)
class Stubborn:
    """A device that says each statement until it is answered for good."""

    speaker: Speaker
    ended: threading.Event
    answered: threading.Semaphore
    repeats: int = 0
    seen: int = 0

    @property
    def client(self) -> Client:
        return self.speaker.client

    def say(self, statement: Statement, envelope: bytes) -> Answer:
        """The final answer to ``statement``; a yes, a recorded word, or a no."""
        topic = f"farthing/{self.speaker.device}/up"
        while True:
            with suppress(AssertionError):  # the broker lives, but its PUBACK may be late: what matters is the answer
                self.client.publish(topic, envelope)
            answer = self._answer_to(statement.counter)
            if answer is not None and answer.status not in (AnswerStatus.LATER, AnswerStatus.AGAIN):
                self.answered.release()
                return answer
            self.repeats += 1

    def _answer_to(self, counter: int) -> Answer | None:
        found: list[Answer] = []

        def came() -> bool:
            while self.seen < len(self.client.came):
                answer = decode_answer(self.client.came[self.seen][1])
                self.seen += 1
                if answer.answers == (1, counter):
                    found.append(answer)
                    return True
            return False

        with self.client.changed:
            self.client.changed.wait_for(came, REPEAT_S)
        return found[0] if found else None


@dataclass(kw_only=True)
class Passages(Stubborn):
    """A transponder: each yes is a fare."""

    granted: int = 0

    def live(self) -> None:
        while not self.ended.is_set():
            intent, salt = self.speaker.intent()
            answer = self.say(intent, self.speaker.envelope(intent, salt))
            assert answer.status is AnswerStatus.GRANTED, answer
            self.speaker.register += 1
            self.granted += 1


@dataclass(kw_only=True)
class Sessions(Stubborn):
    """A parking meter: asks, reads twice, ends; the register is the truth."""

    tariff: bytes
    ends: list[Use] = field(default_factory=list)

    def live(self) -> None:
        while not self.ended.is_set():
            self._one()

    def _one(self) -> None:
        speaker = self.speaker
        start = speaker.register
        begun = real_clock().now()
        intent, salt = speaker.intent(one_shot=None, at=begun)
        answer = self.say(intent, speaker.envelope(intent, salt))
        assert answer.status is AnswerStatus.GRANTED, answer
        for kind in (Reading, Reading, End):
            speaker.register += 7
            said = speaker.word(kind, intent)
            answer = self.say(said, encode(Envelope(statement=speaker.sign(said))))
            assert answer.status is AnswerStatus.RECORDED, answer
            assert answer.closed is (kind is End)
        self.ends.append(Use(unit="s", start=start, end=speaker.register, started_at=begun, ended_at=said.at))

    def delivered_micros(self) -> int:
        tariff = parse(self.tariff)
        return sum(price(tariff, use, closing=True).gross_micros for use in self.ends)


@contextmanager
def living(*devices: Passages | Sessions) -> Iterator[None]:
    """All devices at work, each in a thread; what one of them asserts fails the test."""
    faults: list[BaseException] = []

    def run(live: Callable[[], None]) -> None:
        try:
            live()
        except BaseException as fault:  # noqa: BLE001  # raised again below, in the test's own thread
            faults.append(fault)
            for device in devices:
                device.ended.set()

    threads = [threading.Thread(target=run, args=(device.live,), daemon=True) for device in devices]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for device in devices:
            device.ended.set()
        for thread in threads:
            thread.join(60)
    if faults:
        raise faults[0]
    assert not any(thread.is_alive() for thread in threads), "a device still waits for its answer"


def test_killed_at_any_moment_nothing_is_lost_or_doubled(town: Town) -> None:
    lot = random.Random(20)
    before = town.assert_books_agree()
    ended, answered = threading.Event(), threading.Semaphore(0)
    passages = [Passages(speaker=town.speaker(device), ended=ended, answered=answered) for device in (SPARE, SUSPECT)]
    tariff = (town.parties.cloud.folder / "tariff-park.json").read_bytes()
    sessions = Sessions(speaker=town.speaker(PARKING), ended=ended, answered=answered, tariff=tariff)
    killed_starting = 0
    with living(*passages, sessions):
        for _ in range(KILLS):
            if lot.random() < 0.8:
                # At work: after some answers, at a random moment of what follows them.
                for _ in range(lot.randint(1, MOST_ANSWERS_BETWEEN)):
                    assert answered.acquire(timeout=60), town.gateway.said()
                    assert not ended.is_set(), "a device was answered wrongly"
            else:
                killed_starting += 1
            assert town.gateway.process is not None
            with suppress(subprocess.TimeoutExpired):
                code = town.gateway.process.wait(lot.uniform(0, LATEST_KILL_S))
                raise AssertionError(f"it ended by itself with {code}: {town.gateway.said()}")
            town.gateway.kill()
            town.gateway.start()
        town.addresses |= town.gateway.ready()
        for _ in range(3 * MOST_ANSWERS_BETWEEN):
            assert answered.acquire(timeout=60), town.gateway.said()
    billed = town.assert_books_agree() - before
    granted = sum(device.granted for device in passages)
    assert billed == granted * FARE_MICROS + sessions.delivered_micros()
    assert granted > KILLS
    assert sessions.ends
    assert killed_starting
    assert sum(device.repeats for device in (*passages, sessions)) >= KILLS // 2, (
        "kills that nobody noticed prove nothing"
    )
