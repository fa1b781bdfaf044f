"""Usage records become lines, claims and leaves, and those a batch.

Rule 1: lines stand in the order in which they were first billed, and so do claims and the shares of each.
Rule 2: a batch takes what is not sealed up to a position, so a claim's totals are its authorization's totals there. Nearly always that is
all there is; a journal that had to wait for its incarnation has more to say than one batch may bill.
Rule 3: leaves are a function of journal entries: what was sealed once can be shown again.
"""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple, Protocol, TypeAlias

from farthing.clock import Instant, quarter_of
from farthing.device.messages import MAX_EPOCH, TariffVersion
from farthing.evidence import merkle
from farthing.evidence.batches import batch_hash
from farthing.evidence.leaf import Leaf, Stood, on_line
from farthing.ids import AuthorizationId, DeviceId, RegisterId
from farthing.tariff import TIME_ZONE_DATA
from farthing.v1 import batch_pb2
from farthing_edge.authorization.events import Sealed
from farthing_edge.authorization.grants import grant_payload
from farthing_edge.authorization.state import (
    FLOOR_FUNDING,
    MAX_SEAL_RECORDS,
    OVERRUN_FUNDING,
    Authorization,
    Charge,
    GatewayState,
    UsageRecord,
)

#: (account, currency, funding, tariff id, tariff version, tax rate, evidence class, quarter)
LineKey: TypeAlias = tuple[str, str, str, str, int, int, int, int]


class Facts(NamedTuple):
    """What a leaf says of one usage record, wherever it was read from."""

    authorization: bytes
    account: str
    currency: str
    device: str
    register_id: str
    register_epoch: int
    register_from: int
    register_to: int
    charges: tuple[Charge, ...]
    net_micros: int
    tax_micros: int
    closing: bool
    tariff: TariffVersion
    at: int
    statements: tuple[bytes, ...]
    grant: bytes | None
    traceparent: str | None
    tick: tuple[int, bytes] | None
    stood: Stood | None


class Sheet(NamedTuple):
    """Lines with their sums and leaves, in order."""

    keys: dict[LineKey, int]
    sums: list[tuple[int, int]]
    #: For each line: (index of the record, of its charge) of its leaves.
    parts: list[list[tuple[int, int]]]
    #: For each record: the line of each of its charges.
    lines: list[list[int]]


def line_key(account: str, currency: str, tariff: TariffVersion, charge: Charge, at: int) -> LineKey:
    """The line on which ``charge`` of a record that ends at ``at`` stands."""
    return (
        account,
        currency,
        charge.funding,
        tariff.tariff_id,
        tariff.version,
        charge.rate_ppm,
        # Every way in takes statements that devices signed, and a record rests on nothing else.
        batch_pb2.EVIDENCE_CLASS_DEVICE_SIGNED,
        quarter_of(Instant(at)),
    )


def sheet_of(records: Iterable[tuple[str, str, TariffVersion, tuple[Charge, ...], int]]) -> Sheet:
    """Lines of ``records``, each (account, currency, tariff, charges, at), in the order in which they were billed."""
    keys: dict[LineKey, int] = {}
    sums: list[tuple[int, int]] = []
    parts: list[list[tuple[int, int]]] = []
    lines: list[list[int]] = []
    for number, (account, currency, tariff, charges, at) in enumerate(records):
        stands_on: list[int] = []
        lines.append(stands_on)
        for which, charge in enumerate(charges):
            key = line_key(account, currency, tariff, charge, at)
            line = keys.setdefault(key, len(keys))
            if line == len(sums):
                sums.append((0, 0))
                parts.append([])
            net, tax = sums[line]
            sums[line] = net + charge.net_micros, tax + charge.tax_micros
            parts[line].append((number, which))
            stands_on.append(line)
    return Sheet(keys, sums, parts, lines)


def leaves_of(facts: Sequence[Facts], sheet: Sheet) -> list[bytes]:
    """The leaves of a batch, in line order: one for each record and line it stands on."""
    return _on_lines([draft_leaves(fact) for fact in facts], sheet)


def _on_lines(drafts: Sequence[tuple[bytes, ...]], sheet: Sheet) -> list[bytes]:
    return [on_line(drafts[number][which], line) for line, parts in enumerate(sheet.parts) for number, which in parts]


def draft_leaves(fact: Facts) -> tuple[bytes, ...]:
    """All of its leaves, one for each charge, but their lines: those only a whole batch has."""
    return tuple([_leaf(fact, charge) for charge in fact.charges])


