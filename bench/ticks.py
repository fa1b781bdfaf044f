"""E4: ticks verified a second, beside a bare loop of the hash they rest on.

Ticks as they come in, index and preimage, a few lost and a few twice, in groups of as many as one commit takes with it. Every step of the chain
is hashed once, whether its tick came or not, so both loops hash as often.
"""

import hashlib
import json
import random
import time

from farthing.evidence import payword

E4_BUDGET = 300_000
LENGTH, ROUNDS, GROUP = 50_000, 7, 32
#: Of a hundred ticks: one is lost, one comes twice.
LOST = TWICE = 0.01


def _shown(chain: list[bytes]) -> list[list[tuple[int, bytes]]]:
    rng = random.Random(4)  # the same ticks in every run
    arrived: list[tuple[int, bytes]] = []
    for index in range(1, LENGTH + 1):
        if index < LENGTH and rng.random() < LOST:
            continue
        arrived.append((index, chain[index]))
        if rng.random() < TWICE:
            arrived.append((index, chain[index]))
    return [arrived[first : first + GROUP] for first in range(0, len(arrived), GROUP)]


def e4() -> list[dict[str, object]]:
    """Ticks verified a second; the floor hashes the same number of words, and does nothing else."""
    chain = payword.words(hashlib.sha256(b"bench").digest(), LENGTH)
    groups = _shown(chain)
    ticks = sum(len(group) for group in groups)
    verified, floor = 0.0, 0.0
    for _ in range(ROUNDS):
        start = time.perf_counter()
        index, word = 0, chain[0]
        for group in groups:
            index, word = payword.highest(index, word, group)
        verified = max(verified, ticks / (time.perf_counter() - start))
        assert (index, word) == (LENGTH, chain[LENGTH])
        start = time.perf_counter()
        for preimage in chain[1:]:
            hashlib.sha256(preimage).digest()
        floor = max(floor, LENGTH / (time.perf_counter() - start))
    return [
        {
            "id": "E4",
            "what": "ticks verified",
            "value": verified,
            "unit": "1/s",
            "floor": floor,
            "floor_what": "hashlib.sha256 of 32 bytes, in a loop that does nothing else",
            "ratio": verified / floor,
            "budget": f"≥ {E4_BUDGET:,}/s",
            "met": verified >= E4_BUDGET,
        }
    ]


if __name__ == "__main__":
    print(json.dumps(e4(), indent=1, ensure_ascii=False))
