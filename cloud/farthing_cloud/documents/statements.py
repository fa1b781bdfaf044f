"""An account's statement: what it had, everything that happened, what it has; with what is set aside for gateways.

Rule 1: opening balance and entries lead to the closing balance, to the micro; both are the ledger's.
Rule 2: transfers that are one thing (net and tax of a line) are one entry; no transfer is left out.
Rule 3: every entry has two dates: when the ledger posted it, which decides in which statement it stands, and when it happened.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

#: Words for people, by the ledger's cause.
WORDS = {
    "fund": "top-up",
    "grant": "reserved for a gateway",
    "use": "use",
    "overrun": "use beyond what was reserved",
    "late": "use reported late",
    "floor": "use allowed offline",
    "second-claim": "reservation ended: claimed twice, being looked at",
    "evidence-class": "reservation ended: its evidence is being looked at",
    "above-held": "reservation reduced",
    "closed": "reservation ended",
    "silence": "reservation ended: its gateway was silent",
    "forced": "reservation ended by decision",
    "reinstated": "reserved again: the ledger was restored",
    "short": "reservation ended: the account does not have it any more",
    "debt": "debt paid",
    "refund": "refund",
    "goodwill": "goodwill",
    "payback": "balance paid back",
    "payback-failed": "balance not paid back: the bank did not send it",
    "payback-returned": "balance paid back came back from the bank",
    "chargeback": "payment charged back",
    "write-off": "debt written off",
}


class StatementError(ValueError):
    """Entries that do not lead from one balance to the other: books that do not fit together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What an account has; micros. ``balance``: its funds less what was spent; ``held``: of that, set aside for gateways."""

    balance_micros: int
    held_micros: int
    debt_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """One transfer of the ledger, with what it changes."""

    position: int
    transfer_id: int
    kind: str
    cause: str
    subject: str
    quota_id: str
    line: int
    posted_at_us: int
    business_at_us: int
    balance_micros: int
    held_micros: int
    debt_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What happened, what it changed, and what there was afterwards."""

    position: int
    transfer_ids: tuple[int, ...]
    cause: str
    subject: str
    posted_at_us: int
    business_at_us: int
    changed: Figures
    after: Figures

    @property
    def words(self) -> str:
        """The cause for people; a cause of the ledger that has no words yet says itself."""
        return WORDS.get(self.cause, self.cause)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountStatement:
    """From one place of the ledger's audit chain to another."""

    opening: Figures
    entries: tuple[Entry, ...]
    closing: Figures


def statement_of(opening: Figures, moved: Iterable[Moved], closing: Figures) -> AccountStatement:
    """Put a statement together; raise ``StatementError`` where it does not add up."""
    entries: list[Entry] = []
    now = opening
    last: tuple[object, ...] = ()
    for each in moved:
        changed = Figures(
            balance_micros=each.balance_micros, held_micros=each.held_micros, debt_micros=each.debt_micros
        )
        now = _add(now, changed)
        # Net and tax of one step follow each other; two quotas, or money and debt, are two entries.
        same = (each.position, each.kind, each.cause, each.line, each.quota_id, bool(each.debt_micros))
        if entries and same == last:
            before = entries[-1]
            entries[-1] = replace(
                before,
                transfer_ids=(*before.transfer_ids, each.transfer_id),
                changed=_add(before.changed, changed),
                after=now,
            )
        else:
            entries.append(
                Entry(
                    position=each.position,
                    transfer_ids=(each.transfer_id,),
                    cause=each.cause,
                    subject=each.subject,
                    posted_at_us=each.posted_at_us,
                    business_at_us=each.business_at_us,
                    changed=changed,
                    after=now,
                )
            )
        last = same
    if now != closing:
        raise StatementError("the entries do not lead from the opening balance to the closing balance")
    return AccountStatement(opening=opening, entries=tuple(entries), closing=closing)


def totals(entries: Sequence[Entry]) -> tuple[tuple[str, Figures], ...]:
    """What each cause changed in all, in the order of first appearance."""
    sums: dict[str, Figures] = {}
    for entry in entries:
        sums[entry.cause] = _add(
            sums.get(entry.cause, Figures(balance_micros=0, held_micros=0, debt_micros=0)), entry.changed
        )
    return tuple(sums.items())


def _add(first: Figures, second: Figures) -> Figures:
    return Figures(
        balance_micros=first.balance_micros + second.balance_micros,
        held_micros=first.held_micros + second.held_micros,
        debt_micros=first.debt_micros + second.debt_micros,
    )
