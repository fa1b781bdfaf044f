"""Check a batch's detail leaf by leaf, from the devices' public keys, the tariffs and the registers' units alone.

Rule 1: the leaves are those that the batch was signed over, and its lines name ranges of them without gaps.
Rule 2: a line is the sum of its leaves; a claim's shares are the sums of its leaves; its totals are its last leaf's.
Rule 3: every leaf rests on statements that its device signed: the one that began the authorization (whose id follows from
it) and the one that ends the record; they name register, authorization, token commitment, tariff and recipient alike.
Rule 4: what an authorization has billed after a record is the price of its interval under its tariff version, computed here
anew from these statements; what the record bills is the difference. Where the tariff places, it is the price of where the use stood at
the statement before, and of the stretch from that signed statement to the one that ends the record; where it stood has to be worth what
was billed before, and to follow from the record before it (:func:`follows`).
Rule 5: an interval is unrolled: it begins where its claim does, which shows what the first statement does, and ends where the last one
and its tick say, at most one return to 0 later that the device did not count itself. A tick's preimage hashes to its chain's anchor.
Rule 6: a record closes with its device's end, or with the decision that its claim names.
Rule 7: which account and quota paid is the gateway's word; nothing here proves it.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from farthing.clock import quarter_of
from farthing.device.cose import VerifyingKey, decode_sign1
from farthing.device.messages import (
    Chain,
    Disclaimer,
    End,
    Intent,
    MessageError,
    Reading,
    Statement,
    decode_grant,
    decode_statement,
)
from farthing.evidence import leaf as leaves_of
from farthing.evidence import merkle, payword
from farthing.evidence.leaf import Leaf, LeafError, Stood
from farthing.ids import authorization_id, standing_authorization_id
from farthing.tariff import TIME_ZONE_DATA, Placed, Tariff, TariffError, Use, one_shot_use, price
from farthing.v1 import batch_pb2


class EvidenceError(ValueError):
    """A rule of evidence that a batch's detail breaks; ``leaf`` is its index, None where the fault is the batch's."""

    def __init__(self, rule: str, leaf: int | None = None) -> None:
        super().__init__(rule if leaf is None else f"leaf {leaf}: {rule}")
        self.rule = rule
        self.leaf = leaf


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterFacts:
    """What the registry knows of a register: its unit ("Wh", "s", "passage") and the count at which it returns to 0."""

    unit: str
    modulus: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedLeaf:
    """A leaf whose every rule holds, with its statements read: ``first`` began the authorization, ``last`` ends the record.

    ``start`` is what the register had counted in its epoch when the authorization began. Where the tariff places: ``previous`` is the
    statement before, None if that is the first; ``placed`` where the use stands after the record; ``worth`` (net, tax) what it was worth at
    ``previous``.
    """

    index: int
    leaf: Leaf
    first: Statement
    last: Statement
    start: int
    previous: Statement | None = None
    placed: Placed | None = None
    worth: tuple[int, int] | None = None


#: (device id, key id) → the device's statement key.
DeviceKeys = Callable[[str, bytes], VerifyingKey | None]
#: (tariff id, version) → the tariff.
Tariffs = Callable[[str, int], Tariff | None]
#: (device id, register id, register epoch) → the register.
Registers = Callable[[str, str, int], RegisterFacts | None]


def verify(
    batch: batch_pb2.Batch,
    leaves: Sequence[bytes],
    *,
    device_key: DeviceKeys,
    tariff: Tariffs,
    register: Registers,
    time_zone: str = "",
) -> tuple[VerifiedLeaf, ...]:
    """Check every rule of evidence; return the leaves in order, or raise ``EvidenceError`` naming leaf and rule.

    ``device_key`` is asked with (device id, key id), ``tariff`` with (tariff id, version), ``register`` with (device id, register
    id, register epoch); None is "unknown", and breaks a rule. ``time_zone`` is the site's, for tariffs that go by the wall clock.
    """
    _check_tree(batch, leaves)
    check = _Checker(batch, device_key=device_key, tariff=tariff, register=register, time_zone=time_zone)
    verified = [check.leaf(index, data) for index, data in enumerate(leaves)]
    _check_sums(batch, verified)
    _check_claims(batch, verified)
    return tuple(verified)


def verify_authorization(
    batch: batch_pb2.Batch,
    authorization: bytes,
    leaves: Mapping[int, bytes],
    *,
    device_key: DeviceKeys,
    tariff: Tariffs,
    register: Registers,
    time_zone: str = "",
) -> list[list[VerifiedLeaf]]:
    """Check what rules 2 to 6 say of one authorization, from its own leaves by index; its records in the order in which they were billed.

    That the leaves stand in the batch is the caller's to show (inclusion proofs, rule 1): the others need not be there. A leaf too few
    breaks rule 2, as the claim's shares are the sums of its leaves. Callables and errors as in :func:`verify`.
    """
    claims = [claim for claim in batch.claims if claim.authorization_id == authorization]
    if len(claims) != 1:
        raise EvidenceError(f"the batch has {len(claims)} claims of the authorization, not one")
    check = _Checker(batch, device_key=device_key, tariff=tariff, register=register, time_zone=time_zone)
    verified = []
    for index, data in sorted(leaves.items()):
        found = check.leaf(index, data)
        if found.leaf.authorization != authorization:
            raise EvidenceError("a leaf of another authorization", index)
        verified.append(found)
    _check_shares(claims[0], verified)
    if not verified:
        return []
    records = _records(verified)
    _check_totals(claims[0], records)
    return records


class _Checker:
    """What each leaf has to keep by itself, against its batch and what is known of devices and tariffs."""

    def __init__(
        self,
        batch: batch_pb2.Batch,
        *,
        device_key: DeviceKeys,
        tariff: Tariffs,
        register: Registers,
        time_zone: str,
    ) -> None:
        self._batch = batch
        self._lines = _lines_of_leaves(batch)
        self._claims = {claim.authorization_id: claim for claim in batch.claims}
        self._reader = _Reader(batch, device_key)
        self._tariff = tariff
        self._register = register
        self._time_zone = time_zone

    def leaf(self, index: int, data: bytes) -> VerifiedLeaf:
        """The leaf, its statements read; raise ``EvidenceError``."""
        if not 0 <= index < len(self._lines):
            raise EvidenceError("stands nowhere in the batch", index)
        batch, line = self._batch, self._batch.lines[self._lines[index]]
        try:
            item = leaves_of.decode(data)
        except LeafError as err:
            raise EvidenceError(str(err), index) from err
        _check_line_of(item, self._lines[index], line, index)
        claim = self._claims.get(item.authorization)
        first, latest, last = self._reader.statements(item, index)
        _check_statements(item, first, latest, last, claim, index)
        if claim is None:
            raise EvidenceError("of an authorization without a claim", index)
        _check_grant(batch, item, first, index)
        facts = self._register(item.device, item.register_id, item.register_epoch)
        if facts is None:
            raise EvidenceError("a register that nobody knows", index)
        start = _start(first, facts, claim)
        _check_interval(item, first, last, facts, start, index)
        priced_by = self._tariff(item.tariff.tariff_id, item.tariff.version)
        if priced_by is None:
            raise EvidenceError("a tariff version that nobody knows", index)
        previous = self._reader.previous(item, index)
        if item.stood is not None and previous is not None:
            _check_stood(item, item.stood, first, previous, last, facts, start, index)
        use = _use_of(item, first, last, facts, start, self._time_zone)
        placed = _check_price(item, use, priced_by, batch, line, index)
        return VerifiedLeaf(
            index=index,
            leaf=item,
            first=first,
            last=last,
            start=start,
            previous=previous,
            placed=placed,
            worth=None if item.stood is None else _worth(priced_by, use, item.stood, index),
        )


# The batch ------------------------------------------------------------------------------------------------------------


def _check_tree(batch: batch_pb2.Batch, leaves: Sequence[bytes]) -> None:
    if len(leaves) != batch.leaf_count:
        raise EvidenceError(f"the batch has {batch.leaf_count} leaves, the detail {len(leaves)}")
    if merkle.root(leaves) != batch.merkle_root:
        raise EvidenceError("the leaves have another Merkle root than the batch")


def _lines_of_leaves(batch: batch_pb2.Batch) -> list[int]:
    """The line of each leaf; lines name ranges one after the other, none empty, none left over."""
    lines: list[int] = []
    for index, line in enumerate(batch.lines):
        if line.first_leaf != len(lines) or line.leaf_count == 0:
            raise EvidenceError(f"line {index} does not name the leaves that follow those of the line before")
        # Compared before it is believed: a count is a stranger's number.
        if line.leaf_count > batch.leaf_count - len(lines):
            raise EvidenceError(f"line {index} names more leaves than there are")
        lines.extend([index] * line.leaf_count)
    if len(lines) != batch.leaf_count:
        raise EvidenceError("leaves that no line names")
    return lines


def _check_line_of(item: Leaf, index_of_line: int, line: batch_pb2.Line, index: int) -> None:
    if item.line != index_of_line:
        raise EvidenceError("stands in another line's range than it names", index)
    if line.evidence_class != batch_pb2.EVIDENCE_CLASS_DEVICE_SIGNED:
        raise EvidenceError("its line's evidence is not device-signed: there is nothing to recompute", index)
    if (item.tariff.tariff_id, item.tariff.version) != (line.tariff_id, line.tariff_version):
        raise EvidenceError("another tariff version than its line", index)
    if quarter_of(item.at) != line.quarter:
        raise EvidenceError("another quarter of an hour than its line", index)


def _check_sums(batch: batch_pb2.Batch, verified: Sequence[VerifiedLeaf]) -> None:
    totals: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    for index, line in enumerate(batch.lines):
        mine = verified[line.first_leaf : line.first_leaf + line.leaf_count]
        net = sum(item.leaf.net_micros for item in mine)
        tax = sum(item.leaf.tax_micros for item in mine)
        if (net, tax) != (line.net_micros, line.tax_micros):
            raise EvidenceError(f"line {index} is not the sum of its leaves")
        totals[line.currency][0] += net
        totals[line.currency][1] += tax
    said = {total.currency: [total.net_micros, total.tax_micros] for total in batch.totals}
    if said != dict(totals) or len(said) != len(batch.totals):
        raise EvidenceError("the totals are not the sums of the lines")


# Statements -----------------------------------------------------------------------------------------------------------


class _Reader:
    """Reads and verifies statements, each once: the first of an authorization stands in every one of its leaves."""

    def __init__(self, batch: batch_pb2.Batch, device_key: DeviceKeys) -> None:
        self._gateway_id = batch.gateway_id
        self._device_key = device_key
        self._read: dict[bytes, Statement] = {}

    def statements(self, item: Leaf, index: int) -> tuple[Statement, Statement | None, Statement]:
        """The statement that began the authorization, one between that gives the record its time, and the one that ends it."""
        read = [self._statement(item, data, index) for data in item.statements]
        return read[0], read[1] if len(read) > 2 else None, read[-1]

    def previous(self, item: Leaf, index: int) -> Statement | None:
        """The statement at which the use stood before the record; None in a first one."""
        return None if item.stood is None else self._statement(item, item.stood.statement, index)

    def _statement(self, item: Leaf, data: bytes, index: int) -> Statement:
        statement = self._read.get(data)
        if statement is None:
            statement = self._verified(data, index)
            self._read[data] = statement
        if statement.device != item.device:
            raise EvidenceError("a statement of another device", index)
        return statement

    def _verified(self, data: bytes, index: int) -> Statement:
        try:
            signed = decode_sign1(data)
            statement = decode_statement(signed.payload)
        except MessageError as err:
            raise EvidenceError(f"a statement cannot be read: {err.reason}", index) from err
        if statement.recipient != self._gateway_id:
            raise EvidenceError("a statement to another gateway", index)
        key = self._device_key(statement.device, signed.kid)
        if key is None or key.key_id != signed.kid:
            raise EvidenceError("a statement by a key that is not the device's", index)
        if not key.verify(statement.kind, statement.recipient, signed.payload, signed.signature):
            raise EvidenceError("a statement whose signature does not hold", index)
        return statement


def _check_statements(
    item: Leaf, first: Statement, latest: Statement | None, last: Statement, claim: batch_pb2.Claim | None, index: int
) -> None:
    said = (first, last) if latest is None else (first, latest, last)
    for statement in said:
        register = statement.register
        if (register.register_id, register.register_epoch) != (item.register_id, item.register_epoch):
            raise EvidenceError("a statement of another register", index)
    if isinstance(first, Intent):
        named = authorization_id(first.device, first.device_epoch, first.counter, first.recipient)
    elif isinstance(first, Reading) and first.authorization is None:
        named = standing_authorization_id(
            first.device,
            first.device_epoch,
            first.register.register_id,
            first.register.register_epoch,
            first.recipient,
        )
    else:
        raise EvidenceError("begins with neither an intent nor a standing authorization's reading", index)
    if named != item.authorization:
        raise EvidenceError("the first statement began another authorization", index)
    if item.at != max(statement.at for statement in said):
        raise EvidenceError("another time than the latest that its statements say", index)
    if isinstance(first, Intent) and first.tariff is not None and first.tariff != item.tariff:
        raise EvidenceError("the payer was shown another tariff version", index)
    if isinstance(last, Disclaimer) or isinstance(latest, Disclaimer):
        raise EvidenceError("a disclaimer bills nothing", index)
    if isinstance(last, Intent):
        _check_one_shot(item, first, last, index)
        return
    if latest is not None:
        if isinstance(latest, Intent) or not max(first.at, last.at) < latest.at:
            raise EvidenceError("a statement between, whose time is not the latest", index)
        _check_continues(item, first, latest, index)
    _check_continuation(item, first, last, claim, index)


def _check_one_shot(item: Leaf, first: Statement, last: Intent, index: int) -> None:
    if len(item.statements) != 1 or first is not last or last.one_shot is None:
        raise EvidenceError("only a one-shot use ends with its intent", index)
    if not item.closing:
        raise EvidenceError("a one-shot use closes at once", index)


def _check_continuation(
    item: Leaf, first: Statement, last: Reading | End | Chain, claim: batch_pb2.Claim | None, index: int
) -> None:
    if len(item.statements) < 2:
        raise EvidenceError("lacks the statement that ends the record", index)
    _check_continues(item, first, last, index)
    decided = claim is not None and claim.closed_by
    if item.closing != isinstance(last, End) and not (item.closing and decided):
        raise EvidenceError("closing is what an end does, or a decision that its claim names, and nothing else", index)
    _check_tick(item, last, index)


def _check_tick(item: Leaf, last: Reading | End | Chain, index: int) -> None:
    if item.tick is None:
        return
    if not isinstance(last, Chain):
        raise EvidenceError("a tick of no chain", index)
    at, preimage = item.tick
    if at > last.length or not payword.proves(last.anchor, at, preimage):
        raise EvidenceError("a tick that its chain's anchor does not prove", index)


def _check_continues(item: Leaf, first: Statement, last: Reading | End | Chain, index: int) -> None:
    """Said after the first, of the same use."""
    if isinstance(first, Intent) and first.one_shot is not None:
        raise EvidenceError("a one-shot use has no later statement", index)
    if last.device_epoch != first.device_epoch or last.counter <= first.counter:
        raise EvidenceError("the statement that ends the record was not made after the first", index)
    standing = isinstance(first, Reading)
    # A standing authorization's readings name none; its end has to, as every end does.
    named = last.authorization
    if named != item.authorization and not (standing and named is None):
        raise EvidenceError("the statement that ends the record names another authorization", index)
    if last.commitment != first.commitment and not standing:
        raise EvidenceError("the statements name different tokens", index)
    if last.tariff != item.tariff:
        raise EvidenceError("the statement that ends the record names another tariff version", index)
    if isinstance(first, Reading) and first.tariff != item.tariff:
        raise EvidenceError("the first statement names another tariff version", index)


def _check_grant(batch: batch_pb2.Batch, item: Leaf, first: Statement, index: int) -> None:
    """The grant says of the use what the statements say; a session is never billed without one."""
    if item.grant is None:
        if isinstance(first, Intent) and first.one_shot is None:
            raise EvidenceError("a session without the grant that the device was told", index)
        return
    try:
        grant = decode_grant(item.grant)
    except MessageError as err:
        raise EvidenceError(f"the grant cannot be read: {err.reason}", index) from err
    if grant.gateway != batch.gateway_id or grant.recipient != item.device:
        raise EvidenceError("a grant between others", index)
    if grant.authorization != item.authorization or grant.tariff != item.tariff:
        raise EvidenceError("a grant of another authorization or tariff version", index)
    if (grant.intent_epoch, grant.intent_counter) != (first.device_epoch, first.counter):
        raise EvidenceError("a grant for another intent", index)
    covered = (grant.register_id, grant.register_epoch, grant.start)
    if covered != (item.register_id, item.register_epoch, first.register.value):
        raise EvidenceError("a grant for another register, or from another count", index)
    if grant.commitment != first.commitment:
        raise EvidenceError("a grant for another token", index)


# Interval and price ---------------------------------------------------------------------------------------------------


def _start(first: Statement, facts: RegisterFacts, claim: batch_pb2.Claim) -> int:
    """Where the authorization began: as its claim says, if the first statement shows that but for turns its device did not count."""
    said = first.register.unrolled(facts.modulus)
    turned = claim.register_from - said
    return said + turned if turned > 0 and facts.modulus and turned % facts.modulus == 0 else said


def _check_interval(
    item: Leaf, first: Statement, last: Statement, facts: RegisterFacts, start: int, index: int
) -> None:
    said = first.register.unrolled(facts.modulus)
    if isinstance(last, Intent):
        # _check_statements has seen that it is a one-shot intent.
        width = last.one_shot or 0
    else:
        width = last.register.unrolled(facts.modulus) - said
        if width < 0:
            # The count returned to 0; where it cannot, it went back.
            width += facts.modulus
    if width < 0:
        raise EvidenceError("the register went back", index)
    if isinstance(last, Chain) and item.tick is not None:
        width += item.tick[0] * last.unit_per_tick
    if item.register_to != start + width:
        raise EvidenceError("ends elsewhere than the statement that ends the record", index)
    if not start <= item.register_from <= item.register_to:
        raise EvidenceError("begins outside of its authorization", index)


def _check_stood(
    item: Leaf,
    stood: Stood,
    first: Statement,
    previous: Statement,
    last: Statement,
    facts: RegisterFacts,
    start: int,
    index: int,
) -> None:
    """The statement before is one of this authorization, between the first and the last, and shows the value where the use stood."""
    register = previous.register
    if not isinstance(previous, Reading | Chain):
        raise EvidenceError("the statement before is no reading of this authorization", index)
    if (register.register_id, register.register_epoch) != (item.register_id, item.register_epoch):
        raise EvidenceError("the statement before is of another register", index)
    _check_continues(item, first, previous, index)
    if previous.counter > last.counter:
        raise EvidenceError("the statement before was made after the one that ends the record", index)
    width = register.unrolled(facts.modulus) - first.register.unrolled(facts.modulus)
    width += facts.modulus if width < 0 else 0
    # A chain says where it began; how far its ticks had come by then is the gateway's word, up to where the record ends.
    at_least = (
        stood.register_to == start + width if isinstance(previous, Reading) else stood.register_to >= start + width
    )
    if not at_least or stood.register_to > item.register_to:
        raise EvidenceError("the use stood elsewhere than the statement before says", index)
    if stood.placed.at < previous.at:
        raise EvidenceError("the use stood at an earlier time than the statement before", index)


def _use_of(item: Leaf, first: Statement, last: Statement, facts: RegisterFacts, start: int, time_zone: str) -> Use:
    if isinstance(last, Intent):
        return one_shot_use(facts.unit, start, item.register_to - start, first.at, time_zone)
    return Use(
        unit=facts.unit,
        start=start,
        end=item.register_to,
        started_at=first.at,
        ended_at=item.at,
        placed=None if item.stood is None else item.stood.placed,
        placed_to=0 if item.stood is None else item.stood.register_to,
        time_zone=time_zone,
    )


def _check_price(
    item: Leaf, use: Use, tariff: Tariff, batch: batch_pb2.Batch, line: batch_pb2.Line, index: int
) -> Placed | None:
    if tariff.currency != line.currency:
        raise EvidenceError("its line is in another currency than the tariff", index)
    try:
        priced = price(tariff, use, closing=item.closing)
    except TariffError as err:
        raise EvidenceError(f"the tariff does not price it: {err}", index) from err
    if use.placed is not None and priced.placed is None:
        raise EvidenceError("says where a use stood, and its tariff does not ask", index)
    if (priced.net_micros, priced.tax_micros) != (item.total_net_micros, item.total_tax_micros):
        rule = "the price of the interval is not what the authorization has billed so far"
        if priced.placed is not None and batch.time_zone_data not in ("", TIME_ZONE_DATA):
            rule += f" (wall clocks were read by the time-zone data {batch.time_zone_data}, here by {TIME_ZONE_DATA})"
        raise EvidenceError(rule, index)
    if all(part.rate_ppm != line.tax_rate_ppm for part in priced.parts):
        raise EvidenceError("its line's tax rate is none of the tariff's", index)
    return priced.placed


def _worth(tariff: Tariff, use: Use, stood: Stood, index: int) -> tuple[int, int]:
    """What a use was worth where it is said to have stood, in micros (net, tax)."""
    there = replace(use, end=stood.register_to, ended_at=stood.placed.at)
    try:
        worth = price(tariff, there, closing=False)
    except TariffError as err:
        raise EvidenceError(f"the tariff does not price where the use stood: {err}", index) from err
    return worth.net_micros, worth.tax_micros


def follows(earlier: VerifiedLeaf, later: VerifiedLeaf) -> bool:
    """Whether where ``later`` stood follows from where ``earlier``, the last record before it of its authorization, left it.

    What was read between two records was billed nothing, so it may have added to what costs nothing; it takes nothing back.
    """
    if later.leaf.stood is None or later.previous is None:
        return earlier.placed is None
    if earlier.placed is None or later.previous.counter < earlier.last.counter:
        return False
    stood = later.leaf.stood
    if later.previous.counter == earlier.last.counter:
        return (stood.placed, stood.register_to) == (earlier.placed, earlier.leaf.register_to)
    there = dict(stood.placed.quantities)
    return stood.placed.at >= earlier.placed.at and all(
        there.get(slot, 0) >= quantity for slot, quantity in earlier.placed.quantities
    )


# Claims ---------------------------------------------------------------------------------------------------------------


def _check_claims(batch: batch_pb2.Batch, verified: Sequence[VerifiedLeaf]) -> None:
    by_authorization: defaultdict[bytes, list[VerifiedLeaf]] = defaultdict(list)
    for item in verified:
        by_authorization[item.leaf.authorization].append(item)
    claimed: set[bytes] = set()
    for claim in batch.claims:
        if claim.authorization_id in claimed:
            raise EvidenceError("two claims of one authorization in one batch")
        claimed.add(claim.authorization_id)
        mine = by_authorization.get(claim.authorization_id, [])
        _check_shares(claim, mine)
        if mine:
            _check_totals(claim, _records(mine))
    for authorization, items in by_authorization.items():
        if authorization not in claimed:
            raise EvidenceError("of an authorization without a claim", items[0].index)


def _check_shares(claim: batch_pb2.Claim, mine: Sequence[VerifiedLeaf]) -> None:
    said: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0])
    shown: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0])
    for share in claim.shares:
        said[share.line][0] += share.net_micros
        said[share.line][1] += share.tax_micros
    for item in mine:
        shown[item.leaf.line][0] += item.leaf.net_micros
        shown[item.leaf.line][1] += item.leaf.tax_micros
    if said != shown:
        raise EvidenceError(
            f"the shares of claim {claim.authorization_id.hex()} are not the sums of its leaves",
            mine[0].index if mine else None,
        )


def _records(mine: Sequence[VerifiedLeaf]) -> list[list[VerifiedLeaf]]:
    """The leaves of one authorization by record, in the order in which they were billed.

    A decision closes with the statement and tick that ended the record before it, or bills what a statement said that was not believed
    when it came; so it is not their order that counts but how far the register and the price had come.
    """
    records: defaultdict[tuple[int, int, bool], list[VerifiedLeaf]] = defaultdict(list)
    for item in mine:
        tick = 0 if item.leaf.tick is None else item.leaf.tick[0]
        records[item.last.counter, tick, item.leaf.closing].append(item)
    return sorted(records.values(), key=lambda record: _reached(record[0].leaf))


def _reached(item: Leaf) -> tuple[int, int, bool]:
    return item.register_to, item.total_net_micros + item.total_tax_micros, item.closing


def _check_totals(claim: batch_pb2.Claim, records: Sequence[Sequence[VerifiedLeaf]]) -> None:
    """From record to record nothing is billed twice and nothing is left out, up to the claim's totals."""
    before: Leaf | None = None
    for number, record in enumerate(records):
        item, index = record[0].leaf, record[0].index
        for other in record[1:]:
            if _record_of(other.leaf) != _record_of(item):
                raise EvidenceError("one record told in two ways", other.index)
        billed = (sum(part.leaf.net_micros for part in record), sum(part.leaf.tax_micros for part in record))
        if before is None:
            # What was billed before this batch stands in earlier ones; a first record has nothing before it.
            begins = item.register_from == record[0].start and item.register_to > item.register_from
            earlier = (0, 0) if begins else None
        else:
            earlier = (before.total_net_micros, before.total_tax_micros)
            if not follows(records[number - 1][0], record[0]):
                raise EvidenceError("stood elsewhere than the record before it left the use", index)
            if item.register_from < before.register_to or before.closing:
                raise EvidenceError("bills what the record before it has billed", index)
        grown = (item.total_net_micros - billed[0], item.total_tax_micros - billed[1])
        if (earlier is not None and grown != earlier) or min(grown) < 0:
            raise EvidenceError("bills another amount than the growth of the price", index)
        if record[0].worth is not None and record[0].worth != grown:
            raise EvidenceError("what was billed before is not the price of where the use stood", index)
        before = item
    assert before is not None
    last = records[-1][0]
    if (claim.net_micros, claim.tax_micros) != (before.total_net_micros, before.total_tax_micros):
        raise EvidenceError("its claim has other totals than its last record", last.index)
    if (claim.device_id, claim.register_id, claim.register_epoch) != (
        before.device,
        before.register_id,
        before.register_epoch,
    ) or claim.register_from != last.start:
        raise EvidenceError("its claim is of another register, or begins elsewhere", last.index)
    if before.closing and not claim.final:
        raise EvidenceError("closes, but its claim is not final", last.index)
    # An end that adds width but no price has no record: then, and only then, the claim reaches beyond the last one.
    goes_on = claim.final and not before.closing
    if claim.register_to < before.register_to or (claim.register_to > before.register_to and not goes_on):
        raise EvidenceError("its claim ends elsewhere than its last record", last.index)


def _record_of(item: Leaf) -> tuple[object, ...]:
    return (
        *(item.register_from, item.register_to, item.total_net_micros, item.total_tax_micros),
        *(item.closing, item.at, item.statements, item.grant, item.tick, item.stood),
    )
