"""The types of WebAssembly core 2.0, as frozen data."""

from dataclasses import dataclass
from enum import Enum


class ValueType(Enum):
    """A value type; the value is the letter that the shim uses (native/core/wamr_core.h, pw_extern)."""

    I32 = "i"
    I64 = "I"
    F32 = "f"
    F64 = "F"
    V128 = "v"
    EXTERNREF = "e"
    FUNCREF = "r"

    def __repr__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class FunctionType:
    """Parameters and results of a function."""

    params: tuple[ValueType, ...]
    results: tuple[ValueType, ...]

    def __str__(self) -> str:
        return f"({', '.join(map(repr, self.params))}) -> ({', '.join(map(repr, self.results))})"


@dataclass(frozen=True)
class MemoryType:
    """A memory's limits, in pages of 64 KiB."""

    minimum_pages: int
    maximum_pages: int


@dataclass(frozen=True)
class TableType:
    """A table's limits, in elements."""

    minimum: int
    maximum: int


@dataclass(frozen=True)
class GlobalType:
    """A global's value type, and whether it can be written."""

    value: ValueType
    mutable: bool


ExternType = FunctionType | MemoryType | TableType | GlobalType


@dataclass(frozen=True)
class Import:
    """Something that a module needs, named by two levels."""

    module: str
    name: str
    type: ExternType


@dataclass(frozen=True)
class Export:
    """Something that a module offers."""

    name: str
    type: ExternType


@dataclass(frozen=True)
class FuncRef:
    """A reference to a function of one instance: opaque, to be handed back to the same instance."""

    index: int
