"""``make sim``: many seeds, one seed, or one story that was written down."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from simulation import many, protections
from simulation.story import draw, read, write

OUT = Path(__file__).resolve().parents[3] / "out" / "sim"
#: How often progress is printed, seconds.
PROGRESS_S = 10


def main() -> int:
    """0: every promise held; 1: one was broken."""
    parser = argparse.ArgumentParser(prog="make sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1_000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="only this one, with its history")
    parser.add_argument("--story", type=Path, help="a story that was written down, with its history")
    parser.add_argument(
        "--without", default="", choices=["", *protections.PROTECTIONS], help="a protection to turn off"
    )
    parser.add_argument("--processes", type=int, help="as many as there are cores")
    chosen = parser.parse_args()
    if chosen.seed is not None or chosen.story is not None:
        story = read(chosen.story) if chosen.story else protections.provoked(chosen.without, draw(chosen.seed))
        if chosen.story is None:
            write(story, OUT / f"seed-{chosen.seed}-whole.json")
        lines, broke = many.history_of(story, without=chosen.without)
        print("\n".join(lines))
        print(broke or "every promise held")
        return 1 if broke else 0
    return _many(chosen)


def _many(chosen: argparse.Namespace) -> int:
    began_s = said_s = many.clock_s()
    told: set[int] = set()

    def progress(outcome: many.Outcome) -> None:
        nonlocal said_s
        now_s = many.clock_s()
        # At once: a long run is stopped, or ends with its machine.
        for seed in sorted(outcome.broken.keys() - told):
            told.add(seed)
            print(f"seed {seed}: {outcome.broken[seed][:300]}", flush=True)
        if now_s - said_s >= PROGRESS_S:
            said_s = now_s
            stories = outcome.seen["stories"]
            rate = stories / (now_s - began_s)
            left_s = (chosen.seeds - stories) / rate
            print(f"{stories:,} of {chosen.seeds:,}, {rate:.1f}/s, {left_s:.0f} s left, broken: {len(outcome.broken)}")
            sys.stdout.flush()

    seeds = range(chosen.first, chosen.first + chosen.seeds)
    outcome = many.tell_many(seeds, without=chosen.without, processes=chosen.processes, progress=progress)
    print(many.table(outcome, many.clock_s() - began_s))
    for seed in sorted(outcome.broken)[: many.SHRUNK]:
        print()
        print(many.report(seed, without=chosen.without, folder=OUT))
    return 1 if outcome.broken else 0


if __name__ == "__main__":
    sys.exit(main())