def _leaf(fact: Facts, charge: Charge) -> bytes:
    return Leaf(
        authorization=AuthorizationId(fact.authorization),
        line=0,
        device=DeviceId(fact.device),
        register_id=RegisterId(fact.register_id),
        register_epoch=fact.register_epoch,
        register_from=fact.register_from,
        register_to=fact.register_to,
        net_micros=charge.net_micros,
        tax_micros=charge.tax_micros,
        total_net_micros=fact.net_micros,
        total_tax_micros=fact.tax_micros,
        closing=fact.closing,
        tariff=fact.tariff,
        at=Instant(fact.at),
        statements=fact.statements,
        grant=fact.grant,
        traceparent=fact.traceparent,
        tick=fact.tick,
        stood=fact.stood,
    ).encode()


def facts_of(
    authorization: Authorization,
    *,
    register_from: int,
    register_to: int,
    charges: tuple[Charge, ...],
    net_micros: int,
    tax_micros: int,
    closing: bool,
    at: int,
    statement: bytes,
    grant: bytes | None,
    traceparent: str | None,
    tick: tuple[int, bytes] | None = None,
    latest: bytes | None = None,
    stood: Stood | None = None,
) -> Facts:
    """What a leaf says of a record that ``statement`` (a chain: with a ``tick`` of it) ends; ``latest`` is the statement that gives it
    its time, where neither that one nor the first does. ``net_micros`` and ``tax_micros`` are the authorization's so far.

    One place for both who seals and who shows again what was sealed: their leaves are equal byte for byte.
    """
    first = authorization.first_statement
    return Facts(
        authorization=authorization.id,
        account=authorization.account_id,
        currency=authorization.currency,
        device=authorization.device_id,
        register_id=authorization.register_id,
        register_epoch=authorization.register_epoch,
        register_from=register_from,
        register_to=register_to,
        charges=charges,
        net_micros=net_micros,
        tax_micros=tax_micros,
        closing=closing,
        tariff=authorization.tariff,
        at=at,
        statements=(first,) if statement == first else (first, *(() if latest is None else (latest,)), statement),
        grant=grant,
        traceparent=traceparent,
        tick=tick,
        stood=stood,
    )


def facts_of_record(state: GatewayState, record: UsageRecord) -> Facts:
    """What the state knows of a record that is not sealed."""
    authorization = record.authorization
    return facts_of(
        authorization,
        register_from=record.register_from,
        register_to=record.register_to,
        charges=record.charges,
        net_micros=record.net_micros,
        tax_micros=record.tax_micros,
        closing=record.closing,
        at=record.at,
        statement=record.statement,
        grant=None if record.told is None else grant_payload(authorization, state.gateway_id, record.told),
        traceparent=record.traceparent,
        tick=record.tick,
        latest=record.latest,
        stood=None
        if record.placed is None
        else Stood(placed=record.placed, register_to=record.placed_to, statement=record.placed_statement),
    )


def why_no_batch(state: GatewayState) -> dict[bytes, str]:
    """Which authorizations' records or claims cannot be written, each tried alone, and why."""
    faults: dict[bytes, str] = {}
    for record in state.unsealed:
        try:
            fact = facts_of_record(state, record)
            sheet = sheet_of([(fact.account, fact.currency, fact.tariff, fact.charges, fact.at)])
            leaves_of([fact], sheet)
            for line in _lines(sheet):
                line.SerializeToString()
        except Exception as err:  # noqa: BLE001  # the question is whether it can be done at all
            faults[record.authorization.id] = f"{type(err).__name__}: {err}"
    for authorization in [*state.ended.values(), *(record.authorization for record in state.unsealed)]:
        if authorization.id not in faults:
            try:
                alone = batch_pb2.Batch()
                _add_claim(alone, authorization, None, {}, state.incarnation)
                alone.SerializeToString()
            except Exception as err:  # noqa: BLE001  # as above
                faults[authorization.id] = f"{type(err).__name__}: {err}"
    return faults


class Drafted(Protocol):
    """Leaves that were made before their batch."""

    def of(self, record: UsageRecord, /) -> tuple[bytes, ...] | None:
        """Those of ``record`` on line 0, one for each of its charges; None where they were not."""
        ...


class Sealing(NamedTuple):
    """A batch, and its leaves in order: what the journal says again, at more cost."""

    sealed: Sealed
    leaves: tuple[bytes, ...]


