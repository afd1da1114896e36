"""Python values to and from the 64-bit slots of the shim (native/core/wamr_core.h says what a slot holds)."""

import _thread
import struct
from collections.abc import Callable, Collection, Sequence
from typing import Any

from pywamr.errors import ArgumentError
from pywamr.types import FuncRef, ValueType

_FORMATS = {
    ValueType.I32: "i4x",
    ValueType.I64: "q",
    ValueType.F32: "I4x",  # its bits: C would make a quiet NaN of a signalling one on the way to a double
    ValueType.F64: "d",
    ValueType.V128: "16s",
    ValueType.EXTERNREF: "Q",
    ValueType.FUNCREF: "Q",
}
_NULL_FUNCREF = 2**64 - 1
_SINGLE, _SINGLE_BITS, _DOUBLE, _DOUBLE_BITS = (struct.Struct(f"={each}") for each in "fIdQ")
_QUIET = 1 << 22  # of a single
_VECTOR_BYTES = 16
_BITS = {ValueType.I32: 32, ValueType.I64: 64}

Value = Any
"""What a wasm value is in Python: int, float, 16 bytes (v128, lane 0 first), any object (externref), `FuncRef` (funcref), None (a
null reference)."""


class References:
    """The Python objects that guest code of one instance can reach as externrefs, by the numbers that it has for them.

    Each stays until `keep` says that guest code has it no longer; that is due when as many were added as the last look cost.
    """

    def __init__(self) -> None:
        self.lock = _thread.RLock()  # held from before arguments have numbers until results are objects again
        self._objects: dict[int, Value] = {}
        self._numbers: dict[int, int] = {}  # by identity
        self._free: list[int] = []
        self._added = self._cost = 0

    def __len__(self) -> int:
        return len(self._objects)

    @property
    def due(self) -> bool:
        """Whether to find out which are still in use: so often that the cost for each object is constant."""
        return self._added > self._cost

    def number(self, value: Value) -> int:
        """The externref slot for an object, 0 for None."""
        if value is None:
            return 0
        known = self._numbers.get(id(value))
        if known is None:
            known = self._free.pop() if self._free else len(self._objects) + 1
            self._objects[known] = value
            self._numbers[id(value)] = known
            self._added += 1
        return known

    def object(self, number: int) -> Value:
        """The object behind an externref slot."""
        return self._objects[number] if number else None

    def keep(self, used: Collection[int], looked_at: int) -> None:
        """Lets go of all but those in use; `looked_at` is how many places of the guest were looked at to find them."""
        gone = [number for number in self._objects if number not in used]
        released = [self._objects.pop(number) for number in gone]  # the last thing to end: that may call anything
        for value in released:
            del self._numbers[id(value)]
        self._free += gone
        self._added, self._cost = 0, len(self._objects) + looked_at


def slots_struct(types: Sequence[ValueType]) -> struct.Struct:
    """The layout of values of these types, one 64-bit slot each, two for a v128."""
    return struct.Struct("=" + "".join(_FORMATS[kind] for kind in types))


def slot_count(types: Sequence[ValueType]) -> int:
    """How many slots values of these types take."""
    return len(types) + types.count(ValueType.V128)


def is_plain(types: Sequence[ValueType]) -> bool:
    """Whether values of these types are what `slots_struct` packs and unpacks, as they are."""
    return not has_references(types) and ValueType.F32 not in types


def has_references(types: Sequence[ValueType]) -> bool:
    """Whether any of these types is a reference."""
    return any(kind in (ValueType.EXTERNREF, ValueType.FUNCREF) for kind in types)


def lower(kind: ValueType, value: Value, references: References, what: str) -> Value:
    """A value as `slots_struct` packs it. Integers may be signed or unsigned.

    Raises ArgumentError, naming `what`, when the value does not fit.
    """
    if kind in _BITS:
        bits = _BITS[kind]
        if isinstance(value, int) and -(1 << (bits - 1)) <= value < (1 << bits):
            return value - (1 << bits) if value >= (1 << (bits - 1)) else value
        raise ArgumentError(f"{what} must be an integer of {bits} bits, not {value!r}")
    if kind in (ValueType.F32, ValueType.F64):
        if not isinstance(value, (int, float)):
            raise ArgumentError(f"{what} must be a number, not {value!r}")
        try:
            return _single_bits(value) if kind is ValueType.F32 else float(value)
        except (OverflowError, struct.error):
            raise ArgumentError(f"{what} is too large for {kind!r}: {value!r}") from None
    if kind is ValueType.V128:
        if isinstance(value, bytes) and len(value) == _VECTOR_BYTES:
            return value
        raise ArgumentError(f"{what} must be {_VECTOR_BYTES} bytes, not {value!r}")
    return references.number(value) if kind is ValueType.EXTERNREF else _function_index(value, what)


def _single_bits(value: float) -> int:
    if value == value:  # noqa: PLR0124 - no NaN
        return int(_SINGLE_BITS.unpack(_SINGLE.pack(value))[0])
    (double,) = _DOUBLE_BITS.unpack(_DOUBLE.pack(value))
    payload = double >> 29 & 0x7FFFFF  # the lower bits of a double have no place in a single
    return int(double >> 63 << 31 | 0x7F800000 | (payload or _QUIET))


def _single(bits: int) -> float:
    (value,) = _SINGLE.unpack(_SINGLE_BITS.pack(bits))
    if value == value:  # noqa: PLR0124 - no NaN
        return float(value)
    return float(_DOUBLE.unpack(_DOUBLE_BITS.pack(bits >> 31 << 63 | 0x7FF << 52 | (bits & 0x7FFFFF) << 29))[0])


def _function_index(value: Value, what: str) -> int:
    if value is None:
        return _NULL_FUNCREF
    if isinstance(value, FuncRef):
        return value.index
    raise ArgumentError(f"{what} must be a FuncRef or None, not {value!r}")


def lift(kind: ValueType, value: Value, references: References) -> Value:
    """The Python value of an unpacked slot. A NaN keeps sign, kind and payload, as its double has them."""
    if kind is ValueType.F32:
        return _single(value)
    if kind is ValueType.EXTERNREF:
        return references.object(value)
    if kind is ValueType.FUNCREF:
        return None if value == _NULL_FUNCREF else FuncRef(value)
    return value


def packer(types: Sequence[ValueType], references: References) -> Callable[[Any, tuple[Value, ...]], None]:
    """The careful way to pack arguments: every value checked, with an error that names it."""
    layout = slots_struct(types)

    def pack(slots: Any, values: tuple[Value, ...]) -> None:
        if len(values) != len(types):
            raise ArgumentError(f"takes {len(types)} arguments, not {len(values)}")
        lowered = (
            lower(kind, value, references, f"argument {index}")
            for index, (kind, value) in enumerate(zip(types, values, strict=True))
        )
        layout.pack_into(slots, 0, *lowered)

    return pack
