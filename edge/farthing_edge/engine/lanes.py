"""What waits for the writer, and who is next.

Rule 1: who is served goes before who asks to be: what the cloud says, then ends, then readings, then intents. Under overload a session can
always be closed and metered; a new one waits.
Rule 2: what one device says keeps its order: an end may overtake other devices' intents, never a reading of its own, or boundaries that the
price needs would come too late.
Rule 3: no bound here; who fills it asks ``len`` first.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Generic, Protocol, TypeVar

from farthing.device.messages import Chain, Disclaimer, End, Intent, Reading
from farthing_edge.authorization.commands import Command, DeviceStatement


class Waits(Protocol):
    """Something with a command."""

    @property
    def command(self) -> Command:
        """What is to be decided."""
        ...


T = TypeVar("T", bound=Waits)

_LANE_OF = {End: 1, Disclaimer: 1, Reading: 2, Chain: 2, Intent: 3}


def lane_of(command: Command) -> int:
    """0 for what the cloud says and time itself, 1 for ends, 2 for readings, 3 for intents."""
    return _LANE_OF[command.statement.__class__] if isinstance(command, DeviceStatement) else 0


class Lanes(Generic[T]):
    """A queue with four lanes."""

    __slots__ = ("_lanes", "_of_device", "_size")

    def __init__(self) -> None:
        self._lanes: tuple[deque[T], ...] = (deque(), deque(), deque(), deque())
        #: Device → (last lane that it waits in, how many of its statements wait).
        self._of_device: dict[str, tuple[int, int]] = {}
        self._size = 0

    def put(self, item: T) -> None:
        """Last in its lane, or in the one where its device waits already."""
        command = item.command
        lane = lane_of(command)
        if isinstance(command, DeviceStatement):
            device = command.statement.device
            behind, count = self._of_device.get(device, (0, 0))
            lane = max(lane, behind)
            self._of_device[device] = lane, count + 1
        self._lanes[lane].append(item)
        self._size += 1

    def put_back(self, items: Iterable[T]) -> None:
        """First in their lanes, in their order: they have waited before."""
        for item in reversed(tuple(items)):
            command = item.command
            lane = lane_of(command)
            if isinstance(command, DeviceStatement):
                device = command.statement.device
                behind, count = self._of_device.get(device, (0, 0))
                self._of_device[device] = max(lane, behind), count + 1
            self._lanes[lane].appendleft(item)
            self._size += 1

    def take(self, most: int) -> list[T]:
        """At most ``most``, those who are next."""
        taken: list[T] = []
        for lane in self._lanes:
            while lane and len(taken) < most:
                item = lane.popleft()
                command = item.command
                if isinstance(command, DeviceStatement):
                    device = command.statement.device
                    behind, count = self._of_device[device]
                    if count == 1:
                        del self._of_device[device]
                    else:
                        self._of_device[device] = behind, count - 1
                taken.append(item)
        self._size -= len(taken)
        return taken

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[T]:
        for lane in self._lanes:
            yield from lane

    def clear(self) -> None:
        """Forget everything."""
        for lane in self._lanes:
            lane.clear()
        self._of_device.clear()
        self._size = 0
