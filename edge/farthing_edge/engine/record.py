"""What the journal has for the uplink to send: signed batches, their detail, directives. Each call reads on a connection of its own."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from farthing.ids import AccountId, GatewayId
from farthing.money import Currency
from farthing_edge.authorization.events import DirectiveApplied, Event, Sealed, decode
from farthing_edge.authorization.state import GatewayState
from farthing_edge.journal.errors import JournalError
from farthing_edge.journal.store import (
    Entry,
    Journal,
    read_batch_position,
    read_directive_links,
    read_directive_positions,
    read_earlier_incarnations,
    read_entries,
    read_entry,
    read_signed_batches,
    read_start_at,
)
from farthing_edge.metering.detail import Placed, billed_by, leaves_of_entries


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedBatchRow:
    """A batch ready to be sent."""

    incarnation: int
    sequence: int
    batch: bytes
    signature: bytes
    key_id: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaRequestRow:
    """A request for money that the cloud has not answered."""

    incarnation: int
    counter: int
    account_id: AccountId
    currency: Currency
    wanted_micros: int


class Record:
    """Reads the journal from any thread; ``state`` says of which incarnation, and how far the directives go."""

    def __init__(self, *, journal: Journal, gateway_id: GatewayId, state: Callable[[], GatewayState]) -> None:
        self._journal = journal
        self._gateway_id = gateway_id
        self._state = state

    def batches_to_send(
        self, after_sequence: int, limit: int = 64, *, incarnation: int | None = None
    ) -> list[SignedBatchRow]:
        """Signed batches of this incarnation (or an earlier one) with a higher sequence, ascending, at most ``limit``."""
        with closing(self._journal.reader()) as connection:
            return [
                SignedBatchRow(
                    incarnation=incarnation,
                    sequence=sequence,
                    batch=sealed_at(read_entry(connection, position)).batch,
                    signature=signature,
                    key_id=key_id,
                )
                for incarnation, sequence, position, signature, key_id in read_signed_batches(
                    connection,
                    self._state().incarnation if incarnation is None else incarnation,
                    after_sequence,
                    limit,
                )
            ]

    def earlier_incarnations(self) -> list[int]:
        """The incarnations before this one of which the journal has batches."""
        with closing(self._journal.reader()) as connection:
            return read_earlier_incarnations(connection, self._state().incarnation)

    def directives(self, after_version: int, limit: int = 64) -> list[DirectiveApplied]:
        """Directives after a version as they were signed, ascending, at most ``limit``."""
        with closing(self._journal.reader()) as connection:
            return [
                _directive_at(read_entry(connection, position))
                for position in read_directive_positions(connection, after_version, limit)
            ]

    def directive_links(self) -> list[tuple[int, bytes]]:
        """(version, hash): the newest directive, older ones at distances that double, and the oldest that is not pruned."""
        links: list[tuple[int, bytes]] = []
        distance, wanted = 1, self._state().directive_version
        last = None
        with closing(self._journal.reader()) as connection:
            for last in read_directive_links(connection):
                if last[0] <= wanted:
                    links.append(last)
                    wanted, distance = last[0] - distance, 2 * distance
        return links if last is None or links[-1] == last else [*links, last]

    def detail(self, incarnation: int, sequence: int) -> list[bytes]:
        """The leaves of a batch, in order, rebuilt."""
        with closing(self._journal.reader()) as connection:
            sealed = sealed_at(read_entry(connection, read_batch_position(connection, incarnation, sequence)))
            rows = read_entries(connection, sealed.first_position, sealed.last_position)

            def event_at(position: int) -> Event:
                entry = read_entry(connection, position)
                return decode(entry.kind, entry.body)

            return leaves_of_entries(
                billed_by(sealed.batch, (Placed(entry.position, decode(entry.kind, entry.body)) for entry in rows)),
                gateway_id=self._gateway_id,
                event_at=event_at,
                start_id_at=lambda position: read_start_at(connection, position),
            )


def read_batch(journal: Journal, incarnation: int, sequence: int) -> bytes:
    """A batch as it was sealed."""
    with closing(journal.reader()) as connection:
        return sealed_at(read_entry(connection, read_batch_position(connection, incarnation, sequence))).batch


def sealed_at(entry: Entry) -> Sealed:
    """The batch that was sealed there; ``JournalError`` where none was."""
    event = decode(entry.kind, entry.body)
    if not isinstance(event, Sealed):
        raise JournalError(f"position {entry.position} is no batch")
    return event


def _directive_at(entry: Entry) -> DirectiveApplied:
    event = decode(entry.kind, entry.body)
    if not isinstance(event, DirectiveApplied):
        raise JournalError(f"position {entry.position} is no directive")
    return event