def seal(state: GatewayState, now: Instant, drafted: Drafted | None = None) -> Sealing | None:
    """The batch of what is not sealed, and of what became of stopped quotas; None when it would say nothing."""
    if not state.has_something_to_say():
        return None
    last_position = _last_position(state)
    records = state.unsealed[: state.unsealed_up_to(last_position)]
    sheet = sheet_of(
        (each.authorization.account_id, each.authorization.currency, each.authorization.tariff, each.charges, each.at)
        for each in records
    )
    leaves = _on_lines(
        [
            (None if drafted is None else drafted.of(record)) or draft_leaves(facts_of_record(state, record))
            for record in records
        ],
        sheet,
    )
    # Whoever says that a quota is closed has billed all of it before.
    stopped, closed = _quotas_to_report(state) if last_position == state.position else ((), ())
    batch = batch_pb2.Batch(
        operator_id=state.operator_id,
        site_id=state.site_id,
        gateway_id=state.gateway_id,
        incarnation=state.incarnation,
        start_id=state.start_id,
        sequence=state.sequence + 1,
        previous_hash=state.batch_hash,
        first_position=state.sealed_position + 1,
        last_position=last_position,
        directive_version=state.directive_version,
        sealed_at_us=now,
        clock=batch_pb2.ClockEpoch(
            epoch_us=state.settings.clock_epoch_us,
            real_epoch_us=state.settings.clock_real_epoch_us,
            rate=state.settings.clock_rate,
        ),
        totals=_totals(sheet),
        merkle_root=merkle.root(leaves),
        time_zone_data=TIME_ZONE_DATA if any(record.placed is not None for record in records) else "",
        leaf_count=len(leaves),
        lines=_lines(sheet),
        stopped=[batch_pb2.StoppedQuota(quota_id=name, still_held_micros=held) for name, held in stopped],
        closed_quota_ids=closed,
        carried=[
            batch_pb2.CarriedEnd(
                granted_by=each.granted_by,
                granted_incarnation=each.granted_incarnation,
                statements=each.statements,
                grant=each.grant,
            )
            for each in state.carried
        ],
        parked=_parked(state),
        statistics=batch_pb2.AuthorizationStatistics(
            granted_online=state.statistics.granted_online,
            granted_offline=state.statistics.granted_offline,
            refusals=[
                batch_pb2.RefusalCount(number=number, count=count)
                for number, count in sorted(state.statistics.refusals.items())
            ],
        ),
    )
    _add_claims(batch, state, records, last_position, sheet)
    raw = batch.SerializeToString(deterministic=True)
    sealed = Sealed(
        incarnation=state.incarnation,
        sequence=state.sequence + 1,
        batch=raw,
        batch_hash=batch_hash(raw),
        first_position=state.sealed_position + 1,
        last_position=last_position,
        stopped=stopped,
        closed=closed,
    )
    return Sealing(sealed, tuple(leaves))


def _parked(state: GatewayState) -> list[batch_pb2.ParkedStatement]:
    """What was parked since the last batch: the journal that keeps it for people may be lost, and its device is told that it was heard."""
    return [
        batch_pb2.ParkedStatement(statement=statement, refusal=refusal) for statement, refusal in state.parked_unsealed
    ]


def _last_position(state: GatewayState) -> int:
    """How far the next batch goes: as far as ``MAX_SEAL_RECORDS`` records, and as many ends, reach."""
    most = MAX_SEAL_RECORDS
    last = state.position
    if len(state.unsealed) > most:
        last = min(last, state.unsealed[most].position - 1)
    if len(state.ended) > most:
        beyond = next(islice(state.ended.values(), most, None))
        last = min(last, beyond.closed_position - 1)
    return last


def seal_again(state: GatewayState, raw: bytes, now: Instant) -> Sealed | None:
    """What a batch of an older chain bills, in this one; None unless ``raw`` is the next to be said again.

    Lines, claims and leaves are the same, as they are of the same entries. What it said of quotas and decisions was of its own chain.
    """
    if not state.to_seal_again or not state.may_seal:
        return None
    old = state.to_seal_again[0]
    if batch_hash(raw) != old.batch_hash:
        return None
    batch = batch_pb2.Batch.FromString(raw)
    for claim in batch.claims:
        claim.granted_incarnation = claim.granted_incarnation or batch.incarnation
    del batch.stopped[:], batch.closed_quota_ids[:]
    batch.ClearField("statistics")
    batch.incarnation = state.incarnation
    batch.start_id = state.start_id
    batch.sequence = state.sequence + 1
    batch.previous_hash = state.batch_hash
    batch.directive_version = state.directive_version
    batch.sealed_at_us = now
    again = batch.SerializeToString(deterministic=True)
    return Sealed(
        incarnation=state.incarnation,
        sequence=state.sequence + 1,
        batch=again,
        batch_hash=batch_hash(again),
        first_position=batch.first_position,
        last_position=batch.last_position,
        stopped=(),
        closed=(),
        again=old.batch_hash,
    )


