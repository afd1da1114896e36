"""What the loader refuses before WAMR sees it, and images that do not fit."""

import struct
import subprocess
from array import array

import pytest

from ota.author.aot import AotError, Compiler, host_target
from pywamr import ArgumentError, LoadError, Runtime, Trap, UnsupportedError, aot_target
from tests.support.aot import aotc, compiled
from tests.support.wat import wat

needs_aotc = pytest.mark.skipif(aotc() is None, reason="wamr_aotc is not built: make aotc")


def leb(value: int) -> bytes:
    out = bytearray()
    while True:
        out.append(value & 0x7F | (0x80 if value > 0x7F else 0))
        value >>= 7
        if not value:
            return bytes(out)


def section(kind: int, content: bytes) -> bytes:
    return bytes((kind,)) + leb(len(content)) + content


def module(body: bytes, before: bytes = b"") -> bytes:
    """A module of one exported function () -> i32 with this body, made by hand."""
    body = b"\x00" + body + b"\x0b"
    code = section(10, b"\x01" + leb(len(body)) + body)
    return b"\0asm\x01\0\0\0" + section(1, b"\x01\x60\x00\x01\x7f") + section(3, b"\x01\x00") + before + code


def constants(count: int, size: int) -> bytes:
    """`count` different constants, each dropped; then the result."""
    if size == 8:
        each = (b"\x44" + struct.pack("<d", number + 0.5) + b"\x1a" for number in range(count))
    else:
        each = (b"\x43" + struct.pack("<f", number + 0.5) + b"\x1a" for number in range(count))
    return b"".join(each) + b"\x41\x07"


@pytest.mark.parametrize(("count", "size"), [(16_383, 8), (32_766, 4), (40_000, 8), (200_000, 4)])
def test_cve_2026_54912_more_constants_than_the_table_holds_are_refused(count, size):
    with Runtime() as runtime, pytest.raises(LoadError, match=r"has constants of .* cells, the limit is 32765"):
        runtime.load(module(constants(count, size)))


@needs_aotc
def test_the_compiler_refuses_what_the_loader_refuses():
    """It loads modules with WAMR's own loader, on the operator's machine."""
    with pytest.raises(AotError, match=r"has constants of .* cells, the limit is 32765"):
        Compiler().compile(module(constants(16_383, 8)), host_target())


def test_a_function_full_of_constants_that_fit_loads_and_runs():
    wasm = module(constants(16_000, 8), before=section(7, b"\x01\x01f\x00\x00"))
    with Runtime() as runtime:
        assert runtime.load(wasm).instantiate(stack_bytes=1 << 20).call("f") == 7  # constants lie on the operand stack


def test_cve_2026_54913_ref_null_of_a_number_in_an_initializer_is_refused():
    for kind in (0x7F, 0x7E, 0x7D, 0x7C, 0x7B, 0x40):
        wasm = b"\0asm\x01\0\0\0" + section(6, b"\x01\x70\x00\xd0" + bytes((kind,)) + b"\x0b")
        with Runtime() as runtime, pytest.raises(LoadError):
            runtime.load(wasm)


def test_cve_2026_54914_poll_oneoff_of_the_runtime_is_not_there():
    wasm = wat("""(module (import "wasi_snapshot_preview1" "poll_oneoff" (func (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1))""")
    with Runtime() as runtime:
        (wanted,) = runtime.load(wasm).imports
        assert (wanted.module, wanted.name) == ("wasi_snapshot_preview1", "poll_oneoff")  # ours to give, or nobody's
        with pytest.raises(Exception, match="no host function was given"):
            runtime.load(wasm).instantiate()


@pytest.mark.parametrize("body", [b"\xfd\x0c", b"\xff", b"\x41", b"\x0e\xff\xff\xff\xff\x0f", b"\xfc\x20", b"\x44\x00"])
def test_code_that_ends_too_early_or_is_unknown_is_refused(body):
    with Runtime() as runtime, pytest.raises(LoadError):
        runtime.load(module(body))


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 5, 6, 7, 9, 10, 11])
def test_a_section_that_counts_more_than_it_holds_takes_no_memory(kind):
    """WAMR would make room for all of them, gigabytes, before it looks for the first."""
    wasm = b"\0asm\x01\0\0\0" + section(kind, leb(50_000_000) + b"\x00")
    with Runtime() as runtime, pytest.raises(LoadError, match=f"section {kind} counts more items than it has bytes"):
        runtime.load(wasm)


def test_a_function_that_asks_for_billions_of_locals_takes_no_memory():
    body = b"\x01" + leb(3_400_000_000) + b"\x7f\x41\x00\x0b"
    wasm = module(b"")[: -len(section(10, b"\x01\x02\x00\x0b"))] + section(10, b"\x01" + leb(len(body)) + body)
    with Runtime() as runtime, pytest.raises(LoadError, match="function body 0 has more than 50000 locals"):
        runtime.load(wasm)


