"""Host functions: Python callables that guest code may call.

The shim calls them itself. What one raises, or returns and should not, is kept, the guest's call is ended, and the exception
comes out of the call into the guest, outside.
"""

import ctypes
import reprlib
from collections.abc import Callable, Sequence
from typing import Any

from pywamr import _abi
from pywamr._values import References, Value, lift, lower, slots_struct
from pywamr.errors import ArgumentError, HostResultError
from pywamr.types import FunctionType, Import, ValueType

_INTEGERS = (ValueType.I32, ValueType.I64)


class HostCalls:
    """The host functions of one instance, kept alive for it."""

    def __init__(self, references: References) -> None:
        self._references = references
        self._imports: list[Import] = []
        self._alive: list[Callable[..., Any]] = []

    def table(self, bound: Sequence[tuple[Import, Callable[..., Value]]]) -> "ctypes.Array[_abi.HostFunction]":
        """One entry a function import, in order."""
        table = (_abi.HostFunction * max(len(bound), 1))()
        for entry, (wanted, function) in zip(table, bound, strict=False):
            assert isinstance(wanted.type, FunctionType)
            kinds = wanted.type.params + wanted.type.results
            if all(kind in _INTEGERS for kind in kinds) and len(wanted.type.params) <= _abi.DIRECT_PARAMS:
                called = function
                entry.values = id(called)
            else:
                called = self._slots(function, wanted.type, _name(wanted))
                entry.slots = id(called)
            self._imports.append(wanted)
            self._alive.append(called)
        return table

    def failure(self, ended: int) -> BaseException:
        """How a host function ended a call."""
        index, raised = ctypes.c_uint32(), ctypes.c_uint32()
        found = _abi.library().pw_ended_failure(ended, index, raised)
        if raised.value:
            assert isinstance(found, BaseException)
            return found
        wanted = self._imports[index.value]
        assert isinstance(wanted.type, FunctionType)
        if not wanted.type.results:
            return HostResultError(f"{_name(wanted)} returns nothing, but the host function returned {_shown(found)}")
        bits = 32 if wanted.type.results[0] is ValueType.I32 else 64
        return HostResultError(f"{_name(wanted)} must return an integer of {bits} bits, not {_shown(found)}")

    def _slots(self, function: Callable[..., Value], kind: FunctionType, name: str) -> Callable[[int], None]:
        params, results = slots_struct(kind.params), slots_struct(kind.results)
        references = self._references

        def call(address: int) -> None:
            raw = params.unpack(ctypes.string_at(address, params.size))
            values = (lift(each, value, references) for each, value in zip(kind.params, raw, strict=True))
            result = function(*values)
            if not kind.results:
                if result is not None:
                    raise HostResultError(f"{name} returns nothing, but the host function returned {result!r}")
                return
            try:
                lowered = lower(kind.results[0], result, references, f"the result of {name}")
            except ArgumentError as error:
                raise HostResultError(str(error)) from None
            ctypes.memmove(address, results.pack(lowered), results.size)

        return call


def _shown(thing: Any) -> str:
    try:
        return reprlib.repr(thing)
    except Exception:  # a number of very many digits, or whatever a host function thought up
        return f"an object of type {type(thing).__name__}"


def _name(wanted: Import) -> str:
    return f"{wanted.module}.{wanted.name}"
