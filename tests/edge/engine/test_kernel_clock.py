"""What adjtimex(2) says is read as it is meant, and no answer is no."""

import ctypes

import pytest

from farthing_edge.engine import kernel_clock


class Kernel:
    """A C library whose clock is in this state."""

    def __init__(self, returned: int, status: int) -> None:
        self.returned, self.status = returned, status

    def adjtimex(self, said) -> int:
        # It is asked, not told: no mode is set.
        assert said._obj.modes == 0
        said._obj.status = self.status
        return self.returned


@pytest.mark.parametrize(
    ("returned", "status", "synchronised"),
    [
        (0, 0x2001, True),  # TIME_OK under a PLL: what chrony leaves behind
        (1, 0x0011, True),  # a leap second is announced
        (5, 0x0040, False),  # TIME_ERROR, STA_UNSYNC: nobody disciplines it
        (5, 0x0000, False),
        (0, 0x0040, False),
        (-1, 0, False),  # a filter forbids the call
    ],
)
def test_the_kernels_word(monkeypatch, returned: int, status: int, *, synchronised: bool) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Kernel(returned, status))
    assert kernel_clock.is_synchronised() is synchronised


def test_a_library_without_the_call_vouches_for_nothing(monkeypatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert not kernel_clock.is_synchronised()


def test_the_struct_is_the_kernels() -> None:
    """The status stands after an int and four longs (linux/timex.h), and there is room for all that the kernel writes."""
    long = ctypes.sizeof(ctypes.c_long)
    assert kernel_clock._Timex.status.offset == 5 * long
    assert ctypes.sizeof(kernel_clock._Timex) >= 208
