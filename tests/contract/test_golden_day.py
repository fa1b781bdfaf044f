"""The worked example's whole day through both real cores: what two gateways seal is what the ledger posts, rows 1 to 38."""

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "edge"))

from example_day import Day, rows_under
from ledger_story import ORDER, Story, grants

from farthing_cloud.ledger.core.batches import ChainStep
from farthing_cloud.ledger.store.memory import MemoryStore

LAST_ROW = 38


def transfers_of(page: str) -> list[str]:
    """The page's postings up to row 38, one for each amount: kind, debit, credit and amount."""
    transfers = []
    for row in rows_under(page, "#"):
        number, kind, debit, credit, _ = (column.strip() for column in row[1:-1].split("|"))
        if not number:
            continue
        if number.startswith(str(LAST_ROW + 1)):
            break
        transfers += [f"{kind} | {debit} | {part}" for part in credit.split(" + ")]
    return transfers


async def test_what_the_gateways_seal_is_what_the_ledger_posts(shared_data: Callable[[str], Path]) -> None:
    page = shared_data("example/EXAMPLE.md").read_text(encoding="utf-8")
    store = MemoryStore()
    story = Story(store)
    await grants(story)
    day = Day(dict(story.quotas))
    day.play()
    sealed = {
        f"{name}#{batch.sequence}": batch.SerializeToString(deterministic=True)
        for name, batches in day.batches.items()
        for batch in batches
    }
    for name in ORDER:
        assert (await story.push(sealed[name])).step is ChainStep.NEXT
        assert (await store.verify()).fault == ""
    for name in ORDER:
        assert (await story.push(sealed[name])).step is ChainStep.REPLAY
    posted = [row.rsplit(" | ", 1)[0] for row in await story.rows()]
    expected = transfers_of(page)
    assert len(expected) == LAST_ROW
    assert posted == expected