def test_locals_of_a_type_of_two_bytes_cannot_hide_billions_of_others():
    """WAMR reads a type as one byte: what follows a longer one was a count to it, and a part of the type to the check."""
    body = b"\x02" + b"\x01\x80" + leb(3_400_000_000) + b"\x7f\x41\x00\x0b"
    wasm = module(b"")[: -len(section(10, b"\x01\x02\x00\x0b"))] + section(10, b"\x01" + leb(len(body)) + body)
    with (
        Runtime() as runtime,
        pytest.raises(LoadError, match=r"function body 0 has an instruction or a local"),
    ):
        runtime.load(wasm)


def test_an_element_segment_that_counts_more_than_it_holds_takes_no_memory():
    table, function = section(4, b"\x01\x70\x00\x03"), section(1, b"\x01\x60\x00\x00")
    for segment in (b"\x05\x70" + leb(50_000_000) + b"\xd0\x70\x0b", b"\x00\x41\x00\x0b" + leb(50_000_000) + b"\x00"):
        wasm = b"\0asm\x01\0\0\0" + function + table + section(9, b"\x01" + segment)
        with Runtime() as runtime, pytest.raises(LoadError, match="section 9 counts more items than it has bytes"):
            runtime.load(wasm)


def test_a_start_function_that_is_an_import_is_called(runtime):
    wasm = wat('(module (import "host" "go" (func $go)) (start $go))')
    called = []
    runtime.load(wasm).instantiate({"host": {"go": lambda: called.append(1)}})
    assert called == [1]
    with pytest.raises(ZeroDivisionError):
        runtime.load(wasm).instantiate({"host": {"go": lambda: 1 / 0}})


SIMPLE = wat('(module (memory 1) (func (export "load") (param i32) (result i32) (i32.load (local.get 0))))')


@needs_aotc
def test_an_image_without_a_stamp_is_refused():
    image = compiled(SIMPLE)
    stamp = image.rindex(b"wamr-ota.target")
    with Runtime() as runtime:
        for bad in (image[: stamp - 14], image.replace(b"wamr-ota.target", b"wamr-ota.targex")):
            with pytest.raises(UnsupportedError, match="does not say what it was compiled for"):
                runtime.load(bad)


@needs_aotc
@pytest.mark.parametrize("target", ["x86_64", "aarch64", "armv7", "riscv64"])
def test_an_image_for_another_target_is_refused(target):
    image = compiled(SIMPLE, target)
    with Runtime() as runtime:
        if target == host_target():
            assert runtime.load(image).instantiate().call("load", 0) == 0
            return
        with pytest.raises(UnsupportedError, match=f"was compiled for .*{target}.*, this runtime runs"):
            runtime.load(image)


@needs_aotc
def test_an_image_with_other_bounds_checks_is_refused():
    """WAMR itself would load it, and then there is no sandbox."""
    image = compiled(SIMPLE)
    ours, other = (b"hardware", b"software") if "hardware" in aot_target() else (b"software", b"hardware")
    with Runtime() as runtime, pytest.raises(UnsupportedError, match=f"bounds={other.decode()}"):
        runtime.load(image.replace(b"bounds=" + ours, b"bounds=" + other))


@needs_aotc
@pytest.mark.parametrize("number", [b"1", b"2"])
def test_an_image_of_a_compiler_that_let_modules_out_of_the_sandbox_is_refused(number):
    image, present = compiled(SIMPLE), aot_target().encode()
    assert present in image
    with Runtime() as runtime, pytest.raises(UnsupportedError, match="this runtime runs"):
        runtime.load(image.replace(present, number + present[1:]))


def test_every_access_behind_the_memory_traps(runtime):
    instance = runtime.load(SIMPLE).instantiate()
    assert instance.call("load", 65532) == 0
    for address in (65533, 65536, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 4, (1 << 32) - 1):
        with pytest.raises(Trap, match="out of bounds memory access"):
            instance.call("load", address)
    assert instance.call("load", 0) == 0


def test_rows_are_called_in_one_crossing(runtime):
    wasm = wat("""(module
      (func (export "add") (param i32 i64) (result i64) (i64.add (i64.extend_i32_s (local.get 0)) (local.get 1)))
      (func (export "half") (param i32) (result i32) (if (i32.eqz (local.get 0)) (then unreachable))
        (i32.shr_u (local.get 0) (i32.const 1))))""")
    instance = runtime.load(wasm).instantiate()
    rows = array("q", [1, 2, -3, 4, 5, 1 << 40])
    instance.function("add").call_each(memoryview(rows))
    assert rows[0::2].tolist() == [3, 1, 5 + (1 << 40)]
    rows = array("q", [8, 6, 0, 4])
    with pytest.raises(Trap, match="unreachable"):
        instance.function("half").call_each(memoryview(rows))
    assert rows.tolist()[:2] == [4, 3]
    assert rows[3] == 4
    instance.function("half").call_each(memoryview(array("q")))
    for wrong in (memoryview(b"12345678"), memoryview(bytearray(8)), memoryview(array("q", [1, 2, 3]))):
        with pytest.raises(ArgumentError, match="rows must be writable, of 2 slots"):
            instance.function("add").call_each(wrong)


