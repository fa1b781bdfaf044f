"""Arrays in PostgreSQL's own text form, which psycopg passes through; its list dumper takes ten times as long."""

from collections.abc import Iterable
from typing import Final

_FLAG: Final = {True: "t", False: "f"}


def numbers(values: Iterable[int]) -> str:
    """Integers of any size."""
    # As a list shows itself, which is quicker than to join them; PostgreSQL takes the blanks.
    return "{" + repr(list(values))[1:-1] + "}"


def written(values: Iterable[str]) -> str:
    """Integers that are written already."""
    return "{" + ",".join(values) + "}"


def repeated(value: str, count: int) -> str:
    """One integer or flag, so often."""
    return "{" + ",".join([value] * count) + "}"


def flags(values: Iterable[bool]) -> str:
    """Booleans."""
    return "{" + ",".join(map(_FLAG.__getitem__, values)) + "}"


def names(values: Iterable[str]) -> str:
    """Ids, paths and members of enums: none holds a quote, a backslash or a brace; the quotes keep "" and NULL."""
    listed = list(values)
    return '{"' + '","'.join(listed) + '"}' if listed else "{}"


def texts(values: Iterable[str]) -> str:
    """Any text."""
    quoted = [value.replace("\\", "\\\\").replace('"', '\\"') for value in values]
    return '{"' + '","'.join(quoted) + '"}' if quoted else "{}"


def octets(values: Iterable[bytes]) -> str:
    """Byte strings."""
    encoded = [value.hex() for value in values]
    return '{"\\\\x' + '","\\\\x'.join(encoded) + '"}' if encoded else "{}"


def hexed(value: bytes) -> str:
    """One byte string, as JSON carries it."""
    return "\\x" + value.hex()
