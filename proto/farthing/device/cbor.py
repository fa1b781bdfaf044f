"""Read CBOR in its one deterministic form (RFC 8949, section 4.2.1), and nothing else.

Rule 1: integers, byte strings, text, arrays, maps, booleans and null; no tags, no floats, no indefinite lengths.
Rule 2: every head is the shortest, map keys ascend bytewise, nothing trails: each value has exactly one encoding, so
equal content is equal bytes.
Rule 3: whatever the bytes are, the only exception is ``CborError``. (A general decoder runs tag handlers on a stranger's
bytes; this one has none.) Writing is ``cbor2.dumps`` on values built in key order.
"""

from typing import TypeAlias

Value: TypeAlias = "int | bytes | str | bool | tuple[Value, ...] | dict[int | str, Value] | None"

#: Our deepest message has four levels (a grant's list of held parts); a stack bomb has thousands.
MAX_DEPTH = 8

_SIZES = {24: 1, 25: 2, 26: 4, 27: 8}
_FLOORS = {24: 24, 25: 1 << 8, 26: 1 << 16, 27: 1 << 32}


class CborError(ValueError):
    """Bytes that are not one deterministically encoded value."""


def decode(data: bytes) -> Value:
    """The one value in ``data``; arrays become tuples. Raise ``CborError`` for anything else."""
    try:
        value, end = _read(data, 0, MAX_DEPTH)
    except IndexError as err:
        raise CborError("ends in the middle of a value") from err
    if end != len(data):
        raise CborError("bytes after the value")
    return value


def _read(data: bytes, at: int, depth: int) -> tuple[Value, int]:
    head = data[at]
    at += 1
    kind = head >> 5
    number = head & 31
    if kind == 7:
        if head == 0xF5:
            return True, at
        if head == 0xF4:
            return False, at
        if head == 0xF6:
            return None, at
        raise CborError("a float, a simple value or a break")
    if number >= 24:
        size = _SIZES.get(number)
        if size is None:
            raise CborError("an indefinite length or a reserved head")
        end = at + size
        if end > len(data):
            raise CborError("ends in the middle of a head")
        floor = _FLOORS[number]
        number = int.from_bytes(data[at:end], "big")
        if number < floor:
            raise CborError("a head that is not the shortest")
        at = end
    if kind == 0:
        return number, at
    if kind == 2 or kind == 3:
        end = at + number
        if end > len(data):
            raise CborError("ends in the middle of a string")
        if kind == 2:
            return data[at:end], end
        try:
            return data[at:end].decode(), end
        except UnicodeDecodeError as err:
            raise CborError("text that is not UTF-8") from err
    if kind == 1:
        return -1 - number, at
    if kind == 6:
        raise CborError("a tag")
    if depth == 0:
        raise CborError("nested too deep")
    # Every item takes at least one byte: a longer promise is a lie, and must not be believed before reading.
    if number > len(data) - at:
        raise CborError("promises more items than there are bytes")
    if kind == 4:
        items = []
        for _ in range(number):
            item, at = _read(data, at, depth - 1)
            items.append(item)
        return tuple(items), at
    members: dict[int | str, Value] = {}
    before = b""
    for _ in range(number):
        start = at
        key: Value
        if data[at] < 24:
            # Nearly always: a small number is its own head.
            key, at = data[at], at + 1
        else:
            key, at = _read(data, at, 0)
        encoded = data[start:at]
        if encoded <= before:
            raise CborError("map keys that do not ascend")
        before = encoded
        if key.__class__ is not int and key.__class__ is not str:
            raise CborError("a map key that is neither integer nor text")
        members[key], at = _read(data, at, depth - 1)
    return members, at
