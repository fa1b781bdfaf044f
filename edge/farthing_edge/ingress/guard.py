"""What happens before any cryptography: a rate for each peer that proved itself, and a memory of rubbish.

Rule 1: a rate belongs to a peer whose channel proved it; nobody can use up another's. A device's own budget counts only what it signed.
Rule 2: what could not be verified changes no state; it is counted, and a few samples are kept for a person to look at.
Rule 3: everything here has a bound; the clock is an argument.
"""

import hashlib
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass

from farthing.refusal import Refusal

#: Enough to see what it was (a head and a device id) and too little to store a statement.
SAMPLE_SIZE = 64


class PeerRates:
    """GCRA (ITU-T I.371, virtual scheduling) for each of a bounded number of peers; times are monotonic nanoseconds."""

    __slots__ = ("_arrival_ns", "_interval_ns", "_peers", "_tolerance_ns")

    def __init__(self, *, rate_per_s: int, burst: int, peers: int) -> None:
        self._interval_ns = 1_000_000_000 // rate_per_s
        self._tolerance_ns = self._interval_ns * (burst - 1)
        self._peers = peers
        # Theoretical arrival time of each peer's next message, the least recently heard peer first.
        self._arrival_ns: OrderedDict[str, int] = OrderedDict()

    def admit(self, peer: str, *, now_ns: int) -> int:
        """0 if a message of ``peer`` conforms at ``now_ns``; otherwise the nanoseconds after which one would."""
        expected_ns = max(self._arrival_ns.get(peer, now_ns), now_ns)
        early_ns = expected_ns - self._tolerance_ns - now_ns
        if early_ns > 0:
            return early_ns
        self._arrival_ns[peer] = expected_ns + self._interval_ns
        self._arrival_ns.move_to_end(peer)
        if len(self._arrival_ns) > self._peers:
            self._arrival_ns.popitem(last=False)
        return 0

    def __len__(self) -> int:
        return len(self._arrival_ns)


class Reminders:
    """Who was told "later" a moment ago: to say it again to a flood would be work for the flood; bounded like the rates."""

    __slots__ = ("_again_ns", "_every_ns", "_peers")

    def __init__(self, *, every_ms: int, peers: int) -> None:
        self._every_ns = every_ms * 1_000_000
        self._peers = peers
        # When each peer may be told again, the longest untold first.
        self._again_ns: OrderedDict[str, int] = OrderedDict()

    def is_due(self, peer: str, *, now_ns: int) -> bool:
        """Whether ``peer`` is to be told at ``now_ns``; then it is not due again for a while."""
        if now_ns < self._again_ns.get(peer, now_ns):
            return False
        self._again_ns[peer] = now_ns + self._every_ns
        self._again_ns.move_to_end(peer)
        if len(self._again_ns) > self._peers:
            self._again_ns.popitem(last=False)
        return True

    def __len__(self) -> int:
        return len(self._again_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rubbish:
    """A message that nobody could verify: over which channel, as whom, why not, how long it was and how it began."""

    channel: str
    peer: str
    refusal: Refusal
    size: int
    sha256: str
    head: str


class RubbishRing:
    """The last few samples; a flood overwrites itself."""

    __slots__ = ("_ring",)

    def __init__(self, *, samples: int) -> None:
        self._ring: deque[Rubbish] = deque(maxlen=samples)

    def add(self, *, channel: str, peer: str, refusal: Refusal, payload: bytes) -> None:
        """Keep a sample of ``payload``."""
        # A token stands behind its statement, which comes first (key 1) and is longer than a sample. Where that is not so,
        # the hash has to do.
        statement_first = payload[1:2] == b"\x01" and len(payload) > 4 * SAMPLE_SIZE
        head = payload[:SAMPLE_SIZE].hex() if statement_first else ""
        self._ring.append(
            Rubbish(
                channel=channel,
                peer=peer[:SAMPLE_SIZE],
                refusal=refusal,
                size=len(payload),
                sha256=hashlib.sha256(payload).hexdigest(),
                head=head,
            )
        )

    def samples(self) -> Sequence[Rubbish]:
        """What is in the ring, oldest first."""
        return tuple(self._ring)
