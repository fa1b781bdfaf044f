"""What becomes of a payback between the ledger and the bank (docs/adr/0028).

Rule 1: ordering it takes the money from the payer and sets it aside under the payback's own name; only the bank's word moves it on.
Rule 2: one person or bank file has it paid: whoever comes second is told who was first.
Rule 3: above what one person may pay back alone, another one approves exactly what was ordered before anybody has it paid, and before it is
booked as left.
Rule 4: it left once or it failed once; what left can come back once. One reference of the bank ends one payback.
"""

import hashlib
from dataclasses import dataclass
from typing import Final

from farthing.ids import AccountId
from farthing.money import format_micros
from farthing.v1 import ledger_pb2
from farthing_cloud.ledger.core import paths
from farthing_cloud.ledger.core.book import Book
from farthing_cloud.ledger.core.funds import LedgerRefusal, UnknownName
from farthing_cloud.ledger.core.posting import Cause
from farthing_cloud.ledger.core.rows import Correction, CorrectionKind, View

_ENDS: Final = (CorrectionKind.PAYBACK_SENT, CorrectionKind.PAYBACK_FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """Whose payback it is, and what its end moves; micros."""

    account_id: AccountId
    amount_micros: int


def say(
    view: View,
    book: Book,
    kind: CorrectionKind,
    payback_id: str,
    bank_reference: str,
    *,
    approved_hash: bytes,
    person: str,
    alone_micros: int,
) -> Said:
    """Record what became of ``payback_id``; what is larger than ``alone_micros`` wants another person's approval.

    Raises ``UnknownName``, and ``LedgerRefusal`` for what cannot follow what was said before.
    """
    ordered = view.payback
    if ordered is None or ordered.kind is not CorrectionKind.PAYBACK:
        raise UnknownName(f"no payback {payback_id}")
    said = {each.kind: each for each in view.payback_said if each.payback_id == payback_id}
    # Who books the bank's statement a second time finds the reference, whatever payback he takes it for.
    for each in view.payback_said:
        if each.kind is kind and each.payment_id == bank_reference and bank_reference:
            raise LedgerRefusal(
                f"{bank_reference} of the bank stands already for payback {each.payback_id} ({_by(each)})"
            )
    account_id, amount = AccountId(ordered.account_id), ordered.amount_micros
    bank = ledger_pb2.CorrectionContent.FromString(ordered.content).path
    ended = next((said[end] for end in _ENDS if end in said), None)
    if kind is CorrectionKind.PAYBACK_RETURNED:
        return _returned(view, book, said, ended, account_id, amount, bank, payback_id)
    if ended is not None:
        raise LedgerRefusal(f"payback {payback_id} has {_WORDS[ended.kind]} ({_by(ended)})")
    if paths.transit(payback_id) not in view.balances:
        raise LedgerRefusal(f"payback {payback_id} was booked as left when it was ordered: an earlier program did so")
    if kind is CorrectionKind.PAYBACK_APPROVED:
        _approve(ordered, said.get(kind), approved_hash, person)
        return Said(account_id=account_id, amount_micros=0)
    leaves = kind in (CorrectionKind.PAYBACK_HANDED, CorrectionKind.PAYBACK_SENT)
    if leaves and amount > alone_micros and CorrectionKind.PAYBACK_APPROVED not in said:
        raise LedgerRefusal(
            f"payback {payback_id} pays {format_micros(amount)} {view.currency}, more than the {format_micros(alone_micros)} that {ordered.person} may alone: another person approves it"
            f" first (payback-approve)"
        )
    match kind:
        case CorrectionKind.PAYBACK_HANDED:
            if kind in said:
                raise LedgerRefusal(
                    f"payback {payback_id} was handed to the bank before ({_by(said[kind])}): do not pay it again"
                )
            return Said(account_id=account_id, amount_micros=0)
        case CorrectionKind.PAYBACK_SENT:
            book.post(paths.transit(payback_id), bank, amount, Cause.PAYBACK_SENT)
        case _:
            book.post(paths.transit(payback_id), paths.payer(account_id), amount, Cause.PAYBACK_FAILED)
            book.touch(account_id)
    return Said(account_id=account_id, amount_micros=amount)


def _approve(ordered: Correction, before: Correction | None, approved_hash: bytes, person: str) -> None:
    """Let a payback go. Raises ``LedgerRefusal`` for who may not, and for who has seen something else."""
    content_hash = hashlib.sha256(ordered.content).digest()
    if content_hash != approved_hash:
        raise LedgerRefusal(
            f"payback {ordered.correction_id} was ordered with the content {content_hash.hex()}, not {approved_hash.hex()}"
        )
    if ordered.person == person:
        raise LedgerRefusal(f"{person} ordered payback {ordered.correction_id}: another person has to approve it")
    if before is not None:
        raise LedgerRefusal(f"payback {ordered.correction_id} was approved before ({_by(before)})")


def _returned(
    view: View,
    book: Book,
    said: dict[CorrectionKind, Correction],
    ended: Correction | None,
    account_id: AccountId,
    amount_micros: int,
    bank: str,
    payback_id: str,
) -> Said:
    before = said.get(CorrectionKind.PAYBACK_RETURNED)
    if before is not None:
        raise LedgerRefusal(f"payback {payback_id} has come back before ({_by(before)})")
    if ended is not None and ended.kind is CorrectionKind.PAYBACK_FAILED:
        raise LedgerRefusal(f"payback {payback_id} never left ({_by(ended)}): it cannot come back")
    if ended is None and paths.transit(payback_id) in view.balances:
        raise LedgerRefusal(f"the bank has not said that payback {payback_id} left: book that first (payback-sent)")
    book.post(bank, paths.payer(account_id), amount_micros, Cause.PAYBACK_RETURNED)
    book.touch(account_id)
    return Said(account_id=account_id, amount_micros=amount_micros)


_WORDS: Final = {CorrectionKind.PAYBACK_SENT: "left before", CorrectionKind.PAYBACK_FAILED: "failed before"}


def _by(correction: Correction) -> str:
    return f"{correction.correction_id}, by {correction.person}"
