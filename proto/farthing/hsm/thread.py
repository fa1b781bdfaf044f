"""The one PKCS#11 thread of a process.

Rule 1: every call into the module runs on this thread; two threads inside it crash the process.
Rule 2: urgent work (batch signing) goes first; handshakes get at most one turn in ``HANDSHAKE_EVERY`` while anything else
waits, so that strangers who open handshakes cannot slow who is already served.
Rule 3: every lane is bounded; a full one refuses at once (``HsmBusy``), nothing waits for room.
"""

import asyncio
import enum
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Protocol, TypeAlias, TypeVar

from farthing.hsm.errors import HsmBusy, HsmError

T = TypeVar("T")

#: Work that may wait. A token signs some 5,000 times a second: this is less than a second of work, and more than a gateway's
#: engine has in flight.
MAX_WAITING = 4_096
#: One batch, receipt or directive is signed at a time per writer; more than this waiting is a fault of the caller.
MAX_WAITING_URGENT = 256
#: A handshake that would wait longer than this many others is better refused: its peer asks again.
MAX_WAITING_HANDSHAKES = 64
#: While other work waits, one turn in this many goes to a handshake.
HANDSHAKE_EVERY = 4
#: Several threads may ring for a loop at once, each of them once.
_AT_MOST_RUNG = 64
#: Longest wait of a blocking caller. gRPC gives a TLS handshake 20 s; a token that needs longer than this is broken.
BLOCKING_TIMEOUT_S = 15.0
#: A daemon has 5 s to stop; a token that hangs may take this much of it.
CLOSING_TIMEOUT_S = 2.0


@enum.unique
class Lane(enum.Enum):
    """Who goes first on the thread."""

    URGENT = MAX_WAITING_URGENT
    ORDINARY = MAX_WAITING
    HANDSHAKE = MAX_WAITING_HANDSHAKES


class Answer(Protocol):
    """Where a call's outcome goes; the thread asks before it begins and tells when it is done."""

    def set_running_or_notify_cancel(self) -> bool:
        """Whether anybody still waits for it."""
        ...

    def set_result(self, result: Any, /) -> None:
        """It worked."""
        ...

    def set_exception(self, err: BaseException, /) -> None:
        """It did not."""
        ...


#: Hears of an outcome on its event loop: the result, or what was raised.
Told: TypeAlias = Callable[[Any, BaseException | None], None]


class ToLoop:
    """Outcomes on their way from all threads to one event loop, which is woken once for all that are ready: a wake-up is a system call, and begins with
    cold caches. One for each loop: :meth:`of`.

    What follows from an outcome follows in the same turn of the loop: each turn more is a look at all its files, and as much of the processor as many a decision.
    """

    __slots__ = ("__weakref__", "_after", "_bell", "_expected", "_is_in_turn", "_is_woken", "_loop", "_ready", "_rope")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._ready: deque[tuple[Told, Any, BaseException | None]] = deque()
        #: One for each outcome that others may wait for.
        self._expected: deque[None] = deque()
        self._is_woken = False
        #: What was asked for by ``soon`` in this turn.
        self._after: deque[Callable[[], None]] = deque()
        self._is_in_turn = False
        # The loop's own way to be woken costs a handle, two reads and an exception more each time.
        self._bell, self._rope = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        weakref.finalize(loop, _close, self._bell, self._rope).atexit = False
        loop.add_reader(self._bell, self._deliver)

    @staticmethod
    def of(loop: asyncio.AbstractEventLoop) -> "ToLoop":
        """The one to ``loop``; on that loop."""
        to_loop = _TO_LOOPS.get(loop)
        if to_loop is None:
            to_loop = _TO_LOOPS[loop] = ToLoop(loop)
        return to_loop

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """Where it goes; None when that is gone."""
        return self._loop()

    def expect(self) -> None:
        """On the loop: an outcome has been asked for with which others may come, without which they would be of no use. ``send_expected`` sends it, whatever it is."""
        self._expected.append(None)

    def send(self, told: Told, result: Any, err: BaseException | None, *, may_wait: bool = False) -> None:
        """From any thread: call ``told`` on the loop; with the next one that is expected, if there is one and it ``may_wait``."""
        # First what is ready, then the look at the flags; the loop, and who sends what is expected, do it the other way round, so nothing is left lying.
        self._ready.append((told, result, err))
        if may_wait and self._expected:
            return
        if not self._is_woken:
            self._is_woken = True
            # A loop that is gone has nobody left who waits, and its pipe is closed with it: it is kept until this is done.
            loop = self._loop()
            if loop is not None:
                os.write(self._rope, b"\0")

    def send_expected(self, told: Told, result: Any, err: BaseException | None) -> None:
        """From any thread: ``send`` what ``expect`` spoke of, and all that waits for it."""
        self._expected.popleft()
        self.send(told, result, err)

    def soon(self, call: Callable[[], None], *, first: bool = False) -> None:
        """On the loop: call it when what is done now is done (``in_one_turn``); ``first``: before all that was asked for so far. Else in the loop's next turn."""
        if not self._is_in_turn:
            asyncio.get_running_loop().call_soon(call)
        elif first:
            self._after.appendleft(call)
        else:
            self._after.append(call)

    def in_one_turn(self, call: Callable[[], None]) -> None:
        """On the loop: call it, and then what was asked for by ``soon`` meanwhile; what that asks for waits for the loop's next turn."""
        self._is_in_turn = True
        try:
            call()
        finally:
            self._is_in_turn = False
            after, self._after = self._after, deque()
            for each in after:
                _guarded(each)

    def _deliver(self) -> None:
        self.in_one_turn(self._deliver_all)

    def _deliver_all(self) -> None:
        os.read(self._bell, _AT_MOST_RUNG)
        self._is_woken = False
        while self._ready:
            _guarded(*self._ready.popleft())


