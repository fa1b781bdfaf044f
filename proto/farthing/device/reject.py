"""The one exception for bytes that are not a message of ours."""

from farthing.refusal import Refusal


class MessageError(ValueError):
    """Bytes or values that no device and no gateway may send; ``refusal`` is the number to answer with."""

    def __init__(self, reason: str, refusal: Refusal = Refusal.MALFORMED) -> None:
        super().__init__(reason)
        self.reason = reason
        self.refusal = refusal
