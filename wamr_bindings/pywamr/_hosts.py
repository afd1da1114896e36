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
        failed = self._failed
        if not kind.results:

            def procedure(*values: int) -> None:
                try:
                    result = function(*values)
                    if result is not None:
                        raise HostResultError(f"{name} returns nothing, but the host function returned {result!r}")
                except BaseException as error:
                    failed(error)

            return ctypes.CFUNCTYPE(None, *arity)(procedure)

        bits = 32 if kind.results[0] is ValueType.I32 else 64
        low, high = -(1 << (bits - 1)), (1 << bits) - 1

        def call(*values: int) -> int:
            try:
                result = function(*values)
                if type(result) is int and low <= result <= high:
                    return result
                raise HostResultError(f"{name} must return an integer of {bits} bits, not {result!r}")
            except BaseException as error:
                failed(error)
                return 0

        return ctypes.CFUNCTYPE(ctypes.c_int64, *arity)(call)

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
