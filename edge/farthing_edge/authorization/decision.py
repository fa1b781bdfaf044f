"""What a decision is, and the answers that every kind of statement shares."""

import hashlib
from typing import NamedTuple

from farthing.device.messages import AnswerStatus, Chain, End, Intent, Reading, Statement
from farthing.refusal import Refusal
from farthing_edge.authorization.commands import Reply, WaitForQuota
from farthing_edge.authorization.events import Event
from farthing_edge.authorization.state import (
    Authorization,
    Device,
)

#: "Same content" compares this much of SHA-256 of a payload: 2⁶⁴ tries for a second content of one's own.
DIGEST_SIZE = 16


class Decision(NamedTuple):
    """What happens and what is said. (A tuple, as ``Reply``.)

    ``reply`` answers a statement; ``wait`` says that it is to be decided again. ``refused`` counts a no that is not journaled. ``leaves`` are those of the batch
    that was sealed, for who will be asked for them soon: the journal says them again.
    """

    events: tuple[Event, ...] = ()
    reply: Reply | None = None
    wait: WaitForQuota | None = None
    refused: Refusal | None = None
    leaves: tuple[bytes, ...] = ()


NOTHING = Decision()


def digest_of(payload: bytes) -> bytes:
    """By what "same content" is told: recipient included, signature not."""
    return hashlib.sha256(payload).digest()[:DIGEST_SIZE]


def status_of(refusal: Refusal) -> AnswerStatus:
    """Refused is final for a statement; of the gateway's own reasons, 13 can be asked again, 14 after learning something."""
    if refusal.rule == 13:
        return AnswerStatus.LATER
    return AnswerStatus.AGAIN if refusal.rule == 14 else AnswerStatus.REFUSED


def no(statement: Statement, refusal: Refusal, *happened: Event) -> Decision:
    reply = Reply(
        device=statement.device,
        answers=(statement.device_epoch, statement.counter),
        status=status_of(refusal),
        refusal=refusal,
    )
    return Decision(happened, reply, refused=None if happened else refusal)


def again(device: Device, statement: Statement) -> Decision:
    """The first answer, and what became of it."""
    seen = device.seen[statement.counter]
    answers = (statement.device_epoch, statement.counter)
    if seen.refusal is not None:
        refusal = Refusal(seen.refusal)
        return Decision(reply=Reply(device=device.id, answers=answers, status=status_of(refusal), refusal=refusal))
    authorization = seen.authorization
    granted = statement.__class__ is Intent
    return Decision(
        reply=Reply(
            device=device.id,
            answers=answers,
            status=AnswerStatus.GRANTED if granted else AnswerStatus.RECORDED,
            grant_of=None
            if authorization is None or authorization.standing or (authorization.closed and not granted)
            else authorization.id,
            closed=authorization is None or authorization.closed,
        )
    )


def recorded(statement: Reading | End | Chain, authorization: Authorization | None) -> Decision:
    """Heard, and nothing changes."""
    is_open = authorization is not None and not authorization.closed
    return Decision(
        reply=Reply(
            device=statement.device,
            answers=(statement.device_epoch, statement.counter),
            status=AnswerStatus.RECORDED,
            grant_of=authorization.id if authorization is not None and is_open and not authorization.standing else None,
            closed=not is_open,
        )
    )
