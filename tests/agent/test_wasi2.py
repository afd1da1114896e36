"""WASI 0.2 by canonical names: environment, exit, streams, clocks, random, poll; and guests that break its rules."""

import time

import pytest

from device_agent.sandbox import guest as guests
from device_agent.sandbox import wasi2_cli, wasi2_io
from device_agent.sandbox.errors import ContractError, Exited
from device_agent.sandbox.interfaces import method_name
from ota.formats.interfaces import INTERFACES
from ota.formats.module import ModuleDescription
from ota.formats.reasons import Reason, Refused
from tests.support.component_guest import AREA, Guest

ENVIRONMENT, EXIT = "wasi:cli/environment@0.2.0", "wasi:cli/exit@0.2.3"
STREAMS, POLL, MONOTONIC = "wasi:io/streams@0.2.0", "wasi:io/poll@0.2.9", "wasi:clocks/monotonic-clock@0.2.6"
WALL, RANDOM = "wasi:clocks/wall-clock@0.2.0", "wasi:random/random@0.2.4"
STDOUT = ("wasi:cli/stdout@0.2.0", "get-stdout")
WRITE, BLOCKING = (STREAMS, "[method]output-stream.write"), (STREAMS, "[method]output-stream.blocking-write-and-flush")
READ, DROP_OUTPUT = (STREAMS, "[method]input-stream.read"), (STREAMS, "[resource-drop]output-stream")
AFTER, BLOCK, READY = (MONOTONIC, "subscribe-duration"), (POLL, "[method]pollable.block"), (POLL, "[method]pollable.ready")
POLL_MANY, DROP_POLLABLE = (POLL, "poll"), (POLL, "[resource-drop]pollable")


def test_every_function_of_the_table_is_there():
    """And nothing else is called by a name of the table."""
    description = ModuleDescription("m", "1", Guest([]).host._capabilities)
    hosts = Guest([]).host._new_interfaces(description)
    for interface in (each for each in INTERFACES if each.capability == "wasi"):
        missing = [name for name in interface.functions if not callable(getattr(hosts[interface.name], method_name(name), None))]
        assert (interface.name, missing) == (interface.name, [])


def test_arguments_and_environment_are_the_manifests():
    functions = [(ENVIRONMENT, each) for each in ("get-arguments", "get-environment", "initial-cwd")]
    guest = Guest(functions, arguments=("--fast",), environment={"TZ": "UTC", "ÄÖ": ""})
    guest.call(ENVIRONMENT, "get-arguments")
    at, count = guest.unpack("<II")
    assert [guest.bytes_of(at + 8 * each) for each in range(count)] == [b"guest", b"--fast"]
    guest.call(ENVIRONMENT, "get-environment")
    at, count = guest.unpack("<II")
    assert [guest.bytes_of(at + 8 * each) for each in range(2 * count)] == [b"TZ", b"UTC", "ÄÖ".encode(), b""]
    guest.memory.write(AREA, b"\7")
    guest.call(ENVIRONMENT, "initial-cwd")
    assert guest.unpack("<B") == (0,)


@pytest.mark.parametrize(("values", "code"), [(("exit", 0), 0), (("exit", 1), 1), (("exit-with-code", 0x107), 7)])
def test_exit_ends_the_call(values, code):
    guest = Guest([(EXIT, values[0])])
    with pytest.raises(Exited, match=rf"the module called exit\({code}\)"):
        guest.call(EXIT, *values)


def test_output_is_lines_of_the_log():
    stderr = ("wasi:cli/stderr@0.2.0", "get-stderr")
    guest = Guest([STDOUT, stderr, WRITE, BLOCKING, (STREAMS, "[method]output-stream.check-write"), DROP_OUTPUT])
    out, error = guest.call(*STDOUT), guest.call(*stderr)
    guest.call(STREAMS, "[method]output-stream.check-write", out)
    assert guest.unpack("<B7xQ") == (0, wasi2_io.PERMIT_BYTES)
    guest.call(*WRITE, out, b"one\ntw")
    guest.call(*BLOCKING, error, b"oh\n")
    guest.call(*WRITE, out, b"o\nthree")
    assert guest.unpack("<B") == (0,)
    assert guest.lines() == [("info", "one"), ("warn", "oh"), ("info", "two"), ("info", "three")]
    guest.call(*DROP_OUTPUT, out)


def test_input_is_empty():
    stdin, ready = ("wasi:cli/stdin@0.2.0", "get-stdin"), (STREAMS, "[method]input-stream.subscribe")
    guest = Guest([stdin, READ, ready, READY])
    handle = guest.call(*stdin)
    guest.call(*READ, handle, 10)
    assert guest.unpack("<B3xB") == (1, 1)  # error, closed
    assert guest.call(*READY, guest.call(*ready, handle)) == 1


