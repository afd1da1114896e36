"""Loading, describing, instantiating, memory, globals, and the end of life of each object."""

import subprocess
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywamr import (
    ArgumentError,
    BusyError,
    ClosedError,
    FunctionType,
    GlobalType,
    LoadError,
    MemoryRangeError,
    MemoryType,
    MissingImportError,
    NotExportedError,
    PywamrError,
    Runtime,
    TableType,
    Trap,
    TrapCode,
    UnsupportedError,
    ValueType,
    runtime_version,
)
from tests.support.aot import aotc, compiled
from tests.support.emulated import PYTHON
from tests.support.wat import wat

MODULE = wat("""(module
  (import "env" "add" (func $add (param i32 i32) (result i32)))
  (import "env" "log" (func (param f64)))
  (memory (export "memory") 1 3) (table (export "table") 4 8 funcref)
  (global (export "counter") (mut i64) (i64.const -5)) (global (export "pi") f64 (f64.const 3.25))
  (func (export "grow") (result i32) (memory.grow (i32.const 1)))
  (func (export "add") (param i32 i32) (result i32) local.get 0 local.get 1 call $add))""")
HOSTS = {"env": {"add": lambda a, b: a + b, "log": lambda value: None}}


def code(wasm, mode):
    """The module, or its image for this machine."""
    if mode == "aot" and aotc() is None:
        pytest.skip("wamr_aotc is not built: make aotc")
    return compiled(wasm) if mode == "aot" else wasm


@pytest.fixture
def instance(runtime):
    return runtime.load(MODULE).instantiate(HOSTS)


def test_imports_and_exports_have_types(runtime):
    module = runtime.load(MODULE)
    i32, f64 = ValueType.I32, ValueType.F64
    assert [(each.module, each.name, each.type) for each in module.imports] == [
        ("env", "add", FunctionType((i32, i32), (i32,))),
        ("env", "log", FunctionType((f64,), ())),
    ]
    exports = {each.name: each.type for each in module.exports}
    assert exports["memory"] == MemoryType(1, 3)
    assert exports["table"] == TableType(4, 8)
    assert exports["counter"] == GlobalType(ValueType.I64, mutable=True)
    assert exports["pi"] == GlobalType(f64, mutable=False)
    assert str(exports["add"]) == "(i32, i32) -> (i32)"


def test_custom_sections_are_given_by_name(interpreter):
    custom = b"\x00\x09\x05hello" + b"abc"
    sections = dict(interpreter.load(MODULE + custom).custom_sections)
    assert sections["hello"] == b"abc"
    assert "name" in sections


def test_every_missing_import_is_named_in_one_error(runtime):
    with pytest.raises(MissingImportError, match=r"env\.add, env\.log") as caught:
        runtime.load(MODULE).instantiate({"env": {}})
    assert caught.value.missing == (("env", "add"), ("env", "log"))


def test_two_instances_of_one_module_have_their_own_hosts_and_memory(runtime):
    module = runtime.load(MODULE)
    first, second = module.instantiate(HOSTS), module.instantiate({"env": HOSTS["env"] | {"add": lambda a, b: a * b}})
    first.memory.write(0, b"first")
    assert (first.call("add", 3, 4), second.call("add", 3, 4)) == (7, 12)
    assert second.memory.read(0, 5) == bytes(5)


@pytest.mark.parametrize(("offset", "size"), [(65536, 1), (65535, 2), (-1, 1), (0, 65537), (2**32, 1), (2**64 - 1, 2), (0, -1)])
def test_memory_outside_is_refused(instance, offset, size):
    with pytest.raises(MemoryRangeError, match="outside the memory of 65536 bytes"):
        instance.memory.read(offset, size)
    if size > 0:
        with pytest.raises(MemoryRangeError):
            instance.memory.write(offset, bytes(size))


def test_memory_follows_growth(instance):
    instance.memory.write(65530, b"edge")
    assert instance.call("grow") == 1
    assert len(instance.memory) == 2 * 65536
    assert instance.memory.read(65530, 4) == b"edge"
    instance.memory.write(2 * 65536 - 1, b"x")


@pytest.mark.parametrize("mode", ["interpreter", "aot"])
@pytest.mark.parametrize(
    ("memory", "limits"),
    [("2", (2, 65536)), ("2 5", (2, 5)), ("2 2", (2, 2)), ("0", (0, 65536)), ("0 3", (0, 3))],
)
def test_a_memory_that_never_grows_has_the_limits_that_its_module_says(runtime, memory, limits, mode):
    wasm = wat(f'(module (memory (export "memory") {memory}))')
    module = runtime.load(wasm if mode == "interpreter" else compiled(wasm))
    (export,) = module.exports
    assert export.type == MemoryType(*limits)
    assert len(module.instantiate().memory) == limits[0] << 16


