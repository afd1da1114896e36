"""Externrefs: guest code holds Python objects for as long as it can reach them, and what that costs does not grow."""

import gc
import threading
import weakref
from array import array

import pytest

from pywamr import BusyError, Runtime, UnsupportedError
from tests.support.aot import aotc, compiled
from tests.support.wat import wat

MODULE = """(module
  (import "host" "make" (func $make (result externref)))
  (import "host" "take" (func $take (param externref)))
  (table $kept (export "kept") 4 1000 externref)
  (global $last (mut externref) (ref.null extern))
  (global (export "open") (mut externref) (ref.null extern))
  (func (export "pass") (param externref) (result externref) local.get 0)
  (func (export "keep") (param i32 externref) (table.set $kept (local.get 0) (local.get 1)))
  (func (export "kept_at") (param i32) (result externref) (table.get $kept (local.get 0)))
  (func (export "grow") (param i32) (result i32) (table.grow $kept (ref.null extern) (local.get 0)))
  (func (export "remember") (param externref) (global.set $last (local.get 0)))
  (func (export "last") (result externref) global.get $last)
  (func (export "made") (result i32) (drop (call $make)) (i32.const 0))
  (func (export "across") (param externref) (result externref) (call $take (call $make)) local.get 0))"""


class Thing:
    """An object that can be referred to weakly."""


@pytest.fixture(params=("interpreter", "aot"))
def code(request):
    if request.param == "aot" and aotc() is None:
        pytest.skip("wamr_aotc is not built: make aotc")
    wasm = wat(MODULE)
    return wasm if request.param == "interpreter" else compiled(wasm)


@pytest.fixture
def guest(code):
    hosts = {"host": {"make": Thing, "take": lambda thing: None}}
    with Runtime() as runtime, runtime.load(code) as module, module.instantiate(hosts) as instance:
        yield instance


def held(instance) -> int:
    """How many objects the instance holds."""
    return len(instance.live.references)


def test_an_object_that_guest_code_does_not_keep_is_freed_after_the_call(guest):
    thing = Thing()
    gone = weakref.ref(thing)
    assert guest.call("pass", thing) is thing
    for _ in range(20):
        guest.call("pass", Thing())
    del thing
    gc.collect()
    assert gone() is None
    assert held(guest) <= 20


def test_a_thousand_times_more_calls_hold_no_more_objects(guest):
    most = 0
    for _ in range(30_000):
        guest.call("pass", Thing())
        most = max(most, held(guest))
    assert most <= 20


def test_the_cost_of_looking_for_objects_in_use_is_constant_for_each_call(guest, monkeypatch):
    guest.call("grow", 990)
    for number in range(500):
        guest.call("keep", number, Thing())
    looked, references = [], guest.live.references
    keep = references.keep
    monkeypatch.setattr(references, "keep", lambda used, looked_at: looked.append(looked_at) or keep(used, looked_at))
    calls = 20_000
    for _ in range(calls):
        guest.call("pass", Thing())
    assert 0 < sum(looked) <= 2 * calls
    assert held(guest) < 500 + 2 * 1000


def test_what_tables_and_globals_hold_stays(guest):
    things = [Thing() for _ in range(4)]
    for number, thing in enumerate(things):
        guest.call("keep", number, thing)
    remembered = Thing()
    guest.call("remember", remembered)
    for _ in range(100):
        guest.call("pass", Thing())
    assert [guest.call("kept_at", number) for number in range(4)] == things
    assert guest.call("last") is remembered
    gone = weakref.ref(remembered)
    del remembered
    guest.call("remember", None)
    for _ in range(20):
        guest.call("pass", Thing())
    gc.collect()
    assert gone() is None
    assert guest.call("last") is None


def test_objects_that_host_functions_return_are_freed(guest):
    for _ in range(1000):
        assert guest.call("made") == 0
    assert held(guest) <= 20
    guest.function("made").call_each(memoryview(array("q", [0] * 5000)))
    assert held(guest) <= 1024 + 20


def test_an_argument_stays_while_a_host_function_calls_back_in(code):
    """Calls further in must not free what the stack of the call further out holds."""
    seen = []

    def take(thing):
        for _ in range(200):
            instance.call("pass", Thing())
        seen.append(thing)

    hosts = {"host": {"make": Thing, "take": take}}
    with Runtime() as runtime, runtime.load(code) as module, module.instantiate(hosts) as instance:
        outer = Thing()
        assert instance.call("across", outer) is outer
        assert isinstance(seen[0], Thing)
        instance.call("pass", None)
        assert held(instance) <= 201


def test_another_thread_is_told_that_a_call_with_references_is_under_way(code):
    inside, go_on = threading.Event(), threading.Event()

    def take(thing):
        inside.set()
        go_on.wait(60)

    hosts = {"host": {"make": Thing, "take": take}}
    with Runtime() as runtime, runtime.load(code) as module, module.instantiate(hosts) as instance:
        thread = threading.Thread(target=instance.call, args=("across", Thing()))
        thread.start()
        assert inside.wait(60)
        with pytest.raises(BusyError):
            instance.call("pass", Thing())
        go_on.set()
        thread.join(60)
        assert isinstance(instance.call("pass", Thing()), Thing)


def test_an_object_whose_end_calls_the_guest_does_no_harm(guest):
    class Last:
        def __del__(self):
            guest.call("pass", Thing())

    for _ in range(50):
        guest.call("pass", Last())
    assert held(guest) <= 20


def test_objects_end_with_the_instance(code):
    with Runtime() as runtime, runtime.load(code) as module:
        instance = module.instantiate({"host": {"make": Thing, "take": lambda thing: None}})
        thing = Thing()
        gone = weakref.ref(thing)
        instance.call("remember", thing)
        del thing
        gc.collect()
        assert gone() is not None
        instance.close()
        assert gone() is None


def test_a_global_that_can_not_be_written_holds_nothing_of_the_attempt(guest):
    with pytest.raises(UnsupportedError):
        guest.set_global("open", Thing())
    assert held(guest) == 0
