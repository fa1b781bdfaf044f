"""Ticks before the engine: the guard, gathering, and what is answered."""

from collections.abc import Callable

from recording_engine import RecordingEngine

from farthing.device.messages import Answer, AnswerStatus, ChainTick, Witness, decode_answer, encode_tick
from farthing.ids import GatewayId
from farthing_edge.ingress.guard import PeerRates, RubbishRing
from farthing_edge.ingress.ticks import MAX_GATHERED, TickDoor
from farthing_edge.metrics import Metrics

WITNESS = Witness(incarnation=1, start_id=bytes(16), position=7)
HERE, THERE = b"a" * 16, b"b" * 16


class Door:
    def __init__(self, *, burst: int = 1_000) -> None:
        self.engine = RecordingEngine(gateway=GatewayId("gw-1"), witness=WITNESS, holds_ticks=True)
        self.metrics, self.rubbish = Metrics(), RubbishRing(samples=4)
        self.said: list[bytes] = []
        self.door = TickDoor(
            engine=self.engine,
            rates=PeerRates(rate_per_s=1, burst=burst, peers=10),
            metrics=self.metrics,
            rubbish=self.rubbish,
            monotonic_ns=lambda: 0,
        )

    def tick(self, index: int, authorization: bytes = HERE, peer: str = "pump-1") -> None:
        self.raw(encode_tick(ChainTick(authorization=authorization, index=index, preimage=bytes(32))), peer)

    def raw(self, payload: bytes, peer: str = "pump-1") -> None:
        self.door.take(payload, channel="mqtt", peer=peer, say=self.said.append)

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"farthing_edge_{name}_total", labels) or 0.0


def indexes(door: Door) -> list[list[int]]:
    return [[index for index, _ in command.shown] for command in door.engine.ticks]


def recorded(ticked: int) -> Answer:
    return Answer(
        gateway=GatewayId("gw-1"),
        witness=WITNESS,
        answers=(1, 3),
        status=AnswerStatus.RECORDED,
        receipted_counter=0,
        ticked=ticked,
    )


def test_what_comes_while_a_group_is_written_goes_with_the_next_together() -> None:
    door = Door()
    for index in (1, 2, 3):
        door.tick(index)
    door.tick(9, THERE)
    assert indexes(door) == [[1], [9]]
    door.engine.waiting[0].set_result(None)
    assert indexes(door) == [[1], [9], [2, 3]]
    door.engine.waiting[2].set_result(None)
    assert len(door.engine.ticks) == 3
    # Nothing is under way any more, so the next goes at once.
    door.tick(4)
    assert indexes(door)[-1] == [4]
    assert (door.engine.ticks[-1].device, door.engine.ticks[-1].authorization) == ("pump-1", HERE)


def test_what_waits_is_bounded_and_the_newest_stay() -> None:
    door = Door()
    for index in range(1, MAX_GATHERED + 12):
        door.tick(index)
    door.engine.waiting[0].set_result(None)
    assert indexes(door)[1] == list(range(12, MAX_GATHERED + 12))
    assert door.count("ticks_dropped") == 10


def test_a_peer_beyond_its_rate_is_dropped_and_slows_nobody_else() -> None:
    door = Door(burst=2)
    for index in range(1, 6):
        door.tick(index)
    door.tick(1, THERE, peer="pump-2")
    assert [command.device for command in door.engine.ticks] == ["pump-1", "pump-2"]
    assert door.count("ticks_dropped") == 3
    assert door.count("ticks", channel="mqtt") == 6


def test_rubbish_reaches_no_engine_and_is_sampled() -> None:
    door = Door()
    for payload in (b"", b"\x83", bytes(56), bytes(4_000)):
        door.raw(payload)
    assert door.engine.ticks == []
    assert door.count("unverified", channel="mqtt") == 4
    assert [each.size for each in door.rubbish.samples()] == [0, 1, 56, 4_000]


def test_an_answer_goes_out_and_what_waits_goes_on() -> None:
    door = Door()
    door.tick(1)
    door.tick(2)
    door.engine.waiting[0].set_result(recorded(1))
    assert [decode_answer(each) for each in door.said] == [recorded(1)]
    assert indexes(door) == [[1], [2]]


def test_an_engine_that_stopped_is_asked_again_by_the_next_tick() -> None:
    door = Door()
    door.tick(1)
    door.engine.waiting[0].set_exception(RuntimeError("stopped"))
    door.tick(2)
    assert indexes(door) == [[1], [2]]
    assert door.said == []


def test_a_full_engine_loses_ticks_without_a_word() -> None:
    door = Door()
    door.engine.holds_ticks = False
    tell: Callable[[int], None] = door.tick
    for index in range(1, 4):
        tell(index)
    assert indexes(door) == [[1], [2], [3]]
    assert door.said == []
