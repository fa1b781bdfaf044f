"""A device's state as bytes, for the row it is kept in.

Rule 1: every field is written and every field is required: a row of another shape does not become a default.
Rule 2: a payer's token is never written down. A one-shot device's token is its own and stays in it.
"""

import dataclasses
import types
import typing
from dataclasses import replace
from enum import Enum
from typing import Any

import cbor2

from farthing.device.messages import MessageError, decode_statement
from farthing_firmware_sim.device.values import Profile, State

FORMAT = 6


class StateError(ValueError):
    """A stored state that this version did not write."""


def dump(state: State, profile: Profile) -> bytes:
    """``state`` as CBOR, without what must not outlive the power."""
    if profile is not Profile.ONE_SHOT:
        use = state.use
        state = replace(
            state,
            use=None if use is None else replace(use, plan=replace(use.plan, token=b"")),
            outgoing=tuple(replace(each, token=None) for each in state.outgoing),
        )
    return cbor2.dumps([FORMAT, _plain(state)])


def load(data: bytes) -> State:
    """The state in ``data``; raise ``StateError`` if it is not one."""
    try:
        version, body = cbor2.loads(data)
    except (ValueError, TypeError, EOFError) as err:
        raise StateError("not a stored device state") from err
    if version == 1:
        version, body = 2, _from_format_1(body)
    if version == 2:
        version, body = 3, _from_format_2(body)
    if version == 3:
        version, body = 4, _from_format_3(body)
    if version == 4:
        version, body = 5, _from_format_4(body)
    if version == 5:
        version, body = FORMAT, _from_format_5(body)
    if version != FORMAT:
        raise StateError(f"a stored device state of format {version!r}, this is {FORMAT}")
    state = _typed(body, State)
    assert isinstance(state, State)
    return state


def _from_format_1(body: Any) -> Any:
    """The state as it was written before ends were handed over and grants kept."""
    try:
        for each in body["outgoing"]:
            each |= {"authorization": None, "shown": False, "elsewhere": [], "carried_by": None}
            each |= {"carry_after_us": 10_000_000, "carry_at_us": 0}
        for each in body["kept"]:
            each |= {"grant": None, "carried_by": None}
    except (KeyError, TypeError) as err:
        raise StateError("not a stored device state") from err
    return body


def _from_format_2(body: Any) -> Any:
    """The state as it was written before answered ends were said again to others."""
    try:
        for each in body["outgoing"]:
            each["answered"] = False
        for each in body["kept"]:
            each["elsewhere"] = []
        for each in body["seen"]:
            each["away_at_us"] = None
    except (KeyError, TypeError) as err:
        raise StateError("not a stored device state") from err
    return body


def _from_format_3(body: Any) -> Any:
    """The state as it was written before turns were counted: as far as anybody said, there were none."""
    try:
        body["register_turns"] = 0
    except TypeError as err:
        raise StateError("not a stored device state") from err
    return body


def _from_format_4(body: Any) -> Any:
    """The state as it was written before registers were replaced: each statement says which it is about."""
    try:
        for each in (*body["outgoing"], *body["kept"]):
            each["register_epoch"] = decode_statement(each["payload"]).register.register_epoch
    except (KeyError, TypeError, MessageError) as err:
        raise StateError("not a stored device state") from err
    return body


def _from_format_5(body: Any) -> Any:
    """The state as it was written before a receipt could be put back: none was."""
    try:
        for each in body["seen"]:
            each["put_back"] = False
    except (KeyError, TypeError) as err:
        raise StateError("not a stored device state") from err
    return body


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple | frozenset):
        return [_plain(each) for each in value]
    if isinstance(value, Enum):
        return value.value
    return value


def _typed(value: object, kind: object) -> object:
    while isinstance(kind, typing.NewType):
        kind = kind.__supertype__
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (kind,) = (each for each in arguments if each is not type(None))
        return _typed(value, kind)
    if origin is typing.Literal:
        if value not in arguments:
            raise StateError(f"{value!r:.40} is none of {arguments}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise StateError("expected a list")
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_typed(each, arguments[0]) for each in value)
        if len(arguments) != len(value):
            raise StateError(f"expected {len(arguments)} items")
        return tuple(_typed(each, each_kind) for each, each_kind in zip(value, arguments, strict=True))
    assert isinstance(kind, type)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        names = {field.name for field in dataclasses.fields(kind)}
        if not isinstance(value, dict) or set(value) != names:
            raise StateError(f"expected the fields of {kind.__name__}")
        return kind(**{name: _typed(value[name], hints[name]) for name in names})
    if issubclass(kind, Enum):
        try:
            return kind(value)
        except ValueError as err:
            raise StateError(f"{value!r:.40} is no {kind.__name__}") from err
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise StateError(f"expected {kind.__name__}, found {type(value).__name__}")
    return value
