"""CoAP's memory of message ids (RFC 7252, section 4.5), bounded: aiocoap keeps one entry and one timer for each message of the last four minutes.

Rule 1: the oldest is forgotten first, by age or when there are too many. A repeat of what is forgotten counts as new, and changes nothing
all the same: a protected one is a replay (OSCORE), a statement has its counter, a handshake is bounded.
Rule 2: no timers: what is over is dropped when something new comes.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

#: Message ids remembered, with the answer to each: a client repeats for some 45 s at most (MAX_TRANSMIT_SPAN), and mostly within three: a site at
#: 500 requests a second is covered for 16 s. Some 12 MB when full.
MAX_RECENT = 8_192


class RecentMessages:
    """Stands in for what aiocoap's message manager remembers, and asks it whether a message is a repeat."""

    def __init__(self, manager: Any, *, most: int = MAX_RECENT, clock_s: Callable[[], float]) -> None:
        self._manager = manager
        self._most = most
        self._clock_s = clock_s
        #: (address, message id) → the answer, or None before there is one. The manager itself keeps answers here.
        self.answers: OrderedDict[tuple[Any, int], Any] = OrderedDict()
        self._over_at_s: deque[float] = deque()

    def is_repeat(self, message: Any) -> bool:
        """Whether ``message`` was here before; then its answer, if there is one, is sent again."""
        key = (message.remote, message.mid)
        now_s = self._clock_s()
        while self._over_at_s and (self._over_at_s[0] <= now_s or len(self._over_at_s) > self._most):
            self._over_at_s.popleft()
            self.answers.popitem(last=False)
        if key not in self.answers:
            self.answers[key] = None
            self._over_at_s.append(now_s + message.transport_tuning.EXCHANGE_LIFETIME)
            return False
        answer = self.answers[key]
        if answer is not None and message.mtype.name == "CON":
            self._manager._send_initially(answer)  # noqa: SLF001 no public way
        return True


def bound_memory(context: Any, *, most: int = MAX_RECENT, clock_s: Callable[[], float]) -> list[RecentMessages]:
    """Give every message manager of aiocoap's ``context`` a bounded memory; what they are then, for who wants to look."""
    bounded = []
    for interface in context.request_interfaces:
        manager: Any = getattr(interface, "token_interface", None)
        if hasattr(manager, "_deduplicate_message"):
            recent = RecentMessages(manager, most=most, clock_s=clock_s)
            manager._recent_messages = recent.answers  # noqa: SLF001 no public way
            manager._deduplicate_message = recent.is_repeat  # noqa: SLF001 no public way
            bounded.append(recent)
    return bounded
