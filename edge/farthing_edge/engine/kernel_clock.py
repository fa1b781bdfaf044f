"""What the kernel says of the machine's clock: adjtimex(2), asked without changing anything, so that it needs no privilege.

In a container the clock is the host's, and so is this word of it. Where the call is forbidden (a seccomp filter) or not there, the answer is no:
then the cloud's signed heads have to vouch for the clock.
"""

import ctypes

#: Return value and status bit of a clock that nothing disciplines (adjtimex(2)).
_TIME_ERROR = 5
_STA_UNSYNC = 0x0040


class _Timex(ctypes.Structure):
    """struct timex up to the field that is read; the kernel fills in all of it."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        # It is 208 bytes where a long has eight, 128 where it has four.
        ("rest", ctypes.c_char * 256),
    )


def is_synchronised() -> bool:
    """Whether something that the kernel trusts (NTP, PTP) disciplines the wall clock right now."""
    try:
        adjtimex = ctypes.CDLL(None).adjtimex
    except (OSError, AttributeError):
        return False
    said = _Timex()
    state = adjtimex(ctypes.byref(said))
    return 0 <= state < _TIME_ERROR and not said.status & _STA_UNSYNC
