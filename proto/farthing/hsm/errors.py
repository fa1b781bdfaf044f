"""What can go wrong between us and a token: each message says what is wrong and what to do."""


class HsmError(Exception):
    """The token, its module or its PIN cannot be used as asked."""


class HsmBusy(HsmError):
    """Too much is waiting for the token's one thread: ask again later. Nothing was done."""


class NoSuchKey(HsmError):
    """The token holds no key with that label, or none that can do this."""


class BadPoint(HsmError):
    """A peer's public key that is no point of P-256."""


class PartyError(HsmError):
    """A party's folder is incomplete or says something that no ceremony writes."""
