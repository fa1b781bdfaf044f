"""A process that appends and publishes until it is killed: ``python publishing.py URL FOLDER FIRST``."""

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from log_parts import append, batch, opened, sequencer


async def main(url: str, folder: Path, first: int) -> None:
    async with opened(url) as pool:
        log = sequencer(pool, folder)
        number = first
        while True:
            # Three of each round were appended before, as when a source tells what it told already.
            await append(log, pool, [batch(max(0, each)) for each in range(number - 3, number + 40)])
            await log.publish()
            number += 40


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