def test_a_host_function_of_one_instance_may_call_another(runtime):
    inner = runtime.load(SIMPLE).instantiate()
    wasm = wat("""(module (import "host" "ask" (func $ask (param i32) (result i32))) (memory 1)
      (func (export "go") (param i32) (result i32) (i32.add (call $ask (local.get 0)) (i32.load (i32.const 70000)))))""")
    seen = []

    def ask(address: int) -> int:
        with pytest.raises(Trap):
            inner.call("load", 99999)
        seen.append(inner.call("load", address))
        return 1

    outer = runtime.load(wasm).instantiate({"host": {"ask": ask}})
    with pytest.raises(Trap, match="out of bounds"):
        outer.call("go", 4)
    assert seen == [0]


def test_an_import_that_is_exported_again_is_called_as_the_host_function_that_it_is(runtime):
    """In WAMR's ahead-of-time mode its arguments would be taken for pointers."""
    wasm = wat("""(module (import "host" "add" (func $add (param i32 i64) (result i64)))
      (import "host" "fail" (func $fail (param i32)))
      (export "add" (func $add)) (export "fail" (func $fail)))""")

    def fail(number: int) -> None:
        raise LookupError(number)

    instance = runtime.load(wasm).instantiate({"host": {"add": lambda a, b: a + b, "fail": fail}})
    for left, right in ((1, 2), (-1, 1 << 40), (0x7FFFFFF0, -5)):
        assert instance.call("add", left, right) == left + right
    with pytest.raises(LookupError):
        instance.call("fail", 64)
    assert instance.call("add", 3, 4) == 7


def by_hand(*sections: bytes) -> bytes:
    return b"\0asm\x01\0\0\0" + b"".join(sections)


TABLE, MEMORY = section(4, b"\x01\x70\x00\x01"), section(5, b"\x01\x00\x01")


@pytest.mark.parametrize(
    ("faulty", "why"),
    [
        (by_hand(section(6, b"\x01\x7b\x00\xfd\x00" + bytes(16) + b"\x0b")), "constant expression required"),
        (by_hand(section(6, b"\x01\x7b\x00\xfd\x6e" + bytes(16) + b"\x0b")), "constant expression required"),
        (by_hand(section(6, b"\x01\x7b\x00\xfd\xff\x01" + bytes(16) + b"\x0b")), "constant expression required"),
        (by_hand(TABLE, section(9, b"\x01\x08\x41\x00\x0b\x00")), "invalid flags of a segment"),
        (by_hand(TABLE, section(9, b"\x01\x09\x00\x00")), "invalid flags of a segment"),
        (by_hand(TABLE, section(9, b"\x01\x11\x00\x00")), "invalid flags of a segment"),
        (by_hand(MEMORY, section(11, b"\x01\x04\x41\x00\x0b\x01a")), "invalid flags of a segment"),
        (by_hand(MEMORY, section(11, b"\x01\x71\x01a")), "invalid flags of a segment"),
        (by_hand(section(4, b"\x01\x70\x02\x01")), "tables cannot be shared"),
        (by_hand(section(4, b"\x01\x70\x03\x01\x02")), "tables cannot be shared"),
    ],
)
def test_what_is_no_core_module_is_refused(faulty, why):
    with Runtime() as runtime, pytest.raises(LoadError, match=why):
        runtime.load(faulty)


def test_a_vector_constant_may_be_written_at_length():
    wasm = by_hand(section(6, b"\x01\x7b\x00\xfd\x8c\x00" + bytes(range(16)) + b"\x0b"), section(7, b"\x01\x01g\x03\x00"))
    with Runtime() as runtime:
        assert runtime.load(wasm).instantiate().get_global("g") == bytes(range(16))


@needs_aotc
@pytest.mark.parametrize("what", ["memory 1", "table 1 funcref", "global i32"])
def test_there_is_no_image_of_a_module_that_imports_more_than_functions(what):
    wasm = wat(f'(module (import "a" "b" ({what})))')
    with Runtime() as runtime, pytest.raises(UnsupportedError, match="only functions"):
        runtime.load(wasm)
    with pytest.raises(subprocess.CalledProcessError) as met:
        compiled(wasm)
    assert "only functions can be imported" in met.value.stderr
