"""A gateway's state as bytes, and back: every object of it once, whoever refers to it.

Rule 1: nothing here knows what a state is made of. The classes are those that the state's modules define, their fields are their slots
(or attributes), so whoever adds a field changes nothing here.
Rule 2: a class or field that this program does not know is refused; a field that the bytes do not have is what a new object begins
with, and refused where that depends on what it was made from.
Rule 3: fields lie in columns, by class: a hundred thousand objects are read back in a fraction of a second.

What is compiled from something (a tariff) has ``kept()`` and ``from_kept(bytes)``: the source is written, and compiled again.
"""

import inspect
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from operator import attrgetter
from types import MemberDescriptorType, NoneType
from typing import Any

import cbor2

from farthing_edge.authorization import state as state_module
from farthing_edge.authorization.state import CoreSettings, GatewayState

#: Where the classes of a state are defined.
_MODULE = state_module
#: Goes up when the meaning of these bytes changes; fields and classes may come without.
GRAPH_VERSION = 1

#: Written as they are. A boolean is not an int here: ``type`` is compared.
_PLAIN = frozenset({int, str, bytes, bool, NoneType})
#: What a list in the bytes is: its first element says.
_LIST, _TUPLE, _MAP, _SET, _DEQUE, _OBJECT, _NAMED, _ENUM, _ROW_MAP, _OBJECT_MAP = range(10)
#: What a column is: values as they are, values to be read one by one, or numbers of objects of one class.
_AS_IT_IS, _ONE_BY_ONE, _OBJECTS = range(3)
#: Given by the configuration at each start, kept by nobody.
_CONFIGURED = frozenset({"settings"})


_OURS = ("farthing.", "farthing_edge.")


class GraphError(Exception):
    """A state that cannot be written, or bytes that are none of this program."""


def _known_classes() -> dict[str, type[Any]]:
    """What the state's module defines or imports, and what the modules of those define or import, and so on: a field's type is there."""
    found: dict[str, type[Any]] = {}
    modules, seen = [_MODULE], {_MODULE.__name__}
    while modules:
        for value in vars(modules.pop(0)).values():
            if not isinstance(value, type) or not value.__module__.startswith(_OURS) or ".v1." in value.__module__:
                continue
            found.setdefault(value.__name__, value)
            if value.__module__ not in seen:
                seen.add(value.__module__)
                modules.append(sys.modules[value.__module__])
    return found


_CLASSES = _known_classes()
_NAMES = {known: name for name, known in _CLASSES.items()}
#: Nobody can change their objects, and all these hold can be compared.
_FIXED = frozenset(
    known
    for known in _NAMES
    if is_dataclass(known) and known.__dataclass_params__.frozen and "__hash__" in vars(known)  # type: ignore[attr-defined]  # typeshed does not know it
)


def field_names(known: type[Any]) -> tuple[str, ...]:
    """What an object of ``known`` consists of."""
    named: tuple[str, ...] | None = getattr(known, "_fields", None)
    if named is not None:
        return named
    if hasattr(known, "kept"):
        return ("kept",)
    if is_dataclass(known):
        return tuple(each.name for each in fields(known))
    slots = tuple(name for base in reversed(known.__mro__) for name in getattr(base, "__slots__", ()))
    if not slots:
        raise GraphError(f"{known.__name__} is no dataclass and has no slots: nobody knows what belongs to it")
    return slots


# Writing --------------------------------------------------------------------------------------------------------------


class _Table:
    """All objects of one class met so far, and the columns of those already written."""

    def __init__(self, number: int, known: type[Any]) -> None:
        self.number = number
        self.fields = field_names(known)
        self.get: list[Callable[[Any], Any]] = [_getter(known, name) for name in self.fields]
        self.objects: list[Any] = []
        self.columns: list[list[Any]] = [[] for _ in self.fields]
        self.written = 0


def _getter(known: type[Any], name: str) -> Callable[[Any], Any]:
    return known.kept if name == "kept" else attrgetter(name)


def _setter(known: type[Any], name: str) -> Callable[[Any, Any], None]:
    """A slot's own descriptor: frozen classes are filled as their ``__init__`` does it, and in one sweep."""
    slot = vars(known).get(name)
    if isinstance(slot, MemberDescriptorType):
        return slot.__set__
    return lambda each, value: object.__setattr__(each, name, value)