def test_max_pages_lowers_the_limit(runtime):
    instance = runtime.load(MODULE).instantiate(HOSTS, max_pages=1)
    assert instance.call("grow") == -1


@pytest.mark.parametrize("export", ['(export "memory")', ""])
def test_a_memory_that_begins_beyond_the_limit_is_refused(runtime, export):
    """WAMR itself only keeps it from growing."""
    module = runtime.load(wat(f"(module (memory {export} 3))"))
    with pytest.raises(LoadError, match="begins with 3 pages of memory, the limit is 2"):
        module.instantiate(max_pages=2)
    module.instantiate(max_pages=3).close()


def test_globals_are_read_and_written(instance):
    assert (instance.get_global("counter"), instance.get_global("pi")) == (-5, 3.25)
    instance.set_global("counter", 2**40)
    assert instance.get_global("counter") == 2**40
    with pytest.raises(UnsupportedError):
        instance.set_global("pi", 1.0)
    with pytest.raises(ArgumentError):
        instance.set_global("counter", "x")
    with pytest.raises(NotExportedError):
        instance.get_global("add")


def test_a_missing_export_is_named(instance):
    with pytest.raises(NotExportedError, match="'nothing'"):
        instance.call("nothing")
    with pytest.raises(NotExportedError, match="'memory'"):
        instance.call("memory")


def test_imports_of_other_kinds_are_refused(runtime):
    for text in ('(import "env" "m" (memory 1))', '(import "env" "t" (table 1 funcref))', '(import "env" "g" (global i32))'):
        with pytest.raises((UnsupportedError, LoadError), match=r"env|import"):
            runtime.load(wat(f"(module {text})"))


def test_a_start_function_that_traps_is_a_trap(runtime):
    with pytest.raises(Trap) as caught:
        runtime.load(wat("(module (func $s unreachable) (start $s))")).instantiate()
    assert caught.value.code is TrapCode.UNREACHABLE


def test_a_start_function_may_call_a_host_whose_exception_comes_out(runtime):
    def fail():
        raise KeyError("from the start function")

    module = runtime.load(wat('(module (import "e" "f" (func $f)) (func $s call $f) (start $s))'))
    with pytest.raises(KeyError, match="from the start function"):
        module.instantiate({"e": {"f": fail}})


def test_a_segment_outside_the_memory_is_a_trap(runtime):
    with pytest.raises(Trap):
        runtime.load(wat('(module (memory 1) (data (i32.const 70000) "x"))')).instantiate()


@given(st.binary(max_size=200).filter(lambda data: not data.startswith(b"\0asm\1\0\0\0")))
def test_garbage_is_refused(data):
    with Runtime() as runtime, pytest.raises(LoadError):
        runtime.load(data)


@given(st.data())
def test_a_damaged_module_is_refused_or_runs_without_harm(data):
    damaged = bytearray(MODULE)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with Runtime() as runtime:
        try:
            module = runtime.load(bytes(damaged))
            instance = module.instantiate({each.module: {each.name: lambda *_: 0} for each in module.imports}, max_pages=4)
            instance.call("add", 1, 2)
        except PywamrError as error:
            assert str(error)
        assert runtime.load(MODULE).instantiate(HOSTS).call("add", 1, 2) == 3


def test_a_module_beyond_the_size_limit_is_refused(runtime):
    with pytest.raises(LoadError, match="more than the limit of 100"):
        runtime.load(MODULE, limit_bytes=100)


def test_closing_twice_is_harmless_and_use_after_close_is_an_error():
    runtime = Runtime()
    module = runtime.load(MODULE)
    instance = module.instantiate(HOSTS)
    add = instance.function("add")
    for each in (instance, module, runtime):
        each.close()
        each.close()
    uses = (
        lambda: add(1, 2),
        lambda: instance.call("add", 1, 2),
        lambda: instance.memory.read(0, 1),
        lambda: instance.get_global("pi"),
        instance.terminate,
        lambda: module.instantiate(HOSTS),
        lambda: runtime.load(MODULE),
    )
    for use in uses:
        with pytest.raises(ClosedError, match="closed"):
            use()


def test_closing_from_inside_a_call_is_refused(runtime):
    errors = []

    def close(a, b):
        for each in (instance, module, runtime):
            try:
                each.close()
            except BusyError as error:
                errors.append(error)
        return 0

    module = runtime.load(MODULE)
    instance = module.instantiate({"env": HOSTS["env"] | {"add": close}})
    assert instance.call("add", 1, 2) == 0
    assert len(errors) == 3


