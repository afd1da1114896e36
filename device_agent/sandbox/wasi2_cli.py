"""wasi:cli, wasi:clocks and wasi:random 0.2: arguments and environment of the manifest, the log as output."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from device_agent.sandbox.errors import ContractError, Exited
from device_agent.sandbox.wasi2_io import Closed, Input, InputStream, LogStream, Pollable, Resource
from device_agent.sandbox.wasi_descriptors import Output

__all__ = ["Environment", "Exit", "Insecure", "MonotonicClock", "Random", "Seed", "Standard", "Terminals", "WallClock", "hosts"]

RANDOM_LIMIT_BYTES = 1 << 20
_SECOND_NS = 1_000_000_000


class Environment:
    """wasi:cli/environment."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self._arguments, self._environment = arguments, environment

    def get_environment(self) -> list[tuple[str, str]]:
        """The manifest's."""
        return list(self._environment.items())

    def get_arguments(self) -> list[str]:
        """The module's name, then the manifest's."""
        return list(self._arguments)

    def initial_cwd(self) -> None:
        """There is none."""


class Exit:
    """wasi:cli/exit. Ends the call: a module of the contract has nothing to exit from."""

    def exit(self, status: tuple[int, None]) -> None:
        """Raises Exited: 0 for ok."""
        raise Exited(status[0], "exit")

    def exit_with_code(self, code: int) -> None:
        """Raises Exited."""
        raise Exited(code, "exit")


class Standard:
    """wasi:cli/stdin, stdout and stderr."""

    def __init__(self, output: Output, error: Output, read: Callable[[int], bytes] | None) -> None:
        self._output, self._error, self._read = output, error, read

    def get_stdin(self) -> InputStream:
        """Empty for modules; what a command is given."""
        return Closed() if self._read is None else Input(self._read)

    def get_stdout(self) -> LogStream:
        """Lines of the log, of level info."""
        return LogStream(self._output.write)

    def get_stderr(self) -> LogStream:
        """Lines of the log, of level warn."""
        return LogStream(self._error.write)


class Terminal(Resource):
    """There is nothing to do with one, but to have it."""

    resource = "terminal-output"


class Terminals:
    """wasi:cli/terminal-stdin, -stdout and -stderr: output is one, as it is by preview 1.

    C libraries write each line to a terminal at once. For anything else they gather lines until the program ends, and a reactor
    never does.
    """

    def get_terminal_stdin(self) -> None:
        """None."""

    def get_terminal_stdout(self) -> Terminal:
        """One."""
        return Terminal()

    get_terminal_stderr = get_terminal_stdout


class MonotonicClock:
    """wasi:clocks/monotonic-clock."""

    def now(self) -> int:
        """Nanoseconds since an arbitrary moment."""
        return time.monotonic_ns()

    def resolution(self) -> int:
        """In nanoseconds."""
        return int(time.clock_getres(time.CLOCK_MONOTONIC) * _SECOND_NS) or 1

    def subscribe_instant(self, when_ns: int) -> Pollable:
        """Ready at that time."""
        return Pollable(when_ns)

    def subscribe_duration(self, wait_ns: int) -> Pollable:
        """Ready after that time."""
        return Pollable(time.monotonic_ns() + wait_ns)


class WallClock:
    """wasi:clocks/wall-clock: seconds since 1970, and nanoseconds."""

    def now(self) -> tuple[int, int]:
        """As far as the board knows."""
        return divmod(time.time_ns(), _SECOND_NS)

    def resolution(self) -> tuple[int, int]:
        """Of the board's clock."""
        return 0, int(time.clock_getres(time.CLOCK_REALTIME) * _SECOND_NS) or 1


class Random:
    """wasi:random/random, of the kernel's own generator."""

    def get_random_bytes(self, size: int) -> bytes:
        """Raises ContractError for more than RANDOM_LIMIT_BYTES."""
        if size > RANDOM_LIMIT_BYTES:
            raise ContractError(f"the module asks for {size} random bytes at once, the limit is {RANDOM_LIMIT_BYTES}")
        return os.urandom(size)

    def get_random_u64(self) -> int:
        """Eight bytes."""
        return int.from_bytes(os.urandom(8), "little")


class Insecure(Random):
    """wasi:random/insecure: as good as the other."""

    get_insecure_random_bytes = Random.get_random_bytes
    get_insecure_random_u64 = Random.get_random_u64


class Seed(Random):
    """wasi:random/insecure-seed."""

    def insecure_seed(self) -> tuple[int, int]:
        """Two numbers."""
        return self.get_random_u64(), self.get_random_u64()


def hosts(
    output: Output,
    error: Output,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    read: Callable[[int], bytes] | None = None,
) -> dict[str, Any]:
    """What answers for each of these interfaces. `read`: standard input, by how much of it is wanted at most."""
    standard, terminals = Standard(output, error, read), Terminals()
    return {
        "wasi:cli/environment": Environment(arguments, environment),
        "wasi:cli/exit": Exit(),
        "wasi:cli/terminal-input": terminals,
        "wasi:cli/terminal-output": terminals,
        **{f"wasi:cli/{each}": standard for each in ("stdin", "stdout", "stderr")},
        **{f"wasi:cli/terminal-{each}": terminals for each in ("stdin", "stdout", "stderr")},
        "wasi:clocks/monotonic-clock": MonotonicClock(),
        "wasi:clocks/wall-clock": WallClock(),
        "wasi:random/random": Random(),
        "wasi:random/insecure": Insecure(),
        "wasi:random/insecure-seed": Seed(),
    }
