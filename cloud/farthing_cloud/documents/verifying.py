"""Hold documents against the ledger: every billed part on one invoice, every part given back on one credit note, every sum the same.

The first fault is named; nothing is repaired: documents never change.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from farthing.money import exact_micros
from farthing_cloud.documents import forms
from farthing_cloud.documents.billing import Billed, GivenBack, Key
from farthing_cloud.documents.parties import document_number
from farthing_cloud.documents.store import KeptPart, Run, Stored

#: A billed part, or the place of a correction with the part it gives back of.
_Place = TypeVar("_Place", Key, tuple[int, Key])


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountSums:
    """An account as the ledger and as documents have it; net and tax, micros. ``fault`` is empty when they agree."""

    fault: str
    billed_micros: int = 0
    given_back_micros: int = 0
    not_invoiced_micros: int = 0


def series_fault(series: Sequence[tuple[str, str, int]], documents: Iterable[Stored]) -> str:
    """A number that is missing, or was given twice, or that nobody gave."""
    seen: dict[str, dict[int, bytes]] = {}
    for each in documents:
        seen.setdefault(each.draft.prefix, {})[each.ordinal] = each.content_hash
        if each.number != document_number(each.draft.prefix, each.ordinal):
            return f"{each.number} is not number {each.ordinal} of its series"
    for prefix, _, issued in series:
        missing = set(range(1, issued + 1)) - seen.get(prefix, {}).keys()
        if missing:
            return f"{document_number(prefix, min(missing))} is missing"
        if len(seen.get(prefix, ())) > issued:
            return f"more documents begin with {prefix} than numbers were given"
    return ""


def chain_fault(stored: Stored, previous: Stored | None) -> str:
    """A document that does not name the hash of the one before it in its series: that one is not what it was."""
    expected = b"" if previous is None else previous.content_hash
    if forms.decode(stored.content)["previous_document_hash"] != expected.hex():
        before = "nothing" if previous is None else previous.number
        return f"{stored.number} does not follow {before} as that is now"
    return ""


def document_fault(stored: Stored) -> str:
    """A document whose bytes, number or sums are not what was kept with it."""
    name = stored.number
    if hashlib.sha256(stored.content).digest() != stored.content_hash:
        return f"{name} is not what was issued: its hash differs"
    form = forms.decode(stored.content)
    if (form["number"], form["kind"]) != (name, stored.draft.kind):
        return f"{name} says that it is {form['kind']} {form['number']}"
    lines = forms.lines_from(form)
    exact = sum(line.net_micros + line.tax_micros for line in lines)
    if not exact == exact_micros(form["totals"]["exact_gross_amount"]) == stored.draft.exact_micros:
        return f"{name}: its lines do not sum to its total"
    if sum(exact_micros(line["net_amount"]) for line in form["lines"]) != exact_micros(form["totals"]["net_amount"]):
        return f"{name}: its rounded lines do not sum to its net amount"
    return ""


def runs_fault(runs: Sequence[Run]) -> str:
    """Two runs of one account that leave a gap between them, or overlap."""
    reached = 0
    for run in runs:
        if run.after_position != reached:
            return f"a run of account {run.account_id} begins after {run.after_position}, and the one before ended at {reached}"
        reached = run.to_position
    return ""


def account_sums(
    account_id: str,
    to_position: int,
    told: tuple[Sequence[Billed], Sequence[GivenBack]],
    kept: tuple[Sequence[KeptPart], Sequence[KeptPart]],
) -> AccountSums:
    """What the ledger told of an account, beside the parts on invoices and on credit notes; ``to_position``: of its last run."""
    billed, given_back = told
    ours = {each.key: (each.net_micros, each.tax_micros) for each in billed if each.key.position <= to_position}
    theirs = {each.key: (each.net_micros, each.tax_micros) for each in kept[0]}
    fault = _difference(account_id, "billed", ours, theirs)
    back = {
        (each.position, each.of): (each.net_micros, each.tax_micros)
        for each in given_back
        if each.position <= to_position
    }
    noted = {(each.correction_position, each.key): (each.net_micros, each.tax_micros) for each in kept[1]}
    fault = fault or _difference(account_id, "given back", back, noted)
    return AccountSums(
        fault=fault,
        billed_micros=sum(map(sum, ours.values())),
        given_back_micros=sum(map(sum, back.values())),
        not_invoiced_micros=sum(
            each.net_micros + each.tax_micros for each in billed if each.key.position > to_position
        ),
    )


def _difference(
    account_id: str,
    what: str,
    ours: Mapping[_Place, tuple[int, int]],
    theirs: Mapping[_Place, tuple[int, int]],
) -> str:
    for key, amounts in ours.items():
        kept = theirs.get(key)
        if kept is None:
            return f"account {account_id}: what the ledger has {what} at {_place(key)} stands on no document"
        if kept != amounts:
            return f"account {account_id}: {_place(key)} was {what} with {sum(amounts)} micros, and documents have {sum(kept)}"
    extra = next((key for key in theirs if key not in ours), None)
    return (
        ""
        if extra is None
        else f"account {account_id}: documents have {what} at {_place(extra)}, and the ledger has not"
    )


def _place(key: Key | tuple[int, Key]) -> str:
    part = key if isinstance(key, Key) else key[1]
    return f"place {part.position}, line {part.line}"


def lines_fault(documents: Sequence[Stored], kept: Sequence[KeptPart]) -> str:
    """First invoices whose lines are not the sums of the parts that stand on them."""
    sums: dict[tuple[str, int], tuple[int, int]] = {}
    for part in kept:
        at = (part.number, part.line_number)
        net, tax = sums.get(at, (0, 0))
        sums[at] = net + part.net_micros, tax + part.tax_micros
    for stored in documents:
        if stored.draft.kind != "invoice" or stored.root_number != stored.number:
            continue
        for line in forms.lines_from(forms.decode(stored.content)):
            if sums.get((stored.number, line.number)) != (line.net_micros, line.tax_micros):
                return f"{stored.number}: line {line.number} is not the sum of what stands on it"
    return ""
