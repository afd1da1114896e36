"""A running module."""

import ctypes
import struct
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pywamr import _abi
from pywamr._live import Live
from pywamr._owned import Owned
from pywamr._values import Value, has_references, is_plain, lift, lower, packer, slot_count, slots_struct
from pywamr.errors import ArgumentError, BusyError, ClosedError, NotExportedError, UnsupportedError
from pywamr.memory import Memory
from pywamr.types import FunctionType, GlobalType, Import, ValueType

if TYPE_CHECKING:
    from pywamr.module import Module

_SLOT_BYTES = 8
_NAMED = 8  # exports in a message
_ROWS_AT_ONCE = 1024  # of calls that may add externrefs


class Instance(Owned):
    """A module with state of its own. Made by `Module.instantiate`; used by one thread at a time, except `terminate`."""

    def __init__(
        self,
        module: "Module",
        handle: int,
        bound: tuple[tuple[Import, Callable[..., Value]], ...],
        stack_bytes: int,
        max_pages: int,
        fuel: int | None,
    ) -> None:
        self._library = _abi.library()
        self._exports = {export.name: export.type for export in module.exports}
        self._functions: dict[str, Function] = {}
        types = [each.type for each in module.imports] + [each.type for each in module.exports]
        refers = any(isinstance(kind, FunctionType) and ValueType.EXTERNREF in kind.params + kind.results for kind in types)
        self._function: type[Function] = ReferringFunction if refers else Function
        self.live = live = Live(module)
        self._references = live.references
        self.memory = Memory(live)
        error, ended, table = _abi.error_buffer(), ctypes.c_void_p(), live.hosts.table(bound)
        status = self._library.pw_instance_open(
            handle, table, len(bound), stack_bytes, max_pages, _fuel(fuel), live.raw, ended, error, len(error)
        )
        if status != _abi.OK:
            live.raw.value = None
            if status == _abi.CLOSED:
                raise ClosedError("the module is closed")
            if status in (_abi.TRAP, _abi.HOST_ERROR, _abi.TERMINATED):
                live.raise_status(status, ended.value)
            live.refuse(status, _abi.text(error.value))

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self.live.closed

    def function(self, name: str) -> "Function":
        """An exported function, ready to be called many times. Raises NotExportedError."""
        known = self._functions.get(name)
        if known is None:
            kind = self._exports.get(name)
            if not isinstance(kind, FunctionType):
                raise self._lacks("function", FunctionType, name)
            handle = ctypes.c_void_p()
            if self.live.usable(self._library.pw_instance_function(self.live.handle(), _abi.name(name), handle)) != _abi.OK:
                raise NotExportedError(f"the function {name!r} can't be called")
            assert handle.value is not None
            known = self._functions[name] = self._function(self.live, name, kind, handle.value)
        return known

    def call(self, name: str, *values: Value) -> Value:
        """Calls an exported function; see `Function.__call__`."""
        return self.function(name)(*values)

    def get_global(self, name: str) -> Value:
        """The value of an exported global. Raises NotExportedError, UnsupportedError for an externref."""
        kind, slots = self._global(name), _slots(2)
        status = self._library.pw_global_get(self.live.handle(), _abi.name(name), slots)
        if self.live.usable(status) != _abi.OK:
            raise UnsupportedError(f"a global of type {kind.value!r} can't be read from outside: {name!r}")
        (raw,) = slots_struct([kind.value]).unpack_from(slots)
        return lift(kind.value, raw, self._references)

    def set_global(self, name: str, value: Value) -> None:
        """Sets an exported global. Raises NotExportedError, ArgumentError, UnsupportedError for an immutable or reference one."""
        kind = self._global(name)
        if has_references((kind.value,)):
            raise UnsupportedError(f"a global of type {kind.value!r} can't be written from outside: {name!r}")
        lowered = lower(kind.value, value, self._references, f"the global {name!r}")
        slots = _slots(2)
        slots_struct([kind.value]).pack_into(slots, 0, lowered)
        if self.live.usable(self._library.pw_global_set(self.live.handle(), _abi.name(name), slots)) != _abi.OK:
            raise UnsupportedError(f"the global {name!r} can't be written from outside")

    def limit_fuel(self, fuel: int | None) -> None:
        """How many branches and calls may be interpreted from now on, by however many calls from outside; one more is a Trap,
        OUT_OF_FUEL, until there is new fuel. None: no limit. Ahead-of-time code does not count.

        Raises ValueError outside 1 to 2³¹-1, BusyError while the instance runs on another thread.
        """
        self.live.usable(self._library.pw_instance_fuel_set(self.live.handle(), _fuel(fuel)))

    def terminate(self) -> None:
        """From any thread: ends the call in progress, which raises TerminatedError; the instance can then only be closed.

        Works on interpreted code only: WAMR does not check for it in ahead-of-time code.
        """
        self._library.pw_instance_terminate(self.live.handle())

    def terminate_on(self, signal_number: int) -> None:
        """Until the instance is closed this signal does what `terminate` does, in the middle of a call too, and then what a handler
        that it had does. So SIGINT ends a guest that computes: KeyboardInterrupt follows, or TerminatedError if Python was just
        entering a host function.

        Raises BusyError when another instance of this process has one, ValueError for a signal that can't be handled.
        """
        status = self._library.pw_instance_terminate_on(self.live.handle(), signal_number)
        if status == _abi.BUSY:
            raise BusyError("another instance of this process is ended by a signal")
        if status == _abi.BAD_ARGUMENT:
            raise ValueError(f"signal {signal_number} can't be handled")
        if status:
            self.live.refuse(status, "")

    def close(self) -> None:
        """Ends the instance, as is done when nothing refers to it, its functions or its memory any more.

        Again: no effect. Raises BusyError while it runs.
        """
        self.live.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _lacks(self, what: str, kind: type, name: str) -> NotExportedError:
        names = [each for each, of in self._exports.items() if isinstance(of, kind)]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        return NotExportedError(f"the module exports no {what} {name!r}; it exports {', '.join(names[:_NAMED]) or 'none'}{more}")

    def _global(self, name: str) -> GlobalType:
        kind = self._exports.get(name)
        if not isinstance(kind, GlobalType):
            raise self._lacks("global", GlobalType, name)
        return kind


