"""What becomes of quotas, requests and accounts that run low, whoever caused it. Only ``applying`` and ``obeying`` call it."""

from farthing.clock import Instant
from farthing.ids import (
    AccountId,
)
from farthing.refusal import Refusal
from farthing_edge.authorization.state import (
    Account,
    Authorization,
    GatewayState,
    Quota,
)


def used(state: GatewayState, account_id: AccountId, at: Instant) -> None:
    """The account is spent from here again: what was recalled from it, or given back, is history."""
    account = state.accounts.get(account_id)
    if account is not None:
        account.ahead = True
        account.used_at = max(account.used_at, at)


def doubt(authorization: Authorization, refusal: int, value: int) -> None:
    """A statement of this authorization was parked: what else is not believed before somebody decides."""
    if refusal == Refusal.REGISTER_TOO_FAST:
        ceiling = authorization.ceiling
        authorization.ceiling = value if ceiling is None else min(ceiling, value)


def decided(state: GatewayState, device: str, device_epoch: int, counter: int) -> None:
    """Somebody has decided about a parked statement; what is left keeps its authorization in doubt."""
    parked = state.parked_statements.pop((device, device_epoch, counter), None)
    authorization = None if parked is None else state.authorizations.get(parked.authorization)
    if parked is None or authorization is None:
        return
    authorization.ceiling = None
    for other in state.parked_statements.values():
        if other.authorization == parked.authorization:
            doubt(authorization, other.refusal, other.value)


def see_whether_low(state: GatewayState, account: Account) -> None:
    if account.ahead and account.preload_micros and account.request is None:
        free = sum(quota.free_micros for quota in account.quotas if not quota.stopped)
        if free < account.low_water_micros:
            state.low.add(account.id)


def stop_quota(state: GatewayState, quota: Quota) -> None:
    quota.stopped = True
    state.spent.discard(quota.id)
    if not quota.frozen:
        state.stopped[quota.id] = quota
    account = state.accounts.get(quota.account_id)
    if account is not None:
        see_whether_low(state, account)


def close_request(state: GatewayState, counter: int) -> Account | None:
    request = state.requests.pop(counter, None)
    if request is None:
        return None
    account = state.accounts.get(request.account_id)
    if account is not None and account.request is request:
        account.request = None
    return account
