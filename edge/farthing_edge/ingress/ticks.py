"""Ticks on their way to the engine: gathered while the group before them is written, so that a commit carries as many as came.

Rule 1: size, then rate, then shape: the same guard as for statements, and the same budget of a peer. What is over it is dropped and
counted: the next tick proves it.
Rule 2: an authorization has one command with the engine, and what came since waits for it, bounded; of more the oldest go.
Rule 3: a tick is answered when there is something to say (a new limit). No answer says nothing.
"""

import time
from collections.abc import Callable
from typing import Protocol, TypeAlias

import structlog

from farthing.device.messages import Answer, AnswerStatus, MessageError, decode_tick, encode
from farthing.ids import AuthorizationId, DeviceId
from farthing_edge.authorization.commands import TicksArrived
from farthing_edge.engine import Waiting
from farthing_edge.ingress.guard import PeerRates, RubbishRing
from farthing_edge.metrics import Metrics

_log = structlog.get_logger(__name__)

#: Ticks of one authorization that wait: a device with a hundred ticks a second, and a commit of half a second.
MAX_GATHERED = 64
#: Authorizations with ticks under way: several times what a site has open.
MAX_TICKING = 4_096

Say: TypeAlias = Callable[[bytes], None]
_Key: TypeAlias = tuple[DeviceId, AuthorizationId]


class Engine(Protocol):
    """What ticks ask of the engine."""

    def hear(self, command: TicksArrived, waiting: Waiting, /) -> None:
        """What follows goes to ``waiting``, once it is durable."""
        ...


class _UnderWay:
    """The ticks of one authorization: those with the engine, and those that came since."""

    __slots__ = ("_door", "_key", "gathered", "say")

    def __init__(self, door: "TickDoor", key: _Key, say: Say) -> None:
        self._door = door
        self._key = key
        self.gathered: list[tuple[int, bytes]] = []
        self.say = say

    def done(self) -> bool:
        return False

    def set_result(self, answer: Answer | None) -> None:
        if answer is not None:
            self._door.answered(answer)
            self.say(encode(answer))
        self._door.go_on(self._key, self)

    def set_exception(self, err: BaseException) -> None:
        # Nobody waits: what is not written down the next tick proves again.
        _log.info("ticks_lost", device=self._key[0], cause=str(err))
        self._door.forget(self._key)


class TickDoor:
    """Takes ticks of every channel."""

    def __init__(
        self,
        *,
        engine: Engine,
        rates: PeerRates,
        metrics: Metrics,
        rubbish: RubbishRing,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._engine = engine
        self._rates = rates
        self._metrics = metrics
        self._rubbish = rubbish
        self._monotonic_ns = monotonic_ns
        self._under_way: dict[_Key, _UnderWay] = {}

    def take(self, payload: bytes, *, channel: str, peer: str, say: Say) -> None:
        """A tick of ``peer``, the device that ``channel`` proved; ``say`` sends an answer to it, if there will be one."""
        metrics = self._metrics
        metrics.ticks_of(channel).inc()
        if self._rates.admit(peer, now_ns=self._monotonic_ns()):
            metrics.ticks_dropped.inc()
            return
        try:
            tick = decode_tick(payload)
        except MessageError as err:
            metrics.unverified.labels(channel).inc()
            metrics.refusals.labels("ingress", str(int(err.refusal))).inc()
            self._rubbish.add(channel=channel, peer=peer, refusal=err.refusal, payload=payload)
            return
        key = DeviceId(peer), tick.authorization
        under_way = self._under_way.get(key)
        if under_way is None:
            if len(self._under_way) >= MAX_TICKING:
                metrics.ticks_dropped.inc()
                return
            self._under_way[key] = under_way = _UnderWay(self, key, say)
            self._hand_on(key, under_way, ((tick.index, tick.preimage),))
            return
        under_way.say = say
        gathered = under_way.gathered
        if len(gathered) >= MAX_GATHERED:
            del gathered[0]
            metrics.ticks_dropped.inc()
        gathered.append((tick.index, tick.preimage))

    def _hand_on(self, key: _Key, under_way: _UnderWay, shown: tuple[tuple[int, bytes], ...]) -> None:
        self._engine.hear(TicksArrived(device=key[0], authorization=key[1], shown=shown), under_way)

    # What ticks on their way tell their door ---------------------------------------------------------------------------

    def go_on(self, key: _Key, under_way: _UnderWay) -> None:
        """The group is written: what came since is next."""
        shown = tuple(under_way.gathered)
        if not shown:
            self.forget(key)
            return
        under_way.gathered = []
        self._hand_on(key, under_way, shown)

    def forget(self, key: _Key) -> None:
        """Nothing of it is under way any more."""
        self._under_way.pop(key, None)

    def answered(self, answer: Answer) -> None:
        """Count what is said."""
        if answer.refusal is not None:
            self._metrics.refusals.labels("engine", str(int(answer.refusal))).inc()
        self._metrics.ticks_answered.labels(AnswerStatus(answer.status).name.lower()).inc()
