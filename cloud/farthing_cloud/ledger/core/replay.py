"""Replay transfers and hold them against what is stored beside them (P5): the first fault in words, or nothing."""

from collections.abc import Iterable, Mapping

from farthing.ids import QuotaId
from farthing_cloud.ledger.core import paths
from farthing_cloud.ledger.core.posting import Transfer, TransferKind
from farthing_cloud.ledger.core.rows import Balances, Payer, Quota, QuotaStatus


def replay(
    transfers: Iterable[Transfer], quotas: Mapping[QuotaId, Quota]
) -> tuple[dict[str, Balances], dict[QuotaId, list[int]]]:
    """The balances and, per quota, [held, posted, voided] that the transfers alone give."""
    sums: dict[str, list[int]] = {}
    holds: dict[QuotaId, list[int]] = {}
    for transfer in transfers:
        amount = transfer.amount_micros
        if transfer.quota_id is not None:
            quota = quotas[transfer.quota_id]
            sign = 1 if transfer.kind is TransferKind.HOLD else -1
            sums.setdefault(paths.payer(quota.account_id), [0, 0, 0, 0])[0] += sign * amount
            sums.setdefault(paths.quota(quota.gateway_id), [0, 0, 0, 0])[2] += sign * amount
            holds.setdefault(quota.quota_id, [0, 0, 0])[_PLACE[transfer.kind]] += amount
        if transfer.kind is TransferKind.POST:
            sums.setdefault(transfer.debit, [0, 0, 0, 0])[1] += amount
            sums.setdefault(transfer.credit, [0, 0, 0, 0])[3] += amount
    return {
        path: Balances(debits_pending=dp, debits_posted=d, credits_pending=cp, credits_posted=c)
        for path, (dp, d, cp, c) in sums.items()
    }, holds


_PLACE = {TransferKind.HOLD: 0, TransferKind.POST: 1, TransferKind.VOID: 2}


def fault_of(
    transfers: Iterable[Transfer],
    balances: Mapping[str, Balances],
    quotas: Mapping[QuotaId, Quota],
    payers: Mapping[str, Payer],
) -> str:
    """The first disagreement of one operator and currency; empty when there is none."""
    again, holds = replay(transfers, quotas)
    for path in sorted(again.keys() | balances.keys()):
        if again.get(path, Balances()) != balances.get(path, Balances()):
            return f"account {path}: its transfers give {again.get(path)}, it says {balances.get(path)}"
    every = balances.values()
    if sum(b.debits_posted for b in every) != sum(b.credits_posted for b in every):
        return "posted debits and credits do not sum to zero"
    if sum(b.debits_pending for b in every) != sum(b.credits_pending for b in every):
        return "pending debits and credits do not sum to zero"
    for quota in quotas.values():
        held, posted, voided = holds.get(quota.quota_id, [0, 0, 0])
        if (held, posted, voided) != (quota.amount_micros, quota.posted_micros, quota.voided_micros):
            return f"quota {quota.quota_id}: its transfers give {held}, {posted}, {voided}"
        if quota.held_micros < 0 or (quota.status is QuotaStatus.CLOSED and quota.held_micros):
            return f"quota {quota.quota_id}: {quota.status} with {quota.held_micros} held"
    for path, b in balances.items():
        kind, _, name = path.partition("/")
        if min(b.debits_pending, b.debits_posted, b.credits_pending, b.credits_posted) < 0:
            return f"account {path}: a balance below 0"
        if kind == "payer":
            available = b.credits_posted + payers[name].credit_limit_micros - b.debits_posted - b.debits_pending
            owes = balances.get(paths.debt(name), Balances())
            if owes.debits_posted > owes.credits_posted and available > 0:
                return f"account {path}: owes, with {available} available"
        if kind == "quota" and (b.debits_posted or b.credits_posted):
            return f"account {path}: money on the other side of holds"
        if kind == "suspense":
            other = balances.get(paths.unearned(name), Balances())
            if (b.debits_posted, b.credits_posted) != (other.credits_posted, other.debits_posted):
                return f"account {path}: differs from its other side"
    return ""