class _Writer:
    def __init__(self) -> None:
        self._tables: dict[type[Any], _Table] = {}
        self._numbers: dict[int, list[int]] = {}
        self._equal: dict[Any, list[int]] = {}
        self._tuples: dict[type[Any], int] = {}

    def write(self, state: GatewayState) -> dict[str, Any]:
        names = [name for name in vars(state) if name not in _CONFIGURED]
        root = {name: self._value(getattr(state, name)) for name in names}
        tables = self._tables
        while waiting := [table for table in tables.values() if table.written < len(table.objects)]:
            for table in waiting:
                batch = table.objects[table.written :]
                table.written += len(batch)
                for column, get in zip(table.columns, table.get, strict=True):
                    values = list(map(get, batch))
                    column.extend(values if set(map(type, values)) <= _PLAIN else map(self._value, values))
        return {
            "version": GRAPH_VERSION,
            "root": root,
            "tables": [
                [
                    _NAMES[known],
                    len(table.objects),
                    [list(each) for each in zip(table.fields, *_columns(table), strict=True)],
                ]
                for known, table in tables.items()
            ],
            "tuples": [[_NAMES[known], list(field_names(known))] for known in self._tuples],
        }

    def _value(self, value: Any) -> Any:
        kind = value.__class__
        if kind in _PLAIN:
            return value
        if kind is tuple:
            return [_TUPLE, *map(self._value, value)]
        if kind is dict:
            return self._map(value)
        if kind is list:
            return [_LIST, *map(self._value, value)]
        if kind is set or kind is frozenset:
            # In order, so that one state is one string of bytes.
            return [_SET, kind is frozenset, *sorted(map(self._key, value), key=cbor2.dumps)]
        if kind is deque:
            return [_DEQUE, value.maxlen, *map(self._value, value)]
        if kind not in _NAMES:
            raise GraphError(
                f"a state holds a {kind.__module__}.{kind.__qualname__}, which no module of the state defines"
            )
        if issubclass(kind, tuple):
            number = self._tuples.setdefault(kind, len(self._tuples))
            return [_NAMED, number, *map(self._value, value)]
        if issubclass(kind, Enum):
            return [_ENUM, _NAMES[kind], value.value]
        return self._reference(value, kind)

    def _reference(self, value: Any, kind: type[Any]) -> list[int]:
        known = self._numbers.get(id(value))
        if known is not None:
            return known
        table = self._tables.get(kind)
        if table is None:
            table = self._tables[kind] = _Table(len(self._tables), kind)
        # Equal values that nobody can change are one object again: a thousand sessions name one tariff version.
        equal = (kind, value) if kind in _FIXED else None
        if equal is not None and (same := self._equal.get(equal)) is not None:
            self._numbers[id(value)] = same
            return same
        number = [_OBJECT, table.number, len(table.objects)]
        table.objects.append(value)
        self._numbers[id(value)] = number
        if equal is not None:
            self._equal[equal] = number
        return number

    def _map(self, value: Mapping[Any, Any]) -> Any:
        kinds = set(map(type, value.values()))
        plain_keys = set(map(type, value)) <= _PLAIN
        if plain_keys and kinds <= _PLAIN:
            return value
        if plain_keys and len(kinds) == 1:
            rows = [self._value(each) for each in value.values()]
            if all(row[0] == _OBJECT for row in rows):
                table, first = rows[0][1], rows[0][2]
                numbers = [row[2] for row in rows]
                if numbers == list(range(first, first + len(numbers))):
                    return [_ROW_MAP, table, first, *value]
                return [_OBJECT_MAP, table, list(value), numbers]
        pairs: list[Any] = [_MAP]
        for key, each in value.items():
            pairs += (self._key(key), self._value(each))
        return pairs

    def _key(self, key: Any) -> Any:
        written = self._value(key)
        if written.__class__ is list and written[0] not in (_TUPLE, _NAMED, _ENUM):
            # It would have to be whole before what holds it.
            raise GraphError(f"a {type(key).__name__} is a key of a table")
        return written


def _columns(table: _Table) -> tuple[list[int], list[Any]]:
    kinds, columns = [], []
    for column in table.columns:
        types = set(map(type, column))
        if list not in types:
            kinds.append(_AS_IT_IS)
            columns.append(column)
            continue
        rows = [each for each in column if each is not None]
        tables = {each[1] if each.__class__ is list and each[0] == _OBJECT else None for each in rows}
        if len(tables) == 1 and None not in tables:
            kinds.append(_OBJECTS)
            columns.append([rows[0][1], *(None if each is None else each[2] for each in column)])
        else:
            kinds.append(_ONE_BY_ONE)
            columns.append(column)
    return kinds, columns


def state_to_bytes(state: GatewayState) -> bytes:
    """Everything that ``state`` holds, but its settings. One state gives one string of bytes."""
    return cbor2.dumps(_Writer().write(state))


# Reading --------------------------------------------------------------------------------------------------------------


def state_from_bytes(data: bytes, settings: CoreSettings) -> tuple[GatewayState, bool]:
    """The state that ``data`` is, and whether it lacked fields of this program; raise ``GraphError``."""
    try:
        document = cbor2.loads(data)
        if document["version"] != GRAPH_VERSION:
            raise GraphError(f"written in version {document['version']}, this program reads {GRAPH_VERSION}")
        reader = _Reader(document)
        state = reader.read(settings)
    except (cbor2.CBORDecodeError, KeyError, IndexError, TypeError, ValueError) as err:
        raise GraphError("not the bytes of a state") from err
    return state, reader.lacking