@pytest.mark.parametrize(("stream", "is_terminal"), [("stdin", 0), ("stdout", 1), ("stderr", 1)])
def test_only_output_is_a_terminal(stream, is_terminal):
    """So that a C library writes each line at once: a reactor has no end at which the others would come."""
    where = (f"wasi:cli/terminal-{stream}@0.2.0", f"get-terminal-{stream}")
    drop = ("wasi:cli/terminal-output@0.2.0", "[resource-drop]terminal-output")
    guest = Guest([where, drop])
    guest.memory.write(AREA, b"\7")
    guest.call(*where)
    found, handle = guest.unpack("<B3xI")
    assert found == is_terminal
    if found:
        guest.call(*drop, handle)
        with pytest.raises(ContractError):
            guest.call(*drop, handle)


def test_clocks_and_random():
    insecure, seed = "wasi:random/insecure@0.2.0", ("wasi:random/insecure-seed@0.2.0", "insecure-seed")
    guest = Guest([
        (MONOTONIC, "now"), (MONOTONIC, "resolution"), (WALL, "now"), (WALL, "resolution"), (RANDOM, "get-random-bytes"),
        (RANDOM, "get-random-u64"), (insecure, "get-insecure-random-bytes"), (insecure, "get-insecure-random-u64"), seed,
    ])  # fmt: skip
    before, now = time.monotonic_ns(), guest.call(MONOTONIC, "now")
    assert before <= now <= time.monotonic_ns()
    assert guest.call(MONOTONIC, "resolution") > 0
    guest.call(WALL, "now")
    seconds, nanoseconds = guest.unpack("<QI")
    assert seconds > 1_600_000_000
    assert nanoseconds < 10**9
    for module, name in ((RANDOM, "get-random-bytes"), (insecure, "get-insecure-random-bytes")):
        guest.call(module, name, 32)
        assert len(guest.bytes_of()) == 32
        assert guest.bytes_of() != bytes(32)
    assert guest.call(RANDOM, "get-random-u64") != guest.call(insecure, "get-insecure-random-u64")
    guest.call(*seed)
    assert guest.unpack("<QQ") != (0, 0)


def test_poll_waits_for_the_first_and_names_those_that_are_ready(monkeypatch):
    now, slept = [10**9], []

    def sleep(seconds):
        slept.append(seconds)
        now[0] += int(seconds * 1e9)

    monkeypatch.setattr(time, "monotonic_ns", lambda: now[0])
    monkeypatch.setattr(time, "sleep", sleep)
    guest = Guest([AFTER, BLOCK, READY, POLL_MANY, DROP_POLLABLE, (MONOTONIC, "subscribe-instant")])
    late, soon, also = (guest.call(*AFTER, ms * 10**6) for ms in (5000, 2000, 1000))
    assert [guest.call(*READY, each) for each in (late, soon, also)] == [0, 0, 0]
    at, _ = guest.text(b"".join(each.to_bytes(4, "little") for each in (late, soon, also, also)))
    guest.call(*POLL_MANY, at, 4)
    place, count = guest.unpack("<II")
    assert guest.unpack(f"<{count}I", place) == (2, 3)
    guest.call(*BLOCK, soon)
    guest.call(*BLOCK, guest.call(MONOTONIC, "subscribe-instant", 5))
    assert slept == [1.0, 1.0]
    for each in (late, soon, also):
        guest.call(*DROP_POLLABLE, each)


def test_both_ways_of_writing_names_and_several_versions_stand_side_by_side():
    now = ("cm32p2|wasi:clocks/monotonic-clock@0.2", "subscribe-duration")
    drop = ("cm32p2|wasi:io/poll@0.2", "pollable_drop")
    guest = Guest([now, drop], canonical=True)
    handle = guest.call(*now, 0)
    guest.call(*drop, handle)
    with pytest.raises(ContractError, match="no handle"):
        guest.call(*drop, handle)
    both = [(f"wasi:cli/stdout@0.2.{patch}", "get-stdout") for patch in (0, 9, 12)]
    guest = Guest([*both, WRITE])
    for each in both:
        guest.call(*WRITE, guest.call(*each), each[0])
    assert guest.lines() == [("info", "".join(each for each, _ in both))]


# -- hostile guests


def test_a_handle_is_not_used_after_it_was_dropped():
    guest = Guest([STDOUT, WRITE, DROP_OUTPUT])
    handle = guest.call(*STDOUT)
    guest.call(*DROP_OUTPUT, handle)
    for call in (WRITE, DROP_OUTPUT):
        with pytest.raises(ContractError, match=f"the module has no handle {handle}"):
            guest.call(*call, handle, *([b"x"] if call is WRITE else []))


@pytest.mark.parametrize("handle", [0, 2, -1, 1 << 31])
def test_a_handle_that_was_never_given_is_refused(handle):
    guest = Guest([STDOUT, WRITE])
    assert guest.call(*STDOUT) == 1
    with pytest.raises(ContractError, match="the module has no handle"):
        guest.call(*WRITE, handle, b"x")


