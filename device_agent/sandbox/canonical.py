"""The Component Model's canonical ABI (CanonicalABI.md): values of WIT's types in a module's memory, and as its parameters.

In Python a record or tuple is a tuple, an enum its number, flags the number of their bits, a list a list or bytes, an option the
value or None, a result or variant its case's number with the payload, a resource the object. Floats and characters are not there.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from device_agent.sandbox.errors import ContractError
from pywamr import ValueType

__all__ = ["Guest", "Type", "is_fallible", "parse", "parse_record"]

_TOKEN = re.compile(r"[a-z0-9-]+|_|[<>{},:]")

ELEMENT_BYTES = 64  # that an element of a list takes here, at least
_I32, _I64 = ValueType.I32, ValueType.I64


class Guest(Protocol):
    """A module's memory and handles. Each raises ContractError."""

    def read(self, at: int, size: int) -> bytes:
        """So many bytes of its memory."""

    def write(self, at: int, content: bytes) -> None:
        """Writes them."""

    def allocate(self, alignment: int, size: int) -> int:
        """Room in its memory, by its own allocator."""

    def take(self, size: int) -> None:
        """Counts what a call hands over, which has a limit."""

    def handle_of(self, thing: Any) -> int:
        """A new handle for a resource."""

    def thing_of(self, handle: int, resource: str, *, owned: bool) -> Any:
        """The resource behind a handle, which is gone afterwards where it is `owned`."""


class Type:
    """Size and alignment in memory, the core types that it is flattened to."""

    size, alignment = 4, 4
    flat: tuple[ValueType, ...] = (_I32,)

    def load(self, guest: Guest, at: int) -> Any:
        """Out of memory."""
        raise NotImplementedError

    def store(self, guest: Guest, at: int, value: Any) -> None:
        """Into memory."""
        raise NotImplementedError

    def lift(self, guest: Guest, values: Iterator[int]) -> Any:
        """Out of core values."""
        raise NotImplementedError

    def lower(self, guest: Guest, value: Any) -> list[int]:
        """As core values."""
        raise NotImplementedError


class _Number(Type):
    """An integer; also what is one in memory: bool, enum, flags. `limit`: how many values an enum has."""

    def __init__(self, size: int, *, signed: bool = False, limit: int = 0) -> None:
        self.size = self.alignment = size
        self.flat = (_I64 if size == 8 else _I32,)
        self._signed, self._limit, self._mask = signed, limit, (1 << 8 * size) - 1

    def _checked(self, value: int) -> int:
        if self._limit and value >= self._limit:
            raise ContractError(f"{value} is none of an enum's {self._limit} cases")
        return value

    def load(self, guest: Guest, at: int) -> int:
        return self._checked(int.from_bytes(guest.read(at, self.size), "little", signed=self._signed))

    def store(self, guest: Guest, at: int, value: int) -> None:
        guest.write(at, (value & self._mask).to_bytes(self.size, "little"))

    def lift(self, guest: Guest, values: Iterator[int]) -> int:
        value = next(values)
        if self._limit:
            return self._checked(value & 0xFFFFFFFF)
        value &= self._mask
        return value - self._mask - 1 if self._signed and value > self._mask >> 1 else value

    def lower(self, guest: Guest, value: int) -> list[int]:
        return [value & self._mask]


class _Bool(_Number):
    """One byte; whatever is not zero is true."""

    def __init__(self) -> None:
        super().__init__(1)

    def load(self, guest: Guest, at: int) -> bool:
        return super().load(guest, at) != 0

    def lift(self, guest: Guest, values: Iterator[int]) -> bool:
        return next(values) != 0


class _Handle(Type):
    """own or borrow of a resource."""

    def __init__(self, resource: str, *, owned: bool) -> None:
        self._resource, self._owned = resource, owned

    def load(self, guest: Guest, at: int) -> Any:
        return guest.thing_of(int.from_bytes(guest.read(at, 4), "little"), self._resource, owned=self._owned)

    def store(self, guest: Guest, at: int, value: Any) -> None:
        guest.write(at, guest.handle_of(value).to_bytes(4, "little"))

    def lift(self, guest: Guest, values: Iterator[int]) -> Any:
        return guest.thing_of(next(values) & 0xFFFFFFFF, self._resource, owned=self._owned)

    def lower(self, guest: Guest, value: Any) -> list[int]:
        return [guest.handle_of(value)]


