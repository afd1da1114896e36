"""Host functions: Python callables that guest code may call.

A ctypes callback must not raise: what a host function raises is kept, the guest's call is ended, and the exception comes out
of the call into the guest, outside.
"""

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

from pywamr import _abi
from pywamr._values import References, Value, lift, lower, slots_struct
from pywamr.errors import ArgumentError, HostResultError
from pywamr.types import FunctionType, Import, ValueType

_INTEGERS = (ValueType.I32, ValueType.I64)
_SLOTS = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class HostCalls:
    """The callbacks of one instance; owns them, and the exception of the last host function that raised."""

    def __init__(self, references: References, handle: ctypes.c_void_p) -> None:
        self.pending: BaseException | None = None
        self._references = references
        self._handle = handle
        self._fail = _abi.library().pw_instance_fail
        self._alive: list[Any] = []

    def table(self, bound: Sequence[tuple[Import, Callable[..., Value]]]) -> "ctypes.Array[_abi.HostFunction]":
        """One entry a function import, in order."""
        table = (_abi.HostFunction * max(len(bound), 1))()
        for entry, (wanted, function) in zip(table, bound, strict=False):
            assert isinstance(wanted.type, FunctionType)
            kinds = wanted.type.params + wanted.type.results
            name = f"{wanted.module}.{wanted.name}"
            if all(kind in _INTEGERS for kind in kinds) and len(wanted.type.params) <= _abi.DIRECT_PARAMS:
                callback = self._direct(function, wanted.type, name)
                entry.direct = ctypes.cast(callback, ctypes.c_void_p).value
            else:
                callback = self._slots(function, wanted.type, name)
                entry.slots = ctypes.cast(callback, ctypes.c_void_p).value
            self._alive.append(callback)
        return table

    def take_pending(self) -> BaseException:
        """The exception that ended the call; forgotten here."""
        pending, self.pending = self.pending, None
        assert pending is not None
        return pending

    def _failed(self, error: BaseException) -> None:
        self.pending = error
        self._fail(self._handle)

    def _direct(self, function: Callable[..., Value], kind: FunctionType, name: str) -> Any:
        arity = (ctypes.c_int64,) * len(kind.params)
        if not kind.results:
            return ctypes.CFUNCTYPE(None, *arity)(_procedure(function, name, self._failed))
        make = _MAKERS.get(len(kind.params), _integer)
        return ctypes.CFUNCTYPE(ctypes.c_int64, *arity)(make(function, name, kind.results[0], self._failed))

    def _slots(self, function: Callable[..., Value], kind: FunctionType, name: str) -> Any:
        params, results = slots_struct(kind.params), slots_struct(kind.results)
        references, failed = self._references, self._failed

        def call(address: int) -> None:
            try:
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
            except BaseException as error:
                failed(error)

        return _SLOTS(call)


def _range(kind: ValueType) -> tuple[int, int]:
    bits = 32 if kind is ValueType.I32 else 64
    return -(1 << (bits - 1)), (1 << bits) - 1


def _wrong(name: str, kind: ValueType, result: Any) -> HostResultError:
    return HostResultError(f"{name} must return an integer of {32 if kind is ValueType.I32 else 64} bits, not {result!r}")


def _procedure(function: Callable[..., Value], name: str, failed: Callable[[BaseException], None]) -> Callable[..., None]:
    def call(*values: int) -> None:
        try:
            result = function(*values)
            if result is not None:
                raise HostResultError(f"{name} returns nothing, but the host function returned {result!r}")
        except BaseException as error:
            failed(error)

    return call


def _integer(
    function: Callable[..., Value], name: str, kind: ValueType, failed: Callable[[BaseException], None]
) -> Callable[..., int]:
    low, high = _range(kind)

    def call(*values: int) -> int:
        try:
            result = function(*values)
            if type(result) is int and low <= result <= high:
                return result
            raise _wrong(name, kind, result)
        except BaseException as error:
            failed(error)
            return 0

    return call


def _integer_of_one(
    function: Callable[..., Value], name: str, kind: ValueType, failed: Callable[[BaseException], None]
) -> Callable[..., int]:
    """`_integer` for one parameter: a third of the cost of a callback is a tuple of arguments."""
    low, high = _range(kind)

    def call(a: int) -> int:
        try:
            result = function(a)
            if type(result) is int and low <= result <= high:
                return result
            raise _wrong(name, kind, result)
        except BaseException as error:
            failed(error)
            return 0

    return call


def _integer_of_two(
    function: Callable[..., Value], name: str, kind: ValueType, failed: Callable[[BaseException], None]
) -> Callable[..., int]:
    """`_integer` for two parameters."""
    low, high = _range(kind)

    def call(a: int, b: int) -> int:
        try:
            result = function(a, b)
            if type(result) is int and low <= result <= high:
                return result
            raise _wrong(name, kind, result)
        except BaseException as error:
            failed(error)
            return 0

    return call


_MAKERS = {1: _integer_of_one, 2: _integer_of_two}
