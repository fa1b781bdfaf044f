"""What happened, as the journal keeps it. Applying an event is the only way the state changes; replay is applying them again.

Rule 1: an event says what became of things, not what was asked: replay needs no settings, clock or price.
Rule 2: its body is a CBOR array in the order of the fields (as it is kept: see ``packing``); a field is only ever appended, and a kind's number never changes.
Rule 3: volatile events change the state but are not written: what they say is told again after a start.
"""

from typing import Any, NamedTuple, TypeAlias

import cbor2

from farthing.tariff import Placed
from farthing_edge.authorization.packing import PackingError, pack, unpack
from farthing_edge.authorization.state import Charge


class EventError(ValueError):
    """A journal body that is not an event of its kind."""


class Started(NamedTuple):
    """A process began: entries from here to the next start are its."""

    start_id: bytes
    boot_id: str
    clock_epoch_us: int
    clock_real_epoch_us: int
    clock_rate: int
    check_salt: bytes = b""
    #: The clock as it was read, real µs (-1: an older program did not say), what it then showed as business time, and what was made of it.
    real_us: int = -1
    monotonic_us: int = 0
    at: int = 0
    trusted: bool = False
    lead_us: int = 0
    step_us: int = 0


class DirectiveApplied(NamedTuple):
    """A directive of the chain, whole: the bytes that were signed."""

    version: int
    raw: bytes
    signature: bytes
    key_id: bytes
    #: A welcome to an incarnation that another journal has begun: it stands in the chain and is not obeyed.
    passed_over: bool = False


class ClockStepped(NamedTuple):
    """The wall clock was put on (or back, below 0) by ``step_us`` business µs; ``at`` is what it shows since, the rest as in ``Started``."""

    at: int
    step_us: int
    boot_id: str
    real_us: int
    monotonic_us: int
    trusted: bool
    lead_us: int


#: A new incarnation: the only judgement that lowers the lower bound.
BY_INCARNATION = "incarnation"


class ClockJudged(NamedTuple):
    """When the clock showed ``at``, it became trusted, or no longer is, or was found to be further behind: by the kernel's or the cloud's word."""

    at: int
    trusted: bool
    lead_us: int
    by: str


class HeadRecorded(NamedTuple):
    """The chain's head was heard to be current at this business instant."""

    version: int
    at: int


class Granted(NamedTuple):
    """A yes to an intent: a hold, or for a one-shot use the charges themselves."""

    device: str
    device_epoch: int
    counter: int
    digest: bytes
    statement: bytes
    traceparent: str | None
    authorization: bytes
    account: str
    token_key: bytes
    commitment: bytes
    register_id: str
    register_epoch: int
    unit: str
    start: int
    at: int
    tariff_id: str
    tariff_version: int
    currency: str
    report_interval_s: int
    holds: tuple[tuple[str, int], ...]
    limit: int
    decided_at: int
    incarnation: int
    online: bool
    #: One-shot: what it used and what that costs; otherwise ``used_to`` is the start and nothing is charged.
    used_to: int
    charges: tuple[Charge, ...]
    #: What the register showed at the start, and what its device said it had counted: ``start`` has the turns it did not say. -1:
    #: as ``start``.
    shown_start: int = -1
    said_start: int = -1
    #: The most it may bill and hold, ever; None: nothing bounds it but money.
    cap: int | None = None
    #: Where it happened (latitude, longitude; millionths of a degree), where a policy asks for places.
    position: tuple[int, int] | None = None
    #: Instants at which a reading is due besides the interval.
    readings_due: tuple[int, ...] = ()
    #: No use begins under it from then on, by the clock that dated its intent; None: it does not lapse (a one-shot use is over; journals of before).
    lapses_at: int | None = None


class Lapsed(NamedTuple):
    """No use is known to have begun under this authorization, and none may any more. What it holds stays until its device's last word, or people's."""

    authorization: bytes
    at: int