class _List(Type):
    """Pointer and length; list<u8> is bytes."""

    size, alignment, flat = 8, 4, (_I32, _I32)

    def __init__(self, element: Type) -> None:
        self._element = element
        self._bytes = isinstance(element, _Number) and not isinstance(element, _Bool) and element.size == 1

    def _of(self, guest: Guest, at: int, count: int) -> Any:
        width = self._element.size
        guest.take(count if self._bytes else count * max(width, ELEMENT_BYTES))
        if self._bytes:
            return guest.read(at, count)
        if at % self._element.alignment:
            raise ContractError(f"a list at {at}, which is not aligned to {self._element.alignment}")
        guest.read(at, count * width)  # all of it lies in memory
        return [self._element.load(guest, at + number * width) for number in range(count)]

    def _to(self, guest: Guest, value: Any) -> tuple[int, int]:
        width = self._element.size
        at = guest.allocate(self._element.alignment, len(value) * width)
        if self._bytes:
            guest.write(at, value)
        else:
            for number, each in enumerate(value):
                self._element.store(guest, at + number * width, each)
        return at, len(value)

    def load(self, guest: Guest, at: int) -> Any:
        raw = guest.read(at, 8)
        return self._of(guest, int.from_bytes(raw[:4], "little"), int.from_bytes(raw[4:], "little"))

    def store(self, guest: Guest, at: int, value: Any) -> None:
        pointer, count = self._to(guest, value)
        guest.write(at, pointer.to_bytes(4, "little") + count.to_bytes(4, "little"))

    def lift(self, guest: Guest, values: Iterator[int]) -> Any:
        return self._of(guest, next(values) & 0xFFFFFFFF, next(values) & 0xFFFFFFFF)

    def lower(self, guest: Guest, value: Any) -> list[int]:
        return list(self._to(guest, value))


class _Text(_List):
    """UTF-8."""

    def __init__(self) -> None:
        super().__init__(_Number(1))

    def _of(self, guest: Guest, at: int, count: int) -> str:
        try:
            text: str = super()._of(guest, at, count).decode()
        except UnicodeDecodeError:
            raise ContractError("text from the module is not UTF-8") from None
        return text

    def _to(self, guest: Guest, value: str) -> tuple[int, int]:
        return super()._to(guest, value.encode())


class _Record(Type):
    """Also a tuple."""

    def __init__(self, fields: Sequence[Type]) -> None:
        self._fields, at = [], 0
        for each in fields:
            at = aligned(at, each.alignment)
            self._fields.append((at, each))
            at += each.size
        self.alignment = max((each.alignment for each in fields), default=1)
        self.size = aligned(at, self.alignment)
        self.flat = tuple(kind for each in fields for kind in each.flat)

    def load(self, guest: Guest, at: int) -> tuple[Any, ...]:
        return tuple(each.load(guest, at + offset) for offset, each in self._fields)

    def store(self, guest: Guest, at: int, value: tuple[Any, ...]) -> None:
        for (offset, each), one in zip(self._fields, value, strict=True):
            each.store(guest, at + offset, one)

    def lift(self, guest: Guest, values: Iterator[int]) -> tuple[Any, ...]:
        return tuple(each.lift(guest, values) for _, each in self._fields)

    def lower(self, guest: Guest, value: tuple[Any, ...]) -> list[int]:
        return [flat for (_, each), one in zip(self._fields, value, strict=True) for flat in each.lower(guest, one)]


class _Variant(Type):
    """Also a result: the number of a case, and its payload."""

    def __init__(self, cases: Sequence[Type | None]) -> None:
        self._cases = cases
        self._number = _Number(1, limit=len(cases))  # none has more than 256
        payloads = [each for each in cases if each is not None]
        self.alignment = max((each.alignment for each in payloads), default=1)
        self._at = aligned(1, self.alignment)
        self.size = aligned(self._at + max((each.size for each in payloads), default=0), self.alignment)
        self.flat = (_I32, *_joined([each.flat for each in payloads]))

    def load(self, guest: Guest, at: int) -> Any:
        number = self._number.load(guest, at)
        case = self._cases[number]
        return number, None if case is None else case.load(guest, at + self._at)

    def store(self, guest: Guest, at: int, value: Any) -> None:
        number, payload = value
        self._number.store(guest, at, number)
        if (case := self._cases[number]) is not None:
            case.store(guest, at + self._at, payload)

    def lift(self, guest: Guest, values: Iterator[int]) -> Any:
        number = self._number.lift(guest, values)
        rest = [next(values) for _ in self.flat[1:]]
        case = self._cases[number]
        return number, None if case is None else case.lift(guest, iter(rest))

    def lower(self, guest: Guest, value: Any) -> list[int]:
        number, payload = value
        case = self._cases[number]
        flat = [] if case is None else case.lower(guest, payload)
        return [number, *flat, *[0] * (len(self.flat) - 1 - len(flat))]


