"""Functions of WIT as functions of core WebAssembly: parameters and results flattened, or by pointer where they are too many."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from device_agent.sandbox.canonical import Guest, is_fallible, parse, parse_record
from device_agent.sandbox.errors import ContractError
from pywamr import FunctionType, ValueType

__all__ = ["Failure", "Signature"]

MAX_FLAT_PARAMS, MAX_FLAT_RESULTS = 16, 1
_I32 = ValueType.I32


class Failure(Exception):
    """A host function answers with the error of its result."""

    def __init__(self, payload: Any = None) -> None:
        super().__init__(payload)
        self.payload = payload


class Signature:
    """A function's parameters and result."""

    def __init__(self, text: str, types: Mapping[str, str]) -> None:
        """`text`: "u64, string -> bool"; `types`: those that it names."""
        params, _, result = text.partition("->")
        self.params = parse_record(params, types)
        self.result = parse(result, types)
        self._indirect_params = len(self.params.flat) > MAX_FLAT_PARAMS
        self._indirect_result = self.result is not None and len(self.result.flat) > MAX_FLAT_RESULTS

    @property
    def imported(self) -> FunctionType:
        """As a core module imports it."""
        params = (_I32,) if self._indirect_params else self.params.flat
        if self._indirect_result:
            return FunctionType((*params, _I32), ())
        return FunctionType(params, self.result.flat if self.result is not None else ())

    @property
    def exported(self) -> FunctionType:
        """As a core module exports it."""
        params = (_I32,) if self._indirect_params else self.params.flat
        return FunctionType(params, (_I32,) if self._indirect_result else self.result.flat if self.result is not None else ())

    def host(self, guest: Guest, call: Callable[..., Any]) -> Callable[..., Any]:
        """A host function of core values around one of Python's. Where its result is a `result`, Failure is the error."""
        result, indirect, fallible = self.result, self._indirect_result, is_fallible(self.result)

        def entered(*values: int) -> int | None:
            out = values[-1] & 0xFFFFFFFF if indirect else 0
            if indirect and result is not None and out % result.alignment:
                raise ContractError(f"a result at {out}, which is not aligned to {result.alignment}")
            given = self._given(guest, values)
            try:
                answer = call(*given)
                answer = (0, answer) if fallible else answer
            except Failure as failure:
                if not fallible:
                    raise
                answer = (1, failure.payload)
            if result is None:
                return None
            if not indirect:
                return result.lower(guest, answer)[0]
            result.store(guest, out, answer)
            return None

        return entered

    def _given(self, guest: Guest, values: Sequence[int]) -> Any:
        if not self._indirect_params:
            return self.params.lift(guest, iter(values))
        at = values[0] & 0xFFFFFFFF
        if at % self.params.alignment:
            raise ContractError(f"parameters at {at}, which is not aligned to {self.params.alignment}")
        return self.params.load(guest, at)
