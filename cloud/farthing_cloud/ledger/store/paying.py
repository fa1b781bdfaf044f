"""Whose account a token pays from: the vault tells every gateway of an operator, in its own order (part of ``verify``).

A vault whose row was changed tells the other account to the gateways that come after, and to nobody who was told before. What is still on
its way is no fault: a gateway's words come in the order in which the vault wished for them, so who has heard a later one was passed over.
Memory goes with the number of tokens, not with how many gateways were told of each.
"""

from dataclasses import dataclass, field

from farthing.v1 import directive_pb2

#: (the vault's place, a gateway).
_Word = tuple[int, str]


@dataclass(slots=True)
class _Known:
    """One token: by account, the newest gateway that goes by it, and the one that has heard most since it was told."""

    newest: dict[str, _Word] = field(default_factory=dict)
    furthest: dict[str, _Word] = field(default_factory=dict)


@dataclass(slots=True)
class _Chain:
    """What one gateway was told by the vault so far: by token, the account and the place of that word; and the place of the last word of all."""

    operator_id: str = ""
    gateway_id: str = ""
    tokens: dict[str, tuple[str, int]] = field(default_factory=dict)
    last: int = 0


class Paying:
    """What all chains say of it. Mutable only while they are read, each in order and one after the other."""

    def __init__(self) -> None:
        self._chain = _Chain()
        self._known: dict[tuple[str, str], _Known] = {}

    def read(self, operator_id: str, directive: directive_pb2.Directive, place: int | None) -> None:
        """``place``: of the vault's wish among all of its wishes; None for what others wished for."""
        if directive.gateway_id != self._chain.gateway_id:
            self._fold()
            self._chain = _Chain(operator_id=operator_id, gateway_id=directive.gateway_id)
        if place is None:
            return
        self._chain.last = max(self._chain.last, place)
        if directive.HasField("token"):
            self._chain.tokens[directive.token.token_id] = (directive.token.account_id, place)

    def fault(self) -> str:
        """The first, or nothing, after all were read."""
        self._fold()
        self._chain = _Chain()
        for (operator_id, token_id), known in sorted(self._known.items()):
            (place, gateway_id), account_id = max((word, account_id) for account_id, word in known.newest.items())
            for other_id, (heard, passed_over) in sorted(known.furthest.items()):
                if other_id != account_id and heard > place:
                    return f"token {token_id} of {operator_id}: {gateway_id} was told that {account_id} pays, and {passed_over} never, which goes by {other_id}"
        return ""

    def _fold(self) -> None:
        chain = self._chain
        for token_id, (account_id, place) in chain.tokens.items():
            known = self._known.setdefault((chain.operator_id, token_id), _Known())
            word = (place, chain.gateway_id)
            known.newest[account_id] = max(known.newest.get(account_id, word), word)
            heard = (chain.last, chain.gateway_id)
            known.furthest[account_id] = max(known.furthest.get(account_id, heard), heard)
