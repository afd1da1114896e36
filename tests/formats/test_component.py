"""Components: which core module of one is for boards, why there is none, and what a hostile one can do, which is to be refused."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota.author.build import prepare
from ota.formats import component
from ota.formats.capabilities import WASI_MODULE
from ota.formats.component import COMPONENT_MAGIC, MAX_CORES, MAX_DEPTH, MAX_SECTIONS, Role
from ota.formats.describe import describe
from ota.formats.loadable import core_module
from ota.formats.reasons import Reason, Refused
from ota.formats.wasm import MAX_ITEMS, MODULE_MAGIC, read
from tests.support.operator import ota
from tests.support.tools import wasm_tools

EMPTY = MODULE_MAGIC
CODE = MODULE_MAGIC + b"\x01\x04\x01\x60\0\0" + b"\x03\x02\x01\0" + b"\x0a\x04\x01\x02\0\x0b"
BODY = "(func (result i32) i32.const 7)"
SHIM = '(core module (table (export "$imports") 1 1 funcref) (func (export "0") (call_indirect (i32.const 0))))'
FIXUPS = '(core module (import "shim" "$imports" (table 1 1 funcref)) (func $x) (elem (i32.const 0) func $x))'
ADAPTER = """(core module (import "env" "memory" (memory 0)) (import "__main_module__" "cabi_realloc" (func))
  (func (export "fd_write")) (func (export "cabi_import_realloc")))"""


def made(text: str) -> bytes:
    return wasm_tools("parse", "-", text=f"(component {text})")


def leb(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def section(kind: int, content: bytes) -> bytes:
    return bytes((kind,)) + leb(len(content)) + content


def holding(*sections: bytes) -> bytes:
    return COMPONENT_MAGIC + b"".join(sections)


def refused(data: bytes) -> Refused:
    with pytest.raises(Refused) as refusal:
        core_module(data)
    return refusal.value


def test_the_core_module_comes_out_as_it_stands_in_the_component():
    inner = wasm_tools("parse", "-", text=f'(module (import "a:b/c" "d" (func)) {BODY} (@custom "x" "kept"))')
    assert core_module(holding(section(0, b"\x01n"), section(1, inner))) == inner


def test_what_wit_component_adds_is_set_aside():
    main = f'(core module (import "a:b/c@0.1.0" "d" (func)) (import "{WASI_MODULE}" "fd_write" (func)) {BODY})'
    data = made(SHIM + ADAPTER + main + FIXUPS)
    found = component.read(data)
    assert [each.role for each in found.cores] == [Role.SHIM, Role.ADAPTER, Role.MAIN, Role.FIXUPS]
    assert found.main().imports == (("a:b/c@0.1.0", "d"), (WASI_MODULE, "fd_write"))
    assert core_module(data).endswith(b"\x41\x07\x0b")


def test_a_nested_component_that_has_the_only_code_is_unbundled():
    assert core_module(made(f"(component (component (core module {BODY}))) (core module (memory 1))")).endswith(b"\x41\x07\x0b")


def test_a_core_module_for_boards_and_bytes_that_are_none_come_back_untouched():
    assert core_module(CODE) is CODE
    assert core_module(b"\0asm") == b"\0asm"
    assert core_module(b"") == b""


REFUSALS = {
    "linked modules": (
        '(core module (memory (export "m") 1)) (core module (import "env" "m" (memory 1)) (func))',
        "linked to each other",
    ),
    "a table of another": ('(core module (import "env" "t" (table 1 funcref)) (func))', "imports env.t"),
    "a global of another": ('(core module (import "GOT.mem" "g" (global (mut i32))) (func))', "imports GOT.mem.g"),
    "a module beside the adapter": (ADAPTER + '(core module (import "env" "memory" (memory 0)) (func))', "imports env.memory"),
    "two with code": (f"(core module {BODY}) (core module {BODY})", "2 of its core modules have code"),
    "two in nested components": (
        f"(component (core module {BODY})) (component (core module {BODY}))",
        "the parts that it is composed of",
    ),
    "no code": ("(core module (memory 1))", "none of its core modules has code"),
    "nothing": ("", "none of its core modules has code"),
    "only shims": (SHIM + FIXUPS, "none of its core modules has code"),
    "another adapter": ('(core module (import "wasi_unstable" "f" (func)) (func))', "supplies (wasi_unstable.f)"),
    "async exports": ('(core module (func (export "[async-lift]a:b/c#d")))', "asynchronous ([async-lift]a:b/c#d)"),
    "async streams": ('(core module (import "a:b/c" "[stream-new-0]f" (func)) (func))', "asynchronous ([stream-new-0]f)"),
    "WASI 0.3": (f'(import "wasi:cli/stdout@0.3.0" (instance)) (core module {BODY})', "asynchronous (wasi:cli/stdout@0.3.0)"),
    "a draft of WASI 0.3": (f'(import "wasi:http/types@0.3.0-rc-2026" (instance)) (core module {BODY})', "as WASI 0.3 is"),
    "async functions": ("(core func (canon task.cancel))", "asynchronous (canonical function 0x05)"),
    "start": ('(import "f" (func $f)) (start $f)' + f"(core module {BODY})", "a start function of its own"),
    "UTF-16": (
        """(import "f" (func $f (param "x" string))) (core module $m (memory (export "m") 1) (func))
      (core instance $i (instantiate $m))
      (core func (canon lower (func $f) string-encoding=utf16 (memory (core memory $i "m"))))""",
        "its strings are UTF-16",
    ),
}


@pytest.mark.parametrize(("text", "why"), REFUSALS.values(), ids=REFUSALS)
def test_a_component_that_boards_cannot_run_is_refused_with_what_helps(tmp_path, text, why):
    data = made(text)
    told = refused(data)
    assert told.reason is Reason.MODULE_INVALID
    assert why in told.detail
    assert why in describe(data).values["refused"]
    module = tmp_path / "c.wasm"
    module.write_bytes(data)
    with pytest.raises(Refused, match="module-invalid"):
        prepare(module, "example.com")


def test_an_import_by_a_plain_name_comes_from_outside_where_the_component_has_it():
    text = '(import "door" (instance)) (core module (import "door" "open" (func)) (func))'
    assert component.read(made(text)).main().imports == (("door", "open"),)


def test_names_are_read_beside_what_says_more_of_them():
    text = """(import "x" (implements "a:b/c@0.2.0") (instance)) (import "t" (type (sub resource))) (import "f" (func))
      (import "m" (core module)) (import "c" (component)) (export "g" (func 0)) (export "m2" (core module 0))"""
    found = component.read(made(text))
    assert (found.imports, found.exports) == (("x", "t", "f", "m", "c"), ("g", "m2"))


def test_a_component_is_shown_with_its_interfaces_and_core_modules():
    found = describe(made(f'(import "a:b/c@0.2.1" (instance)) (core module {BODY}) {SHIM}'))
    assert (found.kind, found.values["imports"]) == ("component", ["a:b/c@0.2.1"])
    assert [each["role"] for each in found.values["core_modules"]] == ["shim", "main"]
    assert found.values["module"]["memory_pages"] == 0
    assert ("import", "a:b/c@0.2.1") in found.rows


BINARYEN = bytes.fromhex(
    "0061736d0100000001120360037f7f7f0060057f7f7f7f7f006000000258021b6465766963653a6d6f64756c652f6c6f6767696e674030"
    "2e312e30036c6f6700001c6465766963653a6d6f64756c652f6b657976616c756540302e312e30007f0303676574000003736574000106"
    "64656c6574650000030201020503010001070e02066d656d6f72790200016600040a280126004100410041001000410041004100100141"
    "004100410010034100410041004100410010020b"
)
"""PLAIN as `wasm-opt -all` of Binaryen 132 writes it: three imports share the name of their module."""
PLAIN = """(module (type $t (func (param i32 i32 i32)))
 (import "device:module/logging@0.1.0" "log" (func $log (type $t)))
 (import "device:module/keyvalue@0.1.0" "get" (func $get (type $t)))
 (import "device:module/keyvalue@0.1.0" "set" (func $set (param i32 i32 i32 i32 i32)))
 (import "device:module/keyvalue@0.1.0" "delete" (func $delete (type $t)))
 (memory (export "memory") 1)
 (func (export "f")
  (call $log (i32.const 0) (i32.const 0) (i32.const 0)) (call $get (i32.const 0) (i32.const 0) (i32.const 0))
  (call $delete (i32.const 0) (i32.const 0) (i32.const 0))
  (call $set (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))))"""


def test_the_compact_imports_of_binaryen_come_out_as_the_module_that_they_were():
    assert core_module(BINARYEN) == wasm_tools("strip", "--all", "-", text=PLAIN)


@pytest.mark.parametrize(
    ("compact", "plain"),
    [
        ('"a" (item "b" (func)) (item "c" (memory 1 2))', '"a" "b" (func)) (import "a" "c" (memory 1 2)'),
        ('"a" (item "b") (item "") (func (param i64))', '"a" "b" (func (param i64))) (import "a" "" (func (param i64))'),
        (
            '"a" (item "t" (table 1 externref)) (item "g" (global (mut i64)))',
            '"a" "t" (table 1 externref)) (import "a" "g" (global (mut i64))',
        ),
        ('"a" (item "m" (memory i64 1))', '"a" "m" (memory i64 1)'),
        ('"a" (item "e" (tag))', '"a" "e" (tag)'),
    ],
)
def test_compact_imports_of_every_kind_are_written_out(compact, plain):
    text = '(module (import "x" "y" (func)) (import {}) (import "z" "" (func)) (func (call 0)))'
    given, expected = (wasm_tools("strip", "--all", "-", text=text.format(each)) for each in (compact, plain))
    assert given != expected
    assert core_module(given) == expected
    assert core_module(expected) is expected


def test_wasi_of_before_preview_1_becomes_preview_1_where_a_function_is_the_same():
    """The SDK of proxy-wasm for AssemblyScript imports proc_exit so."""
    text = (
        '(module (import "{0}" "proc_exit" (func (param i32))) (import "wasi_unstable" "fd_seek" (func)) (import "{0}" "x" (func)))'
    )
    given, preview_1 = (wasm_tools("strip", "--all", "-", text=text.format(each)) for each in ("wasi_unstable", WASI_MODULE))
    assert list(read(core_module(given)).imports) == [
        (WASI_MODULE, "proc_exit"),
        ("wasi_unstable", "fd_seek"),
        ("wasi_unstable", "x"),
    ]
    assert core_module(preview_1) is preview_1


# -- hostile ones


def nested(depth: int) -> bytes:
    data = holding()
    for _ in range(depth - 1):
        data = holding(section(4, data))
    return data


def test_components_nested_ten_thousand_deep_are_refused_without_recursion():
    assert "boards" in refused(nested(MAX_DEPTH)).detail
    assert refused(nested(10_000)).reason is Reason.TOO_LARGE
    assert refused(nested(MAX_DEPTH + 1)).detail == f"component: more than {MAX_DEPTH} components in each other"


def test_more_sections_than_any_toolchain_makes_are_refused():
    assert refused(holding(section(4, holding()) * 10_000)).reason is Reason.MODULE_INVALID
    assert refused(holding(b"\x02\0" * (MAX_SECTIONS + 1))).detail == f"component: more than {MAX_SECTIONS} sections"
    half = section(4, holding(b"\x02\0" * (MAX_SECTIONS // 2)))
    assert refused(holding(half, half)).reason is Reason.TOO_LARGE


def test_more_core_modules_than_any_toolchain_makes_are_refused():
    assert refused(holding(section(1, EMPTY) * MAX_CORES)).reason is Reason.MODULE_INVALID
    assert refused(holding(section(1, EMPTY) * (MAX_CORES + 1))).reason is Reason.TOO_LARGE


def test_a_component_larger_than_a_module_may_be_is_refused_before_it_is_read():
    assert refused(COMPONENT_MAGIC + b"\xff" * (64 << 20)).detail == "a component of 67108872 bytes, the limit is 67108864"


@pytest.mark.parametrize("kind", [8, 10, 11])
def test_more_items_than_the_limit_are_refused_before_they_are_read(kind):
    assert refused(holding(section(kind, leb(MAX_ITEMS + 1)))).reason is Reason.TOO_LARGE
    assert refused(holding(section(kind, leb((1 << 32) - 1)))).reason is Reason.TOO_LARGE
    assert refused(holding(section(kind, leb(MAX_ITEMS)))).detail == "module: it ends too early"


def test_many_plain_names_are_looked_up_not_searched():
    """Each of 49,000 imports is one of 49,000 of the component; the last is none of them."""
    count = 49_000
    names = [f"{number:06}".encode() for number in range(count)]
    outer = section(10, leb(count) + b"".join(b"\0\x06" + name + b"\x01\0" for name in names))
    inner = leb(count + 1) + b"".join(b"\x06" + name + b"\0\0\0" for name in [*names, b"absent"])
    assert "supplies (absent.)" in refused(holding(outer, section(1, CODE[:14] + section(2, inner) + CODE[14:]))).detail


@pytest.mark.parametrize("kind", [b"\0\0", b"\x02\0\1"], ids=["functions", "memories"])
def test_a_long_name_that_many_compact_imports_share_is_not_written_out_for_each(kind):
    """Each of 9,000 imports would take 100 kB: 900 MB."""
    long = leb(100_000) + b"x" * 100_000
    imports = leb(1) + long + b"\0\x7f" + leb(9_000) + (b"\0" + kind) * 9_000
    data = holding(section(1, CODE[:14] + section(2, imports) + CODE[14:]))
    tracemalloc.start()
    try:
        assert len(refused(data).detail) < 500
        assert describe(data).kind == "component"
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


def test_names_in_a_refusal_are_short_and_do_nothing_to_a_terminal(tmp_path, capfd):
    name = b"\x1b[2J" + b"x" * 100_000
    shared = section(2, b"\x01" + leb(len(name)) + name + b"\0\x02\0\1")
    path = tmp_path / "c.wasm"
    for inner in (shared, section(2, b"\x01" + leb(len(name)) + name + b"\0\0\0")):
        path.write_bytes(holding(section(1, CODE[:14] + inner + CODE[14:])))
        for command in ("run", "inspect"):
            ota(tmp_path, command, path)
            said = "".join(capfd.readouterr())
            assert "can't run" in said
            assert "\x1b" not in said
            assert len(said) < 1500


def test_the_names_of_many_core_modules_count_together():
    imports = section(2, leb(MAX_ITEMS // 2) + b"\0\0\0\0" * (MAX_ITEMS // 2))
    core = section(1, EMPTY + imports)
    assert refused(holding(core, core)).reason is Reason.MODULE_INVALID
    assert refused(holding(core, core, section(1, EMPTY + section(2, b"\x01\0\0\0\0")))).reason is Reason.TOO_LARGE


BROKEN = {
    "a core module of no bytes": (section(1, b""), "a core module of 0 bytes that is not one"),
    "a component where a core module should be": (section(1, holding()), "a core module of 8 bytes that is not one"),
    "a core module that runs into the next section": (section(1, EMPTY[:4]) + EMPTY[4:], "a core module of 4 bytes"),
    "a section in it that ends behind it": (section(1, EMPTY + b"\0\x05\0") + CODE, "a section ends behind the file"),
    "a nested component of no bytes": (section(4, b""), "it begins with : "),
    "a core module where a component should be": (section(4, EMPTY), "it begins with 0061736d01000000"),
    "a number that never ends": (b"\x01" + b"\xff" * 100, "more than 32 bits"),
    "a section of four gigabytes": (b"\x01\xff\xff\xff\xff\x0f", "a section ends behind the file"),
    "a section that is not known": (section(13, b""), "a section with the number 13"),
    "a name that is not UTF-8": (section(10, b"\x01\0\x02\xff\xfe\x01\0"), "not UTF-8"),
    "a name that is not UTF-8 in a core module": (section(1, EMPTY + section(7, b"\x01\x01\xff\0\0")), "not UTF-8"),
    "a name of four gigabytes": (section(11, b"\x01\0\xff\xff\xff\xff\x0f"), "it ends too early"),
    "a name of a kind that is not known": (section(10, b"\x01\x09\x01x\x01\0"), "a name of kind 9"),
    "an import of a kind that is not known": (section(1, EMPTY + section(2, b"\x01\x01a\x01b\x09\0")), "an import of kind 9"),
    "an import that runs out of its section": (
        section(1, EMPTY + section(2, b"\x01\x01a") + section(7, b"\0")),
        "it ends too early",
    ),
}


@pytest.mark.parametrize(("sections", "why"), BROKEN.values(), ids=BROKEN)
def test_a_broken_component_is_malformed_wherever_it_is_read(sections, why):
    data = holding(sections)
    told = refused(data)
    assert told.reason is Reason.MALFORMED
    assert why in told.detail
    with pytest.raises(Refused):
        describe(data)


def test_another_version_of_the_format_is_named():
    assert "it begins with 0061736d0e000100" in refused(b"\0asm\x0e\0\x01\0").detail


WHOLE = made(
    f"""(import "a:b/c@0.2.1" (instance)) (import "f" (func $f (param "x" string))) {SHIM}
  (core module $m (import "a:b/c@0.2.1" "d" (func)) {BODY} (@custom "producers" "\\00"))
  (component (core module (memory 1))) {FIXUPS}
  (core module $n (memory (export "m") 1)) (core instance $i (instantiate $n))
  (core func (canon lower (func $f) (memory (core memory $i "m")))) (export "g" (func $f))"""
)


@given(st.data())
def test_a_damaged_component_is_read_or_refused(data):
    damaged = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        change = data.draw(st.binary(max_size=6))
        damaged[at : at + data.draw(st.integers(0, 6))] = change
    cut = bytes(damaged[: data.draw(st.integers(8, max(len(damaged), 8)))])
    for look in (core_module, describe):
        try:
            assert look(cut) is not None
        except Refused as error:
            assert error.reason in (Reason.MALFORMED, Reason.TOO_LARGE, Reason.MODULE_INVALID)


@given(st.binary(max_size=200))
def test_any_bytes_as_a_component_are_read_or_refused(data):
    try:
        assert core_module(COMPONENT_MAGIC + data).startswith(MODULE_MAGIC)
    except Refused as error:
        assert error.reason in (Reason.MALFORMED, Reason.TOO_LARGE, Reason.MODULE_INVALID)