def _guarded(call: Callable[..., object], *arguments: object) -> None:
    """What fails must not keep what comes after it from being done."""
    try:
        call(*arguments)
    except Exception as fault:  # noqa: BLE001  # whatever it is, it is told as asyncio tells it of a callback
        asyncio.get_running_loop().call_exception_handler(
            {"message": "an outcome could not be taken", "exception": fault, "source_traceback": None}
        )


def _close(*files: int) -> None:
    for each in files:
        os.close(each)


#: A loop is gone when nobody but this knows it.
_TO_LOOPS: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, ToLoop]" = weakref.WeakKeyDictionary()


class Outcome(asyncio.Future[T]):
    """A future that can tell in the turn that brings what it stands for, and not in the loop's next one: see :func:`when_settled`."""

    def __init__(self, *, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._waiting: list[Callable[[asyncio.Future[T]], object]] = []

    def settle(self, result: Any, err: BaseException | None) -> None:
        """It is there: what waits for it is called, then and there."""
        if self.done():
            return
        if err is None:
            self.set_result(result)
        else:
            self.set_exception(err)
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            _guarded(each, self)

    def cancel(self, msg: Any | None = None) -> bool:
        """As any future."""
        if not super().cancel(msg):
            return False
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            self.get_loop().call_soon(each, self)
        return True

    def tell(self, waiting: Callable[["asyncio.Future[T]"], object]) -> None:
        """Call it with this future once it is settled, before those that ``add_done_callback`` added."""
        if self.done():
            self.add_done_callback(waiting)
        else:
            self._waiting.append(waiting)


def when_settled(future: "asyncio.Future[T]", waiting: "Callable[[asyncio.Future[T]], object]") -> None:
    """Call it with ``future`` once that is done: in the turn of the loop that brings it where it is an ``Outcome``, else as ``add_done_callback``."""
    if isinstance(future, Outcome):
        future.tell(waiting)
    else:
        future.add_done_callback(waiting)


class _LoopAnswer:
    """The answer to a coroutine."""

    __slots__ = ("_future", "_may_wait", "_to_loop")

    def __init__(self, future: "Outcome[Any]", to_loop: ToLoop, *, may_wait: bool) -> None:
        self._future = future
        self._to_loop = to_loop
        self._may_wait = may_wait

    def set_running_or_notify_cancel(self) -> bool:
        return not self._future.cancelled()

    def set_result(self, result: Any, /) -> None:
        self._to_loop.send(self._future.settle, result, None, may_wait=self._may_wait)

    def set_exception(self, err: BaseException, /) -> None:
        self._to_loop.send(self._future.settle, None, err, may_wait=self._may_wait)


class Lanes:
    """What waits, and who is next. No thread, no lock: the caller holds one."""

    __slots__ = ("_since_handshake", "_waiting")

    def __init__(self) -> None:
        self._waiting: dict[Lane, deque[tuple[Callable[[], Any], Answer]]] = {lane: deque() for lane in Lane}
        self._since_handshake = 0

    def put(self, lane: Lane, call: Callable[[], Any], answer: Answer) -> None:
        """Queue ``call``; raise ``HsmBusy`` if its lane is full."""
        if len(self._waiting[lane]) >= lane.value:
            raise HsmBusy(f"{lane.value} {lane.name.lower()} operations are waiting for the token already")
        self._waiting[lane].append((call, answer))

    def next(self) -> tuple[Callable[[], Any], Answer] | None:
        """Take what is next by rule 2, or None."""
        urgent, ordinary, handshakes = (self._waiting[lane] for lane in Lane)
        others = urgent or ordinary
        if handshakes and (not others or self._since_handshake >= HANDSHAKE_EVERY - 1):
            self._since_handshake = 0
            return handshakes.popleft()
        if others:
            if handshakes:
                self._since_handshake += 1
            return others.popleft()
        return None

    def __len__(self) -> int:
        return sum(len(each) for each in self._waiting.values())


class HsmThread:
    """Runs calls one after the other on a thread of its own, from ``start`` to ``stop``."""

    __slots__ = ("_lanes", "_lock", "_pid", "_stopping", "_thread", "_to_loop", "_turns")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lanes = Lanes()
        #: One for each call that waits, and one to stop: bounded by the lanes. A condition does the same in many more steps, each time the thread is woken.
        self._turns: SimpleQueue[None] = SimpleQueue()
        self._stopping = True
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._to_loop: ToLoop | None = None

    def start(self) -> None:
        """Start the thread; illegal twice."""
        assert self._thread is None
        self._stopping = False
        self._turns = SimpleQueue()
        self._pid = os.getpid()
        # A daemon: a process that must end does not wait for a token that hangs.
        self._thread = threading.Thread(target=self._run, name="pkcs11", daemon=True)
        self._thread.start()

    def stop(self) -> bool:
        """End the thread after what it does now; what waits fails with ``HsmError``. Idempotent.

        Whether it has ended: False means that a call hangs in the token, and nobody else may enter the module.
        """
        with self._lock:
            self._stopping = True
        self._turns.put(None)
        thread, self._thread = self._thread, None
        if thread is None or self._pid != os.getpid():
            return True
        thread.join(CLOSING_TIMEOUT_S)
        return not thread.is_alive()

    def put(self, lane: Lane, call: Callable[[], Any], answer: Answer) -> None:
        """Queue ``call``; its result or exception goes to ``answer``. Raise ``HsmBusy`` or ``HsmError``."""
        if self._pid != os.getpid() and self._thread is not None:
            raise HsmError("a forked process cannot use its parent's token: start processes with spawn")
        with self._lock:
            if self._stopping:
                raise HsmError("the HSM thread is not running: call start() first, and nothing after close()")
            self._lanes.put(lane, call, answer)
        self._turns.put(None)

    def submit(self, lane: Lane, call: Callable[[], T]) -> Future[T]:
        """Queue ``call``; its result or exception arrives in the future. Raise ``HsmBusy`` or ``HsmError``."""
        answer: Future[T] = Future()
        self.put(lane, call, answer)
        return answer

    def ask(self, lane: Lane, call: Callable[[], T], *, may_wait: bool = False) -> "Outcome[T]":
        """The result of ``call``, for the running loop; cancelled before its turn, it is not called. As ``submit``. It ``may_wait``: see ``ToLoop.send``."""
        loop = asyncio.get_running_loop()
        to_loop = self._to_loop
        if to_loop is None or to_loop.loop is not loop:
            to_loop = self._to_loop = ToLoop.of(loop)
        future: Outcome[T] = Outcome(loop=loop)
        self.put(lane, call, _LoopAnswer(future, to_loop, may_wait=may_wait))
        return future

    def run(self, call: Callable[[], T], *, lane: Lane = Lane.ORDINARY, timeout_s: float = BLOCKING_TIMEOUT_S) -> T:
        """Run ``call`` on the thread and wait for it, at most ``timeout_s``. Not for an event loop."""
        assert threading.current_thread() is not self._thread, "the HSM thread would wait for itself"
        answer = self.submit(lane, call)
        try:
            return answer.result(timeout=timeout_s)
        except TimeoutError as err:
            answer.cancel()
            raise HsmError(f"the token did not answer in {timeout_s:.0f} s: is it still there?") from err

    def _run(self) -> None:
        while True:
            self._turns.get()
            with self._lock:
                taken = self._lanes.next()
                stopping = self._stopping
            if taken is None:
                return
            call, answer = taken
            if not answer.set_running_or_notify_cancel():
                continue
            if stopping:
                answer.set_exception(HsmError("the HSM thread was closed before this was done"))
                continue
            try:
                result = call()
            except BaseException as err:  # noqa: BLE001 -- whatever it is belongs to who asked; the thread must go on
                answer.set_exception(err)
            else:
                answer.set_result(result)
            # Keep nothing alive while idle: an answer may hold key material.
            del call, answer, taken
