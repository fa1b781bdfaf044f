"""What a witness decides: whether a log that it has seen before only grew (C2SP tlog-cosignature).

Rule 1: every hash is believed by a signed root only, so a broken mirror is never taken for a log that forked.
Rule 2: what a log signed against itself is kept, both notes, and nothing is cosigned.
"""

from dataclasses import dataclass
from enum import StrEnum

from farthing.tlog.checkpoint import Checkpoint
from farthing.tlog.tiles import Fetch, TileReader


class Outcome(StrEnum):
    """What became of a log since it was seen last."""

    FIRST = "first"
    SAME = "same"
    GREW = "grew"
    #: It signed two trees that cannot be one: proof against it, by its own key.
    FORKED = "forked"
    #: It shows an older tree than one that it signed: stale, or taken back.
    SHRANK = "shrank"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """``proof`` is the consistency proof from the tree before (empty where none is needed)."""

    outcome: Outcome
    why: str
    proof: tuple[bytes, ...] = ()

    @property
    def fit(self) -> bool:
        """Whether a witness may cosign."""
        return self.outcome in (Outcome.FIRST, Outcome.SAME, Outcome.GREW)


def judge(last: Checkpoint | None, new: Checkpoint, fetch: Fetch) -> tuple[Judgement, TileReader | None]:
    """Compare two checkpoints of one log, both signed; the reader over the new tree, where it was read.

    Raises ``TileError`` where the files do not lead to the new root: then nothing was learned of the log.
    """
    if last is not None and new.size < last.size:
        return Judgement(
            outcome=Outcome.SHRANK, why=f"{new.size} leaves now, after {last.size}: stale, or taken back"
        ), None
    if last is not None and new.size == last.size and new.root != last.root:
        return Judgement(outcome=Outcome.FORKED, why=f"two roots for {new.size} leaves"), None
    reader = TileReader(size=new.size, root=new.root, fetch=fetch)
    if last is None:
        return Judgement(outcome=Outcome.FIRST, why=f"{new.size} leaves"), reader
    if new.size == last.size:
        return Judgement(outcome=Outcome.SAME, why=f"{new.size} leaves"), reader
    if reader.root_at(last.size) != last.root:
        return Judgement(
            outcome=Outcome.FORKED,
            why=f"the first {last.size} of {new.size} leaves are other ones than those it signed before",
            proof=() if last.size == 0 else tuple(reader.consistency_path(last.size)),
        ), reader
    proof = () if last.size == 0 else tuple(reader.consistency_path(last.size))
    return Judgement(outcome=Outcome.GREW, why=f"{last.size} leaves before, {new.size} now", proof=proof), reader