class IntentRefused(NamedTuple):
    """A no that stays: the same intent hears it again."""

    device: str
    device_epoch: int
    counter: int
    digest: bytes
    refusal: int
    at: int


class IntentCancelled(NamedTuple):
    """An end that bills nothing: for an intent that never came, which is refused for ever; or for a use that was over before."""

    device: str
    device_epoch: int
    counter: int
    digest: bytes
    statement: bytes
    authorization: bytes
    at: int


class BaselineTaken(NamedTuple):
    """The first reading of a standing authorization: from here on its use is billed."""

    device: str
    device_epoch: int
    counter: int
    digest: bytes
    statement: bytes
    traceparent: str | None
    authorization: bytes
    account: str
    token_key: bytes
    register_id: str
    register_epoch: int
    unit: str
    start: int
    at: int
    tariff_id: str
    tariff_version: int
    currency: str
    report_interval_s: int
    said_start: int = -1


class Metered(NamedTuple):
    """A reading, a chain or an end that moved an authorization on: what it bills, what is held after it, what the device is told.

    ``at`` is the latest time that the device has signed; where that is an earlier statement's (its clock went back), ``latest`` is that
    statement. ``opened_position`` and what follows it make the record readable without what came before it: where the authorization opened and what it had been
    told (positions of entries, 0 for none), and from where and what it had billed.
    """

    device: str
    counter: int
    digest: bytes
    statement: bytes
    traceparent: str | None
    authorization: bytes
    value: int
    at: int
    charges: tuple[Charge, ...]
    holds: tuple[tuple[str, int], ...]
    limit: int
    closing: bool
    decided_at: int
    incarnation: int
    opened_position: int
    told_position: int
    register_from: int
    net_before_micros: int
    tax_before_micros: int
    latest: bytes | None = None
    #: Where the tariff places: where the use stands after this, and the entry of the statement before it (0: the opening one).
    placed: Placed | None = None
    placed_position: int = 0
    readings_due: tuple[int, ...] = ()


class ChainStarted(NamedTuple):
    """From the register's value ``start`` on, ticks prove the use of an authorization."""

    authorization: bytes
    counter: int
    statement: bytes
    unit_per_tick: int
    length: int
    anchor: bytes
    start: int


class Ticked(NamedTuple):
    """Ticks up to this one are proven: durable, and billed with what follows."""

    authorization: bytes
    tick_index: int
    tick_preimage: bytes
    heard_at: int


class Settled(NamedTuple):
    """An authorization moved on by no statement that has just come: by ticks, or by a decision of the operator.

    ``statement`` is the one that the record rests on (a chain, the last reading, one that was parked), with the tick that goes with it
    (0 and nothing: none); ``decision`` is the operator's, empty for ticks. All else as in ``Metered``.
    """

    authorization: bytes
    statement: bytes
    tick_index: int
    tick_preimage: bytes
    traceparent: str | None
    value: int
    at: int
    charges: tuple[Charge, ...]
    holds: tuple[tuple[str, int], ...]
    limit: int
    closing: bool
    decided_at: int
    incarnation: int
    opened_position: int
    told_position: int
    register_from: int
    net_before_micros: int
    tax_before_micros: int
    latest: bytes | None
    decision: str
    placed: Placed | None = None
    placed_position: int = 0
    readings_due: tuple[int, ...] = ()


class UseSetAside(NamedTuple):
    """No batch can be made of this authorization's records: they are left out, and people are told."""

    authorization: bytes
    reason: str


