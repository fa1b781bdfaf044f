"""Statements that wait for a quota: the cloud's answer, a time that is over, or an uplink that is gone sends them back to the queue."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from farthing.ids import AccountId
from farthing_edge.authorization.commands import WaitForQuota
from farthing_edge.authorization.state import GatewayState
from farthing_edge.engine.asked import Item

_MS_NS = 1_000_000


class QuotaWaits:
    """At most ``most`` at once (who is full asks nobody to wait), each for ``wait_ms``; ``put_back`` gets who is to be decided again."""

    def __init__(
        self,
        *,
        most: int,
        wait_ms: int,
        monotonic_ns: Callable[[], int],
        put_back: Callable[[Iterable[Item]], None],
    ) -> None:
        self._most = most
        self._wait_ns = wait_ms * _MS_NS
        self._monotonic_ns = monotonic_ns
        self._put_back = put_back
        self._of_account: dict[AccountId, list[Item]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Item]:
        for items in self._of_account.values():
            yield from items

    @property
    def is_full(self) -> bool:
        """Whether who comes now is decided with what is there."""
        return self._count >= self._most

    def add(self, item: Item, wait: WaitForQuota) -> None:
        """``item`` waits, as its decision says; its time runs from the first time it did."""
        item.waits_once = wait.once
        if not item.deadline_ns:
            item.deadline_ns = self._monotonic_ns() + self._wait_ns
        self._of_account.setdefault(wait.account, []).append(item)
        self._count += 1

    def due_ns(self, latest_ns: int) -> int:
        """When the first one's time is over; ``latest_ns`` where that is before."""
        return min(latest_ns, min((item.deadline_ns for item in self), default=latest_ns))

    def wake(self, state: GatewayState) -> None:
        """Decide again what waited for an account whose request is answered, or for an uplink that is gone."""
        for account_id in list(self._of_account):
            account = state.accounts.get(account_id)
            if not state.online or account is None or account.request is None:
                items = self._of_account.pop(account_id)
                self._count -= len(items)
                self._put_back([item.no_longer_waiting() if item.waits_once else item for item in items])

    def expire(self) -> None:
        """Whose time is over is decided with what is there."""
        if not self._of_account:
            return
        now_ns = self._monotonic_ns()
        over = self._take_out(lambda item: item.deadline_ns <= now_ns)
        if over:
            self._put_back([item.no_longer_waiting() for item in over])

    def forget(self, items: Sequence[Item]) -> None:
        """What these wait for was rolled back with their group."""
        gone = {id(item) for item in items}
        self._take_out(lambda item: id(item) in gone)

    def take_all(self) -> list[Item]:
        """Everybody; nobody waits then."""
        return self._take_out(lambda _: True)

    def _take_out(self, goes: Callable[[Item], bool]) -> list[Item]:
        taken: list[Item] = []
        for account_id, items in list(self._of_account.items()):
            out = [item for item in items if goes(item)]
            if not out:
                continue
            left = [item for item in items if not goes(item)]
            if left:
                self._of_account[account_id] = left
            else:
                del self._of_account[account_id]
            taken += out
        self._count -= len(taken)
        return taken
