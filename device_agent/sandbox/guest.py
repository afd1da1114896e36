"""A module as the canonical ABI sees it: its memory, its allocator and the table of its handles."""

from collections.abc import Callable
from typing import Any

from device_agent.sandbox.errors import ContractError
from device_agent.sandbox.signatures import Signature

__all__ = ["HANDLES_LIMIT", "ModuleGuest"]

HANDLES_LIMIT = 1024
LIFT_LIMIT_BYTES = 4 << 20  # of all that one call hands over


class ModuleGuest:
    """One instance. Resources are objects with the name of their type as `resource`, and `close` for when they are dropped."""

    def __init__(
        self,
        read: Callable[[int, int], bytes],
        write: Callable[[int, bytes], None],
        reallocate: Callable[[int, int], int],
    ) -> None:
        """`read` and `write` raise ContractError for a bad pointer; `reallocate` takes alignment and size."""
        self.read, self.write = read, write
        self._reallocate = reallocate
        self._things: dict[int, Any] = {}
        self._free: list[int] = []
        self._left = 0
        self._is_allocating = False

    def allocate(self, alignment: int, size: int) -> int:
        """Raises ContractError for what the allocator may not do: answer with a place that is not aligned, call us."""
        self._is_allocating = True
        try:
            at = self._reallocate(alignment, size) & 0xFFFFFFFF
        finally:
            self._is_allocating = False
        if at % alignment:
            raise ContractError(f"the module's allocator returned {at}, which is not aligned to {alignment}")
        return at

    def take(self, size: int) -> None:
        """Raises ContractError when a call hands over more than LIFT_LIMIT_BYTES."""
        self._left -= size
        if self._left < 0:
            raise ContractError(f"a call hands over more than {LIFT_LIMIT_BYTES} bytes")

    def handle_of(self, thing: Any) -> int:
        """Raises ContractError for one too many."""
        if len(self._things) >= HANDLES_LIMIT:
            raise ContractError(f"the module holds {HANDLES_LIMIT} resources, which is the limit: it must drop some")
        handle = self._free.pop() if self._free else len(self._things) + 1
        self._things[handle] = thing
        return handle

    def thing_of(self, handle: int, resource: str, *, owned: bool) -> Any:
        """Raises ContractError for a handle that is not there, or is another resource's."""
        thing = self._things.get(handle)
        if thing is None:
            raise ContractError(f"the module has no handle {handle}")
        if thing.resource != resource:
            raise ContractError(f"handle {handle} is of {thing.resource}, not of {resource}")
        if owned:
            del self._things[handle]
            self._free.append(handle)
        return thing

    def host(self, signature: Signature, call: Callable[..., Any]) -> Callable[..., Any]:
        """A host function for this module: what comes with a call is limited, and its allocator may call none."""
        inner = signature.host(self, call)

        def entered(*values: int) -> Any:
            if self._is_allocating:
                raise ContractError("the module's allocator calls a capability: only its exports may")
            self._left = LIFT_LIMIT_BYTES
            return inner(*values)

        return entered

    def dropper(self, resource: str) -> Callable[[int], None]:
        """The host function that drops a handle."""

        def drop(handle: int) -> None:
            self.thing_of(handle & 0xFFFFFFFF, resource, owned=True).close()

        return drop
