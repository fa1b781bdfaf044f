"""Remember when and where a use was, as its devices signed it, and by which code its payer finds it.

The ledger verified the statements before it published them. Neither token nor salt comes here: a code is a hash of the commitment.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from google.protobuf.message import DecodeError

from farthing.clock import Instant
from farthing.device.cose import decode_sign1
from farthing.device.messages import decode_statement
from farthing.device.reject import MessageError
from farthing.ids import receipt_code
from farthing.v1 import events_pb2
from farthing_cloud.documents.store import DocumentStore, Session
from farthing_cloud.events.consumer import Connection, Event, PoisonEvent

KINDS = ("evidence.verified",)


def session_of(evidence: events_pb2.EvidenceVerified) -> Session:
    """What one leaf's statements say of its use; raise ``PoisonEvent`` for statements that no device could have signed."""
    try:
        statements = [decode_statement(decode_sign1(cose).payload) for cose in evidence.statements]
    except MessageError as err:
        raise PoisonEvent(f"not a device's statement: {err}") from err
    if not statements:
        raise PoisonEvent("verified evidence without a statement")
    commitment = next((each.commitment for each in statements if each.commitment is not None), None)
    times = [each.at for each in statements]
    return Session(
        authorization_id=evidence.authorization_id,
        gateway_id=evidence.gateway_id,
        device_id=evidence.device_id,
        first_at=Instant(min(times)),
        last_at=Instant(max(times)),
        code=b"" if commitment is None else receipt_code(commitment),
    )


def merged(sessions: Iterable[tuple[str, Session]]) -> list[tuple[str, Session]]:
    """Each use once, with the widest times."""
    found: dict[tuple[str, bytes, str], Session] = {}
    for operator_id, session in sessions:
        key = (operator_id, session.authorization_id, session.gateway_id)
        before = found.get(key)
        if before is not None:
            session = replace(
                before,
                first_at=Instant(min(before.first_at, session.first_at)),
                last_at=Instant(max(before.last_at, session.last_at)),
                code=before.code or session.code,
            )
        found[key] = session
    return [(operator_id, session) for (operator_id, _, _), session in found.items()]


class SessionWatch:
    """The handler of documents' consumer."""

    async def prepare(self, events: Sequence[Event]) -> None:
        """Nobody has to be asked."""

    async def handle(self, connection: Connection, events: Sequence[Event]) -> None:
        """Keep what the events' statements say."""
        found = []
        for event in events:
            try:
                evidence = events_pb2.EvidenceVerified.FromString(event.value)
            except DecodeError as err:
                raise PoisonEvent("not an EvidenceVerified") from err
            found.append((evidence.operator_id, session_of(evidence)))
        await DocumentStore(connection).keep_sessions(merged(found))

    def committed(self) -> None:
        """Nobody waits for it."""
