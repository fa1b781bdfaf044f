"""The messages of ``statements.cddl`` as values: what devices and gateways may say.

Rule 1: a value cannot exist when the CDDL forbids it; its constructor raises ``MessageError``.
Rule 2: one value has one encoding; ``decode_*`` refuses any other bytes, unknown keys included.
Rule 3: integers fit what both stores hold: counts and times 63 bits, epochs and versions 32.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, unique
from typing import Any, Literal, TypeAlias, assert_never

import cbor2

from farthing.clock import Instant
from farthing.device import cbor
from farthing.device.reject import MessageError as MessageError
from farthing.ids import (
    AUTHORIZATION_ID_SIZE,
    COMMITMENT_SIZE,
    START_ID_SIZE,
    AccountId,
    AuthorizationId,
    DeviceId,
    GatewayId,
    QuotaId,
    RegisterId,
    StartId,
    TariffId,
    parse_id,
)
from farthing.money import MAX_AMOUNT_MICROS, Currency
from farthing.refusal import Refusal

#: SQLite and PostgreSQL keep signed 64-bit integers.
MAX_COUNT = 2**63 - 1
#: Epochs, versions and intervals are uint32 in protobuf.
MAX_EPOCH = 2**32 - 1
#: Millionths of a degree.
MAX_LATITUDE = 90_000_000
MAX_LONGITUDE = 180_000_000
SALT_SIZE = 16
MAX_TOKEN_SIZE = 256
#: W3C Trace Context version 00 has 55 characters; later versions may append to it.
MAX_TRACEPARENT_SIZE = 128
#: The largest statement has four ids of 64 characters and a dozen integers: 520 bytes.
MAX_STATEMENT_SIZE = 640
#: A gateway opens a handful of quotas per account; one hold is spread over no more than these.
MAX_HELD_PARTS = 16
#: A day has a handful of prices, and every answer says which changes come next.
MAX_READINGS_DUE = 8
#: Four ids of 64 characters, 16 held parts with an id each: below 1900 bytes.
MAX_GRANT_SIZE = 2_048
#: Payload, signature and heads.
MAX_SIGN1_SIZE = MAX_GRANT_SIZE + 128
#: Statement, token, salt, traceparent and witness come to 1250 bytes; what is shown instead of a token to 3,900.
MAX_ENVELOPE_SIZE = 4_096
#: Authorizations asked after in one answer: a device has a register for each connector, and one authorization for each register.
MAX_ASKED = 8
MAX_ANSWER_SIZE = 4_096
#: Ticks of one chain. A gateway that heard only the last one hashes this often, some 30 ms: no message may cost it more.
MAX_CHAIN_LENGTH = 65_536
#: A preimage of SHA-256, and what it hashes to.
WORD_SIZE = 32
#: An authorization, an index, a preimage: 56 bytes at most.
MAX_TICK_SIZE = 64

_MAX_STATEMENT_SIGN1_SIZE = MAX_STATEMENT_SIZE + 128

FLOOR: Literal["floor"] = "floor"


# Checks ---------------------------------------------------------------------------------------------------------------


def _count(value: object, what: str, most: int = MAX_COUNT) -> None:
    if value.__class__ is not int or not 0 <= value <= most:
        raise MessageError(f"{what} is an integer from 0 to {most}")


def _id(value: object, what: str) -> None:
    try:
        parse_id(value)
    except ValueError as err:
        raise MessageError(f"{what} is 1 to 64 letters, digits or hyphens") from err


def _bytes(value: object, what: str, size: int) -> None:
    if value.__class__ is not bytes or len(value) != size:
        raise MessageError(f"{what} is {size} bytes")


def is_traceparent(text: Any) -> bool:
    """Whether ``text`` can be a traceparent: 1 to ``MAX_TRACEPARENT_SIZE`` printable ASCII characters."""
    return text.__class__ is str and 1 <= len(text) <= MAX_TRACEPARENT_SIZE and text.isascii() and text.isprintable()


def _ascending(instants: Any) -> None:
    if instants.__class__ is not tuple or len(instants) > MAX_READINGS_DUE:
        raise MessageError(f"at most {MAX_READINGS_DUE} readings are due besides the interval")
    before = -1
    for instant in instants:
        _count(instant, "an instant at which a reading is due")
        if instant <= before:
            raise MessageError("instants at which readings are due ascend")
        before = instant


def _is(value: object, kind: type, what: str) -> None:
    if value.__class__ is not kind:
        raise MessageError(f"{what} is missing or of another kind")


# Parts ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """What a gateway's journal had reached: position in the start (16 random bytes) of an incarnation."""

    incarnation: int
    start_id: StartId
    position: int

    def __post_init__(self) -> None:
        _count(self.incarnation, "an incarnation")
        _bytes(self.start_id, "a start id", START_ID_SIZE)
        _count(self.position, "a position")


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterValue:
    """A register's count, in its unit: what it shows, and how often it has returned to 0 in its epoch.

    A device whose firmware does not count ``turns`` says 0; a rollover is then told by its smaller value.
    """

    register_id: RegisterId
    register_epoch: int
    value: int
    turns: int = 0

    def __post_init__(self) -> None:
        _id(self.register_id, "a register id")
        _count(self.register_epoch, "a register epoch", MAX_EPOCH)
        _count(self.value, "a register's value")
        _count(self.turns, "a register's turns", MAX_EPOCH)

    def unrolled(self, modulus: int) -> int:
        """What it has counted in its epoch, as far as the device says."""
        return self.value + self.turns * modulus


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """A place on earth (WGS 84), in millionths of a degree."""

    latitude_microdegrees: int
    longitude_microdegrees: int

    def __post_init__(self) -> None:
        for value, most, what in (
            (self.latitude_microdegrees, MAX_LATITUDE, "a latitude"),
            (self.longitude_microdegrees, MAX_LONGITUDE, "a longitude"),
        ):
            if value.__class__ is not int or not -most <= value <= most:
                raise MessageError(f"{what} is an integer from -{most} to {most}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TariffVersion:
    """Which tariff, in which version."""

    tariff_id: TariffId
    version: int

    def __post_init__(self) -> None:
        _id(self.tariff_id, "a tariff id")
        _count(self.version, "a tariff version", MAX_EPOCH)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A part of a hold: which quota (or ``"floor"``) it is of, in micros."""

    quota_id: QuotaId
    amount_micros: int

    def __post_init__(self) -> None:
        _id(self.quota_id, "a quota id")
        _count(self.amount_micros, "a held amount", MAX_AMOUNT_MICROS)


# Statements -----------------------------------------------------------------------------------------------------------


def _check_head(statement: "Intent | Reading | End | Disclaimer | Chain") -> None:
    _id(statement.recipient, "a recipient")
    _id(statement.device, "a device id")
    _count(statement.device_epoch, "a device epoch", MAX_EPOCH)
    _count(statement.counter, "a counter")
    _count(statement.at, "an instant")
    _is(statement.register, RegisterValue, "a register")


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A wish to use; its id is (device, device_epoch, counter).

    ``wanted`` is the most it wants to use; ``one_shot`` units are used at the moment of yes, from the register's value on;
    both in the register's unit. ``tariff`` is the version that was shown to the payer, ``position`` where the device is, if it can
    tell.
    """

    recipient: GatewayId
    device: DeviceId
    device_epoch: int
    counter: int
    at: Instant
    register: RegisterValue
    commitment: bytes
    incarnation: int
    wanted: int | None = None
    one_shot: int | None = None
    tariff: TariffVersion | None = None
    position: Position | None = None

    @property
    def kind(self) -> Literal["intent"]:
        """The kind that its signature names."""
        return "intent"

    def __post_init__(self) -> None:
        _check_head(self)
        _bytes(self.commitment, "a commitment", COMMITMENT_SIZE)
        _count(self.incarnation, "an incarnation")
        if self.wanted is not None:
            _count(self.wanted, "a wanted quantity")
        if self.one_shot is not None:
            _count(self.one_shot, "a one-shot quantity")
            if self.one_shot == 0:
                raise MessageError("a one-shot quantity is at least 1")
        if self.tariff is not None:
            _is(self.tariff, TariffVersion, "a tariff version")
        if self.position is not None:
            _is(self.position, Position, "a position")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A register's value at a moment; without ``authorization``, of a standing one."""

    recipient: GatewayId
    device: DeviceId
    device_epoch: int
    counter: int
    at: Instant
    register: RegisterValue
    tariff: TariffVersion
    commitment: bytes | None = None
    authorization: AuthorizationId | None = None

    @property
    def kind(self) -> Literal["reading"]:
        """The kind that its signature names."""
        return "reading"

    def __post_init__(self) -> None:
        _check_head(self)
        _is(self.tariff, TariffVersion, "a tariff version")
        if self.commitment is not None:
            _bytes(self.commitment, "a commitment", COMMITMENT_SIZE)
        if self.authorization is not None:
            _bytes(self.authorization, "an authorization", AUTHORIZATION_ID_SIZE)


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """A device's last word on an authorization; ``tariff`` is absent when no grant was ever heard."""

    recipient: GatewayId
    device: DeviceId
    device_epoch: int
    counter: int
    at: Instant
    register: RegisterValue
    commitment: bytes
    authorization: AuthorizationId
    tariff: TariffVersion | None = None

    @property
    def kind(self) -> Literal["end"]:
        """The kind that its signature names."""
        return "end"

    def __post_init__(self) -> None:
        _check_head(self)
        _bytes(self.commitment, "a commitment", COMMITMENT_SIZE)
        _bytes(self.authorization, "an authorization", AUTHORIZATION_ID_SIZE)
        if self.tariff is not None:
            _is(self.tariff, TariffVersion, "a tariff version")


@dataclass(frozen=True, slots=True, kw_only=True)
class Disclaimer:
    """ "Not mine any more": the device has nothing of ``authorization``; its register stands where ``register`` says."""

    recipient: GatewayId
    device: DeviceId
    device_epoch: int
    counter: int
    at: Instant
    register: RegisterValue
    authorization: AuthorizationId

    @property
    def kind(self) -> Literal["disclaimer"]:
        """The kind that its signature names."""
        return "disclaimer"

    @property
    def commitment(self) -> None:
        """It names no token: the device does not know one."""
        return None

    def __post_init__(self) -> None:
        _check_head(self)
        _bytes(self.authorization, "an authorization", AUTHORIZATION_ID_SIZE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """Ticks to come: each preimage shown proves ``unit_per_tick`` more units of the register, from its value here on.

    ``anchor`` is what the first preimage hashes to (PayWord, Rivest and Shamir 1996). It is a reading too: what the register
    counted up to here is signed with it. Quantity only: what it costs is the tariff's to say.
    """

    recipient: GatewayId
    device: DeviceId
    device_epoch: int
    counter: int
    at: Instant
    register: RegisterValue
    commitment: bytes
    authorization: AuthorizationId
    tariff: TariffVersion
    unit_per_tick: int
    length: int
    anchor: bytes

    @property
    def kind(self) -> Literal["chain"]:
        """The kind that its signature names."""
        return "chain"

    def __post_init__(self) -> None:
        _check_head(self)
        _bytes(self.commitment, "a commitment", COMMITMENT_SIZE)
        _bytes(self.authorization, "an authorization", AUTHORIZATION_ID_SIZE)
        _is(self.tariff, TariffVersion, "a tariff version")
        # What a whole chain counts stays below 2^48, so no sum of it leaves 63 bits.
        _count(self.unit_per_tick, "the units of a tick", MAX_EPOCH)
        _count(self.length, "the length of a chain", MAX_CHAIN_LENGTH)
        if not self.unit_per_tick or not self.length:
            raise MessageError("a chain has ticks, and a tick units")
        _bytes(self.anchor, "an anchor", WORD_SIZE)


Statement: TypeAlias = Intent | Reading | End | Disclaimer | Chain


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainTick:
    """One step of an authorization's chain, unsigned: the preimage proves it, and all before it. The channel names the device."""

    authorization: AuthorizationId
    index: int
    preimage: bytes

    def __post_init__(self) -> None:
        _bytes(self.authorization, "an authorization", AUTHORIZATION_ID_SIZE)
        _count(self.index, "an index", MAX_CHAIN_LENGTH)
        if not self.index:
            raise MessageError("ticks count from 1")
        _bytes(self.preimage, "a preimage", WORD_SIZE)


# What a gateway says --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A gateway's yes and its answer to each reading: use of the register is covered from ``start`` up to ``limit``.

    ``net_micros`` and ``tax_micros`` are billed so far; a reading is due every ``report_interval_s`` of business time;
    ``account`` is who pays, as the gateway knows it; at each of ``readings_due`` a reading is due besides, as the price may change there.
    ``lapses_at``: no use begins under it at or after this instant of the device's clock, the one that dated the intent; None: it does not
    lapse, or its use has begun.
    """

    recipient: DeviceId
    gateway: GatewayId
    witness: Witness
    at: Instant
    authorization: AuthorizationId
    intent_epoch: int
    intent_counter: int
    tariff: TariffVersion
    register_id: RegisterId
    register_epoch: int
    start: int
    limit: int
    held: tuple[Held, ...]
    currency: Currency
    net_micros: int
    tax_micros: int
    report_interval_s: int
    commitment: bytes | None
    account: AccountId | None = None
    readings_due: tuple[Instant, ...] = ()
    lapses_at: Instant | None = None

    @property
    def kind(self) -> Literal["grant"]:
        """The kind that its signature names."""
        return "grant"

    def __post_init__(self) -> None:
        _id(self.recipient, "a recipient")
        _id(self.gateway, "a gateway id")
        _is(self.witness, Witness, "a witness")
        _count(self.at, "an instant")
        _bytes(self.authorization, "an authorization", AUTHORIZATION_ID_SIZE)
        _count(self.intent_epoch, "a device epoch", MAX_EPOCH)
        _count(self.intent_counter, "a counter")
        _is(self.tariff, TariffVersion, "a tariff version")
        _id(self.register_id, "a register id")
        _count(self.register_epoch, "a register epoch", MAX_EPOCH)
        _count(self.start, "a register's start")
        _count(self.limit, "a limit")
        if self.held.__class__ is not tuple or len(self.held) > MAX_HELD_PARTS:
            raise MessageError(f"a hold has at most {MAX_HELD_PARTS} parts")
        for part in self.held:
            _is(part, Held, "a held part")
        # Whether ISO 4217 knows the code was asked when the tariff was taken in; here it only has to be three capitals.
        code = self.currency
        if code.__class__ is not str or len(code) != 3 or not (code.isascii() and code.isalpha() and code.isupper()):
            raise MessageError("a currency is three capital letters")
        _count(self.net_micros, "a net amount", MAX_AMOUNT_MICROS)
        _count(self.tax_micros, "a tax amount", MAX_AMOUNT_MICROS)
        _count(self.report_interval_s, "a report interval", MAX_EPOCH)
        _ascending(self.readings_due)
        if self.lapses_at is not None:
            _count(self.lapses_at, "an instant at which it lapses")
        if self.commitment is not None:
            _bytes(self.commitment, "a commitment", COMMITMENT_SIZE)
        if self.account is not None:
            _id(self.account, "an account id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A statement (COSE_Sign1 bytes) and what it only commits to; never written down.

    ``grant`` and ``first`` (COSE_Sign1 bytes) are shown beside a statement whose authorization a gateway does not know: the newest
    grant, and the statement that the authorization began with. They come without a token.
    """

    statement: bytes
    token: bytes | None = None
    salt: bytes | None = None
    traceparent: str | None = None
    witness: Witness | None = None
    grant: bytes | None = None
    first: bytes | None = None

    def __post_init__(self) -> None:
        if self.statement.__class__ is not bytes or not self.statement:
            raise MessageError("an envelope carries a statement")
        if len(self.statement) > _MAX_STATEMENT_SIGN1_SIZE:
            raise MessageError("the statement is too large", Refusal.TOO_LARGE)
        if self.token is not None and (self.token.__class__ is not bytes or not 1 <= len(self.token) <= MAX_TOKEN_SIZE):
            raise MessageError(f"a token is 1 to {MAX_TOKEN_SIZE} bytes")
        if self.salt is not None:
            _bytes(self.salt, "a salt", SALT_SIZE)
        if self.traceparent is not None and not is_traceparent(self.traceparent):
            raise MessageError(f"a traceparent is 1 to {MAX_TRACEPARENT_SIZE} printable ASCII characters")
        if self.witness is not None:
            _is(self.witness, Witness, "a witness")
        self._check_shown()

    def _check_shown(self) -> None:
        for shown, most, what in (
            (self.grant, MAX_SIGN1_SIZE, "a shown grant"),
            (self.first, _MAX_STATEMENT_SIGN1_SIZE, "a shown statement"),
        ):
            if shown is None:
                continue
            if shown.__class__ is not bytes or not 1 <= len(shown) <= most:
                raise MessageError(f"{what} is 1 to {most} bytes")
            if self.token is not None or self.salt is not None:
                raise MessageError(f"{what} does not come with a token")


@unique
class AnswerStatus(IntEnum):
    """What became of an envelope."""

    GRANTED = 0
    REFUSED = 1
    LATER = 2
    AGAIN = 3
    RECORDED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The one answer to an envelope, and now and then to a tick.

    ``answers`` is (device epoch, counter) of the statement, None where none could be read; ``refusal`` comes with the
    statuses 1 to 3, ``grant`` (COSE_Sign1) with 0 and, while the session is open, with 4; every statement of the device with a
    counter up to ``receipted_counter`` is receipted by the cloud. ``asks``: authorizations of the device that have been silent for
    too long. ``ticked`` answers a tick: the highest one
    of the chain that ``answers`` names which is written down.
    """

    gateway: GatewayId
    witness: Witness
    answers: tuple[int, int] | None
    status: AnswerStatus
    receipted_counter: int
    refusal: Refusal | None = None
    grant: bytes | None = None
    retry_after_ms: int | None = None
    closed: bool = False
    asks: tuple[AuthorizationId, ...] = ()
    ticked: int | None = None

    def __post_init__(self) -> None:
        _id(self.gateway, "a gateway id")
        _is(self.witness, Witness, "a witness")
        if self.ticked is not None:
            _count(self.ticked, "an index", MAX_CHAIN_LENGTH)
        if self.answers is not None:
            if self.answers.__class__ is not tuple or len(self.answers) != 2:
                raise MessageError("an answer names a device epoch and a counter")
            _count(self.answers[0], "a device epoch", MAX_EPOCH)
            _count(self.answers[1], "a counter")
        _is(self.status, AnswerStatus, "a status")
        _count(self.receipted_counter, "a receipted counter")
        said_no = self.status in _NOES
        if said_no != (self.refusal is not None):
            raise MessageError("a refusal number comes with refused, later and again, and with nothing else")
        if self.refusal is not None:
            _is(self.refusal, Refusal, "a refusal number")
        if self.grant is not None:
            if said_no:
                raise MessageError("no grant comes with a no")
            if self.grant.__class__ is not bytes or not 1 <= len(self.grant) <= MAX_SIGN1_SIZE:
                raise MessageError(f"a signed grant is 1 to {MAX_SIGN1_SIZE} bytes")
        elif self.status is AnswerStatus.GRANTED:
            raise MessageError("granted comes with its grant")
        if self.retry_after_ms is not None:
            if self.status is not AnswerStatus.LATER:
                raise MessageError("only later says when to try again")
            _count(self.retry_after_ms, "a retry time", MAX_EPOCH)
        _is(self.closed, bool, "closed")
        if self.asks.__class__ is not tuple or len(self.asks) > MAX_ASKED:
            raise MessageError(f"at most {MAX_ASKED} authorizations are asked after")
        for asked in self.asks:
            _bytes(asked, "an authorization", AUTHORIZATION_ID_SIZE)


_NOES = frozenset({AnswerStatus.REFUSED, AnswerStatus.LATER, AnswerStatus.AGAIN})

Message: TypeAlias = Statement | Grant | Envelope | Answer

_INTENT, _READING, _END, _GRANT, _CHAIN, _DISCLAIMER = range(6)


# Encoding -------------------------------------------------------------------------------------------------------------


def encode(message: Message) -> bytes:
    """The one encoding of ``message``: map keys in ascending order, shortest heads."""
    if isinstance(message, Intent):
        return cbor2.dumps(_statement_map(message, _INTENT))
    if isinstance(message, Reading):
        return cbor2.dumps(_statement_map(message, _READING))
    if isinstance(message, End):
        return cbor2.dumps(_statement_map(message, _END))
    if isinstance(message, Disclaimer):
        return cbor2.dumps(_statement_map(message, _DISCLAIMER))
    if isinstance(message, Chain):
        return cbor2.dumps(_statement_map(message, _CHAIN))
    if isinstance(message, Grant):
        return cbor2.dumps(_grant_map(message))
    if isinstance(message, Envelope):
        return cbor2.dumps(_envelope_map(message))
    if isinstance(message, Answer):
        return cbor2.dumps(_answer_map(message))
    assert_never(message)


def encode_tick(tick: ChainTick) -> bytes:
    """The one encoding of a tick."""
    return cbor2.dumps([tick.authorization, tick.index, tick.preimage])


def _witness_list(witness: Witness) -> list[Any]:
    return [witness.incarnation, witness.start_id, witness.position]


def _tariff_list(tariff: TariffVersion) -> list[Any]:
    return [tariff.tariff_id, tariff.version]


def _statement_map(statement: Statement, kind: int) -> dict[int, Any]:
    register = statement.register
    members: dict[int, Any] = {
        1: kind,
        2: statement.recipient,
        3: statement.device,
        4: statement.device_epoch,
        5: statement.counter,
        6: statement.at,
        7: [register.register_id, register.register_epoch, register.value],
    }
    if register.turns:
        members[7].append(register.turns)
    if statement.commitment is not None:
        members[8] = statement.commitment
    if isinstance(statement, Intent):
        if statement.tariff is not None:
            members[10] = _tariff_list(statement.tariff)
        members[12] = statement.incarnation
        if statement.wanted is not None:
            members[13] = statement.wanted
        if statement.one_shot is not None:
            members[14] = statement.one_shot
        if statement.position is not None:
            members[15] = [
                statement.position.latitude_microdegrees + MAX_LATITUDE,
                statement.position.longitude_microdegrees + MAX_LONGITUDE,
            ]
        return members
    if statement.authorization is not None:
        members[9] = statement.authorization
    if not isinstance(statement, Disclaimer) and statement.tariff is not None:
        members[10] = _tariff_list(statement.tariff)
    if isinstance(statement, Chain):
        members[15] = statement.unit_per_tick
        members[16] = statement.length
        members[17] = statement.anchor
    return members


def _grant_map(grant: Grant) -> dict[int, Any]:
    members: dict[int, Any] = {
        1: _GRANT,
        2: grant.recipient,
        3: grant.gateway,
        4: _witness_list(grant.witness),
        5: grant.at,
        6: grant.authorization,
        7: [grant.intent_epoch, grant.intent_counter],
        8: _tariff_list(grant.tariff),
        9: [grant.register_id, grant.register_epoch, grant.start, grant.limit],
        10: [[part.quota_id, part.amount_micros] for part in grant.held],
        11: grant.currency,
        12: [grant.net_micros, grant.tax_micros],
        13: grant.report_interval_s,
        14: grant.commitment,
    }
    if grant.readings_due:
        members[15] = list(grant.readings_due)
    if grant.lapses_at is not None:
        members[16] = grant.lapses_at
    if grant.account is not None:
        members[20] = grant.account
    return members


def _envelope_map(envelope: Envelope) -> dict[int, Any]:
    members: dict[int, Any] = {1: envelope.statement}
    if envelope.token is not None:
        members[2] = envelope.token
    if envelope.salt is not None:
        members[3] = envelope.salt
    if envelope.traceparent is not None:
        members[4] = envelope.traceparent
    if envelope.witness is not None:
        members[5] = _witness_list(envelope.witness)
    if envelope.grant is not None:
        members[6] = envelope.grant
    if envelope.first is not None:
        members[7] = envelope.first
    return members


def _answer_map(answer: Answer) -> dict[int, Any]:
    members: dict[int, Any] = {
        1: answer.gateway,
        2: _witness_list(answer.witness),
        3: None if answer.answers is None else list(answer.answers),
        4: int(answer.status),
    }
    if answer.refusal is not None:
        members[5] = int(answer.refusal)
    if answer.grant is not None:
        members[6] = answer.grant
    if answer.retry_after_ms is not None:
        members[7] = answer.retry_after_ms
    members[8] = answer.receipted_counter
    if answer.closed:
        members[9] = True
    if answer.asks:
        members[10] = list(answer.asks)
    if answer.ticked is not None:
        members[13] = answer.ticked
    return members


# Decoding -------------------------------------------------------------------------------------------------------------
# What comes out of the CBOR reader is of any kind; the constructors above check every field, so ``Any`` ends there.

_HEAD_KEYS = frozenset(range(1, 8))
_INTENT_KEYS = _HEAD_KEYS | {8, 10, 12, 13, 14, 15}
_READING_KEYS = _HEAD_KEYS | {8, 9, 10}
_END_KEYS = _READING_KEYS
_DISCLAIMER_KEYS = _HEAD_KEYS | {9}
_CHAIN_KEYS = _READING_KEYS | {15, 16, 17}
_GRANT_KEYS = frozenset(range(1, 17)) | {20}
_ENVELOPE_KEYS = frozenset(range(1, 8))
_ANSWER_KEYS = frozenset(range(1, 11)) | {13}


def decode_statement(payload: bytes) -> Statement:
    """The statement that ``payload`` (a COSE_Sign1's) is; raise ``MessageError`` for anything else."""
    members = _map(payload, MAX_STATEMENT_SIZE)
    kind = members.get(1)
    if kind.__class__ is not int:
        raise MessageError("a statement names its kind")
    get: Callable[[int], Any] = members.get
    register = _register(get(7))
    if kind == _INTENT:
        _known(members, _INTENT_KEYS)
        _not_null(members, 13, 14)
        return Intent(
            recipient=get(2),
            device=get(3),
            device_epoch=get(4),
            counter=get(5),
            at=get(6),
            register=register,
            commitment=get(8),
            incarnation=get(12),
            wanted=get(13),
            one_shot=get(14),
            tariff=_tariff(get(10)) if 10 in members else None,
            position=_position(get(15)) if 15 in members else None,
        )
    if kind == _READING:
        _known(members, _READING_KEYS)
        _not_null(members, 8, 9)
        return Reading(
            recipient=get(2),
            device=get(3),
            device_epoch=get(4),
            counter=get(5),
            at=get(6),
            register=register,
            commitment=get(8),
            authorization=get(9),
            tariff=_tariff(get(10)),
        )
    if kind == _END:
        _known(members, _END_KEYS)
        return End(
            recipient=get(2),
            device=get(3),
            device_epoch=get(4),
            counter=get(5),
            at=get(6),
            register=register,
            commitment=get(8),
            authorization=get(9),
            tariff=_tariff(get(10)) if 10 in members else None,
        )
    if kind == _DISCLAIMER:
        _known(members, _DISCLAIMER_KEYS)
        return Disclaimer(
            recipient=get(2),
            device=get(3),
            device_epoch=get(4),
            counter=get(5),
            at=get(6),
            register=register,
            authorization=get(9),
        )
    if kind == _CHAIN:
        _known(members, _CHAIN_KEYS)
        return Chain(
            recipient=get(2),
            device=get(3),
            device_epoch=get(4),
            counter=get(5),
            at=get(6),
            register=register,
            commitment=get(8),
            authorization=get(9),
            tariff=_tariff(get(10)),
            unit_per_tick=get(15),
            length=get(16),
            anchor=get(17),
        )
    raise MessageError("a statement is an intent, a reading, an end, a disclaimer or a chain")


_TICK_HEAD, _WORD_HEAD = b"\x83\x50", b"\x58\x20"
#: Head of an index → (its size, the least it may say: less would be a second encoding).
_INDEX_HEADS = {0x18: (2, 24), 0x19: (3, 256), 0x1A: (5, 65_536)}


def decode_tick(data: bytes) -> ChainTick:
    """The tick that ``data`` is; raise ``MessageError`` for anything else.

    Cut by hand: its one encoding has a fixed place for everything but the index, and there are many of them.
    """
    if len(data) > MAX_TICK_SIZE:
        raise MessageError(f"more than {MAX_TICK_SIZE} bytes", Refusal.TOO_LARGE)
    index_bytes = data[18:-34]
    if data[:2] != _TICK_HEAD or data[-34:-32] != _WORD_HEAD or not index_bytes:
        raise MessageError("not a tick")
    index = index_bytes[0]
    size, least = _INDEX_HEADS.get(index, (1, 0))
    if size == 1:
        if len(index_bytes) != 1 or index > 23:
            raise MessageError("not a tick")
    else:
        index = int.from_bytes(index_bytes[1:], "big")
        if len(index_bytes) != size or index < least:
            raise MessageError("not a tick")
    return ChainTick(authorization=AuthorizationId(data[2:18]), index=index, preimage=data[-32:])


def decode_grant(payload: bytes) -> Grant:
    """The grant that ``payload`` (a COSE_Sign1's) is; raise ``MessageError`` for anything else."""
    members = _map(payload, MAX_GRANT_SIZE)
    _known(members, _GRANT_KEYS)
    get: Callable[[int], Any] = members.get
    if get(1).__class__ is not int or get(1) != _GRANT or 14 not in members:
        raise MessageError("not a grant")
    intent_epoch, intent_counter = _array(get(7), 2, "the intent")
    register_id, register_epoch, start, limit = _array(get(9), 4, "the covered register")
    net_micros, tax_micros = _array(get(12), 2, "the amount billed so far")
    _not_null(members, 16, 20)
    readings_due = get(15) if 15 in members else ()
    if 15 in members and not readings_due:
        raise MessageError("no readings are due besides the interval, and it is said in words")
    held = get(10)
    if held.__class__ is not tuple or len(held) > MAX_HELD_PARTS:
        raise MessageError(f"a hold has at most {MAX_HELD_PARTS} parts")
    parts = (_array(part, 2, "a held part") for part in held)
    return Grant(
        recipient=get(2),
        gateway=get(3),
        witness=_witness(get(4)),
        at=get(5),
        authorization=get(6),
        intent_epoch=intent_epoch,
        intent_counter=intent_counter,
        tariff=_tariff(get(8)),
        register_id=register_id,
        register_epoch=register_epoch,
        start=start,
        limit=limit,
        held=tuple(Held(quota_id=quota_id, amount_micros=amount) for quota_id, amount in parts),
        currency=get(11),
        net_micros=net_micros,
        tax_micros=tax_micros,
        report_interval_s=get(13),
        commitment=get(14),
        account=get(20),
        readings_due=readings_due,
        lapses_at=get(16),
    )


def decode_envelope(data: bytes) -> Envelope:
    """The envelope that ``data`` is; raise ``MessageError`` for anything else. The statement stays unread."""
    members = _map(data, MAX_ENVELOPE_SIZE)
    _known(members, _ENVELOPE_KEYS)
    _not_null(members, 2, 3, 4, 6, 7)
    get: Callable[[int], Any] = members.get
    return Envelope(
        statement=get(1),
        token=get(2),
        salt=get(3),
        traceparent=get(4),
        witness=_witness(get(5)) if 5 in members else None,
        grant=get(6),
        first=get(7),
    )


def decode_answer(data: bytes) -> Answer:
    """The answer that ``data`` is; raise ``MessageError`` for anything else. The grant stays unread."""
    members = _map(data, MAX_ANSWER_SIZE)
    _known(members, _ANSWER_KEYS)
    _not_null(members, 5, 6, 7, 13)
    get: Callable[[int], Any] = members.get
    if 3 not in members or members.get(9, True) is not True:
        raise MessageError("not an answer")
    _count(get(4), "a status")
    if 5 in members:
        _count(get(5), "a refusal number")
    try:
        status = AnswerStatus(get(4))
        refusal = Refusal(get(5)) if 5 in members else None
    except ValueError as err:
        raise MessageError("a status or refusal number that is not known") from err
    return Answer(
        gateway=get(1),
        witness=_witness(get(2)),
        answers=get(3),
        status=status,
        refusal=refusal,
        grant=get(6),
        retry_after_ms=get(7),
        receipted_counter=get(8),
        closed=9 in members,
        asks=_asks(get(10)) if 10 in members else (),
        ticked=get(13),
    )


def _asks(value: Any) -> Any:
    if value.__class__ is not tuple or not value:
        raise MessageError("who asks after authorizations names them")
    return value


def _map(data: bytes, most_bytes: int) -> dict[Any, Any]:
    if len(data) > most_bytes:
        raise MessageError(f"more than {most_bytes} bytes", Refusal.TOO_LARGE)
    try:
        members = cbor.decode(data)
    except cbor.CborError as err:
        raise MessageError(str(err)) from err
    if members.__class__ is not dict:
        raise MessageError("not a map")
    return members


def _known(members: dict[Any, Any], keys: frozenset[int]) -> None:
    if not keys.issuperset(members):
        raise MessageError("a key that this message does not have")


def _not_null(members: dict[Any, Any], *keys: int) -> None:
    """Absent is absent: null in place of an optional member would be a second encoding."""
    for key in keys:
        if key in members and members[key] is None:
            raise MessageError("null in place of an absent member")


def _array(value: Any, size: int, what: str) -> Any:
    if value.__class__ is not tuple or len(value) != size:
        raise MessageError(f"{what} is an array of {size}")
    return value


def _register(value: Any) -> RegisterValue:
    if value.__class__ is tuple and len(value) == 4:
        register_id, register_epoch, count, turns = value
        if turns == 0:
            raise MessageError("no turns are not said: that would be a second encoding")
    else:
        register_id, register_epoch, count = _array(value, 3, "a register")
        turns = 0
    return RegisterValue(register_id=register_id, register_epoch=register_epoch, value=count, turns=turns)


def _position(value: Any) -> Position:
    northward, eastward = _array(value, 2, "a position")
    _count(northward, "a latitude", 2 * MAX_LATITUDE)
    _count(eastward, "a longitude", 2 * MAX_LONGITUDE)
    return Position(latitude_microdegrees=northward - MAX_LATITUDE, longitude_microdegrees=eastward - MAX_LONGITUDE)


def _tariff(value: Any) -> TariffVersion:
    tariff_id, version = _array(value, 2, "a tariff version")
    return TariffVersion(tariff_id=tariff_id, version=version)


def _witness(value: Any) -> Witness:
    incarnation, start_id, position = _array(value, 3, "a witness")
    return Witness(incarnation=incarnation, start_id=start_id, position=position)
