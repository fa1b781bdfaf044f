"""HSMs that fail: a real token behind a cable that can be pulled, jammed, or is loose.

Everything but the fault is the real thing, so what is tested is what runs: ``FailingHsm`` takes the place of ``Hsm``.
"""

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from farthing.hsm import Hsm, HsmError
from farthing.hsm.thread import Answer, HsmThread, Lane

PPM = 1_000_000


class Faults:
    """What goes wrong with each operation, decided on the HSM thread when its turn comes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._unplugged = False
        self._failing_next = 0
        self._loose_ppm = 0
        self._random = random.Random(0)  # noqa: S311 -- seeded faults, no secrets
        self._open = threading.Event()
        self._open.set()

    def unplug(self) -> None:
        """Every operation fails from now on."""
        with self._lock:
            self._unplugged = True

    def plug_in(self) -> None:
        """Operations work again."""
        with self._lock:
            self._unplugged = False

    def fail_next(self, operations: int) -> None:
        """The next ``operations`` fail, the ones after them work."""
        with self._lock:
            self._failing_next = operations

    def loosen(self, *, failing_ppm: int, seed: int) -> None:
        """Operations fail at random, ``failing_ppm`` of a million, the same ones for the same ``seed``."""
        with self._lock:
            self._loose_ppm = failing_ppm
            self._random = random.Random(seed)  # noqa: S311 -- seeded faults, no secrets

    def jam(self) -> None:
        """Operations hang until ``clear``."""
        self._open.clear()

    def clear(self) -> None:
        """What hangs goes on."""
        self._open.set()

    def strike(self) -> None:
        """Called before each operation: waits while jammed, raises ``HsmError`` if this one is to fail."""
        self._open.wait()
        with self._lock:
            if self._failing_next:
                self._failing_next -= 1
                raise HsmError("the token failed (a fault of the simulator)")
            if self._unplugged or self._random.randrange(PPM) < self._loose_ppm:
                raise HsmError("the token is not there (a fault of the simulator)")


class _FailingThread(HsmThread):
    __slots__ = ("_faults",)

    def __init__(self, faults: Faults) -> None:
        super().__init__()
        self._faults = faults

    def put(self, lane: Lane, call: Callable[[], Any], answer: Answer) -> None:
        def struck() -> Any:
            self._faults.strike()
            return call()

        super().put(lane, struck, answer)


class FailingHsm(Hsm):
    """An ``Hsm`` whose operations suffer from ``faults``; start and login too, so set those after them."""

    def __init__(self, *, module_path: Path, softhsm_conf: Path | None, faults: Faults) -> None:
        super().__init__(module_path=module_path, softhsm_conf=softhsm_conf)
        self._thread = _FailingThread(faults)
