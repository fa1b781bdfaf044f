"""A leaf: one usage record on one line, with the statements that prove it.

Rule 1: one leaf for each record and line it stands on; a record on two lines is two leaves with the same statements.
Rule 2: a leaf has one encoding, deterministic CBOR in the order of the fields below; the tick only where there is one.
"""

from dataclasses import dataclass
from typing import Any

import cbor2

from farthing.clock import Instant
from farthing.device import cbor
from farthing.device.messages import MAX_CHAIN_LENGTH, MAX_COUNT, MAX_EPOCH, WORD_SIZE, TariffVersion, is_traceparent
from farthing.device.reject import MessageError
from farthing.ids import AUTHORIZATION_ID_SIZE, AuthorizationId, DeviceId, RegisterId, parse_bytes, parse_id
from farthing.money import parse_amount_micros
from farthing.tariff import Placed

#: The statement that began the authorization, the one that gives the record its time (where neither of the others does), and the one
#: that ends the record; one where the first is the last.
MAX_STATEMENTS = 3


#: What a use can fall to: no tariff has more components.
MAX_SLOTS = 2_048

# Where a leaf says its line: after the head of the array, and the head and bytes of the authorization.
_LINE_AT = 2 + AUTHORIZATION_ID_SIZE
_LINE_0 = b"\x00"