class Adopted(NamedTuple):
    """An authorization that this journal has lost and its device has shown: it goes on here, under the same id.

    ``statement`` is what it began with, ``grant`` the payload of the newest grant (empty for a standing one). It goes on from
    ``register_to`` and from ``billed``, (rate, net, tax) each: what the cloud said of its highest claim, or its start.
    """

    device: str
    device_epoch: int
    counter: int
    digest: bytes
    statement: bytes
    traceparent: str | None
    authorization: bytes
    account: str
    token_key: bytes
    commitment: bytes | None
    register_id: str
    register_epoch: int
    unit: str
    start: int
    at: int
    tariff_id: str
    tariff_version: int
    currency: str
    report_interval_s: int
    grant: bytes
    holds: tuple[tuple[str, int], ...]
    register_to: int
    billed: tuple[tuple[int, int, int], ...]
    decided_at: int
    #: What the register showed at the start, and what its device said it had counted: ``start`` has the turns it did not say.
    shown_start: int
    said_start: int
    #: The most that it may cost in all, micros; None where no limit says so (journals of before forgot it).
    cap: int | None = None


class Disclaimed(NamedTuple):
    """The device has nothing of this authorization any more: it is over at its last claim."""

    device: str
    counter: int
    digest: bytes
    statement: bytes
    authorization: bytes
    at: int


class EndCarried(NamedTuple):
    """Another gateway's end, taken to be carried up: the device's statements (intent first, end last) and the grant, as they came.

    Also a one-shot use's intent alone, with its grant; and two readings of a standing authorization, which has none (empty).
    """

    device: str
    counter: int
    digest: bytes
    statements: tuple[bytes, ...]
    grant: bytes
    granted_by: str
    granted_incarnation: int
    authorization: bytes
    at: int


class StatementParked(NamedTuple):
    """A signed reading or end that cannot be taken as it stands: kept whole, with the reason, and never billed by itself."""

    device: str
    device_epoch: int
    counter: int
    digest: bytes
    statement: bytes
    refusal: int
    at: int
    #: What it says, where it names an authorization that is known: for whoever decides about it.
    authorization: bytes = b""
    value: int = -1
    said_at: int = 0
    closing: bool = False
    #: The next batch has it (journals of before told nobody): its device keeps it until that one is receipted.
    goes_up: bool = False


def parks(happened: "tuple[Event, ...]") -> bool:
    """Whether a statement is parked by what happens."""
    return any(event.__class__ is StatementParked for event in happened)


#: Why a quota was stopped that nobody spent from: it is given back, and not asked for again before somebody does.
UNUSED = "unused"


class QuotaStopped(NamedTuple):
    """No new hold from this quota."""

    quota_id: str
    reason: str


class QuotaRequested(NamedTuple):
    """The cloud is asked for money."""

    counter: int
    account: str
    currency: str
    wanted_micros: int


class QuotaRequestClosed(NamedTuple):
    """The cloud had nothing; not before ``ask_after`` is it asked again for this account."""

    counter: int
    answer: int
    ask_after: int


class Sealed(NamedTuple):
    """A batch: its bytes, and what they say of stopped and closed quotas."""

    incarnation: int
    sequence: int
    batch: bytes
    batch_hash: bytes
    first_position: int
    last_position: int
    stopped: tuple[tuple[str, int], ...]
    closed: tuple[str, ...]
    #: The hash of the batch of an older chain that this one says again; empty for all others.
    again: bytes = b""


class Receipted(NamedTuple):
    """The cloud has taken over everything up to this batch."""

    incarnation: int
    sequence: int
    batch_hash: bytes
    raw: bytes
    #: Shown to a ledger that was restored: what it signed proves to it that it was. Empty in an older program's journal.
    signature: bytes = b""
    key_id: bytes = b""


class RollbackSuspected(NamedTuple):
    """Somebody has seen more of this journal than there is: no new authorization before an incarnation above this one."""

    reason: str
    incarnation: int = 0


class SeenBeyond(NamedTuple):
    """A device that is not active has seen more of this journal than there is. That stops nobody, but from here on nothing is called receipted to it."""

    device: str
    incarnation: int
    reason: str


class Salvaged(NamedTuple):
    """This journal was put together from a damaged one: it goes on after ``last_position``, what came later is not decided on any more.

    ``beyond`` entries after the damage are kept, ``lost`` (first, last) are ranges of positions that could not be read.
    """

    last_position: int
    beyond: int
    lost: tuple[tuple[int, int], ...]
    at: int


