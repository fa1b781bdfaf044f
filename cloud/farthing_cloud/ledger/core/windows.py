"""Close a window: what stands in each site's clearing is split, what is not proven yet is carried to the next."""

from collections.abc import Mapping
from dataclasses import dataclass

from farthing.clock import Instant
from farthing.ids import SiteId, parse_id
from farthing.money import PPM, format_micros
from farthing.v1 import events_pb2, ledger_pb2
from farthing_cloud.ledger.core import paths
from farthing_cloud.ledger.core.book import Book
from farthing_cloud.ledger.core.funds import LedgerRefusal
from farthing_cloud.ledger.core.posting import Cause, Event, Posting, WindowClosed
from farthing_cloud.ledger.core.rows import KeptSplit, View


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRule:
    """How a site's revenue is split: (path, parts per million), together 1; the remainder goes to one of them."""

    rule_version: int
    parts: tuple[tuple[str, int], ...]
    remainder_path: str

    def __post_init__(self) -> None:
        names = [path for path, _ in self.parts]
        if len(set(names)) != len(names) or self.remainder_path not in names:
            raise LedgerRefusal("a split names each party once, and the remainder's owner is one of them")
        if sum(share for _, share in self.parts) != PPM or any(share < 0 for _, share in self.parts):
            raise LedgerRefusal(f"the shares of a split add up to {PPM} parts per million")
        for path in names:
            kind, _, name = path.partition("/")
            if kind not in ("agency", "fee"):
                raise LedgerRefusal('a split goes to "agency/<id>" and "fee/<id>"')
            parse_id(name)

    def split(self, amount_micros: int) -> tuple[tuple[str, int], ...]:
        """Floor for each party, the remainder to its owner; the parts add up to ``amount_micros`` (≥ 0)."""
        parts = {path: amount_micros * share // PPM for path, share in self.parts}
        parts[self.remainder_path] += amount_micros - sum(parts.values())
        return tuple(parts.items())


def next_window(window: str) -> str:
    """The name of the window after ``window``: "w1" → "w2"."""
    return f"w{int(window[1:]) + 1}"


def close(view: View, rules: Mapping[SiteId, SplitRule], *, now: Instant) -> Posting:
    """Close the open window. ``view`` holds the books exclusively.

    Raises ``LedgerRefusal`` for a site with money and no rule: a missing rule must not become one.
    """
    after = next_window(view.window)
    book = Book(view)
    answer = ledger_pb2.CloseWindowResponse(next_window=after)
    for site in sorted(view.clearings, key=lambda entry: entry.site_id):
        clearing = paths.clearing(site.site_id, view.window)
        # A correction may have left less than what waits for its detail; a negative clearing waits for more income.
        carried = site.balance_micros if site.balance_micros < 0 else min(site.unproven_micros, site.balance_micros)
        amount = site.balance_micros - carried
        if amount and site.site_id not in rules:
            raise LedgerRefusal(
                f"site {site.site_id} has {format_micros(amount)} {view.currency} to split and no split rule"
            )
        if carried > 0:
            book.post(clearing, paths.clearing(site.site_id, after), carried, Cause.CARRIED)
        elif carried < 0:
            book.post(paths.clearing(site.site_id, after), clearing, -carried, Cause.CARRIED)
        parts = rules[site.site_id].split(amount) if amount else ()
        for path, part in parts:
            book.post(clearing, path, part, Cause.SPLIT)
        answer.sites.append(
            ledger_pb2.SiteClosing(
                site_id=site.site_id,
                split_micros=amount,
                carried_micros=carried,
                results=[ledger_pb2.SplitResult(path=path, amount_micros=part) for path, part in parts],
            )
        )
    value = events_pb2.WindowClosed(operator_id=view.operator_id, window=view.window, currency=view.currency)
    return Posting(
        kind="close",
        operator_id=view.operator_id,
        currency=view.currency,
        posted_at=now,
        business_at=now,
        transfers=book.transfers(),
        changes=book.changes(),
        events=(Event(kind="window.closed", key=view.operator_id, value=value.SerializeToString()),),
        window_closed=WindowClosed(
            window=view.window,
            next_window=after,
            answer=answer.SerializeToString(deterministic=True),
            splits=tuple(
                KeptSplit(
                    site_id=site_id,
                    rule_version=rule.rule_version,
                    parts=rule.parts,
                    remainder_path=rule.remainder_path,
                )
                for site_id, rule in sorted(rules.items())
            ),
        ),
    )