class LeafError(ValueError):
    """Bytes or values that are not a leaf."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stood:
    """Where a use stood before a record, under a tariff that places: at which value of its register (unrolled), by which statement."""

    placed: Placed
    register_to: int
    statement: bytes

    def __post_init__(self) -> None:
        slots = [slot for slot, _ in self.placed.quantities]
        if slots != sorted(set(slots)) or len(slots) > MAX_SLOTS:
            raise LeafError("quantities by slot ascend")
        for number in (self.register_to, self.placed.at, *slots, *(quantity for _, quantity in self.placed.quantities)):
            if number.__class__ is not int or not 0 <= number <= MAX_COUNT:
                raise LeafError("a quantity is out of its range")
        if any(last != -1 and last not in slots for last in (self.placed.counted, self.placed.timed)):
            raise LeafError("the last slot has no quantity")
        if self.statement.__class__ is not bytes:
            raise LeafError("a statement is bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """One usage record on one line.

    ``net_micros`` and ``tax_micros`` are this record's on this line; ``total_*`` the authorization's so far, after this record, over
    all lines. Register values are unrolled. ``statements`` are COSE_Sign1 bytes: the authorization's first (intent, or baseline reading of
    a standing one) and the one that ends this record; only one where they are the same (a one-shot intent); between them the one
    with the latest time, where the device's clock has gone back since. ``at`` is the latest time of them. ``tick`` (index, preimage) goes
    with a chain that ends the record. ``grant`` is the payload of the
    grant the device had been told before this record, if any. ``stood`` is for tariffs that place; None in an authorization's first record.
    """

    authorization: AuthorizationId
    line: int
    device: DeviceId
    register_id: RegisterId
    register_epoch: int
    register_from: int
    register_to: int
    net_micros: int
    tax_micros: int
    total_net_micros: int
    total_tax_micros: int
    closing: bool
    tariff: TariffVersion
    at: Instant
    statements: tuple[bytes, ...]
    grant: bytes | None
    traceparent: str | None
    tick: tuple[int, bytes] | None = None
    stood: Stood | None = None

    def __post_init__(self) -> None:
        try:
            parse_bytes(self.authorization, AUTHORIZATION_ID_SIZE)
            parse_id(self.device)
            parse_id(self.register_id)
            for amount in (self.net_micros, self.tax_micros, self.total_net_micros, self.total_tax_micros):
                parse_amount_micros(amount)
        except ValueError as err:
            raise LeafError("a name or an amount is out of its range") from err
        for number in (self.line, self.register_from, self.register_to, self.at):
            if number.__class__ is not int or not 0 <= number <= MAX_COUNT:
                raise LeafError("a count is out of its range")
        if self.register_epoch.__class__ is not int or not 0 <= self.register_epoch <= MAX_EPOCH:
            raise LeafError("a register epoch is out of its range")
        if self.closing.__class__ is not bool:
            raise LeafError("closing is a boolean")
        if self.statements.__class__ is not tuple or not 1 <= len(self.statements) <= MAX_STATEMENTS:
            raise LeafError("a leaf has one to three statements")
        if any(statement.__class__ is not bytes for statement in self.statements):
            raise LeafError("a statement is bytes")
        if self.grant is not None and self.grant.__class__ is not bytes:
            raise LeafError("a grant is bytes")
        if self.traceparent is not None and not is_traceparent(self.traceparent):
            raise LeafError("a traceparent is short, printable ASCII text")
        if self.tick is not None:
            if self.tick.__class__ is not tuple or len(self.tick) != 2:
                raise LeafError("a tick is an index and a preimage")
            index, preimage = self.tick
            if index.__class__ is not int or not 1 <= index <= MAX_CHAIN_LENGTH:
                raise LeafError("a tick's index is out of its range")
            if preimage.__class__ is not bytes or len(preimage) != WORD_SIZE:
                raise LeafError("a preimage is 32 bytes")

    def encode(self) -> bytes:
        """The one encoding of this leaf."""
        return cbor2.dumps(
            [
                self.authorization,
                self.line,
                [self.device, self.register_id, self.register_epoch, self.register_from, self.register_to],
                [self.net_micros, self.tax_micros],
                [self.total_net_micros, self.total_tax_micros],
                self.closing,
                [self.tariff.tariff_id, self.tariff.version],
                self.at,
                list(self.statements),
                self.grant,
                self.traceparent,
                *self._more(),
            ]
        )

    def _more(self) -> list[Any]:
        tick = None if self.tick is None else list(self.tick)
        if self.stood is None:
            return [] if tick is None else [tick]
        at, quantities, counted, timed = self.stood.placed
        pairs = [list(pair) for pair in quantities]
        return [tick, [at, self.stood.register_to, pairs, counted, timed, self.stood.statement]]


def on_line(draft: bytes, line: int) -> bytes:
    """The encoding on ``line`` of the leaf whose encoding on line 0 is ``draft``."""
    assert draft[_LINE_AT : _LINE_AT + 1] == _LINE_0, "a draft is of line 0"
    return draft[:_LINE_AT] + cbor2.dumps(line) + draft[_LINE_AT + 1 :] if line else draft


def _array(value: Any) -> tuple[Any, ...]:
    """Bytes have numbers in them as an array has, and would be a second encoding of the same leaf."""
    if value.__class__ is not tuple:
        raise LeafError("not a leaf: an array is missing")
    return value


def decode(data: bytes) -> Leaf:
    """The leaf that ``data`` is; raise ``LeafError`` for anything else."""
    try:
        fields: Any = cbor.decode(data)
        authorization, line, register, billed, total, closing, tariff, at, statements, grant, traceparent, *more = (
            _array(fields)
        )
        tick = stood = None
        if len(more) > 1:
            tick, said = more
            stood_at, register_at, quantities, counted, timed, statement = _array(said)
            pairs = tuple((slot, quantity) for slot, quantity in map(_array, _array(quantities)))
            stood = Stood(
                placed=Placed(stood_at, pairs, counted, timed),
                register_to=register_at,
                statement=statement,
            )
        elif more:
            (tick,) = more
            if tick is None:
                raise LeafError("no tick is not said: that would be a second encoding")
        device, register_id, register_epoch, register_from, register_to = _array(register)
        net_micros, tax_micros = _array(billed)
        total_net_micros, total_tax_micros = _array(total)
        tariff_id, version = _array(tariff)
        tariff_version = TariffVersion(tariff_id=tariff_id, version=version)
    except (cbor.CborError, MessageError, TypeError, ValueError) as err:
        raise LeafError("not a leaf") from err
    return Leaf(
        authorization=authorization,
        line=line,
        device=device,
        register_id=register_id,
        register_epoch=register_epoch,
        register_from=register_from,
        register_to=register_to,
        net_micros=net_micros,
        tax_micros=tax_micros,
        total_net_micros=total_net_micros,
        total_tax_micros=total_tax_micros,
        closing=closing,
        tariff=tariff_version,
        at=at,
        statements=statements,
        grant=grant,
        traceparent=traceparent,
        tick=tick,
        stood=stood,
    )