class UplinkSeen(NamedTuple):
    """Volatile: whether the cloud can be asked."""

    online: bool


class HeadSeen(NamedTuple):
    """Volatile: the chain's head, in between two that are recorded."""

    at: int


class ClockLed(NamedTuple):
    """Volatile: the cloud has signed something a little later than the clock shows."""

    at: int
    lead_us: int


class WordDoubted(NamedTuple):
    """Volatile: the cloud's word is dated too far ahead of a trusted clock to be believed; 0: it is believed again."""

    ahead_us: int


class HelloSeen(NamedTuple):
    """Volatile: the incarnation by which the cloud knows this gateway, and why it has to wait for another, if it has to."""

    incarnation: int
    waits: str = ""


Event: TypeAlias = (
    Started
    | DirectiveApplied
    | ClockStepped
    | ClockJudged
    | HeadRecorded
    | Granted
    | Lapsed
    | IntentRefused
    | IntentCancelled
    | BaselineTaken
    | Metered
    | ChainStarted
    | Ticked
    | Settled
    | UseSetAside
    | Adopted
    | Disclaimed
    | EndCarried
    | StatementParked
    | QuotaStopped
    | QuotaRequested
    | QuotaRequestClosed
    | Sealed
    | Receipted
    | RollbackSuspected
    | SeenBeyond
    | Salvaged
    | UplinkSeen
    | HeadSeen
    | ClockLed
    | WordDoubted
    | HelloSeen
)

#: Kind numbers of the journal, for ever.
KINDS: dict[int, type[Any]] = {
    1: Started,
    2: DirectiveApplied,
    3: HeadRecorded,
    4: ClockStepped,
    5: ClockJudged,
    10: Granted,
    11: IntentRefused,
    12: IntentCancelled,
    13: BaselineTaken,
    14: Metered,
    15: StatementParked,
    16: Adopted,
    17: Disclaimed,
    18: EndCarried,
    19: Lapsed,
    20: QuotaStopped,
    21: QuotaRequested,
    22: QuotaRequestClosed,
    30: Sealed,
    31: Receipted,
    40: RollbackSuspected,
    41: Salvaged,
    42: SeenBeyond,
    50: ChainStarted,
    51: Ticked,
    52: Settled,
    53: UseSetAside,
}
KIND_OF: dict[type[Any], int] = {event: kind for kind, event in KINDS.items()}

#: Where a body has what is more than plain values: read one by one, tens of thousands of times in a start.
_CHARGES_AT = {known: known._fields.index("charges") for known in (Granted, Metered, Settled)}
_PLACED_AT = {known: known._fields.index("placed") for known in (Metered, Settled)}


def encode(event: Event) -> tuple[int, bytes]:
    """The journal's kind and body of a durable event."""
    return KIND_OF[event.__class__], pack(cbor2.dumps(event))


def decode(kind: int, body: bytes) -> Event:
    """The event that a journal's entry is; raise ``EventError`` for anything else."""
    event_class = KINDS.get(kind)
    if event_class is None:
        raise EventError(f"no event has kind {kind}")
    try:
        fields = cbor2.loads(unpack(body))
        charges_at = _CHARGES_AT.get(event_class)
        if charges_at is not None:
            fields[charges_at] = tuple([Charge(*charge) for charge in fields[charges_at]])
            placed_at = _PLACED_AT.get(event_class, len(fields))
            if placed_at < len(fields) and fields[placed_at] is not None:
                fields[placed_at] = Placed(*_frozen(fields[placed_at]))
        event: Event = event_class(*[_frozen(value) if value.__class__ is list else value for value in fields])
    except (cbor2.CBORDecodeError, PackingError, TypeError, LookupError) as err:
        raise EventError(f"not a body of {event_class.__name__}") from err
    return event


def _frozen(value: Any) -> Any:
    return tuple([_frozen(item) if item.__class__ is list else item for item in value])