def test_a_handle_of_another_resource_is_refused():
    guest = Guest([STDOUT, READ, DROP_POLLABLE])
    handle = guest.call(*STDOUT)
    with pytest.raises(ContractError, match=f"handle {handle} is of output-stream, not of input-stream"):
        guest.call(*READ, handle, 1)
    with pytest.raises(ContractError, match="not of pollable"):
        guest.call(*DROP_POLLABLE, handle)


def test_a_hundred_thousand_streams_are_refused():
    guest = Guest([STDOUT, DROP_OUTPUT])
    for _ in range(3 * guests.HANDLES_LIMIT):
        guest.call(*DROP_OUTPUT, guest.call(*STDOUT))
    with pytest.raises(ContractError, match=f"the module holds {guests.HANDLES_LIMIT} resources"):
        for _ in range(100_000):
            guest.call(*STDOUT)


@pytest.mark.parametrize(("at", "size"), [(0, 0xFFFFFFFF), (131_071, 2), (0xFFFFFFFF, 1), (131_073, 0)])
def test_bytes_outside_the_memory_are_refused(at, size):
    guest = Guest([STDOUT, WRITE])
    with pytest.raises(ContractError, match=r"memory|hands over more than"):
        guest.call(*WRITE, guest.call(*STDOUT), at, size)


@pytest.mark.parametrize(("at", "count"), [(0, 0xFFFFFFFF), (131_068, 2), (2, 1), (0xFFFFFFFC, 1)])
def test_a_list_of_handles_outside_the_memory_is_refused(at, count):
    guest = Guest([AFTER, POLL_MANY])
    guest.call(*AFTER, 0)
    with pytest.raises(ContractError, match=r"memory|hands over more than|not aligned|no handle"):
        guest.call(*POLL_MANY, at, count)


@pytest.mark.parametrize("out", [131_072, 131_065, 0xFFFFFFF8, AREA + 1])
def test_a_result_outside_the_memory_or_not_aligned_is_refused(out):
    guest = Guest([(WALL, "now")])
    with pytest.raises(ContractError, match=r"memory|not aligned"):
        guest.call(WALL, "now", out)


def test_polling_nothing_is_refused():
    guest = Guest([POLL_MANY])
    with pytest.raises(ContractError, match="the module polls nothing"):
        guest.call(*POLL_MANY, 0, 0)


@pytest.mark.parametrize(("call", "limit"), [(WRITE, wasi2_io.PERMIT_BYTES), (BLOCKING, wasi2_io.BLOCKING_BYTES)])
def test_a_stream_takes_no_more_than_it_permits(call, limit):
    guest = Guest([STDOUT, call])
    handle = guest.call(*STDOUT)
    guest.call(*call, handle, 0, limit)
    with pytest.raises(ContractError, match=f"it may write {limit}"):
        guest.call(*call, handle, 0, limit + 1)


def test_zeroes_and_random_bytes_have_a_limit():
    zeroes = (STREAMS, "[method]output-stream.write-zeroes")
    guest = Guest([STDOUT, zeroes, (RANDOM, "get-random-bytes")])
    for size in (-1, 1 << 40):
        with pytest.raises(ContractError, match="bytes to a stream at once"):
            guest.call(*zeroes, guest.call(*STDOUT), size)
        with pytest.raises(ContractError, match=f"the limit is {wasi2_cli.RANDOM_LIMIT_BYTES}"):
            guest.call(RANDOM, "get-random-bytes", size)


ALLOCATOR = """
(func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) {body})"""


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("(i32.const 131070)", r"memory"),
        ("(i32.const -1)", r"memory"),
        ("(call $i1 (i32.const 1024)) (i32.const 2048)", "the module's allocator calls a capability"),
    ],
)
def test_an_allocator_that_lies_is_refused(body, told, monkeypatch):
    from tests.support import component_guest

    text = component_guest.MODULE
    start, end = text.index('(func (export "{allocator}")'), text.index('(func (export "{handle}")')
    monkeypatch.setattr(component_guest, "MODULE", text[:start] + ALLOCATOR.format(body=body) + text[end:])
    guest = Guest([(RANDOM, "get-random-bytes"), (WALL, "now")])
    with pytest.raises(ContractError, match=told):
        guest.call(RANDOM, "get-random-bytes", 32)


def test_an_import_of_another_type_is_refused(monkeypatch):
    from pywamr import FunctionType
    from tests.support import component_guest

    monkeypatch.setattr(component_guest, "core_type", lambda *_: FunctionType((), ()))
    with pytest.raises(ContractError, match=r"random@0.2.4.get-random-u64 has type .* the interface says"):
        Guest([(RANDOM, "get-random-u64")])


def test_without_the_capability_nothing_is_there():
    with pytest.raises(Refused, match=r"wasi:random/random@0.2.4.get-random-u64; ask for wasi in \[capabilities\]") as refused:
        Guest([(RANDOM, "get-random-u64")], {"logging": {}})
    assert refused.value.reason is Reason.IMPORT_UNDECLARED
