"""What would change between two versions of a registered thing, for people."""

import hashlib
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

#: Longest value shown: a tariff's JSON is named by its hash instead.
MAX_SHOWN_LENGTH = 60


def differences(old: Message | None, new: Message) -> list[str]:
    """Field by field, "name: old -> new"; empty where nothing differs. ``old`` None: the thing is new."""
    before = _flat(old) if old is not None else {}
    after = _flat(new)
    return [
        f"{name}: {before.get(name, '-')} -> {after.get(name, '-')}"
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
    ]


def _flat(message: Message, prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for field, value in message.ListFields():
        name = prefix + field.name
        if field.is_repeated:
            for index, item in enumerate(value):
                if isinstance(item, Message):
                    found.update(_flat(item, f"{name}[{index}]."))
                else:
                    found[f"{name}[{index}]"] = _shown(field, item)
        elif isinstance(value, Message):
            found.update(_flat(value, f"{name}."))
        else:
            found[name] = _shown(field, value)
    return found


def _shown(field: FieldDescriptor, value: Any) -> str:
    if isinstance(value, bytes):
        return f"sha256:{hashlib.sha256(value).hexdigest()[:16]}"
    if field.enum_type is not None:
        named = field.enum_type.values_by_number.get(value)
        return str(value) if named is None else named.name
    text = str(value)
    return text if len(text) <= MAX_SHOWN_LENGTH else text[:MAX_SHOWN_LENGTH] + "…"