def _quotas_to_report(state: GatewayState) -> tuple[tuple[tuple[str, int], ...], tuple[str, ...]]:
    """(stopped quotas with what is still held, closed quotas): a quota is said again only when its holds have shrunk."""
    stopped = []
    closed = []
    for quota in state.stopped.values():
        if quota.held_micros == 0:
            closed.append(str(quota.id))
        elif quota.held_micros != quota.reported_held_micros:
            stopped.append((str(quota.id), quota.held_micros))
    return tuple(stopped), tuple(closed)


def _totals(sheet: Sheet) -> list[batch_pb2.CurrencyTotal]:
    totals: dict[str, tuple[int, int]] = {}
    for key, (net, tax) in zip(sheet.keys, sheet.sums, strict=True):
        before = totals.get(key[1], (0, 0))
        totals[key[1]] = before[0] + net, before[1] + tax
    return [
        batch_pb2.CurrencyTotal(currency=currency, net_micros=net, tax_micros=tax)
        for currency, (net, tax) in sorted(totals.items())
    ]


def _lines(sheet: Sheet) -> list[batch_pb2.Line]:
    lines = []
    first_leaf = 0
    for key, (net, tax), parts in zip(sheet.keys, sheet.sums, sheet.parts, strict=True):
        account, currency, funding, tariff_id, tariff_version, rate_ppm, evidence_class, quarter = key
        line = batch_pb2.Line(
            account_id=account,
            currency=currency,
            tariff_id=tariff_id,
            tariff_version=tariff_version,
            tax_rate_ppm=rate_ppm,
            evidence_class=batch_pb2.EvidenceClass.ValueType(evidence_class),
            quarter=quarter,
            net_micros=net,
            tax_micros=tax,
            first_leaf=first_leaf,
            leaf_count=len(parts),
        )
        if funding == FLOOR_FUNDING:
            line.floor = True
        elif funding == OVERRUN_FUNDING:
            line.overrun = True
        else:
            line.quota_id = funding
        first_leaf += len(parts)
        lines.append(line)
    return lines


def _add_claims(
    batch: batch_pb2.Batch, state: GatewayState, records: Sequence[UsageRecord], last_position: int, sheet: Sheet
) -> None:
    """One for each authorization that was billed or has ended up to ``last_position``: cumulative, with what this batch adds."""
    shares: dict[bytes, dict[int, tuple[int, int]]] = {}
    last: dict[bytes, UsageRecord | None] = {}
    authorizations: dict[bytes, Authorization] = {}
    for record, lines in zip(records, sheet.lines, strict=True):
        authorization = record.authorization
        authorizations[authorization.id] = authorization
        last[authorization.id] = record
        added = shares.setdefault(authorization.id, {})
        for charge, line in zip(record.charges, lines, strict=True):
            net, tax = added.get(line, (0, 0))
            added[line] = net + charge.net_micros, tax + charge.tax_micros
    for authorization in state.ended.values():
        if authorization.closed_position <= last_position:
            authorizations[authorization.id] = authorization
            last[authorization.id] = None
    for authorization in authorizations.values():
        added = shares.get(authorization.id, {})
        _add_claim(batch, authorization, last[authorization.id], added, state.incarnation)


def _add_claim(
    batch: batch_pb2.Batch,
    authorization: Authorization,
    last: UsageRecord | None,
    shares: dict[int, tuple[int, int]],
    incarnation: int,
) -> None:
    """What ``authorization`` has billed up to its record ``last``; None: it has ended, and this is all of it."""
    said = authorization if last is None else last
    # Made where it stands: a message that is handed over is copied.
    claim = batch.claims.add(
        authorization_id=authorization.id,
        device_id=authorization.device_id,
        register_id=authorization.register_id,
        register_epoch=authorization.register_epoch,
        register_from=authorization.start,
        register_to=authorization.recorded_to if last is None else last.register_to,
        net_micros=said.net_micros,
        tax_micros=said.tax_micros,
        missed_readings=min(authorization.missed, MAX_EPOCH),
    )
    if authorization.granted_incarnation != incarnation:
        claim.granted_incarnation = authorization.granted_incarnation
    if last is None:
        claim.final = True
        claim.closed_by = authorization.closed_by
    for line, (net, tax) in shares.items():
        claim.shares.add(line=line, net_micros=net, tax_micros=tax)
