"""What people have decided: a use is over, a parked statement is believed or not, a register begins anew.

Rule 1: a session is never ended by time. It ends by its device's signed end, or by a decision that a directive brings: then at the last value
that its device proved, all of it billed, its hold released, its claim final and named as decided.
Rule 2: what its device says later is evidence: it is parked, for people.
Rule 3: a record that no batch can bill is set aside with its whole authorization, as claims are cumulative.
"""

import contextlib

from farthing.clock import Instant
from farthing.tariff import TariffError
from farthing_edge.authorization import events
from farthing_edge.authorization.readings import bill_and_roll, latest_beside
from farthing_edge.authorization.state import Authorization, Charge, Device, GatewayState, ParkedStatement
from farthing_edge.authorization.ticks import latest_of_record
from farthing_edge.metering.funding import purse_for
from farthing_edge.metering.sealing import why_no_batch


def carry_out(state: GatewayState, now: Instant) -> tuple[events.Settled, ...]:
    """The next decision that is due, if any. One at a time: two could spend the same quota."""
    for name, (due, *_) in state.due.items():
        authorization = state.authorizations[name]
        if due.parked is None:
            return (_close(state, authorization, due.decision, now),)
        return (_believe(state, authorization, due.parked, due.decision, now),)
    return ()


def _close(state: GatewayState, authorization: Authorization, decision: str, now: Instant) -> events.Settled:
    """The end that its device did not sign, at the last value that it proved."""
    return _where_it_stands(state, authorization, decision, now, closing=True)


def _where_it_stands(
    state: GatewayState, authorization: Authorization, decision: str, now: Instant, *, closing: bool
) -> events.Settled:
    return _settled(
        state,
        authorization,
        statement=authorization.last_statement,
        tick=authorization.last_tick,
        latest=latest_of_record(authorization, authorization.last_statement),
        value=authorization.value,
        at=authorization.at,
        closing=closing,
        decision=decision,
        now=now,
    )


def _believe(
    state: GatewayState, authorization: Authorization, parked: ParkedStatement, decision: str, now: Instant
) -> events.Settled:
    if parked.value < authorization.value:
        # More has been proven since: it says nothing new, save that it may be over.
        return _where_it_stands(state, authorization, decision, now, closing=parked.closing)
    return _settled(
        state,
        authorization,
        statement=parked.statement,
        tick=None,
        latest=latest_beside(authorization, parked.said_at),
        value=parked.value,
        at=max(parked.said_at, authorization.at),
        closing=parked.closing,
        # Its device did sign it, so its end needs no decision to be one.
        decision="" if parked.closing else decision,
        now=now,
    )


def _settled(
    state: GatewayState,
    authorization: Authorization,
    *,
    statement: bytes,
    tick: tuple[int, bytes] | None,
    latest: bytes | None,
    value: int,
    at: Instant,
    closing: bool,
    decision: str,
    now: Instant,
) -> events.Settled:
    entry = state.tariffs.get((authorization.tariff.tariff_id, authorization.tariff.version))
    device = state.devices.get(authorization.device_id) or Device(authorization.device_id)
    account = state.accounts.get(authorization.account_id)
    purse = purse_for(state, account, authorization.token_key, authorization.holds)
    charges: tuple[Charge, ...] = ()
    # What cannot be priced adds nothing to what was billed; only an end lets its hold go.
    holds = () if closing else tuple(authorization.holds.items())
    limit_value = value
    placed = authorization.placed
    readings_due: tuple[int, ...] = ()
    if entry is not None:
        with contextlib.suppress(TariffError):
            charges, holds, limit_value, _, placed, readings_due = bill_and_roll(
                state, device, authorization, entry, purse, value=value, at=at, now=now, closing=closing
            )
    told = authorization.told
    return events.Settled(
        authorization=authorization.id,
        statement=statement,
        tick_index=0 if tick is None else tick[0],
        tick_preimage=b"" if tick is None else tick[1],
        traceparent=authorization.traceparent,
        value=value,
        at=at,
        charges=charges,
        holds=holds,
        limit=limit_value,
        closing=closing,
        decided_at=now,
        incarnation=state.incarnation,
        opened_position=authorization.opened_position,
        told_position=0 if told is None else told.entry or told.position,
        register_from=authorization.recorded_to,
        net_before_micros=authorization.net_micros,
        tax_before_micros=authorization.tax_micros,
        latest=latest,
        decision=decision,
        placed=placed,
        placed_position=authorization.placed_position,
        readings_due=readings_due,
    )


def set_aside(state: GatewayState) -> tuple[events.UseSetAside, ...]:
    """The authorizations of which no batch can be made, each alone."""
    return tuple(events.UseSetAside(authorization=name, reason=reason) for name, reason in why_no_batch(state).items())