def test_several_runtimes_share_the_process():
    first, second = Runtime(), Runtime()
    instance = second.load(MODULE).instantiate(HOSTS)
    first.close()
    assert instance.call("add", 2, 3) == 5
    second.close()


def test_the_interpreter_exits_cleanly_with_everything_open():
    program = textwrap.dedent("""
        import sys, threading
        from pywamr import Runtime
        runtime = Runtime()
        module = runtime.load(bytes.fromhex(sys.argv[1]))
        instance = module.instantiate({"env": {"add": lambda a, b: a + b, "log": print}})
        other = module.instantiate({"env": {"add": lambda a, b: threading.Event().wait(), "log": print}})
        threading.Thread(target=lambda: other.call("add", 1, 2), daemon=True).start()
        del runtime, module
        print(instance.call("add", 1, 2))
    """)
    done = subprocess.run([*PYTHON, "-c", program, MODULE.hex()], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "3", "")


@pytest.mark.parametrize("modules", [2_000, pytest.param(10_000, marks=pytest.mark.full)])
def test_many_modules_come_and_go_without_growth(modules):
    def resident_kib():
        with Path("/proc/self/status").open() as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

    def cycle(count):
        for _ in range(count):
            with Runtime() as runtime, runtime.load(MODULE) as module, module.instantiate(HOSTS) as instance:
                assert instance.call("add", 1, 2) == 3

    cycle(300)
    before = resident_kib()
    cycle(modules)
    assert resident_kib() - before < 1024


def test_the_version_of_the_core_is_known():
    assert runtime_version().startswith("2.4.")


def test_an_empty_memory_has_nothing_to_read_and_can_grow(runtime):
    instance = runtime.load(
        wat('(module (memory (export "m") 0 2) (func (export "grow") (drop (memory.grow (i32.const 1)))))')
    ).instantiate()
    assert len(instance.memory) == 0
    assert instance.memory.read(0, 0) == b""
    instance.memory.write(0, b"")
    for access in (lambda: instance.memory.read(0, 1), lambda: instance.memory.read(1, 0), lambda: instance.memory.write(0, b"x")):
        with pytest.raises(MemoryRangeError):
            access()
    instance.call("grow")
    assert instance.memory.read(65535, 1) == bytes(1)


@pytest.mark.parametrize("mode", ["interpreter", "aot"])
def test_address_0_of_a_memory_of_4_gib_is_written(runtime, mode):
    wasm = wat("""(module (memory (export "m") 65536) (data (i32.const 0) "abcdefgh") (data $later "ijkl")
      (func (export "init") (param i32) (memory.init $later (local.get 0) (i32.const 0) (i32.const 4)))
      (func (export "fill") (param i32) (memory.fill (local.get 0) (i32.const 0x6d) (i32.const 2))))""")
    try:
        instance = runtime.load(code(wasm, mode)).instantiate()
    except PywamrError as error:
        assert "memory" in str(error)
        pytest.skip(f"no 4 GiB here: {error}")
    assert instance.memory.read(0, 9) == b"abcdefgh\0"
    instance.call("init", 0)
    instance.call("init", 65536 * 65536 - 4 - 2**32)
    instance.call("fill", 4)
    assert instance.memory.read(0, 9) == b"ijklmmgh\0"
    assert instance.memory.read(65536 * 65536 - 4, 4) == b"ijkl"


@pytest.mark.parametrize("mode", ["interpreter", "aot"])
def test_an_instance_begins_with_its_start_function_and_nothing_else(runtime, mode):
    """Core 2.0, section 4.5.4. What tools export as a beginning is for whoever uses the module to call."""
    names = ("__wasm_call_ctors", "__post_instantiate", "_initialize", "_start")
    each = " ".join(f'(func (export "{name}") (global.set $count (i32.const 100)))' for name in names)
    wasm = wat(f"""(module (global $count (export "count") (mut i32) (i32.const 0)) {each}
      (func $begin (global.set $count (i32.add (global.get $count) (i32.const 1)))) (start $begin))""")
    instance = runtime.load(code(wasm, mode)).instantiate()
    assert instance.get_global("count") == 1
    instance.call("__wasm_call_ctors")
    assert instance.get_global("count") == 100


