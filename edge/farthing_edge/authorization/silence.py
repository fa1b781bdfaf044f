"""What became of it? Authorizations that have been silent for too long are asked after, and a device may say that one is not its own.

Rule 1: silence ends nothing. The device's next answer carries the question (answer, key 10): who knows the authorization repeats its
last word on it, who does not signs a disclaimer.
Rule 2: a disclaimer closes an authorization where its last claim ended: nothing more is billed than what its ticks have proven, its hold
is released.
"""

from farthing.clock import SECOND_US, Instant
from farthing.device.messages import MAX_ASKED, AnswerStatus, Disclaimer
from farthing.ids import AuthorizationId
from farthing.refusal import Refusal
from farthing_edge.authorization import events
from farthing_edge.authorization.commands import DeviceStatement, Reply
from farthing_edge.authorization.decision import Decision, digest_of, no
from farthing_edge.authorization.readings import heard, seen_before
from farthing_edge.authorization.state import GatewayState
from farthing_edge.authorization.ticks import settle_ticks

#: Report intervals without a word before an authorization is asked after: one reading may be lost, and the next be late.
SILENT_INTERVALS = 3


def asks(state: GatewayState, command: DeviceStatement, reply: Reply, now: Instant) -> tuple[AuthorizationId, ...]:
    """The authorizations of the device that is answered, of which nothing was heard for too long.

    Asked at once where the register is busy: the device asks for another use of it, so it may have nothing of the first any more. And where it has
    lapsed: no use may begin under it any more, so its hold waits for nothing but that word.
    """
    statement = command.statement
    device = state.devices.get(statement.device)
    if device is None:
        return ()
    asked: list[AuthorizationId] = []
    for register in device.registers.values():
        authorization = register.open
        if authorization is None or authorization.standing or authorization.told is None:
            continue
        if authorization.id == getattr(statement, "authorization", None):
            continue
        busy = reply.refusal is Refusal.REGISTER_BUSY and statement.register.register_id == register.id
        if (
            busy
            or authorization.id in state.lapsed
            or now - authorization.heard_at > SILENT_INTERVALS * authorization.report_interval_s * SECOND_US
        ):
            asked.append(authorization.id)
    return tuple(asked[:MAX_ASKED])


def decide_disclaimer(state: GatewayState, command: DeviceStatement, disclaimer: Disclaimer, now: Instant) -> Decision:
    device = heard(state, disclaimer)
    if isinstance(device, Refusal):
        return no(disclaimer, device)
    digest = digest_of(command.payload)
    if disclaimer.counter in device.seen:
        return seen_before(device, disclaimer, digest)
    over = Decision(
        reply=Reply(
            device=device.id,
            answers=(disclaimer.device_epoch, disclaimer.counter),
            status=AnswerStatus.RECORDED,
            closed=True,
        )
    )
    authorization = state.authorizations.get(disclaimer.authorization)
    if authorization is None or authorization.closed:
        return over
    if authorization.device_id != device.id or authorization.standing:
        return no(disclaimer, Refusal.MALFORMED)
    disclaimed = events.Disclaimed(
        device=device.id,
        counter=disclaimer.counter,
        digest=digest,
        statement=command.cose,
        authorization=authorization.id,
        at=disclaimer.at,
    )
    return over._replace(events=(*settle_ticks(state, device, authorization, now), disclaimed))