class Function(Owned):
    """An exported function of one instance; `type` says what it takes and returns."""

    __slots__ = (
        "_call",
        "_free",
        "_handle",
        "_lift_results",
        "_live",
        "_pack",
        "_pack_checked",
        "_unpack",
        "name",
        "type",
    )

    def __init__(self, live: Live, name: str, kind: FunctionType, handle: int) -> None:
        self.name = name
        self.type = kind
        self._live = live
        self._handle = handle
        self._free: list[tuple[Any, int]] = []  # buffers of slots; each call has one of its own
        self._call = _abi.library().pw_function_call
        self._pack_checked = packer(kind.params, live.references)
        plain = is_plain(kind.params) and ValueType.V128 not in kind.params
        self._pack: Callable[..., None] = slots_struct(kind.params).pack_into if plain else _never
        self._unpack = slots_struct(kind.results).unpack_from
        self._lift_results = len(kind.results) > 1 or not is_plain(kind.results)

    def __repr__(self) -> str:
        return f"<Function {self.name} {self.type}>"

    def __call__(self, *values: Value) -> Value:
        """Calls the function: None, a value, or a tuple where it returns several.

        Raises ArgumentError for a value that does not fit, Trap, TerminatedError, BusyError, ClosedError, and whatever a host
        function raised meanwhile.
        """
        try:
            slots, address = taken = self._free.pop()
        except IndexError:
            slots, address = taken = self.make_slots()
        try:
            self._pack(slots, 0, *values)
        except (struct.error, OverflowError):  # references, unsigned integers, or a mistake: the careful way tells
            self._pack_carefully(slots, values)
        status = self._call(self._handle, address)
        if status:
            self._live.raise_status(status, ctypes.c_void_p.from_buffer(slots).value)
        results = self._unpack(slots)
        self._free.append(taken)
        if self._lift_results:
            return self._lift(results)
        return results[0] if results else None

    def make_slots(self) -> tuple[Any, int]:
        """A buffer for one call and its address; for this package's own use."""
        slots = _slots(self.width)
        return slots, ctypes.addressof(slots)

    @property
    def width(self) -> int:
        """How many slots a row of `call_each` has: the larger of those of parameters and results, at least 1."""
        return max(slot_count(self.type.params), slot_count(self.type.results), 1)

    def call_each(self, rows: memoryview) -> None:
        """Calls the function once a row, all in one crossing of the boundary, and leaves the results where the arguments were.

        `rows` is a writable contiguous view of 8-byte slots, `width` of them a row, such as `memoryview(array("q", …))`: an i32 or
        i64 as a signed number (an i32's upper half is ignored), an f64 as its bits, an f32 as its bits in the lower half, a v128
        as two slots. Results come back likewise. Raises ArgumentError for another shape or for references, and otherwise what
        `__call__` raises; rows before the one that failed then hold results.
        """
        if has_references(self.type.params) or has_references(self.type.results):
            raise ArgumentError(f"{self.name}: references can't be called in rows")
        if rows.readonly or not rows.contiguous or rows.itemsize != _SLOT_BYTES or rows.nbytes % (_SLOT_BYTES * self.width):
            raise ArgumentError(f"{self.name}: rows must be writable, of {self.width} slots of 8 bytes each")
        if not rows.nbytes:
            return
        count, done, ended = rows.nbytes // (_SLOT_BYTES * self.width), ctypes.c_uint32(), ctypes.c_void_p()
        slots = (ctypes.c_char * rows.nbytes).from_buffer(rows)
        status = _abi.library().pw_function_call_each(self._handle, slots, count, done, ended)
        if status:
            self._live.raise_status(status, ended.value)

    def _pack_carefully(self, slots: Any, values: tuple[Any, ...]) -> None:
        try:
            self._pack_checked(slots, values)
        except ArgumentError as error:
            raise ArgumentError(f"{self.name}: {error}") from None

    def _lift(self, raw: tuple[Any, ...]) -> Value:
        references = self._live.references
        values = tuple(lift(kind, value, references) for kind, value in zip(self.type.results, raw, strict=True))
        return values[0] if len(values) == 1 else values


class ReferringFunction(Function):
    """One of an instance that has to do with externrefs: those that guest code has no more are let go of after each call."""

    __slots__ = ()

    def __call__(self, *values: Value) -> Value:
        """See Function."""
        with self._live.referring():
            return super().__call__(*values)

    def call_each(self, rows: memoryview) -> None:
        """See Function."""
        whole = rows.ndim == 1 and len(rows) % self.width == 0
        step = _ROWS_AT_ONCE * self.width if whole else max(len(rows), 1)
        for start in range(0, max(len(rows), 1), step):
            with self._live.referring():
                super().call_each(rows[start : start + step])


def _fuel(fuel: int | None) -> int:
    if fuel is not None and not 0 < fuel < 1 << 31:
        raise ValueError(f"fuel must be between 1 and 2147483647, not {fuel}")
    return -1 if fuel is None else fuel


def _slots(count: int) -> "ctypes.Array[ctypes.c_char]":
    return ctypes.create_string_buffer(_SLOT_BYTES * count)


def _never(*_: Any) -> None:
    raise struct.error
