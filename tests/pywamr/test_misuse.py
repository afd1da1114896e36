"""What a program that uses the runtime wrongly is told, and that it harms nothing."""

import copy
import os
import pickle
from pathlib import Path

import pytest

from pywamr import ArgumentError, NotExportedError, Runtime
from tests.support.wat import wat

COUNTER = """(module (import "host" "seen" (func $seen (param i32)))
  (memory (export "memory") 1) (global (export "limit") i32 (i32.const 7))
  (func (export "count") (result i32)
    (i32.store (i32.const 8) (i32.add (i32.load (i32.const 8)) (i32.const 1)))
    (call $seen (i32.load (i32.const 8))) (i32.load (i32.const 8))))"""
HOSTS = {"host": {"seen": lambda value: None}}


@pytest.fixture
def runtime():
    with Runtime() as opened:
        yield opened


@pytest.mark.parametrize("wasm", ["blink.wasm", Path("blink.wasm"), 5, 10**15, None, [0, 97, 115, 109]])
def test_only_bytes_are_loaded(runtime, wasm):
    with pytest.raises(ArgumentError, match=r"load takes the bytes of a module, such as Path\(…\)\.read_bytes\(\), and no "):
        runtime.load(wasm)


def test_any_kind_of_bytes_is_loaded(runtime):
    wasm = wat(COUNTER)
    for each in (wasm, bytearray(wasm), memoryview(wasm)):
        assert runtime.load(each).instantiate(HOSTS).call("count") == 1


@pytest.mark.parametrize(
    ("hosts", "message"),
    [
        (5, "and 5 is no mapping"),
        ({"host": 5}, "and 5 is no mapping"),
        ({"host": {"seen": 5}}, "the host function host.seen is 5, which can't be called"),
        ({"host": [print]}, "is no mapping"),
    ],
)
def test_hosts_of_another_shape_are_refused_before_anything_runs(runtime, hosts, message):
    with pytest.raises(ArgumentError, match=message):
        runtime.load(wat(COUNTER)).instantiate(hosts)


def test_what_is_not_exported_is_told_with_what_is(runtime):
    instance = runtime.load(wat(COUNTER)).instantiate(HOSTS)
    with pytest.raises(NotExportedError, match=r"exports no function 'coutn'; it exports count$"):
        instance.call("coutn")
    with pytest.raises(NotExportedError, match=r"exports no global 'count'; it exports limit$"):
        instance.get_global("count")
    many = "".join(f'(func (export "f{number}"))' for number in range(20))
    with pytest.raises(NotExportedError, match=r"it exports f0, f1, f2, f3, f4, f5, f6, f7 and 12 more$"):
        runtime.load(wat(f"(module {many})")).instantiate().call("g")


def test_a_function_shows_its_type(runtime):
    assert repr(runtime.load(wat(COUNTER)).instantiate(HOSTS).function("count")) == "<Function count () -> (i32)>"


def test_nothing_that_holds_memory_of_the_library_is_copied(runtime):
    """A copy that is dropped would free what the first one still uses."""
    module = runtime.load(wat(COUNTER))
    instance = module.instantiate(HOSTS)
    for each in (runtime, module, instance, instance.function("count"), instance.memory, instance.live):
        for way in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match=f"a {type(each).__name__} of pywamr can't be copied or pickled"):
                way(each)
    assert instance.call("count") == 1


def test_what_was_loaded_is_there_in_both_processes_after_a_fork(runtime):
    instance = runtime.load(wat(COUNTER)).instantiate(HOSTS)
    assert instance.call("count") == 1
    child = os.fork()
    if child == 0:
        os._exit(instance.call("count") * 10 + instance.call("count"))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 23
    assert instance.call("count") == 2  # the child's memory is its own
