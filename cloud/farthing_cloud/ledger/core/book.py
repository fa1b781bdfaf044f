"""A working copy of a view: each transfer is recorded and felt at once, so that the next decision sees it."""

from collections.abc import Iterable, Mapping
from typing import cast

from farthing.ids import GatewayId, QuotaId
from farthing.money import MAX_AMOUNT_MICROS
from farthing_cloud.ledger.core import paths
from farthing_cloud.ledger.core.posting import Cause, QuotaAfter, Transfer, TransferKind
from farthing_cloud.ledger.core.rows import Balances, Payer, Quota, QuotaStatus, View

#: The order of ``Balances``.
_DEBITS_PENDING, _DEBITS, _CREDITS_PENDING, _CREDITS = range(4)
#: What nearly every transfer is, and how a named tuple is made at a third of what its own constructor takes.
_POST, _USE = TransferKind.POST, Cause.USE
_new = tuple.__new__


class Book:
    """Mutable only inside one decision; what leaves it is immutable."""

    def __init__(self, view: View) -> None:
        self._payers: Mapping[str, Payer] = cast("Mapping[str, Payer]", view.payers)
        self._before = view.balances
        #: What each touched path gains, in the order of first touch.
        self._changes: dict[str, list[int]] = {}
        self._transfers: list[Transfer] = []
        self._posted: dict[QuotaId, int] = {}
        self._voided: dict[QuotaId, int] = {}
        self._status: dict[QuotaId, QuotaStatus] = {}
        self._touched: dict[str, None] = {}  # accounts, in the order of first touch
        #: Of each quota that paid a use: the payer's path, what was held before, the payer's changes, those of the other side of the hold.
        self._sides: dict[QuotaId, tuple[str, int, list[int], list[int]]] = {}

    # ---- what stands now, micros

    def _balance(self, path: str, of: int) -> int:
        before = self._before.get(path)
        stood = before[of] if before is not None else 0
        changes = self._changes.get(path)
        return stood + changes[of] if changes is not None else stood

    def available(self, account_id: str) -> int:
        """Funds + credit limit − posted − held; 0 for no account, and below 0 only after an outside event."""
        payer = self._payers.get(account_id)
        if payer is None:
            return 0
        path = paths.payer(account_id)
        funds = self._balance(path, _CREDITS) + payer.credit_limit_micros
        return funds - self._balance(path, _DEBITS) - self._balance(path, _DEBITS_PENDING)

    def debt(self, account_id: str) -> int:
        """What the account owes."""
        path = paths.debt(account_id)
        return self._balance(path, _DEBITS) - self._balance(path, _CREDITS)

    def debt_room(self, account_id: str) -> int:
        """How much more it may owe."""
        payer = self._payers.get(account_id)
        return max(0, payer.debt_limit_micros - self.debt(account_id)) if payer else 0

    def open_with(self, gateway_id: GatewayId) -> int:
        """The sum of the gateway's open quotas."""
        return self._balance(paths.quota(gateway_id), _CREDITS_PENDING)

    def held(self, quota: Quota) -> int:
        """What is still held for a quota."""
        return quota.held_micros - self._posted.get(quota.quota_id, 0) - self._voided.get(quota.quota_id, 0)

    # ---- what is decided

    def _changes_of(self, path: str) -> list[int]:
        changes = self._changes.get(path)
        if changes is None:
            changes = self._changes[path] = [0, 0, 0, 0]
        return changes

    def _change(self, path: str, of: int, by: int) -> None:
        self._changes_of(path)[of] += by

    def post(
        self,
        debit: str,
        credit: str,
        amount_micros: int,
        cause: Cause,
        *,
        line: int | None = None,
        authorization_id: bytes | None = None,
    ) -> None:
        """Move money, a sum of many amounts too: in as many transfers as it takes. Nothing is written for 0."""
        assert amount_micros >= 0
        whole, rest = divmod(amount_micros, MAX_AMOUNT_MICROS)
        for amount in (*[MAX_AMOUNT_MICROS] * whole, rest):
            self.post_parts(debit, ((credit, amount),), cause, line=line, authorization_id=authorization_id)

    def post_parts(
        self,
        debit: str,
        parts: tuple[tuple[str, int], ...],
        cause: Cause,
        *,
        quota: Quota | None = None,
        line: int | None = None,
        authorization_id: bytes | None = None,
    ) -> None:
        """Move money from one account to several, each part its own transfer; with a quota, end that much of its hold."""
        total = 0
        quota_id = quota.quota_id if quota is not None else None
        for credit, amount in parts:
            if amount == 0:
                continue
            assert 0 < amount <= MAX_AMOUNT_MICROS
            assert debit != credit
            total += amount
            self._change(credit, _CREDITS, amount)
            self._transfers.append(
                Transfer(TransferKind.POST, debit, credit, amount, quota_id, cause, line, authorization_id)
            )
        if total == 0:
            return
        self._change(debit, _DEBITS, total)
        if quota is not None:
            assert total <= self.held(quota)
            self._pend(quota, -total)
            self._posted[quota.quota_id] = self._posted.get(quota.quota_id, 0) + total

    def post_use(self, quota: Quota, clearing: str, net: int, tax_path: str, tax: int, line: int) -> bool:
        """Post a line from its hold, if that covers it whole: what nearly every line is. Whether it did."""
        # Thousands of times a batch.
        quota_id, total = quota.quota_id, net + tax
        posted = self._posted.get(quota_id, 0)
        sides = self._sides.get(quota_id)
        held = quota.held_micros if sides is None else sides[1]
        left = held - posted
        if quota_id in self._voided:
            left -= self._voided[quota_id]
        if total > left:
            return False
        if sides is None:
            debit = paths.payer(quota.account_id)
            sides = debit, held, self._changes_of(debit), self._changes_of(paths.quota(quota.gateway_id))
            self._sides[quota_id] = sides
        debit, _, payer, hold = sides
        assert 0 < total <= MAX_AMOUNT_MICROS
        payer[_DEBITS] += total
        payer[_DEBITS_PENDING] -= total
        hold[_CREDITS_PENDING] -= total
        self._posted[quota_id] = posted + total
        changes, transfers = self._changes, self._transfers
        if net:
            assert net > 0
            (changes.get(clearing) or self._changes_of(clearing))[_CREDITS] += net
            transfers.append(_new(Transfer, (_POST, debit, clearing, net, quota_id, _USE, line, None)))
        if tax:
            assert tax > 0
            (changes.get(tax_path) or self._changes_of(tax_path))[_CREDITS] += tax
            transfers.append(_new(Transfer, (_POST, debit, tax_path, tax, quota_id, _USE, line, None)))
        return True

    def hold(self, quota: Quota, cause: Cause = Cause.GRANT) -> None:
        """Hold a new quota's amount."""
        self._pend(quota, quota.amount_micros)
        self._pending(TransferKind.HOLD, quota, quota.amount_micros, cause, None)

    def void(self, quota: Quota, amount_micros: int, cause: Cause, *, line: int | None = None) -> None:
        """Give a part of a hold back. Nothing is written for 0."""
        if amount_micros == 0:
            return
        assert 0 < amount_micros <= self.held(quota)
        self._pend(quota, -amount_micros)
        self._voided[quota.quota_id] = self._voided.get(quota.quota_id, 0) + amount_micros
        self._pending(TransferKind.VOID, quota, amount_micros, cause, line)
        self._touched.setdefault(quota.account_id)

    def _pend(self, quota: Quota, amount_micros: int) -> None:
        self._change(paths.payer(quota.account_id), _DEBITS_PENDING, amount_micros)
        self._change(paths.quota(quota.gateway_id), _CREDITS_PENDING, amount_micros)

    def _pending(self, kind: TransferKind, quota: Quota, amount_micros: int, cause: Cause, line: int | None) -> None:
        debit, credit = paths.payer(quota.account_id), paths.quota(quota.gateway_id)
        self._transfers.append(Transfer(kind, debit, credit, amount_micros, quota.quota_id, cause, line, None))

    def set_status(self, quota: Quota, status: QuotaStatus) -> None:
        """Stop, recall or close a quota."""
        self._status[quota.quota_id] = status

    def status(self, quota: Quota) -> QuotaStatus:
        """The status now."""
        return self._status.get(quota.quota_id, quota.status)

    def touch(self, account_id: str) -> None:
        """Note that money of this account may have become free."""
        if account_id:
            self._touched.setdefault(account_id)

    def pay_debts(self) -> None:
        """Debt means available is 0: whatever frees money pays it at once."""
        for account_id in self._touched:
            # Hardly anybody owes.
            if (debt := self.debt(account_id)) > 0 and (amount := min(self.available(account_id), debt)) > 0:
                self.post(paths.payer(account_id), paths.debt(account_id), amount, Cause.DEBT)

    # ---- what leaves

    def transfers(self) -> tuple[Transfer, ...]:
        """In the order decided."""
        return tuple(self._transfers)

    def changes(self) -> dict[str, Balances]:
        """What each touched path gains."""
        return {path: Balances(*change) for path, change in self._changes.items()}

    def quotas(self, known: Iterable[Quota]) -> tuple[QuotaAfter, ...]:
        """The touched ones of ``known``, after."""
        return tuple(
            QuotaAfter(
                quota_id=quota.quota_id,
                posted_micros=quota.posted_micros + self._posted.get(quota.quota_id, 0),
                voided_micros=quota.voided_micros + self._voided.get(quota.quota_id, 0),
                status=self.status(quota),
            )
            for quota in known
            if quota.quota_id in self._posted or quota.quota_id in self._voided or quota.quota_id in self._status
        )
