"""An engine that writes down what it hears: for tests of what stands before it."""

import asyncio
from dataclasses import dataclass, field

from farthing.device.cose import VerifyingKey
from farthing.device.messages import Answer, AnswerStatus, Witness
from farthing.ids import DeviceId, GatewayId
from farthing.refusal import Refusal
from farthing_edge.authorization.commands import DeviceStatement, TicksArrived
from farthing_edge.engine import Waiting


@dataclass(kw_only=True)
class RecordingEngine:
    """Answers "recorded" to everything, as ``gateway`` with ``witness``."""

    gateway: GatewayId
    witness: Witness
    keys: dict[DeviceId, VerifyingKey] = field(default_factory=dict)
    heard: list[DeviceStatement] = field(default_factory=list)
    ticks: list[TicksArrived] = field(default_factory=list)
    #: Who waits for ticks to be written, while ``holds_ticks``.
    waiting: list[Waiting] = field(default_factory=list)
    holds_ticks: bool = False
    #: Label and epoch of the site's key; None: no intent can be looked up.
    key: tuple[str, int] | None = None
    complete: bool = True
    _under_way: set["asyncio.Task[None]"] = field(default_factory=set)

    def hear(self, command: DeviceStatement | TicksArrived, waiting: Waiting, /) -> None:
        if isinstance(command, TicksArrived):
            self.ticks.append(command)
            if self.holds_ticks:
                self.waiting.append(waiting)
            else:
                waiting.set_result(None)
            return
        self._under_way = {each for each in self._under_way if not each.done()}
        self._under_way.add(asyncio.create_task(self._answer(command, waiting)))

    async def _answer(self, command: DeviceStatement, waiting: Waiting) -> None:
        waiting.set_result(await self.submit(command))

    async def submit(self, command: DeviceStatement) -> Answer:
        self.heard.append(command)
        return Answer(
            gateway=self.gateway,
            witness=self.witness,
            answers=(command.statement.device_epoch, command.statement.counter),
            status=AnswerStatus.RECORDED,
            receipted_counter=0,
        )

    def answer_refusal(
        self, *, answers: tuple[int, int] | None, refusal: Refusal, retry_after_ms: int | None = None
    ) -> Answer:
        later = refusal.rule == 13
        return Answer(
            gateway=self.gateway,
            witness=self.witness,
            answers=answers,
            status=AnswerStatus.LATER if later else AnswerStatus.REFUSED,
            refusal=refusal,
            retry_after_ms=retry_after_ms if later else None,
            receipted_counter=0,
        )

    def statement_key(self, device: DeviceId, /) -> VerifyingKey | None:
        return self.keys.get(device)

    def is_complete(self) -> bool:
        return self.complete

    def site_key(self) -> tuple[str, int] | None:
        return self.key