@pytest.mark.parametrize("mode", ["interpreter", "aot"])
def test_a_zero_in_a_name_is_no_end_of_it(runtime, mode):
    wasm = wat(r"""(module (import "m\00x" "\00f" (func $f (result i32)))
      (func (export "a") (result i32) (i32.const 1)) (func (export "a\00b") (result i32) (call $f))
      (func (export "") (result i32) (i32.const 3)) (func (export "\00") (result i32) (i32.const 4))
      (global (export "g\00") (mut i32) (i32.const 7)))""")
    module = runtime.load(code(wasm, mode))
    assert [(each.module, each.name) for each in module.imports] == [("m\0x", "\0f")]
    instance = module.instantiate({"m\0x": {"\0f": lambda: 2}})
    assert [instance.function(name)() for name in ("a", "a\0b", "", "\0")] == [1, 2, 3, 4]
    instance.set_global("g\0", 8)
    assert instance.get_global("g\0") == 8
    with pytest.raises(NotExportedError):
        instance.function("a\0")


@pytest.mark.parametrize("mode", ["interpreter", "aot"])
@pytest.mark.parametrize("names", [b"", b"\1", b"\1\x05\1\x63\1x", b"\1\4\1\0\1\xff", b"\1\x7f", b"\2\0\1\0\1\0"])
def test_a_fault_of_the_names_for_people_is_no_fault_of_the_module(runtime, mode, names):
    section = b"\0" + bytes((5 + len(names),)) + b"\4name" + names
    wasm = wat('(module (func (export "f") (result i32) (i32.const 5)))')
    for whole in (wasm + section, wasm[:8] + section + wasm[8:]):
        assert runtime.load(code(whole, mode)).instantiate().function("f")() == 5


@pytest.mark.parametrize("mode", ["interpreter", "aot"])
def test_a_global_may_be_anything_whatever_a_module_names_its_exports(runtime, mode):
    """A C program's stack pointer may point to a coroutine's stack, above its own."""
    wasm = wat("""(module (memory 2) (global $stack (mut i32) (i32.const 66560))
      (global (export "__data_end") i32 (i32.const 1024)) (global (export "__heap_base") i32 (i32.const 66560))
      (func (export "set") (param i32) (result i32) (global.set $stack (local.get 0)) (global.get $stack)))""")
    instance = runtime.load(code(wasm, mode)).instantiate()
    assert [instance.call("set", value) for value in (0, 1000, 2000, 66560, 70000, -1)] == [0, 1000, 2000, 66560, 70000, -1]


GREEDY = """(module (memory (export "memory") 1)
  (func (export "ask") (param i32) (result i32) (memory.grow (local.get 0)))
  (func (export "die") (param i32) (drop (memory.grow (local.get 0))) unreachable))"""


@pytest.mark.parametrize("mode", ["interpreter", "aot"])
def test_what_a_memory_was_refused_is_known_until_the_next_call(runtime, mode):
    wasm = wat(GREEDY)
    instance = runtime.load(wasm if mode == "interpreter" else compiled(wasm)).instantiate(max_pages=4)
    assert instance.memory.refused_pages == 0
    assert instance.call("ask", 2) == 1
    assert instance.memory.refused_pages == 0
    assert instance.call("ask", 7) == -1
    assert instance.memory.refused_pages == 7
    with pytest.raises(Trap):
        instance.call("die", 9)
    assert instance.memory.refused_pages == 9
    assert instance.call("ask", 0) == 3
    assert instance.memory.refused_pages == 0


IN_MEMORY = r"""
import sys
import pywamr

def resident():
    with open("/proc/self/smaps_rollup") as file:
        return int(file.read().split("Rss:")[1].split()[0]) * 1024

size = 16 << 20
def leb(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))

body = b"\0" + b"\1" * size + b"\x41\7\x0b"  # nops, i32.const 7
code = b"\1" + leb(len(body)) + body
wasm = (b"\0asm\1\0\0\0" + b"\0\5\4note" + b"\1\5\1\x60\0\1\x7f" + b"\3\2\1\0" + b"\7\5\1\1f\0\0"
    + b"\x0a" + leb(len(code)) + code + b"\0\6\4noteX")
with pywamr.Runtime() as runtime:
    before = resident()
    module = runtime.load(wasm)
    grown = resident() - before
    assert module.instantiate({}).call("f") == 7
    print(grown, list(module.custom_sections))
"""


def test_code_that_was_loaded_is_not_kept_as_it_came_and_custom_sections_are():
    done = subprocess.run([*PYTHON, "-c", IN_MEMORY], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    grown, _, sections = done.stdout.partition(" ")
    assert int(grown) < 8 << 20
    assert sections.strip() == "[('note', b''), ('note', b'X')]"