class _Reader:
    def __init__(self, document: Mapping[str, Any]) -> None:
        self._root = document["root"]
        self._rows = document["tables"]
        self._objects: list[list[Any]] = []
        self._tuples = [_named_tuple(name, fields) for name, fields in document["tuples"]]
        #: Whether something was left at what a new object begins with.
        self.lacking = any(lacking for _, lacking in self._tuples)

    def read(self, settings: CoreSettings) -> GatewayState:
        # All objects before any field: they refer to each other.
        for name, count, columns in self._rows:
            known = _class(name)
            if len(columns) == 1 and columns[0][0] == "kept":
                self._objects.append([known.from_kept(kept) for kept in columns[0][2]])
            else:
                self._objects.append([object.__new__(known) for _ in range(count)])
        for (name, _, columns), objects in zip(self._rows, self._objects, strict=True):
            self._fill(_class(name), objects, columns)
        state = GatewayState(settings)
        expected = vars(state).keys() - _CONFIGURED
        for name, value in self._root.items():
            if name not in expected:
                raise GraphError(f"GatewayState has no {name} here: a newer program wrote it")
            setattr(state, name, self._value(value))
        self.lacking |= bool(expected - self._root.keys())
        return state

    def _fill(self, known: type[Any], objects: list[Any], columns: Sequence[Sequence[Any]]) -> None:
        expected = field_names(known)
        written = {field for field, _, _ in columns}
        if not written <= set(expected):
            raise GraphError(f"{known.__name__} has no {written - set(expected)} here: a newer program wrote it")
        if "kept" in written:
            return
        for field, kind, column in columns:
            if kind == _OBJECTS:
                table = self._objects[column[0]]
                values: Iterable[Any] = [None if row is None else table[row] for row in column[1:]]
            else:
                values = column if kind == _AS_IT_IS else map(self._value, column)
            deque(map(_setter(known, field), objects, values), maxlen=0)
        for field in expected:
            if field not in written:
                self.lacking = True
                _begin(known, objects, field)

    def _value(self, value: Any) -> Any:
        if value.__class__ is not list:
            return value
        kind = value[0]
        if kind == _OBJECT:
            return self._objects[value[1]][value[2]]
        if kind == _TUPLE:
            return tuple(map(self._value, value[1:]))
        if kind == _NAMED:
            (known, _) = self._tuples[value[1]]
            return known(*map(self._value, value[2:]))
        if kind == _ROW_MAP:
            table, first = self._objects[value[1]], value[2]
            return dict(zip(value[3:], table[first : first + len(value) - 3], strict=True))
        if kind == _OBJECT_MAP:
            table = self._objects[value[1]]
            return {key: table[row] for key, row in zip(value[2], value[3], strict=True)}
        if kind == _MAP:
            each = map(self._value, value[1:])
            return dict(zip(each, each, strict=True))
        if kind == _LIST:
            return list(map(self._value, value[1:]))
        if kind == _SET:
            return (frozenset if value[1] else set)(map(self._value, value[2:]))
        if kind == _DEQUE:
            return deque(map(self._value, value[2:]), maxlen=value[1])
        if kind == _ENUM:
            return _class(value[1])(value[2])
        raise GraphError(f"no value is of kind {kind}")


def _class(name: str) -> type[Any]:
    known = _CLASSES.get(name)
    if known is None:
        raise GraphError(f"no class {name} here: a newer program wrote it")
    return known


def _named_tuple(name: str, fields: Sequence[str]) -> tuple[type[Any], bool]:
    """The class, and whether it has grown: what it has more is at its end, with defaults, or it does not fit."""
    known = _class(name)
    expected = field_names(known)
    if expected[: len(fields)] != tuple(fields):
        raise GraphError(f"the fields of {name} are {expected} here, not {tuple(fields)}")
    return known, len(expected) > len(fields)


def _begin(known: type[Any], objects: Iterable[Any], field: str) -> None:
    """Give each what a new object begins with."""
    parameters = inspect.signature(known.__init__).parameters.values()
    put = _setter(known, field)
    needed = [each for each in parameters if each.name != "self" and each.default is inspect.Parameter.empty]
    for each in objects:
        try:
            fresh = known(
                *(None for each in needed if each.kind is not inspect.Parameter.KEYWORD_ONLY),
                **{each.name: None for each in needed if each.kind is inspect.Parameter.KEYWORD_ONLY},
            )
            value = getattr(fresh, field)
        except (TypeError, AttributeError, ValueError) as err:
            raise GraphError(f"{known.__name__}.{field} is not in it, and has no beginning") from err
        if value is None and field in {parameter.name for parameter in needed}:
            raise GraphError(f"{known.__name__}.{field} is not in it, and has no beginning")
        put(each, value)