class _Option(_Variant):
    """The value or None."""

    def __init__(self, some: Type) -> None:
        super().__init__((None, some))

    def load(self, guest: Guest, at: int) -> Any:
        return super().load(guest, at)[1]

    def store(self, guest: Guest, at: int, value: Any) -> None:
        super().store(guest, at, (int(value is not None), value))

    def lift(self, guest: Guest, values: Iterator[int]) -> Any:
        return super().lift(guest, values)[1]

    def lower(self, guest: Guest, value: Any) -> list[int]:
        return super().lower(guest, (int(value is not None), value))


class _Result(_Variant):
    """ok is case 0, the error case 1."""


def aligned(at: int, alignment: int) -> int:
    """The next such place."""
    return -(-at // alignment) * alignment


def _joined(flats: Sequence[tuple[ValueType, ...]]) -> Iterator[ValueType]:
    for number in range(max(map(len, flats), default=0)):
        yield _I64 if any(len(each) > number and each[number] is _I64 for each in flats) else _I32


_PLAIN: Mapping[str, Callable[[], Type]] = {
    "bool": _Bool,
    "string": _Text,
    "u8": lambda: _Number(1),
    "u32": lambda: _Number(4),
    "u64": lambda: _Number(8),
    "s64": lambda: _Number(8, signed=True),
}


def parse(text: str, types: Mapping[str, str]) -> Type | None:
    """A type as ota.formats.interfaces writes it, with those that it names; None for nothing."""
    return _Parser(text, types).one() if text.strip() else None


def parse_record(text: str, types: Mapping[str, str]) -> Type:
    """Several, with commas between them, as a record."""
    return _Record(_Parser(text, types).many())


def is_fallible(kind: Type | None) -> bool:
    """Whether it is a result."""
    return isinstance(kind, _Result)


class _Parser:
    """Types as ota.formats.interfaces writes them."""

    def __init__(self, text: str, types: Mapping[str, str]) -> None:
        self._tokens, self._types = _TOKEN.findall(text), types

    def many(self) -> list[Type]:
        """Types with commas between them."""
        found = []
        while self._tokens:
            found.append(self.one())
            del self._tokens[:1]  # a comma
        return found

    def one(self) -> Type:
        word = self._tokens.pop(0)
        if word in _PLAIN:
            return _PLAIN[word]()
        if word in self._types:
            return _Parser(self._types[word], self._types).one()
        inside = self._inside()
        if word in ("own", "borrow"):
            return _Handle(inside[0][0], owned=word == "own")
        if word == "enum":
            return _Number(1, limit=len(inside))
        if word == "flags":
            return _Number(1)  # none has more than 8
        if word == "variant":
            return _Variant([self._again(each[2:]) if len(each) > 1 else None for each in inside])
        if word == "record":
            return _Record([self._again(each[2:]) for each in inside])
        if word == "result":
            ok, error = (*inside, *[["_"]] * (2 - len(inside)))
            return _Result([None if each == ["_"] else self._again(each) for each in (ok, error)])
        parts = [self._again(each) for each in inside]
        return {"list": _List, "option": _Option}[word](parts[0]) if word != "tuple" else _Record(parts)

    def _again(self, tokens: list[str]) -> Type:
        parser = _Parser("", self._types)
        parser._tokens = list(tokens)
        return parser.one()

    def _inside(self) -> list[list[str]]:
        """What stands between brackets, split at the commas; nothing where none are."""
        if not self._tokens or self._tokens[0] not in "<{":
            return []
        depth, parts = 0, [[]]  # type: tuple[int, list[list[str]]]
        while True:
            each = self._tokens.pop(0)
            depth += (each in "<{") - (each in ">}")
            if depth == 0:
                return parts
            if depth == 1 and each in "<{,":
                parts += [[]] if each == "," else []
            else:
                parts[-1].append(each)
