"""Rule 8 of an intent: an entitlement covers it, or the payer's own account pays, or the device serves nobody else.

Rule 1: an entitlement is an account with a tariff of its own. What it covers is held, billed, claimed and proven like all use, on
that account's quotas and under that tariff; nothing after this rule knows the difference.
Rule 2: a use has one payer. A cover that ends before the use does ends as money does: at a signed limit. The use after it is
covered by the next entitlement, or paid.
Rule 3: an entitlement never stands on the floor: the floor is what an operator lends, and nobody was lent a pass.
"""

from typing import NamedTuple

from farthing.refusal import Refusal
from farthing.tariff import TariffError, Use, limit
from farthing.v1 import directive_pb2
from farthing_edge.authorization.asking import Ask
from farthing_edge.authorization.quotas import may_ask_again
from farthing_edge.authorization.state import Account, Closing, Entitlement, GatewayState, TariffEntry


class _Cover(NamedTuple):
    """What an entitlement would pay from, under which tariff, and what the use costs there."""

    entitlement: Entitlement
    account: Account
    tariff: TariffEntry
    closing: Closing


def entitlement_covers_it(state: GatewayState, ask: Ask) -> Refusal | None:
    """The first entitlement that can pay takes the place of account and tariff; a device may serve nobody without one."""
    account, device = ask.account, ask.device
    assert account is not None  # the rules before
    assert device is not None
    first: _Cover | None = None
    for entitlement in state.entitlements.get(account.id, ()):
        cover = _cover(state, ask, entitlement)
        if cover is None:
            continue
        if _can_pay(state, ask, cover):
            _take(ask, cover)
            return None
        first = first or cover
    if not device.entitled_only:
        return None
    if first is None:
        return Refusal.NOT_ENTITLED
    # It is entitled, and what is missing is the entitlement's quota: the last rule says so.
    _take(ask, first)
    return None


def _cover(state: GatewayState, ask: Ask, entitlement: Entitlement) -> _Cover | None:
    """How ``entitlement`` would cover this use; None where it does not speak of it."""
    intent, device, register = ask.intent, ask.device, ask.register
    assert device is not None  # the rules before
    assert register is not None
    if not entitlement.begins_at <= state.clock.latest(ask.now) < entitlement.ends_at:
        return None
    if entitlement.unit not in ("", register.unit):
        return None
    if entitlement.device_tariffs and device.tariff.tariff_id not in entitlement.device_tariffs:
        return None
    account = state.accounts.get(entitlement.paid_by)
    if account is None or account.status != directive_pb2.ACCOUNT_STATUS_ACTIVE:
        return None
    tariff = state.tariff_in_force(entitlement.tariff, intent.at)
    if tariff is None or tariff.currency != account.currency:
        return None
    if not (tariff.tariff.fits if intent.one_shot is None else tariff.tariff.fits_at_once)(register.unit):
        return None
    if intent.tariff not in (None, tariff.name):
        # The payer was shown another price, and the device has signed that.
        return None
    try:
        closing = tariff.closing(
            register.unit,
            ask.start,
            ask.most,
            intent.at,
            ask.until,
            state.time_zone,
            one_shot=intent.one_shot is not None,
        )
    except TariffError:
        return None
    return _Cover(entitlement, account, tariff, closing)


def _can_pay(state: GatewayState, ask: Ask, cover: _Cover) -> bool:
    """Whether its quotas here hold the use, or some of a use that can be cut, or the cloud may have more."""
    now, account = state.clock.latest(ask.now), cover.account
    if now - state.head_at > state.settings.directive_max_age_us:
        return False
    need = cover.closing.gross_micros
    free = account.free_micros(now)
    if need <= free:
        return True
    if (
        ask.command.may_wait
        and state.online
        and (account.request is not None or may_ask_again(state, account, ask.now))
    ):
        return True
    return ask.can_be_cut and free > 0 and _covered(state, ask, cover, free) > 0


def _covered(state: GatewayState, ask: Ask, cover: _Cover, budget_micros: int) -> int:
    """How many units it can pay with so much."""
    assert ask.register is not None  # the rules before
    at = ask.intent.at
    use = Use(
        unit=ask.register.unit,
        start=ask.start,
        end=ask.start,
        started_at=at,
        ended_at=at,
        time_zone=state.time_zone,
    )
    return limit(cover.tariff.tariff, use, most=ask.most, until=ask.until, budget_micros=budget_micros)


def _take(ask: Ask, cover: _Cover) -> None:
    ask.entitlement = cover.entitlement
    ask.account, ask.tariff, ask.closing = cover.account, cover.tariff, cover.closing
