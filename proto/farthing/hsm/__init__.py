"""The one PKCS#11 thread of a process and the keys behind it.

A :class:`Party` is a folder of the ceremony, an :class:`Hsm` the module of this process, a :class:`Token` one party's keys.
"""

from farthing.hsm.errors import BadPoint, HsmBusy, HsmError, NoSuchKey, PartyError
from farthing.hsm.party import Party, load_party
from farthing.hsm.token import Hsm, Token, WrappedKey

__all__ = [
    "BadPoint",
    "Hsm",
    "HsmBusy",
    "HsmError",
    "NoSuchKey",
    "Party",
    "PartyError",
    "Token",
    "WrappedKey",
    "load_party",
]
