"""One hash of everything that an object holds, however deep: equal before and after means that nothing changed."""

import hashlib
from collections.abc import Callable, Mapping, Set
from typing import Any

_PLAIN = (int, float, str, bytes, bool, type(None))


def digest_of(root: object) -> str:
    """SHA-256 over ``root``'s slots and attributes; code and modules do not count."""
    found = hashlib.sha256()
    seen: dict[int, int] = {}

    def walk(value: Any) -> None:
        if isinstance(value, _PLAIN):
            found.update(f"{type(value).__name__} {value!r};".encode())
            return
        if isinstance(value, type | Callable) and not hasattr(value, "__dict__"):  # type: ignore[arg-type]  # both are classes here
            found.update(b"code;")
            return
        if id(value) in seen:
            found.update(f"again {seen[id(value)]};".encode())
            return
        seen[id(value)] = len(seen)
        found.update(f"{type(value).__name__} {{".encode())
        if isinstance(value, Mapping):
            for key, each in value.items():
                walk(key)
                walk(each)
        elif isinstance(value, Set):
            for text in sorted(map(repr, value)):
                walk(text)
        elif isinstance(value, list | tuple) or hasattr(value, "popleft"):
            for each in value:
                walk(each)
        else:
            for name in _names(value):
                walk(name)
                walk(getattr(value, name))
        found.update(b"};")

    walk(root)
    return found.hexdigest()


def _names(value: object) -> list[str]:
    names = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    names += getattr(value, "__dict__", {})
    return sorted({name for name in names if not name.startswith("__") and hasattr(value, name)})
