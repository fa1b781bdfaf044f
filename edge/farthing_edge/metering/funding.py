"""Who pays for a use, and what is held for the next one.

Rule 1 (billing): the authorization's holds, earliest ``spend_until`` first; then what its account's quotas have free; the floor; the
rest is overrun. Use is always billed.
Rule 2 (holding): every quota in the same order holds what it can, the floor what is left; a stopped quota's holds only shrink, and a
session that did not begin on the floor does not grow onto it.
Rule 3: each step cuts net and tax by :func:`farthing.money.cut`, so that shares sum to the record to the micro.
"""

from collections.abc import Sequence
from typing import NamedTuple

from farthing.clock import Instant
from farthing.device.messages import MAX_HELD_PARTS
from farthing.money import cut
from farthing.tariff import Part
from farthing_edge.authorization.state import (
    FLOOR_FUNDING,
    OVERRUN_FUNDING,
    Account,
    Charge,
    GatewayState,
    Quota,
)

_NO_QUOTAS: tuple[Quota, ...] = ()


class Purse(NamedTuple):
    """What one authorization may be paid from, before it is: its account's quotas, its own holds, the floor's room beside them."""

    quotas: Sequence[Quota]
    holds: dict[str, int]
    floor_room_micros: int


class Held(NamedTuple):
    """A hold by its parts, and what could not be held."""

    parts: tuple[tuple[str, int], ...]
    missing_micros: int


_NOTHING_HELD = Held((), 0)


def floor_room_micros(state: GatewayState, account: Account | None, token_key: bytes) -> int:
    """What the floor still allows this token: the least of its three caps' rooms."""
    policy = state.floor_policy
    if policy.per_token_micros == 0 or account is None or policy.currency != account.currency or account.currency == "":
        return 0
    if account.id in state.entitling:
        # The floor is what an operator lends, and nobody was lent a pass: what goes beyond it is overrun.
        return 0
    floor = state.floor
    return max(
        0,
        min(
            policy.per_token_micros - floor.by_token.get((account.id, token_key), 0),
            policy.per_account_micros - floor.by_account.get(account.id, 0),
            policy.all_tokens_micros - floor.total_micros,
        ),
    )


def purse_for(
    state: GatewayState, account: Account | None, token_key: bytes, holds: dict[str, int], *, floor_only: bool = False
) -> Purse:
    """The purse of an authorization of ``account`` that holds ``holds``."""
    quotas = _NO_QUOTAS if account is None or floor_only else account.quotas
    return Purse(quotas, holds, floor_room_micros(state, account, token_key))


def bill(purse: Purse, due: Sequence[Part], now: Instant) -> tuple[Charge, ...]:
    """Charges for what is ``due`` (one part for each tax rate), in billing order, one for each funding and rate."""
    holds = purse.holds
    if not holds:
        # Nearly always the first quota that is usable pays all of it: nothing to cut.
        for quota in purse.quotas:
            usable = quota.usable_micros(now)
            if usable > 0:
                total = 0
                for part in due:
                    total += part.net_micros + part.tax_micros
                if total <= usable:
                    return tuple([Charge(quota.id, part.rate_ppm, part.net_micros, part.tax_micros) for part in due])
                break
    if len(holds) == 1:
        # What is left of the hold pays first, and nearly always that is enough.
        ((name, held),) = holds.items()
        total = 0
        for part in due:
            total += part.net_micros + part.tax_micros
        if total <= held and any(quota.id == name for quota in purse.quotas):
            return tuple([Charge(name, part.rate_ppm, part.net_micros, part.tax_micros) for part in due])
    sources: list[list[int]] = []
    names: list[str] = []
    for quota in purse.quotas:
        held = holds.get(quota.id, 0)
        if held:
            names.append(quota.id)
            sources.append([held])
    held = holds.get(FLOOR_FUNDING, 0)
    if held:
        names.append(FLOOR_FUNDING)
        sources.append([held])
    for quota in purse.quotas:
        usable = quota.usable_micros(now)
        if usable > 0:
            names.append(quota.id)
            sources.append([usable])
    if purse.floor_room_micros > 0:
        names.append(FLOOR_FUNDING)
        sources.append([purse.floor_room_micros])
    charges: dict[tuple[str, int], tuple[int, int]] = {}
    for part in due:
        net, tax = part.net_micros, part.tax_micros
        for name, left in zip(names, sources, strict=True):
            if net + tax == 0:
                break
            amount = min(left[0], net + tax)
            if amount <= 0:
                continue
            left[0] -= amount
            part_net, part_tax = cut(net, tax, amount)
            net, tax = net - part_net, tax - part_tax
            before = charges.get((name, part.rate_ppm), (0, 0))
            charges[name, part.rate_ppm] = before[0] + part_net, before[1] + part_tax
        if net + tax:
            charges[OVERRUN_FUNDING, part.rate_ppm] = net, tax
    return tuple(Charge(name, rate, net, tax) for (name, rate), (net, tax) in charges.items())


