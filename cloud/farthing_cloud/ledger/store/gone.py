"""Devices that are decommissioned and tokens that are denied: for ever, so who was told of one later was told that too (part of ``verify``).

A registry or vault whose row was changed back tells it to the gateways that come after. What this finds is over as soon as they are told.
Memory goes with the number of devices and tokens, not with how many gateways were told of each.
"""

from dataclasses import dataclass, field

from farthing.v1 import directive_pb2


@dataclass(slots=True)
class _Known:
    """One device or token: who first was told that it is gone, who last that it is not; instants of business time, with the gateway."""

    gone: tuple[int, str] | None = None
    alive: tuple[int, str] | None = None


@dataclass(slots=True)
class _Chain:
    """What one gateway was told so far."""

    operator_id: str = ""
    gateway_id: str = ""
    #: By device: when it was last told of it, whether that it is gone, and when it was first told so.
    devices: dict[str, tuple[int, bool, int | None]] = field(default_factory=dict)
    #: By token: its reference now, and when that was told.
    tokens: dict[str, tuple[tuple[int, bytes], int]] = field(default_factory=dict)
    #: By reference: when it was told that it is denied.
    denied: dict[tuple[int, bytes], int] = field(default_factory=dict)


class Gone:
    """What all chains say of it. Mutable only while they are read, each in order and one after the other."""

    def __init__(self) -> None:
        self._chain = _Chain()
        self._known: dict[tuple[str, str, str], _Known] = {}

    def read(self, operator_id: str, directive: directive_pb2.Directive, service: str) -> None:
        """``service``: who wished for it. Only registry and vault know all gateways that have to hear of a thing."""
        if directive.gateway_id != self._chain.gateway_id:
            self._fold()
            self._chain = _Chain(operator_id=operator_id, gateway_id=directive.gateway_id)
        at_us = directive.dated_at_us
        match service, directive.WhichOneof("body"):
            case "registry", "device":
                record = directive.device
                is_gone = record.status == directive_pb2.DEVICE_STATUS_DECOMMISSIONED
                _, _, since_us = self._chain.devices.get(record.device_id, (0, False, None))
                if is_gone and since_us is None:
                    since_us = at_us
                self._chain.devices[record.device_id] = (at_us, is_gone, since_us)
            case "vault", "token":
                token = directive.token
                self._chain.tokens[token.token_id] = ((token.key_epoch, token.token_ref), at_us)
            case "vault", "token_denied":
                denied = directive.token_denied
                self._chain.denied.setdefault((denied.key_epoch, denied.token_ref), at_us)

    def fault(self) -> str:
        """The first, or nothing, after all were read."""
        self._fold()
        self._chain = _Chain()
        for (operator_id, kind, name), known in sorted(self._known.items()):
            if known.gone is not None and known.alive is not None and known.alive[0] > known.gone[0]:
                return f"{kind} {name} of {operator_id}: {known.gone[1]} was told that it is gone for ever, and {known.alive[1]} later that it is not"
        return ""

    def _fold(self) -> None:
        chain = self._chain
        for device_id, (at_us, is_gone, since_us) in chain.devices.items():
            # In one chain the last word comes later, whatever the clock said.
            alive_us = None if is_gone else at_us if since_us is None else max(at_us, since_us + 1)
            self._note("device", device_id, gone_us=since_us, alive_us=alive_us)
        for token_id, (reference, at_us) in chain.tokens.items():
            denied_us = chain.denied.get(reference)
            self._note("token", token_id, gone_us=denied_us, alive_us=at_us if denied_us is None else None)

    def _note(self, kind: str, name: str, *, gone_us: int | None, alive_us: int | None) -> None:
        known = self._known.setdefault((self._chain.operator_id, kind, name), _Known())
        if gone_us is not None:
            word = (gone_us, self._chain.gateway_id)
            known.gone = min(known.gone or word, word)
        if alive_us is not None:
            word = (alive_us, self._chain.gateway_id)
            known.alive = max(known.alive or word, word)
