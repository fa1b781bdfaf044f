"""Asking the cloud for quotas, and stopping those that are over, spent or unused."""

from farthing.clock import Instant
from farthing.v1 import directive_pb2, gateway_sync_pb2
from farthing_edge.authorization import commands, events
from farthing_edge.authorization.commands import WaitForQuota
from farthing_edge.authorization.decision import NOTHING, Decision
from farthing_edge.authorization.events import Event
from farthing_edge.authorization.state import (
    Account,
    GatewayState,
    Quota,
)


def wait_for(
    state: GatewayState, account: Account, missing_micros: int, now: Instant, *, once: bool = False
) -> Decision | None:
    """Ask the cloud, or wait for what was asked; None when it had nothing a moment ago."""
    wait = WaitForQuota(account=account.id, once=once)
    if account.request is not None:
        return Decision(wait=wait)
    request = ask_for_more(state, account, missing_micros, now)
    return None if request is None else Decision((request,), wait=wait)


def ask_for_more(
    state: GatewayState, account: Account, missing_micros: int, now: Instant
) -> events.QuotaRequested | None:
    """A request for what is missing, unless one is under way, or the cloud had nothing a moment ago."""
    if account.request is not None or not may_ask_again(state, account, now) or state.not_authorizing_reason:
        return None
    free_micros = account.free_micros(state.clock.latest(now))
    return _request(state, account, max(missing_micros, account.preload_micros - free_micros))


def may_ask_again(state: GatewayState, account: Account, now: Instant) -> bool:
    """Whether the cloud's last "nothing" is old enough. One that lies further ahead than the wait is long was written by a clock that was put back since."""
    return not 0 < account.ask_after - now <= state.settings.quota_retry_us


def _request(state: GatewayState, account: Account, wanted_micros: int, offset: int = 1) -> events.QuotaRequested:
    return events.QuotaRequested(
        counter=state.request_counter + offset,
        account=account.id,
        currency=account.currency,
        wanted_micros=wanted_micros,
    )


def decide_tick(state: GatewayState, command: commands.Tick, now: Instant) -> Decision:  # noqa: ARG001  # every command has one shape
    """Stop quotas that are over, spent or unused; ask for accounts that are low."""
    # What is stopped or given back the cloud takes back: only when its time has surely come.
    surely = state.clock.surely(now)
    # What is spent only takes one of the few places an account has for open quotas.
    happened: list[Event] = [events.QuotaStopped(quota_id=name, reason="spent") for name in sorted(state.spent)]
    if surely >= state.next_stop_at:
        over: list[Quota] = [
            quota
            for quota in state.quotas.values()
            if not quota.stopped and surely >= quota.spend_until and quota.id not in state.spent
        ]
        happened += [events.QuotaStopped(quota_id=quota.id, reason="spend_until") for quota in over]
    if state.online:
        # Given back early: somewhere else it may be needed. Without an uplink nothing could take its place.
        unused_since = surely - state.settings.quota_idle_us
        happened += [
            events.QuotaStopped(quota_id=quota.id, reason=events.UNUSED)
            for account in state.accounts.values()
            if account.quotas and account.used_at <= unused_since
            for quota in account.quotas
            if not quota.stopped and not quota.held_micros and quota.unspent_micros and surely < quota.spend_until
        ]
    if state.low and not state.not_authorizing_reason:
        offset = 0
        for name in sorted(state.low):
            account = state.accounts[name]
            if (
                account.request is None
                and may_ask_again(state, account, now)
                and account.status == directive_pb2.ACCOUNT_STATUS_ACTIVE
            ):
                wanted = account.preload_micros - account.free_micros(state.clock.latest(now))
                if wanted > 0:
                    offset += 1
                    happened.append(_request(state, account, wanted, offset))
    return Decision(tuple(happened)) if happened else NOTHING


def decide_quota_answer(state: GatewayState, command: commands.QuotaAnswered, now: Instant) -> Decision:
    """A yes comes again, as a directive; a no closes the request."""
    if command.answer == gateway_sync_pb2.QUOTA_ANSWER_GRANTED or command.counter not in state.requests:
        return NOTHING
    return Decision(
        (
            events.QuotaRequestClosed(
                counter=command.counter, answer=command.answer, ask_after=now + state.settings.quota_retry_us
            ),
        )
    )