def hold(purse: Purse, charges: Sequence[Charge], need_micros: int, now: Instant, *, floor: bool) -> Held:
    """What is held after ``charges`` were paid from ``purse``, for ``need_micros`` more; of the floor only if ``floor``."""
    if need_micros <= 0:
        return _NOTHING_HELD
    if not charges and not purse.holds and purse.quotas:
        quota = purse.quotas[0]
        if need_micros <= quota.usable_micros(now):
            return Held(((quota.id, need_micros),), 0)
    paid: dict[str, int] = {}
    for charge in charges:
        paid[charge.funding] = paid.get(charge.funding, 0) + charge.net_micros + charge.tax_micros
    parts: list[tuple[str, int]] = []
    need = need_micros
    for quota in purse.quotas:
        own = purse.holds.get(quota.id, 0)
        taken = paid.get(quota.id, 0)
        most = max(0, own - taken) if quota.is_stopped(now) else quota.free_micros + own - taken
        amount = min(need, most)
        # One part is left for the floor.
        if amount > 0 and len(parts) < MAX_HELD_PARTS - 1:
            parts.append((quota.id, amount))
            need -= amount
    room = purse.floor_room_micros + purse.holds.get(FLOOR_FUNDING, 0) - paid.get(FLOOR_FUNDING, 0)
    amount = min(need, room) if floor else 0
    if amount > 0:
        parts.append((FLOOR_FUNDING, amount))
        need -= amount
    return Held(tuple(parts), need)


def due(authorization_billed: dict[int, tuple[int, int]], parts: Sequence[Part], *, closing: bool) -> tuple[Part, ...]:
    """What ``parts`` (all that is due so far, by tax rate) add to what was billed: never less than nothing.

    A part can fall only where a lost journal has billed by readings that this one has not heard. Whatever is billed has to be the price of
    the statements that its leaf shows, or no detail of its batch could be proven. So until every part has caught up an interim record adds
    nothing, and what closes adds so much less at the other rates; nothing where that is not enough.
    """
    added: list[Part] = []
    fell_net = fell_tax = 0
    for part in parts:
        net, tax = authorization_billed.get(part.rate_ppm, (0, 0))
        more_net, more_tax = part.net_micros - net, part.tax_micros - tax
        if more_net < 0 or more_tax < 0:
            if not closing:
                return ()
            fell_net, fell_tax = fell_net - min(0, more_net), fell_tax - min(0, more_tax)
            more_net, more_tax = max(0, more_net), max(0, more_tax)
        if more_net or more_tax:
            added.append(Part(rate_ppm=part.rate_ppm, net_micros=more_net, tax_micros=more_tax))
    return _less(added, fell_net, fell_tax) if fell_net or fell_tax else tuple(added)


def _less(added: Sequence[Part], net: int, tax: int) -> tuple[Part, ...]:
    """``added`` without ``net`` and ``tax`` micros, the lowest rates first; nothing where it is not that much."""
    left: list[Part] = []
    for part in added:
        taken_net, taken_tax = min(net, part.net_micros), min(tax, part.tax_micros)
        net, tax = net - taken_net, tax - taken_tax
        if (taken_net, taken_tax) != (part.net_micros, part.tax_micros):
            left.append(Part(part.rate_ppm, part.net_micros - taken_net, part.tax_micros - taken_tax))
    return tuple(left) if net == tax == 0 else ()


def held_micros(holds: dict[str, int]) -> int:
    """The sum of a hold."""
    return sum(holds.values())
